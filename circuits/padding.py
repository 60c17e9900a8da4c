"""Padding in a tensor of tokens that comes without a mask.

If it were read as text, the results would be about another text. What can be told from the tokens
[b p] themselves:

1. A pad token that means nothing else (special, and neither a start nor an end token) is padding
   wherever a row begins or ends with it: it counts as such, as if a mask had said so.
2. A token that may also be meant as text is doubtful: the pad token where it is a start, an end or
   an ordinary token (GPT-2 pads with its end-of-text token), or without a pad token the start and
   end tokens. One at the beginning of every row is a start token; two may be that and the end of
   the document before. So it is an error that asks for a mask if rows begin with different numbers
   of it, or some row of other tokens begins with three or more.
3. What stands on the right changes no logit of what stands before. Where the ends of rows do count,
   in losses and in generation, it is an error if rows end with different numbers of a doubtful
   token, or some row of other tokens ends with two or more. One at the end of every row ends a
   text.

Rows of one token, and tokens that continue a key-value cache, are never padding. Where there
is a mask, also one of ones, it alone says what is padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from circuits.errors import TokenError
from circuits.tokenizer import Tokenizer

_ADVICE = (
    "nothing says whether that is padding; pass attention_mask (1 at real tokens, 0 at padding), "
    "or the prompts as a list of texts"
)


def all_real(tokens: Tensor) -> Tensor:
    """The mask [b p] by which none of these tokens is padding."""
    return torch.ones_like(tokens, dtype=torch.bool)


@dataclass(frozen=True)
class PadTokens:
    """The tokens that are padding for certain, and those that may be, by this module's rules.

    `bos_id` is among the doubtful ones, or None.
    """

    certain: int | None
    doubtful: tuple[int, ...]
    bos_id: int | None

    @classmethod
    def of(cls, tokenizer: Tokenizer | None) -> PadTokens:
        """Those of a model with this tokenizer. Without one, nothing is known to be padding.

        >>> PadTokens.of(Tokenizer.characters("AB", ["<|endoftext|>"]))
        PadTokens(certain=None, doubtful=(2,), bos_id=2)
        >>> PadTokens.of(Tokenizer.characters("AB", ["<s>", "</s>", "<pad>"]))
        PadTokens(certain=4, doubtful=(), bos_id=2)
        """
        if tokenizer is None:
            return cls(None, (), None)
        bos, pad = tokenizer.bos_id, tokenizer.pad_id
        roles = {i for i in (bos, *tokenizer.eos_ids) if i is not None}
        if pad is None:
            return cls(None, tuple(sorted(roles)), bos)
        if pad in roles or pad not in tokenizer.special.values():
            return cls(None, (pad,), bos)
        return cls(pad, (), bos)

    def found_in(self, tokens: Tensor) -> Tensor | None:
        """The mask [b p] of the real tokens, if some are padding for certain; None if none is.

        Raises:
            TokenError: where rows begin with what may be padding, and a row that is all padding.
        """
        if tokens.shape[1] < 2 or torch.compiler.is_compiling():
            return None
        for token in self.doubtful:
            self._refuse_starts(tokens, token)
        if self.certain is None:
            return None
        is_pad = tokens == self.certain
        if not bool((is_pad[:, 0] | is_pad[:, -1]).any()):
            return None
        leading = is_pad.cumprod(1)
        trailing = is_pad.flip(1).cumprod(1).flip(1)
        return (leading + trailing) == 0

    def refuse_ends(self, tokens: Tensor) -> None:
        """Raise for rows that end with what may be padding, where their ends count.

        Raises:
            TokenError: naming the row.
        """
        if tokens.shape[1] < 2 or torch.compiler.is_compiling():
            return
        for token in self.doubtful:
            run = (tokens[:, -2:] == token).flip(1).cumprod(1).sum(1)
            row = _odd_row(run, 2, (tokens == token).all(1))
            if row is not None:
                raise TokenError(
                    f"row {row} of {len(tokens)} ends with {int(run[row])} of token {token}, which "
                    f"may also pad, and {_ADVICE}"
                )

    def _refuse_starts(self, tokens: Tensor, token: int) -> None:
        if not bool((tokens[:, 0] == token).any()):
            return
        run = (tokens[:, :3] == token).cumprod(1).sum(1)
        row = _odd_row(run, 3, (tokens == token).all(1))
        if row is not None:
            several = int(run[row]) > 1 and token == self.bos_id
            what = "several start tokens" if several else f"token {token}, which may also pad"
            raise TokenError(f"row {row} begins with {what}, and {_ADVICE}")


def _odd_row(run: Tensor, too_many: int, nothing_else: Tensor) -> int | None:
    """The index of a row with more of a token at its end than another has, or too many; or None.

    In a row of nothing else, any number is meant as text, unless the rows differ.
    """
    longest = int(run.argmax())
    differs = int(run.min()) < int(run[longest])
    too_long = (run >= too_many) & ~nothing_else
    if differs:
        return longest
    return int(too_long.nonzero()[0]) if bool(too_long.any()) else None
