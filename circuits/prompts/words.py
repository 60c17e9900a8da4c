"""Words that tasks are made of, as far as they are single tokens of the model's vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from circuits.errors import CircuitsError, TokenError, nearest

if TYPE_CHECKING:
    from circuits.model import HookedModel

_MOST_SHOWN = 3  # words whose splits an error spells out

WOMEN = (
    "Mary Anne Alice Elizabeth Jane Emma Sarah Lucy Kate Helen Laura Amy Emily Susan Rachel "
    "Charlotte Caroline Margaret Martha Ruth Nancy Betty Jenny Julia Lily Daisy"
).split()
MEN = (
    "John Tom James George Henry William Charles Peter Arthur Robert David Frank Harry Jack "
    "Edward Richard Thomas Paul Bob Bill Jim Joe Ben Dan Simon Andrew Stephen Daniel Joseph"
).split()


def single_tokens(
    model: HookedModel,
    words: Sequence[str],
    *,
    task: str,
    what: str,
    at_least: int,
    lead: str = " ",
) -> list[str]:
    """Those of these words that are one token in the model's vocabulary, with `lead` before them.

    Raises:
        CircuitsError: when they are fewer than `at_least`, with how the others split.
    """
    tokenizer = model.require_tokenizer()
    fitting, splits, unknown = [], [], ""
    for word in words:
        try:
            ids = tokenizer.encode(lead + word)
        except TokenError as error:
            unknown = unknown or str(error)
            continue
        if len(ids) == 1:
            fitting.append(word)
        else:
            splits.append(f"{lead + word!r} is {' | '.join(tokenizer.token_strings(ids))}")
    if len(fitting) < at_least:
        splits = [unknown] if unknown else splits
        more = f", and {len(splits) - _MOST_SHOWN} more" if len(splits) > _MOST_SHOWN else ""
        refuse(
            model,
            task,
            f"its vocabulary {tokenizer.name!r} has {len(fitting)} of the {len(words)} {what} as "
            f"single tokens, and the task needs {at_least} ({'; '.join(splits[:_MOST_SHOWN])}"
            f"{more})",
        )
    return fitting


def single_pairs(
    model: HookedModel,
    pairs: Sequence[tuple[str, str]],
    *,
    task: str,
    what: str,
    at_least: int,
) -> list[tuple[str, str]]:
    """Those of these pairs that are two single tokens, each after a space.

    Raises:
        CircuitsError: when they are fewer than `at_least`, with how the others split.
    """
    words = [word for pair in pairs for word in pair]
    fitting = set(single_tokens(model, words, task=task, what=what, at_least=0))
    single = [pair for pair in pairs if fitting.issuperset(pair)]
    if len(single) < at_least:
        single_tokens(model, words, task=task, what=what, at_least=len(words))
    return single


def refuse(model: HookedModel, task: str, why: str) -> NoReturn:
    """Say why this task cannot be asked of this model.

    Raises:
        CircuitsError: always.
    """
    raise CircuitsError(f"the task {task!r} does not suit {model.cfg.model_name}: {why}")


def require_choice(what: str, given: str, allowed: Sequence[str]) -> None:
    """Refuse a value that there is not.

    Raises:
        CircuitsError: when it is not, with the nearest one.
    """
    if given not in allowed:
        raise CircuitsError(
            f"there is no {what} {given!r}; choose {', '.join(allowed)}{nearest(given, allowed)}"
        )
