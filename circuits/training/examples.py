"""What a model is to learn from: prompts with answers, texts with labels, or texts alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from circuits.errors import CircuitsError, TokenError, brief, nearest
from circuits.files import named_path
from circuits.metrics.readout import LABEL
from circuits.model import HookedModel
from circuits.prompts import PromptFile, make
from circuits.prompts.prompts import UNSCORED, Prompts, start_tokens
from circuits.prompts.user import Row

Kind = Literal["answers", "labels", "texts"]


@dataclass(frozen=True)
class Example:
    """One text as tokens, and what should follow each: a token, or -1 where nothing is learned.

    With a `label`, the number of the class that the text is of.
    """

    ids: tuple[int, ...]
    targets: tuple[int, ...]
    label: int | None = None


@dataclass(frozen=True)
class Examples:
    """Examples of one kind, and what they are called. `labels` are the names of the classes."""

    kind: Kind
    name: str
    rows: tuple[Example, ...]
    labels: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def checksum(self) -> str:
        """A hash of the tokens and of what is to be learned."""
        content = [[row.ids, row.targets, row.label] for row in self.rows]
        return hashlib.sha256(json.dumps([content, self.labels]).encode()).hexdigest()[:16]

    def split(self, share: float, seed: int) -> tuple[Examples, Examples]:
        """The examples to train on, and those held out, of which none is trained on as well.

        Examples that are alike stay together, so the share is a little off where there are many.

        Raises:
            CircuitsError: when the share leaves nothing to train on, or nothing held out; or a
                class nothing to train on.
        """
        if not 0 < share < 1:
            raise CircuitsError(f"held_out={share}: hold out a share between 0 and 1, or a file")
        alike: dict[tuple[int, ...], list[Example]] = {}
        for row in self.rows:
            alike.setdefault(row.ids if row.label is not None else _prompt(row), []).append(row)
        groups = list(alike.values())
        order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed)).tolist()
        n_held_out = max(1, round(share * len(groups)))
        sides = order[n_held_out:], order[:n_held_out]
        if not sides[0]:
            raise CircuitsError(
                f"{self.name} has {len(groups)} different prompts: with {share:g} held out, none "
                "is left to train on; give more examples"
            )
        trained, held_out = (
            Examples(
                self.kind, self.name, tuple(row for i in side for row in groups[i]), self.labels
            )
            for side in sides
        )
        trained.require_classes()
        return trained, held_out

    def require_classes(self) -> None:
        """Raise where there is nothing to learn a class from."""
        if self.kind != "labels":
            return
        there = {row.label for row in self.rows}
        missing = [name for i, name in enumerate(self.labels) if i not in there]
        if missing:
            raise CircuitsError(
                f"no example that is trained on has the label {brief(missing[0])}: all of them are "
                "held out; give more examples of it, or hold out a smaller share"
            )


def read_examples(model: HookedModel, path: str | Path, labels: Sequence[str] = ()) -> Examples:
    """The examples of a file: .jsonl, .csv, .tsv or .parquet, of any of the formats of prompts.

    With the fields prompt and answer, the answer is learned where it follows the prompt, and after
    it the model's end token, if it has one. Answers may have any number of tokens, and stand as
    they are: a word's token begins with a space. With text and label, the text's class is learned;
    `labels` are the classes where they are known already. With text alone, all of it is learned.

    Raises:
        CircuitsError: for files that cannot be read, lines without answer or label, labels that
            are not among `labels`.
        TokenError: for texts that are too long.
    """
    file = PromptFile(model, named_path(path))
    rows = list(file.rows())
    if not rows:
        raise CircuitsError(f"{file.name} has no examples; write at least two")
    kind: Kind = "texts"
    if rows[0].answer is not None:
        kind = "answers"
    elif LABEL in rows[0].columns:
        kind = "labels"
    names = tuple(labels) or tuple(
        sorted({_label(row) for row in rows} if kind == "labels" else ())
    )
    if kind == "labels" and len(names) < 2:
        raise CircuitsError(
            f"all of {file.name} has the label {names[0]!r}: there is nothing to tell apart"
        )
    start, ends = start_tokens(model, None), model.require_tokenizer().eos_ids[:1]
    read = tuple(_example(model, row, kind, names, (start, ends)) for row in rows)
    return Examples(kind, file.name, read, names)


def of_task(model: HookedModel, task: str | Prompts, n: int | None, seed: int) -> Examples:
    """The examples that the prompts of a task are: what they score is learned."""
    prompts = task if isinstance(task, Prompts) else make(task, model, n, seed)
    if prompts.answers is None and not bool((prompts.targets >= 0).any()):
        raise CircuitsError(f"the prompts of {prompts.task!r} have no answers to learn")
    rows = []
    for tokens, mask, targets in zip(prompts.tokens, prompts.mask, prompts.targets, strict=True):
        rows.append(Example(tuple(tokens[mask].tolist()), tuple(targets[mask].tolist())))
    return Examples("answers", prompts.task, tuple(rows))


def _prompt(row: Example) -> tuple[int, ...]:
    """The tokens before what is learned, the same for all answers to one prompt."""
    first = next((i for i, target in enumerate(row.targets) if target != UNSCORED), 0)
    return row.ids[: first + 1] if first else row.ids


def _example(
    model: HookedModel,
    row: Row,
    kind: Kind,
    labels: Sequence[str],
    around: tuple[Sequence[int], Sequence[int]],
) -> Example:
    if isinstance(row.clean, tuple):
        raise CircuitsError(f"{row.place} is token ids; give text")
    start, ends = around
    encode = model.require_tokenizer().encode
    try:
        prompt = [*start, *encode(row.clean)]
        full = [*prompt, *(encode(_answer(row)) if kind == "answers" else ()), *ends]
    except TokenError as error:
        raise TokenError(f"{row.place}: {error}") from error
    if kind == "labels":
        ids, targets = prompt, [UNSCORED] * len(prompt)
    else:
        unscored = [UNSCORED] * (len(prompt) - 1) if kind == "answers" else []
        ids, targets = full[:-1], [*unscored, *full[len(unscored) + 1 :]]
    if not ids:
        raise TokenError(f"{row.place} has a single token, which nothing follows; write more")
    if len(ids) > model.cfg.n_ctx:
        with_it = ", its answer and end token included" if kind == "answers" else ""
        raise TokenError(
            f"{row.place} has {len(ids)} tokens{with_it}, and {model.cfg.model_name} reads at most "
            f"{model.cfg.n_ctx}; shorten it"
        )
    label = _number(row, labels) if kind == "labels" else None
    return Example(tuple(ids), tuple(targets), label)


def _answer(row: Row) -> str:
    if row.answer is None:
        raise CircuitsError(f"{row.place} has no answer; give one to every prompt")
    if not isinstance(row.answer, str):
        raise CircuitsError(f"{row.place} has a list of answers; give the one to be learned")
    return row.answer


def _label(row: Row) -> str:
    label = row.columns.get(LABEL)
    if not label:
        raise CircuitsError(f"{row.place} has no label; give one to every text")
    return label


def _number(row: Row, labels: Sequence[str]) -> int:
    label = _label(row)
    if label not in labels:
        raise CircuitsError(
            f"{row.place} has the label {brief(label)}, which is not learned; the labels are "
            f"{', '.join(labels)}{nearest(label, labels)}"
        )
    return list(labels).index(label)
