"""How well does the model do what the prompts ask for? One number per prompt.

A metric says which positions it reads (`Metric.positions`) and which tokens there
(`Metric.tokens`), so that a sweep need not unembed anything else: `Metric.score` takes the logits
of just those. `Metric.__call__` takes the logits of a whole run and does the same.

Shapes: b prompts, p positions, v vocabulary, n positions read over all prompts (row by row), t
tokens read at each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from einops import rearrange
from torch import Tensor

from circuits.errors import CircuitsError, nearest
from circuits.intervals import NOT_NEGATIVE, REAL, RIGHT_OR_WRONG, SHARE, Scale
from circuits.precision import wide

if TYPE_CHECKING:
    from circuits.prompts import Prompts

Need = Literal["distractors", "targets", "sets", "clean"]


@dataclass(frozen=True)
class Metric:
    """What is measured, in which unit, from which logits?

    `needs` names what a `Prompts` must carry: ``targets`` (scored tokens), ``distractors`` (and
    answers), ``sets`` (of either; one token is a set, too), or ``clean`` (the logits of the
    unedited run). `score` maps logits [n v], or [n t] if
    `tokens` is given, the prompts, and the clean run's logits in the same form, to values [b].
    `scale` says which values there are, and with them which interval a mean has.
    """

    name: str
    unit: str
    higher_is_better: bool
    question: str
    needs: tuple[Need, ...]
    positions: Callable[[Prompts], Tensor]
    score: Callable[[Tensor, Prompts, Tensor | None], Tensor]
    tokens: Callable[[Prompts], Tensor] | None = None
    scale: Scale = REAL

    @property
    def against_clean(self) -> bool:
        """Does it compare with the clean run, and so is 0 there?"""
        return "clean" in self.needs

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
        """Can these prompts be measured by this metric?

        Raises:
            CircuitsError: when they lack what the metric needs, or answer and distractor coincide.
        """
        if self.against_clean and clean is None:
            raise CircuitsError(
                f"{self.name} compares with the clean run; give its logits (clean=)"
            )
        has = {"targets": bool(_scored(prompts).any(1).all()), "clean": True}
        has["distractors"] = prompts.answers is not None and prompts.distractors is not None
        has["sets"] = None not in _sets(prompts)
        missing = [need for need in self.needs if not has[need]]
        if missing:
            fitting = [m.name for m in METRICS.values() if all(has[need] for need in m.needs)]
            lacks = "scored tokens" if missing[0] == "targets" else "an answer and a distractor"
            raise CircuitsError(
                f"{self.name} needs {lacks} in every prompt, which {prompts.task!r} does not have; "
                f"metrics that fit: {', '.join(fitting)}"
            )
        if {"distractors", "sets"} & {*self.needs}:
            _refuse_coinciding(prompts, *_sets(prompts, whole="sets" in self.needs))


def _sets(prompts: Prompts, *, whole: bool = True) -> tuple[Tensor | None, Tensor | None]:
    """The tokens that are right and those that are wrong after END [b t], filled up with -1.

    Where a task has no sets, or not the `whole` is wanted, answer and distractor are sets of one.
    """
    pairs = (
        (prompts.answer_sets, prompts.answers),
        (prompts.distractor_sets, prompts.distractors),
    )
    right, wrong = (
        sets if whole and sets is not None else one if one is None else rearrange(one, "b -> b 1")
        for sets, one in pairs
    )
    return right, wrong


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


def _end(prompts: Prompts) -> Tensor:
    """[b p], True at each prompt's END."""
    columns = torch.arange(prompts.tokens.shape[1], device=prompts.tokens.device)
    return columns == rearrange(prompts.roles["END"], "b -> b 1")


def _scored(prompts: Prompts) -> Tensor:
    """[b p], True where the next token is scored."""
    return prompts.targets >= 0


def _scored_and_end(prompts: Prompts) -> Tensor:
    return _scored(prompts) | _end(prompts)


def _pair(prompts: Prompts) -> Tensor:
    """[b 2]: the answer and the distractor, read at END."""
    assert prompts.answers is not None
    assert prompts.distractors is not None
    return torch.stack([prompts.answers, prompts.distractors], 1)


def _per_prompt(values: Tensor, positions: Tensor) -> Tensor:
    """The mean over each prompt's positions: values [n], positions [b p] -> [b]."""
    positions = positions.to(values.device)
    total = values.new_zeros(positions.shape).masked_scatter(positions, values).sum(1)
    return total / positions.sum(1)


def _answer_minus_distractor(logits: Tensor, prompts: Prompts, clean: Tensor | None) -> Tensor:
    return logits[:, 0] - logits[:, 1]


def _answer_above_distractor(logits: Tensor, prompts: Prompts, clean: Tensor | None) -> Tensor:
    return (logits[:, 0] > logits[:, 1]).to(logits.dtype)


def _right_minus_wrong(logits: Tensor, prompts: Prompts, clean: Tensor | None) -> Tensor:
    probs = logits.softmax(-1)
    sums = []
    for tokens in _sets(prompts):
        assert tokens is not None
        tokens = tokens.to(logits.device)
        sums.append((probs.gather(1, tokens.clamp(min=0)) * (tokens >= 0)).sum(1))
    return sums[0] - sums[1]


def _target_log_probs(logits: Tensor, prompts: Prompts) -> Tensor:
    """The log-probability of each scored token: [n v] -> [n]."""
    targets = prompts.targets[_scored(prompts)].to(logits.device)
    return logits.log_softmax(-1).gather(1, rearrange(targets, "n -> n 1")).squeeze(1)


def _mean_prob(logits: Tensor, prompts: Prompts, clean: Tensor | None) -> Tensor:
    return _per_prompt(_target_log_probs(logits, prompts).exp(), _scored(prompts))


def _mean_loss(logits: Tensor, prompts: Prompts, clean: Tensor | None) -> Tensor:
    return _per_prompt(-_target_log_probs(logits, prompts), _scored(prompts))


def _mean_kl(logits: Tensor, prompts: Prompts, clean: Tensor | None) -> Tensor:
    assert clean is not None
    expected, given = clean.log_softmax(-1), logits.log_softmax(-1)
    kl = (expected.exp() * (expected - given)).sum(-1)
    return _per_prompt(kl, _scored_and_end(prompts))


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            name="logit_diff",
            unit="logits",
            higher_is_better=True,
            question="by how much does the answer's logit exceed the distractor's?",
            needs=("distractors",),
            positions=_end,
            tokens=_pair,
            score=_answer_minus_distractor,
        ),
        Metric(
            name="prob",
            unit="probability",
            higher_is_better=True,
            question="how probable is the answer (the mean over scored tokens)?",
            needs=("targets",),
            positions=_scored,
            score=_mean_prob,
            scale=SHARE,
        ),
        Metric(
            name="prob_diff",
            unit="probability",
            higher_is_better=True,
            question="how much more probable are the right tokens than the wrong ones?",
            needs=("sets",),
            positions=_end,
            score=_right_minus_wrong,
            scale=SHARE.change,
        ),
        Metric(
            name="accuracy",
            unit="share of prompts",
            higher_is_better=True,
            question="does the answer beat the distractor?",
            needs=("distractors",),
            positions=_end,
            tokens=_pair,
            score=_answer_above_distractor,
            scale=RIGHT_OR_WRONG,
        ),
        Metric(
            name="loss",
            unit="nats per token",
            higher_is_better=False,
            question="how surprised is the model by the scored tokens (their mean)?",
            needs=("targets",),
            positions=_scored,
            score=_mean_loss,
            scale=NOT_NEGATIVE,
        ),
        Metric(
            name="kl",
            unit="nats",
            higher_is_better=False,
            question="how far is the prediction from the clean run's, KL(clean || edited)?",
            needs=("clean",),
            positions=_scored_and_end,
            score=_mean_kl,
            scale=NOT_NEGATIVE,
        ),
    )
}


def get_metric(name: str) -> Metric:
    """Which metric has this name?

    Raises:
        CircuitsError: for an unknown name, with the nearest one.

    >>> get_metric("logit_diff").unit
    'logits'
    """
    if name not in METRICS:
        raise CircuitsError(
            f"there is no metric {name!r}; choose {', '.join(METRICS)}{nearest(name, METRICS)}"
        )
    return METRICS[name]
