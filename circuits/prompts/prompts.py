"""A batch of prompts and everything an analysis has to know about them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from einops import rearrange
from torch import Tensor

from circuits.batch import as_batch, pad_id, pad_rows, token_rows
from circuits.errors import CircuitsError, brief, nearest

if TYPE_CHECKING:
    from circuits.model import HookedModel

UNSCORED = -1
Task = TypeVar("Task", bound="Callable[..., Prompts]")


@dataclass(frozen=True, eq=False)
class Prompts:
    """The texts that are asked, their tokens, and what counts as a good answer.

    Shapes: b prompts, p positions. Prompts of different lengths are padded on the right, so a
    position is an index from the start of every prompt (a start token, if there is one, is 0).

    Attributes:
        task: name of the task, or of the user's file.
        texts: the prompts as text, without a start token.
        tokens: [b p], padding included.
        mask: [b p], True at real tokens.
        targets: [b p], the token that should follow this one where that is scored, else -1.
        roles: position of each named role, [b]; END, where the answer is read, is always there.
        metric: name of the metric the task is measured by unless another is asked for.
        prepend_bos: whether a start token stands before each text.
        answers: [b], the token that should follow END; None when the task has no single answer.
        distractors: [b], the token it is compared with, or None.
        answer_sets: [b t], where any of several tokens is right after END, those; filled up with
            -1. None where one answer says it all.
        distractor_sets: [b t], the same for the tokens that are wrong.
        templates: which sentence, with gaps for names and words, each prompt was made of [b]; None
            where that is not known.
        corrupted: [b p], prompts that lack what the task is about, token for token; or None.
        seed: what the prompts were drawn with; None when they were given.
        columns: what else a file says of the prompts, by column [b]; nothing is asked by it, but
            for classes (`circuits.metrics.readout_metric`).
        unequal: why there are no corrupted twins although they were given, where one of them is of
            another length than its prompt; else None.

    Raises:
        CircuitsError: when shapes disagree or END is missing.
    """

    task: str
    texts: tuple[str, ...]
    tokens: Tensor
    mask: Tensor
    targets: Tensor
    roles: Mapping[str, Tensor]
    metric: str
    prepend_bos: bool
    answers: Tensor | None = None
    distractors: Tensor | None = None
    corrupted: Tensor | None = None
    seed: int | None = None
    answer_sets: Tensor | None = None
    distractor_sets: Tensor | None = None
    templates: tuple[str, ...] | None = None
    columns: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)
    unequal: str | None = None

    def __post_init__(self) -> None:
        n, width = len(self.texts), self.tokens.shape[-1]
        per_token = ("tokens", "mask", "targets", "corrupted")
        given = {name: getattr(self, name) for name in (*per_token, "answers", "distractors")}
        given |= {f"roles[{role!r}]": at for role, at in self.roles.items()}
        for name, value in given.items():
            shape = (n, width) if name in per_token else (n,)
            if value is not None and tuple(value.shape) != shape:
                raise CircuitsError(
                    f"{name} has shape {tuple(value.shape)}; {n} prompts of up to {width} tokens "
                    f"need {shape}"
                )
        for sets in (self.answer_sets, self.distractor_sets):
            if sets is not None and (sets.ndim != 2 or len(sets) != n):
                raise CircuitsError(
                    f"sets of tokens have shape {tuple(sets.shape)}; {n} prompts need ({n}, tokens)"
                )
        if self.templates is not None and len(self.templates) != n:
            raise CircuitsError(f"{len(self.templates)} templates were given for {n} prompts")
        for name, values in self.columns.items():
            if len(values) != n:
                raise CircuitsError(
                    f"the column {brief(name)} has {len(values)} values for {n} prompts"
                )
        if "END" not in self.roles:
            raise CircuitsError("the prompts name no END, the position where the answer is read")

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def population(self) -> str | None:
        """The prompts that a mean of these, and its interval, are over, in words."""
        return population(self.templates, drawn=self.seed is not None, n=len(self))

    @property
    def checksum(self) -> str:
        """A hash of the tokens and of what is asked about them: the same prompts have the same.

        What stands at padding, which differs from vocabulary to vocabulary, takes no part.
        """
        names = ("tokens", "mask", "targets", "answers", "distractors", "corrupted")
        content = [getattr(self, name) for name in names]
        content[0], content[-1] = (
            None if tokens is None else tokens.where(self.mask, UNSCORED)
            for tokens in (content[0], content[-1])
        )
        content += [self.roles[role] for role in sorted(self.roles)]
        content += [sets for sets in (self.answer_sets, self.distractor_sets) if sets is not None]
        listed = [None if value is None else value.int().tolist() for value in content]
        return hashlib.sha256(json.dumps([listed, sorted(self.roles)]).encode()).hexdigest()[:16]

    def places(self, named: Sequence[str | int]) -> Tensor:
        """Which positions are which of these: [s b p], True or False.

        After roles come all other positions. Where two roles are one position, it is the first.
        """
        masks = torch.stack([self.where(place) for place in named])
        first = masks & (masks.cumsum(0) == 1)
        rest = self.mask & ~masks.any(0)
        return torch.cat([first, rest[None]]) if isinstance(named[0], str) else first

    def subset(self, rows: slice) -> Prompts:
        """Some of the prompts, padded only as far as these need."""
        width = int(self.mask[rows].sum(1).max())
        cut: dict[str, Any] = {
            name: None if value is None else value[rows, :width]
            for name in ("tokens", "mask", "targets", "corrupted")
            for value in [getattr(self, name)]
        }
        cut |= {
            name: None if value is None else value[rows]
            for name in ("answers", "distractors", "answer_sets", "distractor_sets")
            for value in [getattr(self, name)]
        }
        roles = {role: at[rows] for role, at in self.roles.items()}
        cut["templates"] = None if self.templates is None else self.templates[rows]
        cut["columns"] = {name: values[rows] for name, values in self.columns.items()}
        return replace(self, texts=self.texts[rows], roles=roles, **cut)

    def labels(self, column: str = "template") -> tuple[str, ...] | None:
        """Which group each prompt is of [b]: its template, or what a column says of it.

        None where the prompts have no such column.

        Raises:
            CircuitsError: when it says nothing of some prompt.
        """
        if column == "template":
            return self.templates
        values = self.columns.get(column)
        if values is None:
            return None
        known = tuple(value for value in values if value is not None)
        if len(known) < len(values):
            row = values.index(None)
            raise CircuitsError(
                f"the column {brief(column)} of {self.task} says nothing of the prompt "
                f"{self.texts[row]!r}, so it is of no group; give each prompt a value"
            )
        return known

    def index(self, position: str | int) -> Tensor:
        """The index [b] of this role, or this position, in each prompt.

        A negative number counts from each prompt's last token.

        Raises:
            CircuitsError: for a role the task does not have, or a position beyond some prompt.
        """
        if isinstance(position, str):
            if position not in self.roles:
                raise CircuitsError(
                    f"the task {self.task!r} has no position {position!r}; its roles are "
                    f"{', '.join(self.roles)}{nearest(position, self.roles)}"
                )
            return self.roles[position]
        lengths = self.mask.sum(1)
        index = torch.full_like(lengths, position) + (lengths if position < 0 else 0)
        outside = ((index < 0) | (index >= lengths)).nonzero().flatten()
        if len(outside):
            row = int(outside[0])
            raise CircuitsError(
                f"there is no position {position} in prompt {row} ({self.texts[row]!r}), which has "
                f"{int(lengths[row])} tokens; choose one that all prompts have"
            )
        return index

    def where(self, position: str | int | None) -> Tensor:
        """[b p], True at the tokens of this role or position; with None, at all real ones."""
        if position is None:
            return self.mask
        columns = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        return columns == rearrange(self.index(position), "b -> b 1")


@dataclass(frozen=True)
class Example:
    """One prompt, before it is put into a batch.

    `targets` maps a position to the token that should follow it; None means the answer at END, or
    without an answer every next token. END is the last token unless `roles` says otherwise.
    `answer_set` and `distractor_set` are tokens of which any is right, or wrong. `template` is the
    sentence with gaps that the prompt was made of.
    """

    text: str
    ids: Sequence[int]
    answer: int | None = None
    distractor: int | None = None
    corrupted: Sequence[int] | None = None
    targets: Mapping[int, int] | None = None
    roles: Mapping[str, int] = field(default_factory=dict)
    answer_set: Sequence[int] | None = None
    distractor_set: Sequence[int] | None = None
    template: str | None = None

    @property
    def end(self) -> int:
        """The position where the answer is read."""
        return self.roles.get("END", len(self.ids) - 1)

    @property
    def scored(self) -> Mapping[int, int]:
        """The token that should follow, by position."""
        if self.targets is not None:
            return self.targets
        if self.answer is not None:
            return {self.end: self.answer}
        return dict(enumerate(self.ids[1:]))


def assemble(
    model: HookedModel,
    examples: Sequence[Example],
    *,
    task: str,
    metric: str,
    prepend_bos: bool,
    seed: int | None = None,
) -> Prompts:
    """The batch that these examples make, padded on the right, on the model's device.

    Raises:
        CircuitsError: when no examples are given, only some have an answer, a distractor or a
            corrupted twin, or a twin has another number of tokens.
        TokenError: when a prompt does not fit into the context.
    """
    rows, real = pad_rows([example.ids for example in examples], pad_id(model))
    tokens = as_batch(model, rows, attention_mask=real).tokens
    mask = real.to(tokens.device)
    targets = torch.full_like(tokens, UNSCORED)
    for row, example in enumerate(examples):
        for position, token in example.scored.items():
            targets[row, position] = token
    ends = torch.tensor([example.end for example in examples], device=tokens.device)
    roles = {
        role: torch.tensor([example.roles[role] for example in examples], device=tokens.device)
        for role in examples[0].roles
    }
    return Prompts(
        task=task,
        texts=tuple(example.text for example in examples),
        tokens=tokens,
        mask=mask,
        targets=targets,
        roles=roles | {"END": ends},
        metric=metric,
        prepend_bos=prepend_bos,
        answers=_column(examples, "answer", tokens),
        distractors=_column(examples, "distractor", tokens),
        corrupted=_twins(examples, tokens),
        seed=seed,
        answer_sets=_sets(examples, "answer_set", tokens),
        distractor_sets=_sets(examples, "distractor_set", tokens),
        templates=None if (labels := _values(examples, "template")) is None else tuple(labels),
    )


def free_name(column: str, taken: Collection[str]) -> str:
    """What a column of the user's is called in a table that has these columns of its own.

    >>> free_name("city", ["value"]), free_name("value", ["value"])
    ('city', 'prompt_value')
    """
    while column in taken:
        column = f"prompt_{column}"
    return column


def population(templates: Collection[str] | None, *, drawn: bool, n: int) -> str | None:
    """The prompts that a mean of n, and its interval, are over, in words; None for a single prompt.

    `templates` are those of the prompts, as far as they are known; `drawn` is whether the prompts
    were drawn at random, or given.

    >>> population(["{A} met {B}", "{A} saw {B}"] * 50, drawn=True, n=100)
    'over names and words within these 2 templates, not over other templates'
    """
    if n < 2:
        return None
    if templates is None:
        return "over prompts drawn as these" if drawn else "over prompts like these, if independent"
    k = len(set(templates))
    within = f"these {k} templates" if k > 1 else "this one template"
    return f"over names and words within {within}, not over other templates"


def _column(examples: Sequence[Example], name: str, like: Tensor) -> Tensor | None:
    """One value per example as a tensor, None when nobody has one."""
    values = _values(examples, name)
    return None if values is None else torch.tensor(values, device=like.device)


def _sets(examples: Sequence[Example], name: str, like: Tensor) -> Tensor | None:
    """The set of each example as a row, None when nobody has one."""
    values = _values(examples, name)
    if values is None:
        return None
    rows, _ = pad_rows(values, pad_id=UNSCORED)
    return rows.to(like.device)


def _values(examples: Sequence[Example], name: str) -> list[Any] | None:
    values = [getattr(example, name) for example in examples]
    if all(value is None for value in values):
        return None
    if None in values:
        row = values.index(None)
        raise CircuitsError(
            f"prompt {row} ({examples[row].text!r}) has no {name}, others have; give one to all"
        )
    return values


def _twins(examples: Sequence[Example], like: Tensor) -> Tensor | None:
    twins = [example.corrupted for example in examples]
    if all(twin is None for twin in twins):
        return None
    for row, (example, twin) in enumerate(zip(examples, twins, strict=True)):
        if twin is None or len(twin) != len(example.ids):
            got = "no corrupted prompt" if twin is None else f"one of {len(twin)} tokens"
            raise CircuitsError(
                f"prompt {row} ({example.text!r}) has {len(example.ids)} tokens and {got}; the two "
                "are compared token by token, so give one of the same length"
            )
    padded, _ = pad_rows([twin for twin in twins if twin is not None], pad_id=0)
    padded = padded.to(like.device)
    lengths = torch.tensor([len(example.ids) for example in examples], device=like.device)
    columns = torch.arange(like.shape[1], device=like.device)
    return torch.where(columns < rearrange(lengths, "b -> b 1"), padded, like)


def start_tokens(model: HookedModel, prepend_bos: bool | None) -> list[int]:
    """The tokens that stand before a prompt: the start token, or none.

    A model without a tokenizer has none that it knows of.

    Raises:
        TokenError: when a start token is asked for and the vocabulary has none.
    """
    if model.tokenizer is None and not prepend_bos:
        return []
    return token_rows(model, "", prepend_bos)[0]


def require_count(n: int) -> None:
    """Refuse a number of prompts that cannot be drawn.

    Raises:
        CircuitsError: when `n` is below 1.
    """
    if n < 1:
        raise CircuitsError(f"n={n} prompts: ask for at least 1")


def task(*, usual: int | None = None) -> Callable[[Task], Task]:
    """Mark a function of a file of its own as the task of its name, from Python and everywhere.

    It takes a model, the number of prompts `n` and a `seed`, and returns `Prompts`; its docstring
    begins with the question. Tasks that are `usual` are asked, in that order, when none is named.
    """
    return lambda function: function
