"""A model's tokenizer with the methods of one of ``transformers``.

`LensTokenizer` is a `Tokenizer` of this package, so everything here reads it; and it is called,
encodes, decodes and pads as users of Hugging Face's expect. What it wraps may be one of theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from circuits.adapter.vocabulary import TheirTokenizer
from circuits.errors import TokenError
from circuits.tokenizer import END_OF_TEXT, FittedTokenizer, Roles, Tokenizer


class Encoded(dict[str, Any]):
    """What a tokenizer returns: ``input_ids`` and ``attention_mask``, also as attributes."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(name)

    def to(self, device: Any) -> Encoded:
        """The same with its tensors on another device."""
        return Encoded({k: v.to(device) if isinstance(v, Tensor) else v for k, v in self.items()})


class LensTokenizer(Tokenizer):
    """A tokenizer as users of Hugging Face's expect it; no start token is added unless asked for.

    So it was for GPT-2 in TransformerLens 2 (``cfg.tokenizer_prepends_bos`` False). Version 3.9
    loads GPT-2's tokenizer anew with ``add_bos_token=True``, so that ``tokenizer(text)`` starts
    with one; ``model.to_tokens`` is the same in all.

    >>> tokenizer = LensTokenizer(Tokenizer.characters("ab", ["<|endoftext|>"]))
    >>> tokenizer(["ab", "a"], return_tensors="pt", padding=True).input_ids.tolist()
    [[0, 1], [0, 2]]
    >>> tokenizer.decode(torch.tensor([1, 0])), tokenizer.bos_token, tokenizer.tokenize("ba")
    ('ba', '<|endoftext|>', ['b', 'a'])
    """

    def __init__(self, base: Tokenizer, *, padding_side: str = "right") -> None:
        vars(self).update(vars(base))
        self.base = base
        self.theirs = getattr(base, "theirs", None)
        self.padding_side, self.name_or_path = padding_side, base.name
        self.model_max_length = getattr(self.theirs, "model_max_length", int(1e30))

    def __getattr__(self, name: str) -> Any:
        theirs = None if name.startswith("__") else vars(self).get("theirs")
        if theirs is None:
            raise AttributeError(
                f"{name!r} is no attribute of this tokenizer, which offers the common methods of "
                "those of transformers"
            )
        return getattr(theirs, name)

    def fitted(self, n_vocab: int) -> LensTokenizer:
        """The same tokens for a model that embeds `n_vocab` ids: see `Tokenizer.fitted`."""
        return LensTokenizer(self.base.fitted(n_vocab), padding_side=self.padding_side)

    def with_roles(self, roles: Roles) -> LensTokenizer:
        """The same tokens, of which these start, end and fill up a text."""
        return LensTokenizer(self.base.with_roles(roles), padding_side=self.padding_side)

    def __len__(self) -> int:
        return self.n_vocab

    @property
    def vocab_size(self) -> int:
        """How many ids there are."""
        return self.n_vocab

    @property
    def is_fast(self) -> bool:
        """Whether it is written in a compiled language, as tiktoken is."""
        return True

    @property
    def eos_token_id(self) -> int | None:
        """The token that ends a text; ``<|endoftext|>`` where none is named, if there is one."""
        return self.eos_ids[0] if self.eos_ids else self.special.get(END_OF_TEXT, self.bos_id)

    @property
    def bos_token_id(self) -> int | None:
        """The token that starts a text; the one that ends it where there is none."""
        return self.eos_token_id if self.bos_id is None else self.bos_id

    @property
    def pad_token_id(self) -> int | None:
        """The token that fills up a batch; the one that ends a text where there is none."""
        return self.eos_token_id if self.pad_id is None else self.pad_id

    @pad_token_id.setter
    def pad_token_id(self, token: int) -> None:
        self.roles = Roles(self.roles.bos_id, self.roles.eos_ids, token)

    def _named(self, token: int | None) -> str | None:
        return None if token is None else self.base.token_strings([token])[0]

    bos_token = property(lambda self: self._named(self.bos_token_id), doc="its text")
    eos_token = property(lambda self: self._named(self.eos_token_id), doc="its text")

    @property
    def pad_token(self) -> str | None:
        """The text of `pad_token_id`; may be set to that of another token."""
        return self._named(self.pad_token_id)

    @pad_token.setter
    def pad_token(self, token: str) -> None:
        self.pad_token_id = self.convert_tokens_to_ids(token)

    @property
    def all_special_ids(self) -> list[int]:
        """The tokens that start, end and fill up a text."""
        ids = (self.bos_token_id, self.eos_token_id, self.pad_token_id, *self.eos_ids)
        return sorted({token for token in ids if token is not None})

    @property
    def all_special_tokens(self) -> list[str]:
        """Their texts."""
        return [str(self._named(token)) for token in self.all_special_ids]

    def ids(self, text: str) -> list[int]:
        """The token ids of a text; a word that their tokenizer does not know is its ``<unk>``."""
        if self.theirs is None:
            return self.base.encode(text)
        return list(self.theirs.encode(text, add_special_tokens=False))

    def encode(self, text: str, add_special_tokens: bool = False, **options: Any) -> Any:
        """The token ids of a text, as a list, or a tensor [1 p] with ``return_tensors="pt"``."""
        ids = self.ids(text)[: _limit(options)]
        return torch.tensor([ids]) if options.get("return_tensors") == "pt" else ids

    def __call__(
        self,
        text: str | Sequence[str],
        return_tensors: str | None = None,
        padding: bool | str = False,
        truncation: bool = False,
        max_length: int | None = None,
        **options: Any,
    ) -> Encoded:
        """The token ids of texts, and which of them are real, padded at `padding_side`.

        Raises:
            TokenError: for tensors of rows of different lengths.
        """
        texts = [text] if isinstance(text, str) else list(text)
        limit = max_length if truncation else None
        rows = [self.ids(item)[:limit] for item in texts]
        return self.pad_rows(rows, return_tensors, padding, max_length, isinstance(text, str))

    def pad_rows(
        self,
        rows: list[list[int]],
        return_tensors: str | None,
        padding: bool | str,
        max_length: int | None,
        single: bool,
    ) -> Encoded:
        """Rows of ids as a tokenizer returns them.

        Raises:
            TokenError: for tensors of rows of different lengths, and for padding without a token.
        """
        mask = [[1] * len(row) for row in rows]
        if padding:
            width = max(map(len, rows))
            width = max_length or width if padding == "max_length" else width
            if self.pad_token_id is None and any(len(row) < width for row in rows):
                raise TokenError(f"{self.name} has no token to pad with; set pad_token_id")
            rows = [self._padded(row, width, self.pad_token_id) for row in rows]
            mask = [self._padded(row, width, 0) for row in mask]
        if return_tensors is None:
            both = {"input_ids": rows, "attention_mask": mask}
            return Encoded({name: value[0] if single else value for name, value in both.items()})
        if len({len(row) for row in rows}) > 1:
            raise TokenError("the texts have different lengths; give padding=True for a tensor")
        ids = torch.tensor(rows, dtype=torch.long)
        real = torch.tensor(mask, dtype=torch.long)
        if return_tensors == "np":
            return Encoded(input_ids=ids.numpy(), attention_mask=real.numpy())
        return Encoded(input_ids=ids, attention_mask=real)

    def _padded(self, row: list[int], width: int, fill: Any) -> list[int]:
        more = [fill] * (width - len(row))
        return more + row if self.padding_side == "left" else row + more

    def decode(self, ids: Any, skip_special_tokens: bool = False, **options: Any) -> str:
        """The text of token ids: a number, a list, or a tensor [p]."""
        row = _row(ids)
        if skip_special_tokens:
            row = [token for token in row if token not in self.all_special_ids]
        return self.base.decode(row)

    def batch_decode(
        self, rows: Any, skip_special_tokens: bool = False, **options: Any
    ) -> list[str]:
        """The text of each row; of a single row [p], that of each token."""
        return [self.decode(row, skip_special_tokens) for row in rows]

    def token_strings(self, ids: Iterable[int]) -> list[str]:
        """Each token as it reads by itself: see `Tokenizer.token_strings`."""
        return self.base.token_strings(ids)

    def tokenize(self, text: str, **options: Any) -> list[str]:
        """The tokens of a text as the vocabulary writes them: a space is ``Ġ``."""
        return list(self.convert_ids_to_tokens(self.ids(text)))

    def get_vocab(self) -> dict[str, int]:
        """The id of each token, as the vocabulary writes it."""
        if self.theirs is not None:
            return dict(self.theirs.get_vocab())
        return {_written(token): i for token, i in self.ranks.items()} | dict(self.special)

    @property
    def vocab(self) -> dict[str, int]:
        """The same as `get_vocab()`."""
        return self.get_vocab()

    def convert_ids_to_tokens(self, ids: Any, **options: Any) -> Any:
        """A token, or tokens, as the vocabulary writes them."""
        by_id = {i: token for token, i in self.get_vocab().items()}
        single = isinstance(ids, int)
        tokens = [by_id.get(i, f"<|unused_{i}|>") for i in _row(ids)]
        return tokens[0] if single else tokens

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """The id of a token, or of tokens, as the vocabulary writes them.

        Raises:
            TokenError: for what is no token.
        """
        vocabulary = self.get_vocab()
        wanted = [tokens] if isinstance(tokens, str) else list(tokens)
        if unknown := [token for token in wanted if token not in vocabulary]:
            raise TokenError(f"{unknown[:4]} are no tokens of {self.name} (see get_vocab())")
        ids = [vocabulary[token] for token in wanted]
        return ids[0] if isinstance(tokens, str) else ids

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """The text that these tokens spell."""
        return self.decode(self.convert_tokens_to_ids(tokens))

    def add_special_tokens(self, tokens: dict[str, str]) -> int:
        """Nothing, so 0 new ones: the vocabulary of a trained model is what it is."""
        return 0


class LensVocabulary(FittedTokenizer):
    """The attribute of a model that holds its tokenizer, as a `LensTokenizer`."""

    def __set__(self, model: Any, tokenizer: Any) -> None:
        """Wrap it, be it of this package or of ``transformers``, and fit it to the model."""
        super().__set__(model, None if tokenizer is None else wrapped(tokenizer))


def wrapped(tokenizer: Any) -> LensTokenizer:
    """This tokenizer, of this package or of ``transformers``, as a `LensTokenizer`.

    Raises:
        TokenError: for something else.
    """
    if isinstance(tokenizer, LensTokenizer):
        return tokenizer
    if isinstance(tokenizer, Tokenizer):
        return LensTokenizer(tokenizer)
    if not hasattr(tokenizer, "get_vocab") or not callable(tokenizer):
        raise TokenError(
            f"the tokenizer is a {type(tokenizer).__name__}; give one of transformers or of "
            "circuits.Tokenizer"
        )
    name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
    side = getattr(tokenizer, "padding_side", None) or "right"
    return LensTokenizer(TheirTokenizer(tokenizer, name=name), padding_side=side)


def _limit(options: dict[str, Any]) -> int | None:
    return options.get("max_length") if options.get("truncation") else None


def _row(ids: Any) -> list[int]:
    if hasattr(ids, "tolist"):
        ids = ids.tolist()
    return [int(ids)] if isinstance(ids, int) else [int(i) for i in ids]


def _bytes_to_letters() -> dict[int, str]:
    """How GPT-2's files write each byte: printable ones as they are, the others from U+0100 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = {byte: chr(byte) for byte in plain}
    return letters | {byte: chr(256 + i) for i, byte in enumerate(others)}


_LETTERS = _bytes_to_letters()


def _written(token: bytes) -> str:
    return "".join(_LETTERS[byte] for byte in token)
