"""The user's own prompts, as texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

from circuits.batch import as_batch, unpadded
from circuits.errors import CircuitsError, TokenError
from circuits.inputs import ModelInput, texts_or_rows
from circuits.prompts.prompts import Example, Prompts, assemble, start_tokens
from circuits.tokenizer import Tokenizer

if TYPE_CHECKING:
    from circuits.model import HookedModel


Given = str | tuple[int, ...]
Answer = str | tuple[str, ...]  # of several, any counts


@dataclass(frozen=True)
class Row:
    """One prompt as the user gave it, as text or token ids, and where: `place` is for messages.

    `columns` are what else was said of it, by which nothing is asked but a class.
    """

    place: str
    clean: Given
    corrupted: Given | None = None
    answer: Answer | None = None
    distractor: Answer | None = None
    template: str | None = None
    columns: Mapping[str, str | None] = field(default_factory=dict)


def from_texts(
    model: HookedModel,
    texts: ModelInput,
    *,
    answer: str | None = None,
    distractor: str | None = None,
    prepend_bos: bool | None = None,
) -> Prompts:
    """The batch that these texts make. They may have different lengths, or be token ids.

    `answer` and `distractor`, one token each, hold for all of them. Without an answer every next
    token of the texts is scored.

    Raises:
        CircuitsError: when no texts are given, what is given is no text or has no order, or answer
            and distractor coincide.
        TokenError: for an answer of several tokens, or a text too long for the context.

    >>> from circuits.checkpoints import load
    >>> prompts = from_texts(load("sort-abc"), ["CBABBC", "CBABBCA"], answer="A", distractor="B")
    >>> prompts.index("END")
    tensor([5, 6])
    """
    prompts = listed(model, texts)
    rows = [
        Row(f"prompt {i}" if len(prompts) > 1 else "the prompt", prompt, None, answer, distractor)
        for i, prompt in enumerate(prompts)
    ]
    return from_rows(model, rows, "prompt", prepend_bos)


def listed(model: HookedModel, given: ModelInput) -> Sequence[Given]:
    """Each prompt by itself: its text, or its token ids without padding.

    Raises:
        TokenError: for what is neither, and where it cannot be told what is padding.
    """
    rows = texts_or_rows(given)
    if not rows or isinstance(rows[0], str):
        return cast(list[str], rows)
    return [tuple(row.tolist()) for row in unpadded(as_batch(model, given))]


def from_rows(
    model: HookedModel,
    rows: Sequence[Row],
    task: str,
    prepend_bos: bool | None = None,
    first: Row | None = None,
    columns: Sequence[str] = (),
    *,
    classes: bool = False,
) -> Prompts:
    """The batch that these rows make. They have what the `first` of all rows has.

    Where they are some of a file's, `columns` are all that the file has. With `classes` answers and
    distractors are no tokens, but names of classes, which are carried along as columns.

    Where the first has a list of answers or distractors, all have sets of them (a single one is a
    set of one). Where any twin is of another length than its prompt, there are no twins, and
    `Prompts.unequal` says why.

    Raises:
        CircuitsError: when only some have an answer, a distractor or a corrupted twin, or a row
            has a list and the first has none.
        TokenError: for answers of several tokens and prompts too long for the context.
    """
    are_ids = any(isinstance(row.clean, tuple) for row in rows)  # which are taken as they are
    start = [] if are_ids else start_tokens(model, prepend_bos)
    first = first or (rows[0] if rows else None)
    if classes:
        for row in rows:
            _require_alike(row, first or row)
        rows, first = [_of_class(row) for row in rows], first and _of_class(first)
    of_sets = first is not None and _has_list(first)
    examples = [_example(model, start, row, of_sets=of_sets) for row in rows]
    for row in rows:
        _require_alike(row, first or row)
    metric = "loss"
    if first is not None and first.answer is not None:
        pair_metric = "prob_diff" if of_sets else "logit_diff"
        metric = "prob" if first.distractor is None else pair_metric
    unequal = _unequal(model, rows, examples)
    if unequal is not None:
        examples = [replace(example, corrupted=None) for example in examples]
    prompts = assemble(model, examples, task=task, metric=metric, prepend_bos=bool(start))
    return replace(prompts, unequal=unequal, columns=_columns(rows, columns))


def _of_class(row: Row) -> Row:
    """The same prompt, whose answer and distractor are columns."""
    named = {"answer": row.answer, "distractor": row.distractor}
    columns = {name: value for name, value in named.items() if isinstance(value, str)}
    if _has_list(row):
        raise CircuitsError(
            f"{row.place} has a list of answers or distractors; of classes, one is measured, so "
            "give the name of one"
        )
    return replace(row, answer=None, distractor=None, columns={**columns, **row.columns})


def _has_list(row: Row) -> bool:
    return isinstance(row.answer, tuple) or isinstance(row.distractor, tuple)


def _columns(rows: Sequence[Row], known: Sequence[str]) -> dict[str, tuple[str | None, ...]]:
    """What was said of the prompts besides, by column: first those that are `known`."""
    names = dict.fromkeys((*known, *(name for row in rows for name in row.columns)))
    return {name: tuple(row.columns.get(name) for row in rows) for name in names}


def _unequal(model: HookedModel, rows: Sequence[Row], examples: Sequence[Example]) -> str | None:
    """Which twin has another length than its prompt, the first of them, in words."""
    tokenizer = model.require_tokenizer()
    for row, example in zip(rows, examples, strict=True):
        ids, twin = example.ids, example.corrupted
        if twin is not None and len(twin) != len(ids):
            return (
                f"{row.place}: the clean prompt has {len(ids)} tokens ("
                f"{' | '.join(tokenizer.token_strings(ids))}) and the corrupted one {len(twin)} ("
                f"{' | '.join(tokenizer.token_strings(twin))}); the two are compared token by "
                "token, so reword one of them"
            )
    return None


def _require_alike(row: Row, first: Row) -> None:
    if _has_list(row) and not _has_list(first):
        raise CircuitsError(
            f"{row.place} has a list of answers or distractors, and {first.place} has none, so "
            "all are measured by single ones; write a list there, too, if only of one"
        )
    for name in ("answer", "distractor", "corrupted", "template"):
        lacking, having = (row, first) if getattr(row, name) is None else (first, row)
        if getattr(lacking, name) is None and getattr(having, name) is not None:
            raise CircuitsError(f"{lacking.place} has no {name}, {having.place} has one; give all")


def _example(model: HookedModel, start: list[int], row: Row, *, of_sets: bool) -> Example:
    tokenizer = model.require_tokenizer()
    for name in ("clean", "corrupted", "answer", "distractor"):
        value: object = getattr(row, name)
        if isinstance(value, tuple) and name in ("clean", "corrupted"):
            continue  # token ids
        if isinstance(value, tuple) and all(isinstance(word, str) for word in value):
            continue  # several words
        if not isinstance(value, str) and (value is not None or name == "clean"):
            raise CircuitsError(f"{row.place}: {name} is {value!r:.60}; give a text")
    right, wrong = _words(row.answer), _words(row.distractor)
    both = [word for word in right or () if word in (wrong or ())]
    if both:
        raise CircuitsError(
            f"{row.place}: answer and distractor are both {both[0]!r}; give two different tokens"
        )
    if row.distractor is not None and row.answer is None:
        raise CircuitsError(f"{row.place} has a distractor and no answer to compare it with")
    text = row.clean if isinstance(row.clean, str) else tokenizer.decode(row.clean)
    try:
        ids = _ids(tokenizer, start, row.clean)
        twin = None if row.corrupted is None else _ids(tokenizer, start, row.corrupted)
        answers, distractors = (
            None if words is None else [_continuation(tokenizer, text, word) for word in words]
            for words in (right, wrong)
        )
    except TokenError as error:
        raise TokenError(f"{row.place}: {error}") from error
    if not ids:
        raise TokenError(f"{row.place} has no tokens; write at least one")
    if len(ids) > model.cfg.n_ctx:
        raise TokenError(
            f"{row.place} has {len(ids)} tokens, and {model.cfg.model_name} reads at most "
            f"{model.cfg.n_ctx}{' (the start token included)' if start else ''}; shorten it"
        )
    if of_sets:
        return Example(
            text,
            ids,
            corrupted=twin,
            targets={},
            answer_set=answers,
            distractor_set=distractors,
            template=row.template,
        )
    answer, distractor = (tokens[0] if tokens else None for tokens in (answers, distractors))
    return Example(text, ids, answer, distractor, twin, template=row.template)


def _words(given: Answer | None) -> tuple[str, ...] | None:
    return (given,) if isinstance(given, str) else given


def _ids(tokenizer: Tokenizer, start: list[int], given: Given) -> list[int]:
    return start + tokenizer.encode(given) if isinstance(given, str) else list(given)


def _continuation(tokenizer: Tokenizer, prompt: str, word: str) -> int:
    """The token of an answer, unless a space at the seam makes it one that never follows.

    After "gave it to " the model expects no name, for a name's token brings its own space.
    """
    token = tokenizer.single_token(word)
    follows = tokenizer.encode(prompt + word) == [*tokenizer.encode(prompt), token]
    two_spaces = prompt.endswith(" ") and word.startswith(" ")
    seam_shows = prompt.endswith(" ") or (prompt[-1:].isalpha() and word[:1].isalpha())
    better, spaced = prompt.rstrip(), f" {word.lstrip()}"
    if (two_spaces or (seam_shows and not follows)) and len(tokenizer.encode(spaced)) == 1:
        raise TokenError(
            f"{word!r} does not continue {_end_of(prompt)!r} as one token, for words bring their "
            f"own space; write the prompt {_end_of(better)!r} and the answer {spaced!r}"
        )
    return token


def _end_of(prompt: str, n: int = 80) -> str:
    """What an error says of a prompt: its end, where it is long."""
    return prompt if len(prompt) <= n else f"... {prompt[-n:]}"
