"""How far can each layer's prediction be brought to the final one? Train a tuned lens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from circuits.errors import CircuitsError
from circuits.files import named_path, require_writable
from circuits.intervals import NOT_NEGATIVE
from circuits.model import HookedModel
from circuits.registry import MeanOptions, Progress, analysis
from circuits.result import Result, mean_interval, provenance
from circuits.text_windows import TextFile
from circuits.tuned_lens import (
    TunedLens,
    divergence,
    require_place,
    require_training,
    stages,
    train_tuned_lens,
)

HELD_OUT = 10  # one window of so many is not trained on
TOGETHER = 64  # windows sampled at a time
MEANINGS = {
    "lens": "logit (as it is) or tuned (after training)",
    "stage": "which residual stream is read: after the embeddings, attention layer a0, MLP m0 ...",
    "site": "the hook site of that stream",
    "layer": "the layer it leaves; empty for the embeddings",
    "value": "KL(final || stage) on the windows that were held out, mean over n",
    "n": "windows that were held out",
    "gain": "of the logit lens's KL, the share that training took away",
    "trained": "windows that were trained on",
    "width": "tokens in each window",
    "text": "where the windows come from",
}


@analysis
def tune_lens(
    model: HookedModel,
    out: str | Path,
    *,
    file: str | Path | None = None,
    n: int = 64,
    context: int | None = None,
    steps: int = 100,
    lr: float = 0.002,
    seed: int = 0,
    progress: Progress | None = None,
    means: MeanOptions,
) -> Result:
    """How much closer does a tuned lens come to the final prediction?

    For each stage of the residual stream h an affine map h + h A + b is trained, so that
    LN(h + h A + b) W_U + b_U comes close to the model's final prediction (Belrose et al. 2023): KL
    is minimized, starting from the logit lens. The lens is written to a file, for logit-lens
    --lens. Of the text, every tenth window is held out; the table shows the KL there, before and
    after.

    The package comes with no text. Without a file of yours, the model writes it: sampled from the
    start token, at temperature 1. A lens trained so knows the model's own language.

    $ circuits tune-lens lens.safetensors
    $ circuits tune-lens lens.safetensors --file book.txt -n 500 --steps 250

    Args:
        out: The file to write the lens to, .safetensors.
        file: Your own text, UTF-8.
        n: How many windows of text to read or to sample, at most.
        context: Tokens in a window. Without it, the model's context.
        steps: Steps of training, 256 tokens each.
        lr: The first step's size (Adam); it falls to 0.
        seed: The same seed samples the same text, and trains the same lens.

    Raises:
        CircuitsError: for a file that cannot be written or read, or has less than two windows.

    >>> import tempfile
    >>> from circuits.checkpoints import load
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "lens.safetensors")
    ...     found = tune_lens(load("mini"), file, n=10, context=8, steps=3)
    >>> bool((found.frame["gain"].dropna()[:-1] > 0).all())
    True
    """
    place = _writable(named_path(out))
    require_training(steps, lr)
    if n < 2:
        raise CircuitsError(f"n={n} windows: at least one to train on, one to hold out")
    tokens = _sampled(model, n, context, seed) if file is None else _read(model, file, n, context)
    held_out = torch.arange(len(tokens)) % HELD_OUT == min(HELD_OUT, len(tokens)) - 1
    trained = tokens[~held_out]
    lens = train_tuned_lens(model, trained, steps=steps, lr=lr, seed=seed, progress=progress)
    frame = _compared(model, lens, tokens[held_out], means)
    lens.save(place)  # once it is known to be one
    frame["trained"], frame["width"] = len(trained), tokens.shape[1]
    frame["text"] = "sampled from the model" if file is None else Path(file).name
    return _result(model, frame)


def _compared(
    model: HookedModel, lens: TunedLens, tokens: Tensor, means: MeanOptions
) -> pd.DataFrame:
    """The KL of each stage before and after training, and the share that training took away."""
    before, after = (
        _table(model, name, read, tokens, means)
        for name, read in (("logit", TunedLens.untrained(model)), ("tuned", lens))
    )
    old, new = before["value"].to_numpy(), after["value"].to_numpy()
    gain = 1 - np.divide(new, old, out=np.ones_like(new), where=old > 0)
    both: pd.DataFrame = pd.concat([before.assign(gain=np.nan), after.assign(gain=gain)])
    return both


def _result(model: HookedModel, frame: pd.DataFrame) -> Result:
    return Result(
        frame.astype({"layer": "Int64"}),
        unit="nats, KL(final || stage)",
        title=f"How close does each stage come to the final prediction? ({model.cfg.model_name})",
        provenance=provenance(model, "tune_lens"),
        axes=("lens", "stage"),
        view="curves",
        meanings=MEANINGS,
    )


def _table(
    model: HookedModel, name: str, lens: TunedLens, tokens: Tensor, means: MeanOptions
) -> pd.DataFrame:
    """A row for each stage: its KL with its interval over windows."""
    far = divergence(model, tokens, lens).clamp(min=0)  # rounding may leave less than nothing
    places = {"stage": "name", "site": "site", "layer": "layer"}
    listed = stages(model)
    columns = {column: [getattr(stage, of) for stage in listed] for column, of in places.items()}
    numbers = far.double().cpu().numpy()
    intervals = mean_interval(numbers, scale=NOT_NEGATIVE, draws=means.draws)
    table: pd.DataFrame = pd.DataFrame({"lens": name, **columns, **intervals})
    return table


def _writable(out: Path) -> Path:
    """Before minutes of training, not after."""
    if out.suffix != ".safetensors":
        raise CircuitsError(f"{out}: the lens is a safetensors file; end its name .safetensors")
    require_writable(out)
    require_place(out)
    return out


def _read(model: HookedModel, file: str | Path, n: int, context: int | None) -> Tensor:
    """The file's first windows, all of the same length: [b p]"""
    windows = TextFile(model, named_path(file), context, n)
    rows = [tokens for tokens, _ in windows]
    full = [tokens for tokens in rows if tokens.shape[1] == windows.width]
    if sum(map(len, full)) < 2:
        raise CircuitsError(
            f"{file} has less than two windows of {windows.width} tokens; give a longer "
            "text, or a smaller context"
        )
    return torch.cat(full)


def _sampled(model: HookedModel, n: int, context: int | None, seed: int) -> Tensor:
    """Text of the model's own: [b p], each row from a start token, or from any where none is."""
    width = context or model.cfg.n_ctx
    if not 2 <= width <= model.cfg.n_ctx:
        raise CircuitsError(
            f"context={width}: a window of {model.cfg.model_name} has 2 to {model.cfg.n_ctx} tokens"
        )
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(model.cfg.d_vocab, (n, 1), generator=generator)
    bos = None if model.tokenizer is None else model.tokenizer.bos_id
    if model.cfg.default_prepend_bos and bos is not None:
        start = torch.full_like(start, bos)
    options: dict[str, Any] = {"max_new_tokens": width - 1, "stop_at_eos": False}
    return torch.cat(
        [
            model.generate(rows.to(model.W_E.device), seed=seed + i, **options)
            for i, rows in enumerate(start.split(TOGETHER))
        ]
    )
