"""Which year comes after this one? (Hanna et al. 2023, arXiv 2305.00586)

"The war lasted from the year 1732 to the year 17" -> 33, 34, ... 99: any two digits above 32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from circuits.errors import TokenError
from circuits.prompts.prompts import Example, Prompts, assemble, require_count, start_tokens, task
from circuits.prompts.words import refuse, single_tokens

if TYPE_CHECKING:
    from circuits.model import HookedModel

TASK = "greater-than"
TEMPLATE = "The {noun} lasted from the year {century}{year} to the year {century}"
NOUNS = (
    "war siege reign trial voyage famine journey search quarrel marriage friendship battle drought "
    "plague peace trouble sickness struggle work strike debate project program campaign operation "
    "conflict dispute study tour treaty empire kingdom festival mission case feud raid rule"
).split()
CENTURIES = range(11, 18)
LEAST, MOST, EARLIEST = 2, 98, 1  # the years that are asked about, and the twin's year


@task()
def greater_than(
    model: HookedModel, n: int = 100, seed: int = 0, *, prepend_bos: bool | None = None
) -> Prompts:
    """Does the model know that an end comes after its beginning?

    A prompt names the year XXYY and stops after the century XX: every two digits above YY are
    right, all others wrong. The corrupted twin begins in the year XX01, which rules nothing out.
    Only years are asked that are the two tokens XX and YY.

    Args:
        model: the model to ask.
        n: number of prompts.
        seed: same seed, same prompts.
        prepend_bos: whether a start token comes first; None for the model's default.

    Returns:
        Prompts with sets of answers and distractors, measured by prob_diff, p(> YY) - p(<= YY);
        their roles are NOUN, XX, YY and END (the second XX).

    Raises:
        CircuitsError: when some two digits are no single token, or no century has such years.
    """
    require_count(n)
    tokenizer = model.require_tokenizer()
    digits = [f"{year:02d}" for year in range(100)]
    single_tokens(model, digits, task=TASK, what="two-digit numbers", at_least=100, lead="")
    ids = [tokenizer.single_token(pair) for pair in digits]
    nouns = single_tokens(model, NOUNS, task=TASK, what="nouns", at_least=1)
    years = _years(model, ids)
    start = start_tokens(model, prepend_bos)
    rng = np.random.default_rng(seed)
    examples = []
    for _ in range(n):
        noun, century = str(rng.choice(nouns)), int(rng.choice(list(years)))
        year = int(rng.choice(years[century]))
        text, twin = (
            TEMPLATE.format(noun=noun, century=century, year=digits[y]) for y in (year, EARLIEST)
        )
        tokens = start + tokenizer.encode(text)
        xx = tokens.index(tokens[-1])
        examples.append(
            Example(
                text,
                tokens,
                corrupted=start + tokenizer.encode(twin),
                targets={},
                answer_set=ids[year + 1 :],
                distractor_set=ids[: year + 1],
                template=TEMPLATE,
                roles={
                    "NOUN": tokens.index(tokenizer.single_token(f" {noun}")),
                    "XX": xx,
                    "YY": xx + 1,
                    "END": len(tokens) - 1,
                },
            )
        )
    return assemble(
        model, examples, task=TASK, metric="prob_diff", prepend_bos=bool(start), seed=seed
    )


def _years(model: HookedModel, ids: list[int]) -> dict[int, list[int]]:
    """The years YY of each century XX that are written as the tokens XX and YY."""
    tokenizer, years_of = model.require_tokenizer(), {}
    for century in CENTURIES:
        try:
            first = tokenizer.single_token(f" {century}")
        except TokenError:
            continue

        def splits(year: int, first: int = first, century: int = century) -> bool:
            return tokenizer.encode(f" {century}{year:02d}") == [first, ids[year]]

        years = [year for year in range(LEAST, MOST + 1) if splits(year)]
        if years and splits(EARLIEST):
            years_of[century] = years
    if not years_of:
        shown = " | ".join(tokenizer.token_strings(tokenizer.encode(" 1732")))
        refuse(
            model, TASK, f"its vocabulary does not split years into XX and YY (' 1732': {shown})"
        )
    return years_of
