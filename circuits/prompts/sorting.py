"""Sorting six letters, the task of the bundled model `sort-abc`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from circuits.errors import CircuitsError
from circuits.prompts.prompts import Example, Prompts, assemble, require_count, start_tokens, task

if TYPE_CHECKING:
    from circuits.model import HookedModel

LETTERS = "ABC"
N_LETTERS = 6


@task(usual=3)
def sorting(
    model: HookedModel, n: int = 100, seed: int = 0, *, prepend_bos: bool | None = None
) -> Prompts:
    """Does the model write six letters in alphabetical order?

    A prompt is six random letters and the first few (0 to 5) of them in order; the answer is the
    next one, the distractor another letter. The corrupted twin has other letters, such that at the
    same place the distractor is right.

    Returns:
        Prompts with the roles OUTPUT (where the first sorted letter is read) and END; every sorted
        letter so far is scored.

    Raises:
        CircuitsError: when the model's vocabulary is not exactly the letters A, B and C.
    """
    require_count(n)
    tokenizer = model.require_tokenizer()
    has = sorted(tokenizer.ranks)
    if has != [letter.encode() for letter in LETTERS]:
        raise CircuitsError(
            f"the task 'sorting' does not suit {model.cfg.model_name}: it needs a vocabulary of "
            f"exactly the letters {', '.join(LETTERS)}, and this one has {len(has)} tokens"
        )
    start = start_tokens(model, prepend_bos)
    rng = np.random.default_rng(seed)
    examples = []
    for _ in range(n):
        letters, k = _letters(rng), int(rng.integers(N_LETTERS))
        answer = sorted(letters)[k]
        distractor = str(rng.choice([letter for letter in LETTERS if letter != answer]))
        other = _letters(rng)
        while sorted(other)[k] != distractor:
            other = _letters(rng)
        text = _partly_sorted(letters, k)
        ids = start + tokenizer.encode(text)
        output = len(start) + N_LETTERS - 1
        in_order = tokenizer.encode("".join(sorted(letters)))
        examples.append(
            Example(
                text,
                ids,
                answer=tokenizer.single_token(answer),
                distractor=tokenizer.single_token(distractor),
                corrupted=start + tokenizer.encode(_partly_sorted(other, k)),
                targets={output + i: in_order[i] for i in range(k + 1)},
                roles={"OUTPUT": output, "END": len(ids) - 1},
            )
        )
    return assemble(
        model, examples, task="sorting", metric="logit_diff", prepend_bos=bool(start), seed=seed
    )


def _letters(rng: np.random.Generator) -> str:
    return "".join(rng.choice(list(LETTERS), N_LETTERS))


def _partly_sorted(letters: str, k: int) -> str:
    """The letters, then the first k of them in order."""
    return letters + "".join(sorted(letters)[:k])
