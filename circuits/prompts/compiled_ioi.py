"""The small indirect-object task that the hand-compiled model's second circuit solves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from circuits.checkpoints.compiled import BOS, END, NAMES, character_tokenizer
from circuits.prompts.prompts import Example, Prompts, assemble, require_count, task
from circuits.prompts.words import refuse

if TYPE_CHECKING:
    from circuits.model import HookedModel

# I is the name that occurs once, S the one that occurs twice, _ a filler. The circuit does not mind
# where they stand; with soft attention, all keys weigh a little, and each sentence has numbers of
# its own.
TEMPLATES = (
    "_I_S___S__.",
    "_S_I___S__.",
    "I__S_S_.",
    "S__I_S_.",
    "__I_S_S___.",
    "_S__I_S.",
    "IS_S.",
    "SI_S.",
)
GAP = "_"


@task()
def compiled_ioi(model: HookedModel, n: int = 100, seed: int = 0) -> Prompts:
    """Does the hand-compiled model name who occurs once, not who occurs twice?

    On ``aAbBcdeBfg.`` it says A: the circuit is known edge by edge (`Recipe.effects` of
    `circuits.checkpoints.compiled`). Sentences take turns, among those that fit into the context
    and have enough different fillers; names and fillers are drawn. In the corrupted twin S2 is a
    third name, so that there is nobody to avoid.

    Returns:
        Prompts after a start token, on which heads rest that find nothing, with the roles IO, S1,
        S2 and END.

    Raises:
        CircuitsError: when the vocabulary is not the compiled model's, or the context too short.

    >>> from circuits.checkpoints import load
    >>> prompts = compiled_ioi(load("compiled"), n=8)
    >>> len(prompts.texts[0]), sorted(prompts.roles), len(set(prompts.templates))
    (11, ['END', 'IO', 'S1', 'S2'], 8)
    """
    require_count(n)
    fitting = _fitting(model)
    tokenizer, fillers = model.require_tokenizer(), np.arange(NAMES[-1] + 1, model.cfg.d_vocab)
    rng = np.random.default_rng(seed)
    examples = []
    for i in range(n):
        template = fitting[i % len(fitting)]
        io, s, third = rng.choice(NAMES, 3, replace=False).tolist()
        between = iter(rng.choice(fillers, template.count(GAP), replace=False).tolist())
        says = {"I": io, "S": s, ".": END}
        ids = [BOS, *(next(between) if mark == GAP else says[mark] for mark in template)]
        s2 = 1 + template.rindex("S")
        roles = {
            "IO": 1 + template.index("I"),
            "S1": 1 + template.index("S"),
            "S2": s2,
            "END": len(template),
        }
        examples.append(
            Example(
                tokenizer.decode(ids[1:]),
                ids,
                answer=io,
                distractor=s,
                corrupted=[*ids[:s2], third, *ids[s2 + 1 :]],
                roles=roles,
                template=template,
            )
        )
    return assemble(
        model, examples, task="compiled-ioi", metric="logit_diff", prepend_bos=True, seed=seed
    )


def _fitting(model: HookedModel) -> list[str]:
    """The sentences that have enough fillers in this vocabulary, and fit into the context."""
    tokenizer, d_vocab, n_ctx = model.require_tokenizer(), model.cfg.d_vocab, model.cfg.n_ctx
    n_fillers = d_vocab - NAMES[-1] - 1
    if n_fillers < 1 or tokenizer.checksum != character_tokenizer(d_vocab).checksum:
        refuse(
            model,
            "compiled-ioi",
            f"it needs the characters that the model 'compiled' has for tokens, and has those of "
            f"{tokenizer.name!r}; ask compiled, or a model of circuits.checkpoints.compiled.build",
        )
    fitting = [
        template
        for template in TEMPLATES
        if template.count(GAP) <= n_fillers and len(template) < n_ctx
    ]
    if not fitting:
        shortest = min(map(len, TEMPLATES)) + 1
        refuse(
            model,
            "compiled-ioi",
            f"its context has {n_ctx} positions, and the shortest sentence has {shortest}",
        )
    return fitting
