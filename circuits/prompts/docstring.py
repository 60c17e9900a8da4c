"""Which argument is described next? (Heimersheim & Janiak 2023)

A function with arguments A, B, C, D, whose docstring has described A and B -> C.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from circuits.prompts.prompts import Example, Prompts, assemble, require_count, start_tokens, task
from circuits.prompts.words import require_choice, single_tokens
from circuits.tokenizer import Tokenizer

if TYPE_CHECKING:
    from circuits.model import HookedModel

Corruption = Literal["random", "swap"]

TASK = "docstring"
TEMPLATE = '''def {name}(self, {arguments}):
    """{words[0]} {words[1]} {words[2]}

    :param {a}: {words[3]} {words[4]}
    :param {b}: {words[5]} {words[6]}
    :param'''
WORDS = (
    "load size files last file name code key list text date order point line page block group "
    "image value item input output result user host port path mode type state count length width "
    "height color token node edge field table row index start end time day month year house water "
    "light world hand head side part place number letter word book paper sea city land road ship "
    "horse tree bird stone fire gold market song"
).split()


@task()
def docstring(
    model: HookedModel,
    n: int = 100,
    seed: int = 0,
    *,
    corruption: Corruption = "random",
    prepend_bos: bool | None = None,
) -> Prompts:
    """Does the model describe a function's arguments in their order?

    The function has four arguments, and its docstring has described two. The answer is the third,
    the distractor the fourth, which is not described yet either.

    Args:
        model: the model to ask.
        n: number of prompts.
        seed: same seed, same prompts.
        corruption: the corrupted twin has four other arguments in the definition (``random``), or
            the third and fourth in the other order (``swap``: the answer turns round).
        prepend_bos: whether a start token comes first; None for the model's default.

    Returns:
        Prompts with the roles A_def, B_def, C_def, D_def, A_doc, B_doc and END.

    Raises:
        CircuitsError: when the vocabulary lacks the words.
    """
    require_count(n)
    require_choice("corruption", corruption, get_args(Corruption))
    words = single_tokens(model, WORDS, task=TASK, what="words", at_least=16)  # all different
    start = start_tokens(model, prepend_bos)
    rng = np.random.default_rng(seed)
    examples = []
    for _ in range(n):
        drawn = [str(word) for word in rng.choice(words, 16, replace=False)]
        examples.append(_example(model.require_tokenizer(), start, drawn, corruption))
    return assemble(
        model, examples, task=TASK, metric="logit_diff", prepend_bos=bool(start), seed=seed
    )


def _example(
    tokenizer: Tokenizer, start: list[int], drawn: Sequence[str], corruption: Corruption
) -> Example:
    names, others, rest = drawn[:4], drawn[4:8], drawn[8:]
    a, b, c, d = names
    twin = others if corruption == "random" else [a, b, d, c]
    text, twin_text = (
        TEMPLATE.format(name=rest[0], arguments=", ".join(arguments), a=a, b=b, words=rest[1:])
        for arguments in (names, twin)
    )
    ids = start + tokenizer.encode(text)
    tokens = [tokenizer.single_token(f" {name}") for name in names]
    roles = {f"{'ABCD'[i]}_def": ids.index(token) for i, token in enumerate(tokens)}
    for i, role in enumerate(("A_doc", "B_doc")):
        roles[role] = ids.index(tokens[i], ids.index(tokens[i]) + 1)
    return Example(
        text,
        ids,
        answer=tokens[2],
        distractor=tokens[3],
        corrupted=start + tokenizer.encode(twin_text),
        roles=roles | {"END": len(ids) - 1},
        template=TEMPLATE,
    )
