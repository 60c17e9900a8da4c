"""Does it learn in context? (Olsson et al. 2022, arXiv 2209.11895)"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from circuits.errors import CircuitsError
from circuits.files import named_path
from circuits.model import HookedModel
from circuits.prompts import Prompts
from circuits.prompts.repeated import USUAL_NUMBER, repeated
from circuits.registry import MeanOptions, Progress, analysis
from circuits.result import Result, mean_interval, provenance
from circuits.sweep.moments import Moments
from circuits.text_windows import TextFile, averaged, losses, read_from

MOST_COPIES = 6  # with the control, as many curves as colors tell apart
EARLY, LATE = 50, 500  # the tokens of the score, where the context has as many
LEAST_CONTEXT = 8  # tokens in which an early and a late stretch can be told apart
MEANINGS = {
    "curve": "copy 1, copy 2 ...: of the repeated tokens; control: the last copy's tokens where "
    "nothing is repeated; text: your file",
    "position": "of the token that is predicted: in its copy, or in the window (the start token "
    "is 0)",
    "value": "loss of that token, mean over n",
    "n": "number of random sequences, or of the text's windows",
    "mean": "loss of the whole curve (of a copy: without its first token, which nothing announces)",
    "mean_low": "lower end of its 95 % interval",
    "mean_high": "upper end of its 95 % interval",
    "score": "the difference that score_of names: negative where the context helps",
    "score_low": "lower end of its 95 % interval",
    "score_high": "upper end of its 95 % interval",
    "score_of": "which losses are compared",
}


@analysis
def icl(
    model: HookedModel,
    *,
    file: str | Path | None = None,
    context: int | None = None,
    copies: int = 2,
    length: int | None = None,
    n: int | None = None,
    seed: int | None = None,
    progress: Progress | None = None,
    means: MeanOptions,
) -> Result:
    """Does it learn in context?

    Without a file: the loss on random tokens that are repeated, place by place in each copy. A
    model that has induction is at chance on the first copy and sure of the second. The control is
    the last copy's tokens after other ones: the same targets, nothing to copy from.

    With a text file: the loss by position in the context, and the ICL score, the late tokens' loss
    minus the early ones' (token 500 minus token 50; in a shorter context two stretches, which the
    result names).

    $ circuits icl -n 50
    $ circuits icl --copies 4 --figure copies.png
    $ circuits icl --file story.txt --figure loss.png

    Args:
        file: A text file (UTF-8) of any size, read as windows of the context's length.
        context: Length of these windows in tokens, with the start token. Without it, the model's
            whole context.
        copies: How often the random tokens come.
        length: How many random tokens one copy has. Without it 25, or as many as fit.
        n: How many random sequences (without it 20), or windows of the file (without it, all).
        seed: The same seed draws the same sequences. Without it, 0.

    Raises:
        CircuitsError: for a file that cannot be read or is shorter than a window, and copies that
            do not fit into the context or vocabulary.

    >>> from circuits.checkpoints import load
    >>> found = icl(load("compiled")).frame.drop_duplicates("curve").set_index("curve")
    >>> round(float(found.loc["copy 2", "score"]), 1)
    -3.4
    """
    if file is not None:
        if copies != 2 or length is not None or seed is not None:
            raise CircuitsError(
                "copies, length and seed are of repeated random tokens; leave out the file, or "
                "these"
            )
        return _of_text(model, TextFile(model, named_path(file), context, n), progress, means)
    if context is not None:
        raise CircuitsError("context is of a text file's windows; give the file, or a length")
    return _of_repeats(model, copies, length, n, seed or 0, means)


def _of_repeats(
    model: HookedModel,
    copies: int,
    length: int | None,
    n: int | None,
    seed: int,
    means: MeanOptions,
) -> Result:
    """The loss in each copy of random tokens, and in the control."""
    if not 2 <= copies <= MOST_COPIES:
        raise CircuitsError(f"copies={copies}: compare 2 to {MOST_COPIES} copies")
    n = USUAL_NUMBER if n is None else n
    prompts = repeated(model, n, seed, length=length, copies=copies)
    assert prompts.corrupted is not None
    plain, control = (losses(model, tokens) for tokens in (prompts.tokens, prompts.corrupted))
    frame: pd.DataFrame = pd.concat(list(_curves(prompts, plain, control, copies, means)))
    return _result(model, frame, "random tokens, repeated", prompts)


def _curves(
    prompts: Prompts,
    plain: NDArray[np.float64],
    control: NDArray[np.float64],
    copies: int,
    means: MeanOptions,
) -> Iterator[pd.DataFrame]:
    """The curve of each copy, and the control's, from losses [b p-1]."""
    start = int(prompts.prepend_bos)
    length = (prompts.tokens.shape[1] - start) // copies
    # Without a start token nothing predicts the very first token.
    lost = np.full((len(plain), 1), np.nan)
    both = [np.concatenate([lost, values], 1)[:, start:] for values in (plain, control)]
    parts = {f"copy {i + 1}": both[0][:, i * length : (i + 1) * length] for i in range(copies)}
    parts["control"] = both[1][:, -length:]
    first = parts["copy 1"][:, 1:].mean(1)
    for name, values in parts.items():
        mean = values[:, 1:].mean(1)
        known = [i for i in range(length) if np.isfinite(values[:, i]).all()]
        columns: dict[str, Any] = {"curve": name, "position": [i + 1 for i in known]}
        columns |= mean_interval(values[:, known].T, draws=means.draws)
        of = f"tokens 2-{length} of {name} minus those of copy 1"
        yield pd.DataFrame(
            columns | _ends("mean", mean) | _ends("score", mean - first) | {"score_of": of}
        )


def _ends(name: str, values: NDArray[np.float64]) -> dict[str, float]:
    interval = mean_interval(values)
    columns = {name: "value", f"{name}_low": "ci_low", f"{name}_high": "ci_high"}
    return {column: float(interval[part]) for column, part in columns.items()}


def _of_text(
    model: HookedModel, text: TextFile, progress: Progress | None, means: MeanOptions
) -> Result:
    """The loss by position in the text's windows, and the score."""
    if text.width < LEAST_CONTEXT:
        raise CircuitsError(
            f"a context of {text.width} tokens has no early and late ones; take at least "
            f"{LEAST_CONTEXT}"
        )
    early, late = stretches(text.width)
    moments = _over_windows(model, text, (early, late), progress, means)
    averages = moments.interval()
    columns: dict[str, Any] = {"curve": "text", "position": range(1, text.width)}
    columns |= {name: column[3:] for name, column in averages.items()}
    for row, name in ((2, "mean"), (1, "score")):
        ends = ((name, "value"), (f"{name}_low", "ci_low"), (f"{name}_high", "ci_high"))
        columns |= {column: float(averages[part][row]) for column, part in ends}
    columns["score_of"] = f"{_named(late)} minus {_named(early)}"
    return _result(model, pd.DataFrame(columns), text.path.name, text)


def _over_windows(
    model: HookedModel,
    text: TextFile,
    compared: tuple[range, range],
    progress: Progress | None,
    means: MeanOptions,
) -> Moments:
    """Of all whole windows: the score, the mean loss, and the loss of each token."""
    early, late = map(_slots, compared)
    averages, longest, size = None, 0, text.n_bytes
    for tokens, done in text:
        longest = max(longest, tokens.shape[1])
        if tokens.shape[1] == text.width:
            lost = losses(model, tokens)
            score = lost[:, late].mean(1) - lost[:, early].mean(1)
            block = averaged(np.vstack([score, lost.mean(1), lost.T]), draws=means.draws)
            averages = block if averages is None else averages.merge(block)
        if progress is not None:
            progress(done, size)
    if averages is None:
        raise CircuitsError(
            f"{text.path} has {longest} tokens (with the start token), and a window {text.width}; "
            f"give a longer text, or a context of at most {longest}"
        )
    return averages


def stretches(context: int) -> tuple[range, range]:
    """The positions that are early, and those that are late, in windows of this length.

    Token 50 and token 500 (Olsson et al.); in less than 512 tokens the same two parts of the window
    as 21-70 and 201-250 are of 256.

    >>> stretches(1024), stretches(256)
    ((range(50, 51), range(500, 501)), (range(21, 71), range(201, 251)))
    """
    if context >= 512:
        return range(EARLY, EARLY + 1), range(LATE, LATE + 1)
    at = [round(context * share / 256) + 1 for share in (20, 70, 200, 250)]
    return range(at[0], at[1]), range(at[2], at[3])


def _slots(positions: range) -> slice:
    """Where the losses of these tokens stand: the first token has none."""
    return slice(positions.start - 1, positions.stop - 1)


def _named(positions: range) -> str:
    if len(positions) == 1:
        return f"token {positions.start}"
    return f"tokens {positions.start}-{positions.stop - 1}"


def _result(model: HookedModel, frame: pd.DataFrame, what: str, data: Prompts | TextFile) -> Result:
    prompts = data if isinstance(data, Prompts) else None
    source = provenance(model, "icl", prompts=prompts)
    if isinstance(data, TextFile):
        source = read_from(source, data, int(frame["n"].iloc[0]))
    return Result(
        frame,
        unit="nats",
        title=f"Does {source.model} learn in context? ({what})",
        provenance=source,
        axes=("curve", "position"),
        view="curves",
        meanings=MEANINGS,
    )
