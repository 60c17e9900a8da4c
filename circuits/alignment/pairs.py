"""Pairs of prompts that tell where a variable lives, and what should follow when it is swapped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuits.alignment.graphs import CausalGraph, Text
from circuits.errors import CircuitsError
from circuits.intervals import RIGHT_OR_WRONG
from circuits.metrics import Metric
from circuits.prompts import UNSCORED, Prompts
from circuits.result import mean_interval

_TRIES = 200  # sources drawn for a base prompt before it is given up


@dataclass(frozen=True, eq=False)
class Pairs:
    """Base prompts, each with a source, and what the graph says when a variable is swapped.

    Attributes:
        prompts: the base prompts; `corrupted` are the sources, `answers` what the graph says of
            the base once the variable has the source's value.
        base: [b], what the graph says of the base as it is.
        rows: [b], which of the prompts given each base is.
        candidates: [t], the tokens that may be answers; None for the whole vocabulary.
    """

    prompts: Prompts
    base: Tensor
    rows: Tensor
    candidates: Tensor | None

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def sources(self) -> Tensor:
        """The tokens [b p] of the source prompts."""
        assert self.prompts.corrupted is not None
        return self.prompts.corrupted

    @property
    def predicted(self) -> Tensor:
        """What the graph says after the swap, [b]."""
        assert self.prompts.answers is not None
        return self.prompts.answers

    @property
    def moved(self) -> NDArray[np.bool_]:
        """[b], whether the swap changes the answer."""
        changed: NDArray[np.bool_] = (self.predicted != self.base).cpu().numpy()
        return changed

    def metric(self) -> Metric:
        """Whether the model gives the predicted answer: 1 or 0 for each pair."""
        candidates = self.candidates

        def score(logits: Tensor, prompts: Prompts, clean: Tensor | None) -> Tensor:
            assert prompts.answers is not None
            return answered(logits, prompts.answers, candidates)

        def tokens(prompts: Prompts) -> Tensor:
            assert candidates is not None
            return candidates.expand(len(prompts), -1)

        return Metric(
            name="accuracy",
            unit="share of pairs",
            higher_is_better=True,
            question="does the model give the answer that the causal graph predicts?",
            needs=("targets",),
            positions=lambda prompts: prompts.where("END"),
            tokens=None if candidates is None else tokens,
            score=score,
        )

    def subset(self, rows: slice) -> Pairs:
        """Some of the pairs; they stand in the order of their base prompts."""
        prompts = self.prompts.subset(rows)
        return Pairs(prompts, self.base[rows], self.rows[rows], self.candidates)


def answered(logits: Tensor, answers: Tensor, candidates: Tensor | None) -> Tensor:
    """1 where the likeliest candidate is the answer, else 0: [b], of the candidates' logits [b t].

    Where several are equally likely, none is: a model without a preference gives no answer.

    >>> answered(torch.tensor([[0.0, 2.0], [3.0, 1.0]]), torch.tensor([9, 9]), torch.tensor([7, 9]))
    tensor([1., 0.])
    """
    best = logits.argmax(-1)
    likeliest = best if candidates is None else candidates[best]
    is_alone = (logits == logits.gather(-1, best[:, None])).sum(-1) == 1
    return ((likeliest == answers) & is_alone).to(logits.dtype)


def draw(graph: CausalGraph, prompts: Prompts, variable: str, seed: int = 0) -> Pairs:
    """Which pairs tell whether a site holds this variable?

    For every prompt one source is drawn whose value changes the graph's answer, and one whose value
    leaves it as it is: a site that merely breaks the answer passes the first and fails the second.
    Prompts without such a source take no part.

    Raises:
        CircuitsError: for a variable that the graph lacks, a prompt of which the graph says
            nothing, and when no source changes the answer.

    >>> from circuits.alignment.graphs import graph_of
    >>> from circuits.checkpoints import load
    >>> from circuits.prompts import make
    >>> pairs = draw(graph_of("sorting"), make("sorting", load("sort-abc"), 9), "letter")
    >>> pairs.moved[:4].tolist()
    [True, False, True, False]
    """
    graph.require(variable)
    texts, rng = list(_texts(prompts)), np.random.default_rng(seed)
    rows, sources, predicted, base = [], [], [], []
    for row, text in enumerate(texts):
        answer = graph.says(text)
        if answer is None:
            raise CircuitsError(
                f"the causal graph of {graph.task!r} says nothing of prompt {row} "
                f"({prompts.texts[row]!r}); give it prompts that it explains"
            )
        for moves in (True, False):
            source = _source(graph, text, texts, variable, (answer, moves), rng)
            if source is not None:
                rows.append(row)
                base.append(answer)
                sources.append(source[0])
                predicted.append(source[1])
    if all(after == before for after, before in zip(predicted, base, strict=True)):
        raise CircuitsError(
            f"no source prompt was found whose {variable!r} changes what the graph of "
            f"{graph.task!r} says of these {len(texts)} prompts, so a swap would show nothing; "
            "give more prompts of the same length, or choose another variable"
        )
    at = torch.tensor(rows, device=prompts.tokens.device)
    return Pairs(
        _paired(prompts, at, sources, predicted),
        torch.tensor(base, device=at.device),
        at,
        _candidates(graph, texts, at.device),
    )


def _texts(prompts: Prompts) -> Sequence[Text]:
    rows = zip(prompts.tokens.tolist(), prompts.mask.sum(1).tolist(), strict=True)
    roles = {role: at.tolist() for role, at in prompts.roles.items()}
    return [
        Text(tuple(tokens[:length]), {role: at[i] for role, at in roles.items()})
        for i, (tokens, length) in enumerate(rows)
    ]


def _source(
    graph: CausalGraph,
    base: Text,
    texts: Sequence[Text],
    variable: str,
    wanted: tuple[int, bool],
    rng: np.random.Generator,
) -> tuple[list[int], int] | None:
    """A source's tokens, and what the graph says of the base with the source's value.

    `wanted` is the base's answer, and whether the source has to change it.
    """
    answer, moves = wanted
    for _ in range(_TRIES):
        tokens = graph.source(base, texts[int(rng.integers(len(texts)))], rng)
        if tokens is None or tuple(tokens) == base.tokens:
            continue
        if len(tokens) != len(base.tokens):
            raise CircuitsError(
                f"a source of {len(tokens)} tokens was made for a prompt of {len(base.tokens)}; "
                "sites are swapped token for token, so give one of the same length"
            )
        value = graph.run(Text(tuple(tokens), base.roles))[variable]
        after = None if value is None else graph.says(base, {variable: value})
        if after is not None and (after != answer) == moves:
            return list(tokens), after
    return None


def _paired(
    prompts: Prompts, rows: Tensor, sources: Sequence[list[int]], predicted: Sequence[int]
) -> Prompts:
    """The base prompts with their sources, asked for what is predicted."""
    tokens, answers = prompts.tokens[rows], torch.tensor(predicted, device=rows.device)
    corrupted = tokens.clone()
    for row, source in zip(corrupted, sources, strict=True):
        row[: len(source)] = torch.tensor(source, device=row.device)
    targets = torch.full_like(tokens, UNSCORED)
    targets[torch.arange(len(rows), device=rows.device), prompts.index("END")[rows]] = answers
    return Prompts(
        task=prompts.task,
        texts=tuple(prompts.texts[row] for row in rows.tolist()),
        tokens=tokens,
        mask=prompts.mask[rows],
        targets=targets,
        roles={role: at[rows] for role, at in prompts.roles.items()},
        metric=prompts.metric,
        prepend_bos=prompts.prepend_bos,
        answers=answers,
        corrupted=corrupted,
        seed=prompts.seed,
    )


def _candidates(graph: CausalGraph, texts: Sequence[Text], device: torch.device) -> Tensor | None:
    if graph.candidates is None:
        return None
    tokens = {int(token) for text in texts for token in graph.candidates(text)}
    return torch.tensor(sorted(tokens), device=device)


def share_interval(
    successes: NDArray[np.floating],
    groups: tuple[str, ...] | None = None,
    *,
    draws: bool = False,
) -> dict[str, float]:
    """The share of successes [n], each 1 or 0, and its interval.

    Returns the columns value, stderr, ci_low, ci_high and n, with `draws` those of `mean_interval`.
    The interval is Wilson's (1927), which stays within 0 and 1 and has a width also where all or
    none succeeded. With `groups` [n] it is over groups, and never narrower than that.

    >>> {name: round(x, 3) for name, x in share_interval(np.ones(10)).items()}
    {'value': 1.0, 'stderr': 0.0, 'ci_low': 0.722, 'ci_high': 1.0, 'n': 10}
    """
    if not len(successes):
        return {**dict.fromkeys(("value", "stderr", "ci_low", "ci_high"), math.nan), "n": 0}
    columns = mean_interval(successes, scale=RIGHT_OR_WRONG, groups=groups, draws=draws)
    return {name: column.item() for name, column in columns.items()}
