"""Repeated random tokens: the plainest text on which induction heads show (Olsson et al. 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from circuits.errors import CircuitsError
from circuits.prompts.prompts import Example, Prompts, assemble, require_count, start_tokens, task

if TYPE_CHECKING:
    from circuits.model import HookedModel

USUAL_LENGTH = 25


@task(usual=1)
def repeated(
    model: HookedModel,
    n: int = 20,
    seed: int = 0,
    *,
    length: int | None = None,
    copies: int = 2,
    prepend_bos: bool | None = None,
) -> Prompts:
    """Does the model continue a random sequence that it has seen once?

    A prompt is r + r, where r is `length` random tokens, all different. Scored are the tokens of
    the last copy but for its first, which nothing announces. In the corrupted twin the copies
    before it are replaced by other tokens: the same targets, nothing to copy from. A model without
    a tokenizer is asked, too: any ids will do, no start token comes first, and texts are ids.

    Args:
        model: the model to ask.
        n: number of prompts.
        seed: same seed, same prompts.
        length: tokens in r; None for 25, or as many as the context and the vocabulary allow.
        copies: how often r comes.
        prepend_bos: whether a start token comes first; None for the model's default.

    Returns:
        Prompts with targets and no answers, and the roles SECOND (where the second copy begins;
        of more copies, LAST) and END.

    Raises:
        CircuitsError: when the vocabulary has too few tokens, or the context too few positions.
    """
    require_count(n)
    start = start_tokens(model, prepend_bos)
    tokenizer, vocabulary = model.tokenizer, ordinary_tokens(model)
    if copies < 2:
        raise CircuitsError(f"copies={copies}: tokens are repeated from 2 copies on")
    length = _length(model, len(start), len(vocabulary), length, copies)
    rng = np.random.default_rng(seed)
    examples = []
    for _ in range(n):
        drawn = rng.choice(vocabulary, copies * length, replace=False).tolist()
        copy, other = drawn[:length], drawn[length:]
        last = len(start) + (copies - 1) * length
        examples.append(
            Example(
                tokenizer.decode(copies * copy) if tokenizer else " ".join(map(str, copies * copy)),
                start + copies * copy,
                corrupted=start + other + copy,
                targets={last + i: copy[i + 1] for i in range(length - 1)},
                roles={"SECOND" if copies == 2 else "LAST": last},
            )
        )
    return assemble(
        model, examples, task="repeated", metric="loss", prepend_bos=bool(start), seed=seed
    )


def ordinary_tokens(model: HookedModel) -> NDArray[np.int64]:
    """The token ids that may stand anywhere: all but special ones; without a tokenizer, all."""
    if model.tokenizer is None:
        return np.arange(model.cfg.d_vocab)
    return np.array(sorted(model.tokenizer.ranks.values()))


def _length(
    model: HookedModel, n_start: int, n_tokens: int, length: int | None, copies: int
) -> int:
    """How long is one copy: as asked for if that is possible, else the usual, or what fits."""
    n_ctx = model.cfg.n_ctx
    room = {
        f"its context of {n_ctx} positions": (n_ctx - n_start) // copies,
        f"its vocabulary of {n_tokens} tokens": n_tokens // copies,
    }
    least = 2 if length is None else length
    if least < 2:
        raise CircuitsError(f"length={length}: one copy needs at least 2 tokens")
    for where, longest in room.items():
        if longest < least:
            raise CircuitsError(
                f"the task 'repeated' does not suit {model.cfg.model_name}: "
                f"{'two' if copies == 2 else copies} copies of {least} different tokens, and as "
                "many others for the corrupted twin, do not fit into "
                + where
                + (f"; choose a length of at most {longest}" if longest >= 2 else "")
            )
    return min(USUAL_LENGTH, *room.values()) if length is None else length
