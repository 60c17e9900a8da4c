"""Indirect object identification (Wang et al. 2022, arXiv 2211.00593).

"When Mary and John went to the garden, John gave a letter to" -> Mary. The answer is the name that
occurs once (IO), the distractor the one that occurs twice (S).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from circuits.prompts.prompts import Example, Prompts, assemble, require_count, start_tokens, task
from circuits.prompts.words import require_choice, single_tokens
from circuits.tokenizer import Tokenizer

if TYPE_CHECKING:
    from circuits.model import HookedModel

Corruption = Literal["abc", "third", "io"]

# {A} and {B} are the two names in order of appearance, {S} repeats one of them. The bundled model
# was trained on stories of other forms: it meets these sentences here for the first time.
TEMPLATES = (
    "When {A} and {B} went to the {place}, {S} gave a {object} to",
    "While {A} and {B} were working at the {place}, {S} gave a {object} to",
    "After the rain {A} and {B} ran to the {place}, and {S} took a {object} to",
    "Because {A} and {B} were hungry, they left the {place}. Then {S} gave the {object} to",
    "In the old {place} {A} was sitting beside {B}. Slowly {S} gave a {object} to",
    "By the {place} {A} and {B} had a picnic. Then {S} decided to give a {object} to",
)
NAMES = (
    "Mary John Tom Anne James Alice George Henry William Elizabeth Jane Charles Peter Emma Arthur "
    "Robert David Frank Harry Jack Edward Richard Thomas Paul Sarah Lucy Kate Rose Helen Grace "
    "Laura Amy Emily Susan Rachel Bob Bill Jim Joe Sam Ben Dan Max Adam Simon Mark Andrew Stephen "
    "Daniel Joseph Martin Roger Alan Eric Michael Charlotte Caroline"
).split()
PLACES = (
    "garden forest market school church river castle village kitchen library station harbor farm "
    "bridge beach park shop tower town house lake hill field"
).split()
OBJECTS = (
    "letter book ring flower basket lamp key coin cake drink hat coat map knife box rose candle "
    "cup stone pen ball rope watch bell sword bottle"
).split()


@task(usual=2)
def ioi(
    model: HookedModel,
    n: int = 100,
    seed: int = 0,
    *,
    corruption: Corruption = "abc",
    names: Sequence[str] = NAMES,
    templates: Sequence[str] = TEMPLATES,
    prepend_bos: bool | None = None,
) -> Prompts:
    """Does the model know who receives the gift?

    Templates and the order of the two names take turns; names, places and objects are drawn from
    those that are one token in the model's vocabulary.

    Args:
        model: the model to ask.
        n: number of prompts.
        seed: same seed, same prompts.
        corruption: the corrupted twin replaces all three names by new ones (``abc``), the second S
            by a third name (``third``), or the second S by IO (``io``: the answer turns round).
        names: first names to draw from.
        templates: sentences with the fields {A} {B} {S}, and possibly {place} and {object}.
        prepend_bos: whether a start token comes first; None for the model's default.

    Returns:
        Prompts with the roles IO, S1, S1+1, S2 and END.

    Raises:
        CircuitsError: when the vocabulary lacks the words.
    """
    require_count(n)
    require_choice("corruption", corruption, get_args(Corruption))
    # Two names, and three for the twin.
    people = single_tokens(model, names, task="ioi", what="names", at_least=5)
    places = single_tokens(model, PLACES, task="ioi", what="places", at_least=1)
    objects = single_tokens(model, OBJECTS, task="ioi", what="objects", at_least=1)
    start = start_tokens(model, prepend_bos)
    rng = np.random.default_rng(seed)
    examples = []
    for i in range(n):
        drawn = [str(name) for name in rng.choice(people, 5, replace=False)]
        setting = {"place": str(rng.choice(places)), "object": str(rng.choice(objects))}
        s_first = i // len(templates) % 2 == 1
        template = templates[i % len(templates)]
        sentence = partial(_sentence, template, setting, s_first)
        example = _example(model.require_tokenizer(), start, sentence, drawn, corruption)
        examples.append(replace(example, template=template))
    return assemble(
        model, examples, task="ioi", metric="logit_diff", prepend_bos=bool(start), seed=seed
    )


def _sentence(
    template: str, setting: Mapping[str, str], s_first: bool, io: str, s: str, s2: str
) -> str:
    a, b = (s, io) if s_first else (io, s)
    return template.format(A=a, B=b, S=s2, **setting)


def _example(
    tokenizer: Tokenizer,
    start: list[int],
    sentence: Callable[[str, str, str], str],
    drawn: Sequence[str],
    corruption: Corruption,
) -> Example:
    io, s, *others = drawn
    twins = {"abc": others, "third": (io, s, others[0]), "io": (io, s, io)}
    text = sentence(io, s, s)
    ids = start + tokenizer.encode(text)
    io_id, s_id = (tokenizer.single_token(f" {name}") for name in (io, s))
    s1 = ids.index(s_id)
    return Example(
        text,
        ids,
        answer=io_id,
        distractor=s_id,
        corrupted=start + tokenizer.encode(sentence(*twins[corruption])),
        roles={
            "IO": ids.index(io_id),
            "S1": s1,
            "S1+1": s1 + 1,
            "S2": ids.index(s_id, s1 + 1),
            "END": len(ids) - 1,
        },
    )
