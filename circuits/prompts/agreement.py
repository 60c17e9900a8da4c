"""Does the verb agree with its subject? (Linzen et al. 2016, arXiv 1611.01368)

"The keys to the cabinet" -> are: the subject is plural, and the noun next to the verb is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from circuits.prompts.prompts import Example, Prompts, assemble, require_count, start_tokens, task
from circuits.prompts.words import single_pairs, single_tokens

if TYPE_CHECKING:
    from circuits.model import HookedModel

TASK = "agreement"
TEMPLATE = "The {subject} {between} the {attractor}"
NOUNS = (
    ("key", "keys"),
    ("door", "doors"),
    ("tree", "trees"),
    ("house", "houses"),
    ("boy", "boys"),
    ("girl", "girls"),
    ("king", "kings"),
    ("horse", "horses"),
    ("dog", "dogs"),
    ("bird", "birds"),
    ("flower", "flowers"),
    ("letter", "letters"),
    ("book", "books"),
    ("ship", "ships"),
    ("stone", "stones"),
    ("window", "windows"),
    ("wall", "walls"),
    ("table", "tables"),
    ("road", "roads"),
    ("river", "rivers"),
    ("farmer", "farmers"),
    ("soldier", "soldiers"),
    ("teacher", "teachers"),
    ("car", "cars"),
    ("picture", "pictures"),
    ("garden", "gardens"),
)
BETWEEN = ("near", "behind", "beside", "beyond", "by", "with", "under")


@task()
def agreement(
    model: HookedModel, n: int = 100, seed: int = 0, *, prepend_bos: bool | None = None
) -> Prompts:
    """Does the model make the verb agree with its subject, across another noun?

    Plural and singular subjects take turns, and the noun between subject and verb has the other
    number. The corrupted twin has the subject in the other number, for which the distractor is
    right.

    Args:
        model: the model to ask.
        n: number of prompts.
        seed: same seed, same prompts.
        prepend_bos: whether a start token comes first; None for the model's default.

    Returns:
        Prompts with the roles SUBJECT, BETWEEN and END (the other noun).

    Raises:
        CircuitsError: when the vocabulary lacks the words.
    """
    require_count(n)
    verbs = single_tokens(model, ["is", "are"], task=TASK, what="verbs", at_least=2)
    nouns = single_pairs(model, NOUNS, task=TASK, what="nouns, singular and plural,", at_least=2)
    between = single_tokens(model, BETWEEN, task=TASK, what="prepositions", at_least=1)
    tokenizer, start = model.require_tokenizer(), start_tokens(model, prepend_bos)
    rng = np.random.default_rng(seed)
    examples = []
    for i in range(n):
        number = 1 - i % 2  # plural first
        subject, attractor = (nouns[k] for k in rng.choice(len(nouns), 2, replace=False))
        link = str(rng.choice(between))
        text, twin = (
            TEMPLATE.format(subject=noun, between=link, attractor=attractor[1 - number])
            for noun in (subject[number], subject[1 - number])
        )
        ids = start + tokenizer.encode(text)
        at = ids.index(tokenizer.single_token(f" {subject[number]}"))
        examples.append(
            Example(
                text,
                ids,
                answer=tokenizer.single_token(f" {verbs[number]}"),
                distractor=tokenizer.single_token(f" {verbs[1 - number]}"),
                corrupted=start + tokenizer.encode(twin),
                roles={"SUBJECT": at, "BETWEEN": at + 1, "END": len(ids) - 1},
                template=TEMPLATE,
            )
        )
    return assemble(
        model, examples, task=TASK, metric="logit_diff", prepend_bos=bool(start), seed=seed
    )
