"""What a training leaves: a model's folder, the small files of an adapter, a card, the curve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from circuits.architectures import HookedGPT2
from circuits.checkpoints import checksum, save
from circuits.checkpoints.adapters import LORA, PARALLEL, Adapter, neuron_names
from circuits.checkpoints.layout import released_names
from circuits.errors import CircuitsError
from circuits.files import replacing_folder, require_writable
from circuits.model import HookedModel
from circuits.training.change import SCALE, Change
from circuits.training.parts import READOUT, layers_of
from circuits.training.run import HELD_OUT, STATE, State, Training

CARD, CURVE, FIGURE = "README.md", "curve.csv", "curve.png"
# A folder of its own: beside a model's files, transformers would put the adapter onto it again.
ADAPTER = "adapter"
_SAID = {"answers": "prompts with answers", "labels": "texts with labels", "texts": "texts"}


@dataclass(frozen=True, eq=False)
class Trained:
    """A training that came to its end: of which model, asked how, and what it left."""

    training: Training
    state: State
    original: HookedModel
    what: tuple[str, ...]
    command: str = ""

    def write(self, folder: Path, files: Mapping[str, Any]) -> None:
        """Write the folder, all of it or nothing; `files` write themselves to the path they get."""
        model = self.training.model(self.state)
        with replacing_folder(folder) as partial:
            save(model, partial)
            if self.training.change.method != "full":
                (partial / ADAPTER).mkdir()
                self.adapter(model).write(partial / ADAPTER)
            (partial / CARD).write_text(self.card(model), encoding="utf-8")
            for name, write in files.items():
                write(partial / name)

    def adapter(self, model: HookedGPT2) -> Adapter:
        """What was learned, without the model."""
        change = self.training.change
        learned = self.state.best or change.learned
        readout = model.readouts["score"] if f"{READOUT}.W" in change.chosen else None
        base = self.original.cfg.model_name, checksum(self.original)
        if change.method == "lora":
            tensors: dict[str, Tensor] = {}
            names = released_names(change.base.cfg)
            for name, piece in change.chosen.items():
                if name.startswith(READOUT):
                    continue
                matrix = names[name].removesuffix(".weight")
                A, B = (learned[f"{name}.{which}"].detach() for which in "AB")
                if piece.index is not None:  # of a head or neuron: all else is zero
                    full = change.base.get_parameter(name)
                    if piece.axis == 0:
                        A = A.new_zeros(full.shape[0], A.shape[1]).index_copy(0, piece.index, A)
                    else:
                        B = B.new_zeros(B.shape[0], full.shape[1]).index_copy(1, piece.index, B)
                tensors |= {f"{matrix}.A": A, f"{matrix}.B": B}
            return Adapter(LORA, change.size, tensors, SCALE, readout, base)
        tensors = {
            theirs: learned[ours].detach()
            for layer in layers_of(change.chosen, "mlp.W_in")
            for ours, theirs in neuron_names(layer).items()
        }
        return Adapter(PARALLEL, change.size, tensors, readout=readout, base=base)

    def card(self, model: HookedGPT2) -> str:
        """What was trained on what, how, and how well it does."""
        training, curve = self.training, self.state.curve
        settings, change = training.settings, training.change
        n_all = sum(each.numel() for each in self.original.parameters())
        kept = self.state.best_step if self.state.best else self.state.step
        ends = [row for row in curve if row["step"] in (0, kept)]
        early = "" if self.state.step == settings.steps else ", stopped early"
        labels = f"\n- Classes: {', '.join(training.trained.labels)}" * bool(
            training.trained.labels
        )
        rows = "\n".join(
            f"| {row['which']} | {row['step']} | {row['n']} | {row['value']:.4f} "
            f"({row['ci_low']:.4f} to {row['ci_high']:.4f}) | {row['right']:.1%} "
            f"({row['right_low']:.1%} to {row['right_high']:.1%}) |"
            for row in sorted(ends, key=lambda row: (row["which"] == HELD_OUT, row["step"]))
        )
        return f"""# {self.original.cfg.model_name}, fine-tuned on {training.trained.name}

- Model: {self.original.cfg.model_name} ({self.original.source}), weights
  `{checksum(self.original)[:16]}`
- Examples: {_SAID[training.trained.kind]} of {training.trained.name}, {len(training.trained)} to
  train on and {len(training.held_out)} held out{labels}
- Trained: {", ".join(self.what)}; {_by(change)}; {change.n_learned:,} numbers, {n_all:,} in the
  model before
- {self.state.step} of {settings.steps} steps{early}, each of {settings.batch} examples; AdamW
  without weight decay, learning rate {settings.lr:g} after a warm-up of a tenth, falling to 0;
  gradient norm clipped at 1; seed {settings.seed}
- Kept: what was learned at step {kept}. Weights now: `{checksum(model)[:16]}`

The loss is in nats, of answers and texts per token, mean over examples, with its 95 % interval.
Right is the share of examples whose likeliest answer, all tokens of it, or class is the right one.

| examples | step | n | loss | right |
| --- | --- | --- | --- | --- |
{rows}

Made by

    {self.command}

`{CURVE}` and `{FIGURE}` show the training.{_files(change)}
"""


def require_place(folder: Path, *, resume: bool) -> None:
    """Refuse a folder in which a training cannot leave its model, before it begins.

    Raises:
        CircuitsError: for one that holds anything but an interrupted training that is resumed.
    """
    require_writable(folder, folder=True)
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if there == [STATE] and not resume:
        raise CircuitsError(
            f"{folder} holds an interrupted training; go on with it by resume (--resume), or "
            "choose a new folder"
        )
    if there not in ([], [STATE]):
        raise CircuitsError(
            f"{folder} already holds files ({', '.join(there[:3])}); choose a new folder for the "
            "model"
        )


def _by(change: Change) -> str:
    if change.method == "lora":
        return f"by LoRA of rank {change.size}"
    if change.method == "adapter":
        return f"by adapters beside the MLPs, of width {change.size}"
    return "in full"


def _files(change: Change) -> str:
    if change.method == "full":
        return ""
    kind = "PEFT's format" if change.method == "lora" else "the form of PEFT's files"
    return (
        f"\nThe folder `{ADAPTER}` holds what was learned alone, in {kind}, to be loaded with the\n"
        f"model before (`circuits ... --adapter {ADAPTER}`); it is in the weights here already."
    )
