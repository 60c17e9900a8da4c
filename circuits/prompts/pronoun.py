"""He or she? (Mathwin et al. 2023)

"So Mary is a really great friend, isn't" -> she.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from circuits.prompts.prompts import Example, Prompts, assemble, require_count, start_tokens, task
from circuits.prompts.words import MEN, WOMEN, single_tokens

if TYPE_CHECKING:
    from circuits.model import HookedModel

TASK = "pronoun"
TEMPLATE = "So {name} is a really {adjective} {noun}, isn't"
ADJECTIVES = "great good kind nice fine clever brave bad strange funny".split()
NOUNS = "friend person neighbor teacher writer singer leader player doctor child cook".split()


@task()
def pronoun(
    model: HookedModel, n: int = 100, seed: int = 0, *, prepend_bos: bool | None = None
) -> Prompts:
    """Does the model know whether a name is a woman's or a man's?

    Names of women and men take turns; answer and distractor are the tokens she and he. The
    corrupted twin has a name of the other gender, for which the distractor is right.

    Args:
        model: the model to ask.
        n: number of prompts.
        seed: same seed, same prompts.
        prepend_bos: whether a start token comes first; None for the model's default.

    Returns:
        Prompts with the roles NAME, ADJECTIVE, NOUN and END.

    Raises:
        CircuitsError: when the vocabulary lacks the words.
    """
    require_count(n)
    she, he = single_tokens(model, ["she", "he"], task=TASK, what="pronouns", at_least=2)
    sides = [
        (single_tokens(model, WOMEN, task=TASK, what="women's names", at_least=1), she),
        (single_tokens(model, MEN, task=TASK, what="men's names", at_least=1), he),
    ]
    adjectives = single_tokens(model, ADJECTIVES, task=TASK, what="adjectives", at_least=1)
    nouns = single_tokens(model, NOUNS, task=TASK, what="nouns", at_least=1)
    tokenizer, start = model.require_tokenizer(), start_tokens(model, prepend_bos)
    rng = np.random.default_rng(seed)
    examples = []
    for i in range(n):
        side, other = sides[i % 2], sides[1 - i % 2]
        names = [str(rng.choice(names)) for names, _ in (side, other)]
        setting = {"adjective": str(rng.choice(adjectives)), "noun": str(rng.choice(nouns))}
        text, twin = (TEMPLATE.format(name=name, **setting) for name in names)
        ids = start + tokenizer.encode(text)
        words = {"NAME": names[0], "ADJECTIVE": setting["adjective"], "NOUN": setting["noun"]}
        roles = {role: ids.index(tokenizer.single_token(f" {w}")) for role, w in words.items()}
        examples.append(
            Example(
                text,
                ids,
                answer=tokenizer.single_token(f" {side[1]}"),
                distractor=tokenizer.single_token(f" {other[1]}"),
                corrupted=start + tokenizer.encode(twin),
                roles=roles | {"END": len(ids) - 1},
                template=TEMPLATE,
            )
        )
    return assemble(
        model, examples, task=TASK, metric="logit_diff", prepend_bos=bool(start), seed=seed
    )
