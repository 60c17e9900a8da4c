"""What a metric is: it says which positions it reads, and which tokens there.

So a sweep need not unembed anything else: `Metric.score` takes the logits of just those
(`Metric.positions`, `Metric.tokens`). `Metric.__call__` takes the logits of a whole run and does
the same.

Shapes: b prompts, p positions, v vocabulary, n positions read over all prompts (row by row), t
tokens read at each.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex

from einops import rearrange
from torch import Tensor

from circuits.catalog import METRIC, Catalog
from circuits.errors import CircuitsError
from circuits.intervals import REAL, Scale
from circuits.metrics.reading import scored, sets
from circuits.precision import wide

if TYPE_CHECKING:
    from circuits.prompts import Prompts

READOUT = "readout:"  # before the name of a model's readout
Need = Literal["distractors", "targets", "answers", "sets", "clean"]
Score = Callable[[Tensor, "Prompts", "Tensor | None"], Tensor]


@dataclass(frozen=True)
class Metric:
    """What is measured, in which unit, and from which logits.

    `needs` names what a `Prompts` must carry: ``targets`` (scored tokens), ``answers`` (the same,
    or sets of right tokens), ``distractors`` (and answers; sets where there are no single ones),
    ``sets`` (of either; one token is a set, too), or ``clean`` (the logits of the unedited run).
    `score` maps logits [n v], or [n t] if `tokens` is given, the prompts, and the clean run's
    logits in the same form, to values [b].
    `scale` says which values there are, and with them which interval a mean has. With `readout`
    logits are those of the model's readout of this name (v its classes), not of the vocabulary;
    `require` refuses prompts for what `needs` cannot say.
    """

    name: str
    unit: str
    higher_is_better: bool
    question: str
    needs: tuple[Need, ...]
    positions: Callable[[Prompts], Tensor]
    score: Score
    tokens: Callable[[Prompts], Tensor] | None = None
    scale: Scale = REAL
    readout: str | None = None
    require: Callable[[Prompts], object] | None = None

    @property
    def against_clean(self) -> bool:
        """Whether it compares with the clean run, and so is 0 there."""
        return "clean" in self.needs

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        """A metric with a file of its own goes to other processes by its name."""
        if METRICS.get(self.name) is self:
            return get_metric, (self.name,)
        return super().__reduce_ex__(protocol)

    def __call__(self, logits: Tensor, prompts: Prompts, clean: Tensor | None = None) -> Tensor:
        """The value for each prompt [b], from logits [b p v] (and the clean run's).

        >>> from circuits.checkpoints import load
        >>> from circuits.prompts import make
        >>> model = load("sort-abc")
        >>> prompts = make("sorting", model, 4)
        >>> get_metric("accuracy")(model(prompts.tokens), prompts)
        tensor([1., 1., 1., 1.])
        """
        self.check(prompts, clean)
        read = None if clean is None else self.read(clean, prompts)
        return self.score(self.read(logits, prompts), prompts, read)

    def read(self, logits: Tensor, prompts: Prompts) -> Tensor:
        """The part of the logits [b p v] that the metric reads: [n v], or [n t] with `tokens`."""
        if logits.shape[:2] != prompts.tokens.shape:
            raise CircuitsError(
                f"the logits are for {tuple(logits.shape[:2])} prompts and positions, the prompts "
                f"have {tuple(prompts.tokens.shape)}; give the logits of these prompts"
            )
        at = wide(logits[self.positions(prompts).to(logits.device)])
        return at if self.tokens is None else at.gather(1, self.tokens(prompts).to(at.device))

    def check(self, prompts: Prompts, clean: object = None) -> None:
        """Refuse prompts that this metric cannot measure.

        Raises:
            CircuitsError: when they lack what the metric needs, or answer and distractor coincide.
        """
        if self.against_clean and clean is None:
            raise CircuitsError(
                f"{self.name} compares with the clean run; give its logits (clean=)"
            )
        has = {"targets": bool(scored(prompts).any(1).all()), "clean": True}
        has["answers"] = has["targets"] or prompts.answer_sets is not None
        has["distractors"] = has["sets"] = None not in sets(prompts)
        missing = [need for need in self.needs if not has[need]]
        if missing:
            fitting = [m.name for m in METRICS.values() if all(has[need] for need in m.needs)]
            lacks = (
                "scored tokens"
                if missing[0] in ("targets", "answers")
                else "an answer and a distractor"
            )
            raise CircuitsError(
                f"{self.name} needs {lacks} in every prompt, which {prompts.task!r} does not have; "
                f"metrics that fit: {', '.join(fitting)}"
            )
        if self.require is not None:
            self.require(prompts)
        if {"distractors", "sets"} & {*self.needs}:
            _refuse_coinciding(prompts, *sets(prompts, single="sets" not in self.needs))


def _refuse_coinciding(prompts: Prompts, right: Tensor | None, wrong: Tensor | None) -> None:
    assert right is not None
    assert wrong is not None
    same = rearrange(right, "b t -> b t 1") == rearrange(wrong, "b s -> b 1 s")
    same &= rearrange(right >= 0, "b t -> b t 1")
    if bool(same.any()):
        row, column, _ = same.nonzero()[0].tolist()
        raise CircuitsError(
            f"answer and distractor are the same token ({int(right[row, column])}) in prompt "
            f"{row} ({prompts.texts[row]!r}): their difference is always 0; give two tokens"
        )


METRICS: Mapping[str, Metric] = (_CATALOG := Catalog[Metric](METRIC))


def metric(
    *,
    unit: str,
    higher_is_better: bool,
    needs: tuple[Need, ...],
    positions: Callable[[Prompts], Tensor],
    tokens: Callable[[Prompts], Tensor] | None = None,
    scale: Scale = REAL,
) -> Callable[[Score], Metric]:
    """Make this function's score a metric of its name; its docstring's first line is the question.

    Alone in a file of `circuits/metrics/` that has its name, it is known everywhere by that name.
    """

    def made(score: Score) -> Metric:
        question = (inspect.getdoc(score) or "").partition("\n")[0]
        return Metric(
            name=getattr(score, "__name__", ""),
            unit=unit,
            higher_is_better=higher_is_better,
            question=question,
            needs=needs,
            positions=positions,
            score=score,
            tokens=tokens,
            scale=scale,
        )

    return made


def get_metric(name: str) -> Metric:
    """The metric of this name.

    Raises:
        CircuitsError: for an unknown name, with the nearest one, and for that of a readout, which
            is a model's (`circuits.metrics.readout_metric`).

    >>> get_metric("logit_diff").unit
    'logits'
    """
    if name.startswith(READOUT):
        raise CircuitsError(
            f"{name} is of a model; give readout_metric(model, {name.removeprefix(READOUT)!r}) of "
            "circuits.metrics instead of its name"
        )
    return _CATALOG.require(name)
