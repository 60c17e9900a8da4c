"""What does the model learn from these examples? Fine-tune it, or some of its parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from circuits.architectures import HookedGPT2
from circuits.checkpoints.copying import copied
from circuits.errors import CircuitsError
from circuits.figures import save_figure
from circuits.files import named_path
from circuits.model import HookedModel, Readout
from circuits.prompts import Prompts
from circuits.registry import Progress, TrainingOptions, analysis, question
from circuits.result import Result, provenance
from circuits.training import (
    CURVE,
    FIGURE,
    Examples,
    Method,
    Settings,
    State,
    Trained,
    Training,
    of_task,
    prepared,
    read_examples,
    require_place,
)

READOUT, SCORE = "readout", "score"
# Whole weights take small steps; what begins at zero, larger ones.
RATES = {"full": 3e-4, "lora": 3e-3, "adapter": 3e-3, READOUT: 1e-2}
_STD = 0.02  # of a new readout's weights, as of GPT-2's other matrices
MEANINGS = {
    "which": "examples that are trained on, or held out",
    "step": "after how many steps",
    "value": "loss, mean over n examples; of answers and texts, of each the mean over its tokens",
    "n": "how many examples (of those that are trained on, 100 at most are measured)",
    "right": "share of examples whose likeliest answer, all tokens of it, or class is right",
    "right_low": "lower end of its 95 % interval (Wilson's)",
    "right_high": "upper end of its 95 % interval",
    "learned": "how many numbers are trained",
    "kept": "whether this is what was saved",
}


@analysis
def fine_tune(
    model: HookedModel,
    out: str | Path,
    *,
    file: str | Path | None = None,
    task: str | Prompts | None = None,
    n: int | None = None,
    what: str | Sequence[str] | None = None,
    seed: int = 0,
    resume: bool = False,
    progress: Progress | None = None,
    how: TrainingOptions,
) -> Result:
    """What does the model learn from these examples?

    It is trained on prompts with answers (the answer is learned, and after it the model's end token
    if it has one), on texts with labels (a readout of the last token is learned with it, for
    --metric readout:score), or on texts alone. The table shows the loss while it is trained, on
    examples that were held out as well. The folder gets the model in Hugging Face's format, a card,
    the curve; of LoRA and adapters also a small folder `adapter`, for --adapter. Adapters are
    neurons beside those of the MLPs.

    $ circuits fine-tune tuned --file answers.jsonl
    $ circuits fine-tune tuned --file labels.csv --what "last 2 layers" --patience 3
    $ circuits fine-tune tuned --task ioi -n 300 --method lora --rank 4 --what attention

    Args:
        out: The folder to write the model to, a new one.
        file: Examples: .jsonl, .csv, .tsv or .parquet with prompt and answer, or text and label,
            or text.
        task: Learn the answers of a task of this package instead: {tasks}.
        what: What is trained, several if repeated: all, "last 2 layers", "layers 2,5", attention,
            mlp, embed, pos, unembed, readout, a5, a5.h3, m7, m7.n12. Without it, all.
        seed: The same seed gives the same split, order and start, and so the same weights.
        resume: Go on with the interrupted training in the folder.

    Raises:
        CircuitsError: for examples that cannot be learned from, parts that are not there, a folder
            that holds something else or cannot be written.
        TokenError: for examples that are too long.

    >>> import tempfile
    >>> from circuits.checkpoints import load
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = fine_tune(load("sort-abc"), f"{folder}/tuned", task="sorting", n=20, steps=2)
    ...     load(f"{folder}/tuned").cfg.n_layers
    3
    >>> found.frame["step"].tolist()
    [0, 0, 1, 1, 2, 2]
    """
    words = (what,) if isinstance(what, str) else tuple(what or ("all",))
    place = named_path(out)
    require_place(place, resume=resume)
    data = _split(model, _examples(model, file, task, n, seed), how.held_out, seed)
    training = _training(model, words, data, how, seed)
    state = training.run(place, resume=resume, progress=progress)
    asked = {"model": model, "out": out, "file": file, "task": task, "n": n, "what": what}
    command = question("fine_tune", {**asked, "seed": seed, "resume": False, **vars(how)}).command
    return _written(Trained(training, state, model, words, command), place)


def _training(
    model: HookedModel,
    words: tuple[str, ...],
    data: tuple[Examples, Examples],
    how: TrainingOptions,
    seed: int,
) -> Training:
    """What these options ask for; with labels, the readout is always learned, too."""
    trained, unseen = data
    ready = _with_readout(model, trained, words, seed)
    alone = words == (READOUT,)
    adds = trained.kind == "labels" and READOUT not in words
    method: Method = "full" if alone else how.method
    size = {"lora": how.rank, "adapter": how.width}.get(method, 0)
    change = prepared(ready, (*words, READOUT) if adds else words, method, size, seed)
    lr = RATES[READOUT if alone else method] if how.lr is None else how.lr
    settings = Settings(how.steps, lr, how.batch, seed, how.patience)
    return Training(change, trained, unseen, settings)


def _examples(
    model: HookedModel,
    file: str | Path | None,
    task: str | Prompts | None,
    n: int | None,
    seed: int,
) -> Examples:
    if (file is None) == (task is None):
        raise CircuitsError("give examples: a file of your own, or a task, one of the two")
    if file is None:
        return of_task(model, task or "", n, seed)
    if n is not None:
        raise CircuitsError(f"n={n}: only a task's prompts are drawn; of a file, all are used")
    known = model.readouts[SCORE].labels if SCORE in model.readouts else ()
    return read_examples(model, file, known)


def _split(
    model: HookedModel, examples: Examples, held_out: float | str | Path, seed: int
) -> tuple[Examples, Examples]:
    """The examples to train on, and those held out: a share, or a file's."""
    try:
        share = float(held_out)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        unseen = read_examples(model, held_out, examples.labels)  # type: ignore[arg-type]
        if unseen.kind != examples.kind:
            raise CircuitsError(
                f"{unseen.name} has {unseen.kind}, and {examples.name} has {examples.kind}; give "
                "examples of one kind"
            ) from None
        return examples, unseen
    return examples.split(share, seed)


def _with_readout(
    model: HookedModel, trained: Examples, words: tuple[str, ...], seed: int
) -> HookedModel:
    """The model, with a new readout where classes are learned and it has none."""
    if trained.kind != "labels":
        if READOUT in words:
            raise CircuitsError(
                f"{trained.name} has {trained.kind} and no labels, from which a readout is learned"
            )
        return model
    if "unembed" in words and not model.cfg.tied:
        raise CircuitsError("labels are read past the unembedding, so it cannot learn from them")
    if SCORE in model.readouts or not isinstance(model, HookedGPT2):
        return model
    ready, draw = copied(model), torch.Generator().manual_seed(seed)
    W = torch.randn(model.cfg.d_model, len(trained.labels), generator=draw) * _STD
    ready.readouts[SCORE] = Readout(W.to(model.W_E), labels=trained.labels)
    ready.readouts[SCORE].requires_grad_(False)
    return ready


def _result(model: HookedModel, training: Training, state: State) -> Result:
    frame = pd.DataFrame(state.curve)
    kept = state.best_step if state.best else state.step
    frame["learned"], frame["kept"] = training.change.n_learned, frame["step"] == kept
    per = "" if training.trained.kind == "labels" else " per token"
    return Result(
        frame,
        unit=f"nats{per}",
        title=f"{model.cfg.model_name}, fine-tuned on {training.trained.name}",
        provenance=provenance(model, "fine_tune"),
        axes=("which", "step"),
        view="curves",
        meanings=MEANINGS,
    )


def _written(trained: Trained, place: Path) -> Result:
    result = _result(trained.original, trained.training, trained.state)

    def curve(path: Path) -> None:
        path.write_text(result.to_csv(), encoding="utf-8")

    def figure(path: Path) -> None:
        save_figure(result.plot(), path)

    trained.write(place, {CURVE: curve, FIGURE: figure})
    return result
