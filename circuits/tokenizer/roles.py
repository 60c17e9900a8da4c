"""Which tokens of a vocabulary stand for no text: those that start, end and fill up a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

END_OF_TEXT = "<|endoftext|>"
# What tokens with a role are usually called. Names decide only where no file gives the roles.
BOS_NAMES = (END_OF_TEXT, "<s>", "<bos>")
EOS_NAMES = (END_OF_TEXT, "</s>", "<eos>")
PAD_NAMES = ("<pad>", "[PAD]", "<|pad|>", "<|padding|>")


@dataclass(frozen=True)
class Roles:
    """The tokens that start, end and fill up a text.

    `bos_id` is put before a text, `eos_ids` end one (there may be several), `pad_id` fills up the
    shorter texts of a batch. None, or no ids, where the vocabulary has no such token. `adds_bos`
    says whether transformers' own tokenizer puts the start token before every text; `others` are
    names that its files give, such as ("mask_token", "<mask>"), and that are written again.
    """

    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    pad_id: int | None = None
    adds_bos: bool = False
    others: tuple[tuple[str, str], ...] = ()

    @property
    def ids(self) -> frozenset[int]:
        """All tokens that have a role."""
        named = {self.bos_id, *self.eos_ids, self.pad_id}
        return frozenset(i for i in named if i is not None)

    def within(self, n_vocab: int) -> Roles:
        """Those of them that a model with `n_vocab` ids has."""
        bos, pad = (
            i if i is not None and 0 <= i < n_vocab else None for i in (self.bos_id, self.pad_id)
        )
        eos = tuple(i for i in self.eos_ids if 0 <= i < n_vocab)
        return replace(self, bos_id=bos, eos_ids=eos, pad_id=pad)


def roles_by_name(special: Mapping[str, int]) -> Roles:
    """The roles that the names of these special tokens suggest.

    >>> roles_by_name({"<s>": 7, "</s>": 8, "<mask>": 9})
    Roles(bos_id=7, eos_ids=(8,), pad_id=None, adds_bos=False, others=())
    """
    bos, eos, pad = (
        next((special[name] for name in names if name in special), None)
        for names in (BOS_NAMES, EOS_NAMES, PAD_NAMES)
    )
    return Roles(bos, () if eos is None else (eos,), pad)
