"""A training: its steps, what it measures meanwhile, and how it is interrupted and resumed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from circuits.architectures import HookedGPT2
from circuits.checkpoints import checksum
from circuits.errors import CircuitsError
from circuits.files import replacing
from circuits.intervals import NOT_NEGATIVE, RIGHT_OR_WRONG
from circuits.progress import Progress
from circuits.result import mean_interval
from circuits.training.adam import Adam
from circuits.training.change import Change
from circuits.training.examples import Example, Examples
from circuits.training.loop import descend, falling
from circuits.training.objective import Objective, Score, loss_of, scored

STATE = "training.safetensors"  # the file of an interrupted training
TRAINED, HELD_OUT = "trained on", "held out"
_MOST = 100  # of the examples that are trained on, so many are measured
_WARMUP, _CLIP = 0.1, 1.0  # share of the steps; norm of the gradients
_BETAS = (0.9, 0.999)
_KINDS = ("learned", "exp_avg", "exp_avg_sq", "best")


@dataclass(frozen=True)
class Settings:
    """How it is trained.

    `patience` is after how many measurements without a better held-out loss it stops; None for
    never. With it, what was learned at the best one is kept. It is measured `looks` times.

    Raises:
        CircuitsError: for what is no training.
    """

    steps: int
    lr: float
    batch: int
    seed: int = 0
    patience: int | None = None
    looks: int = 20

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.lr < math.inf or self.batch < 1:
            raise CircuitsError(
                f"steps={self.steps}, lr={self.lr} and batch={self.batch}: train at least 1 step "
                "of 1 example, with lr above 0"
            )
        if self.patience is not None and self.patience < 1:
            raise CircuitsError(f"patience={self.patience}: wait for at least 1 measurement")


@dataclass
class State:
    """How far a training is: the steps done, what was measured, and the best of it."""

    step: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)
    best_step: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    stopped: bool = False

    @property
    def held_out(self) -> list[dict[str, Any]]:
        """What was measured of the held-out examples."""
        return [row for row in self.curve if row["which"] == HELD_OUT]


@dataclass(frozen=True, eq=False)
class Training:
    """What is learned, from what, and how."""

    change: Change
    trained: Examples
    held_out: Examples
    settings: Settings

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a resumed training to end as if it had not been interrupted."""
        change = self.change
        return {
            "model": checksum(change.base),
            "examples": f"{self.trained.checksum} {self.held_out.checksum}",
            "method": f"{change.method} {change.size}",
            "what": {name: list(each.shape) for name, each in change.learned.items()},
            **asdict(self.settings),
        }

    def run(
        self, folder: Path | None = None, *, resume: bool = False, progress: Progress | None = None
    ) -> State:
        """Train, from the beginning or on from the state in `folder`, and leave one meanwhile.

        With a folder, a state is written after every measurement, so an interruption costs a
        twentieth of the training at most; what is resumed ends, bit for bit, as if it had not been
        interrupted.

        Raises:
            CircuitsError: for a state of another training, and a loss that is no number.
        """
        settings, learned = self.settings, self.change.learned
        adam = Adam(learned.values(), betas=_BETAS)
        state = self._resumed(folder / STATE, adam) if folder and resume else State()
        if not state.curve:
            self._measure(state)
        objective, every = Objective(self.change.base), max(1, settings.steps // settings.looks)

        def gradients(step: int) -> float:
            loss = loss_of(objective, self.change, self._batch(step))
            loss.backward()
            return self._finite(loss.item(), step)

        rate = falling(settings.lr, settings.steps, warmup=round(_WARMUP * settings.steps))
        steps = range(state.step, 0 if state.stopped else settings.steps)
        for step, _ in descend(adam, gradients, steps, rate, clip=_CLIP):
            state.step = step + 1
            if state.step % every == 0 or state.step == settings.steps:
                self._measure(state)
                if folder is not None:
                    self._write(folder / STATE, state, adam)
            if progress is not None:
                progress(state.step, settings.steps)
            if state.stopped:
                break
        return state

    def model(self, state: State) -> HookedGPT2:
        """The trained model: as it was at the best measurement, if it was to stop early."""
        return self.change.model(state.best if state.best else None)

    def _batch(self, step: int) -> list[Example]:
        """The examples of this step: every round sees all, in a new order."""
        rows, size = self.trained.rows, min(self.settings.batch, len(self.trained))
        chosen = []
        for at in range(step * size, (step + 1) * size):
            order = _order(len(rows), self.settings.seed, at // len(rows))
            chosen.append(rows[order[at % len(rows)]])
        return chosen

    def _measure(self, state: State) -> None:
        """Add to the curve how well it does now; say whether to stop."""
        model = self.change.model()
        state.curve += [
            {
                "which": which,
                "step": state.step,
                **self._measured(model, examples.rows[:most], state.step),
            }
            for which, examples, most in (
                (TRAINED, self.trained, _MOST),
                (HELD_OUT, self.held_out, None),
            )
        ]
        patience, losses = self.settings.patience, [row["value"] for row in state.held_out]
        if patience is None:
            return
        if losses[-1] <= min(losses):
            state.best_step = state.step
            state.best = {n: each.detach().clone() for n, each in self.change.learned.items()}
        state.stopped = len(losses) - 1 - losses.index(min(losses)) >= patience

    def _write(self, path: Path, state: State, adam: Adam) -> None:
        tensors: dict[str, Tensor] = {}
        for name, each in self.change.learned.items():
            tensors[f"learned.{name}"] = each.detach()
            moments = adam.state.get(each, {})  # none of what the loss does not depend on
            tensors |= {f"{kind}.{name}": moments[kind] for kind in _KINDS[1:3] if moments}
        tensors |= {f"best.{name}": each for name, each in state.best.items()}
        about = {
            "step": state.step,
            "curve": state.curve,
            "best_step": state.best_step,
            "stopped": state.stopped,
        }
        metadata = {"identity": json.dumps(self.identity), "about": json.dumps(about)}
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, SafetensorError) as partial:
            save_file({n: each.contiguous() for n, each in tensors.items()}, partial, metadata)

    def _resumed(self, path: Path, adam: Adam) -> State:
        """The state in this file, put into what is learned and into the optimizer."""
        if not path.is_file():
            raise CircuitsError(
                f"{path.parent} holds no interrupted training; leave resume out to begin one"
            )
        try:
            with safe_open(str(path), "pt") as file:
                said = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise CircuitsError(f"{path} cannot be read: {error}; begin anew") from error
        theirs, ours = json.loads(said.get("identity", "{}")), self.identity
        other = [name for name in ours if theirs.get(name) != json.loads(json.dumps(ours[name]))]
        if other:
            raise CircuitsError(
                f"{path.parent} holds another training: its {', '.join(other)} differ"
                f"{'s' if len(other) == 1 else ''}; ask the same, or choose a new folder"
            )
        about = json.loads(said["about"])
        with torch.no_grad():
            for name, each in self.change.learned.items():
                learned, *moments = (tensors.get(f"{kind}.{name}") for kind in _KINDS[:3])
                each.copy_(_require(learned, path))
                steps = torch.tensor(float(about["step"]))
                if moments[0] is not None:
                    first, second = (_require(moment, path).to(each.device) for moment in moments)
                    adam.state[each] = {"step": steps, "exp_avg": first, "exp_avg_sq": second}
        best = {n.removeprefix("best."): t for n, t in tensors.items() if n.startswith("best.")}
        return State(**about, best=best)

    def _finite(self, loss: float, step: int) -> float:
        if not math.isfinite(loss):
            raise self._diverged(step)
        return loss

    def _measured(
        self, model: HookedGPT2, examples: Sequence[Example], step: int
    ) -> dict[str, Any]:
        score = scored(model, examples)
        if not score.loss.isfinite().all():
            raise self._diverged(step)
        return measured(score)

    def _diverged(self, step: int) -> CircuitsError:
        return CircuitsError(
            f"after {step} steps the loss is no number any more: lr={self.settings.lr:g} is too "
            "large; choose a smaller one"
        )


def measured(score: Score) -> dict[str, Any]:
    """The mean loss with its interval, and the share that is right with its own."""
    loss = mean_interval(score.loss.numpy(), scale=NOT_NEGATIVE)
    right = mean_interval(score.right.double().numpy(), scale=RIGHT_OR_WRONG)
    columns: Mapping[str, Any] = {
        **loss,
        "right": right["value"],
        "right_low": right["ci_low"],
        "right_high": right["ci_high"],
    }
    return {name: float(each) for name, each in columns.items()} | {"n": len(score.loss)}


@lru_cache(maxsize=4)
def _order(n: int, seed: int, turn: int) -> list[int]:
    """In which order all examples are seen in this round."""
    generator = torch.Generator().manual_seed(seed + 1_000_003 * turn)
    return torch.randperm(n, generator=generator).tolist()


def _require(tensor: Tensor | None, path: Path) -> Tensor:
    if tensor is None:
        raise CircuitsError(f"{path} is not whole; begin anew")
    return tensor
