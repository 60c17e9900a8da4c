"""What may be given for a prompt, and how it is read.

Texts, rows of token ids, tensors and arrays of ids, and what a tokenizer of ``transformers``
returns all become one of three things: texts, rows of any lengths, or a tensor of ids with a mask.
Everything else is an error.
"""

from __future__ import annotations

import operator
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuits.errors import TokenError

# Text, texts, rows of token ids (of any lengths), token ids [b p] or [p] as a tensor or an array,
# or a mapping with "input_ids", as tokenizers of transformers return it.
ModelInput = (
    str
    | Sequence[str]
    | Sequence[Sequence[int]]
    | Sequence[Tensor]
    | Tensor
    | NDArray[Any]
    | Mapping[str, Any]
)
AnyMask = Tensor | NDArray[Any] | Sequence[Any]
Read = list[str] | list[list[int]] | Tensor

# What a tokenizer returns beside the ids and the mask, and a GPT-2 does not need.
_IGNORED = (
    "special_tokens_mask",
    "offset_mapping",
    "length",
    "overflow_to_sample_mapping",
    "overflowing_tokens",
    "num_truncated_tokens",
)


def read(given: Any, attention_mask: AnyMask | None = None) -> tuple[Read, Tensor | None]:
    """What is given, as texts, as rows of token ids, or as a tensor of them [b p] with its mask.

    Rows of one length are a tensor. The mask [b p], True at real tokens, is None where none was
    given. A mapping with "input_ids" is read as ``transformers`` reads its own: with its
    "attention_mask" if it has one.

    >>> read({"input_ids": [[5, 6], [7, 0]], "attention_mask": [[1, 1], [1, 0]]})[1].tolist()
    [[True, True], [True, False]]
    >>> read([[5, 6], [7]])
    ([[5, 6], [7]], None)

    Raises:
        TokenError: for anything else, ids that are no whole numbers, a mask that does not fit or
            contradicts another, and entries of a mapping that would change what is read.
    """
    is_mapping = isinstance(given, Mapping)
    if is_mapping:
        given, attention_mask = _unpacked(given, attention_mask)
    ids = _read(given)
    if not isinstance(ids, Tensor) and isinstance(next(iter(ids), None), str):
        if is_mapping:
            raise TokenError("'input_ids' are texts; give their token ids, or the texts themselves")
        if attention_mask is not None:
            raise TokenError("attention_mask belongs to token ids; text is padded here")
    if attention_mask is None:
        return ids, None
    if isinstance(ids, Tensor):
        return ids, read_mask(attention_mask, ids.shape)
    _require_full(attention_mask, ids)
    return ids, None


def texts_or_rows(given: Any) -> list[str] | list[list[int]]:
    """The texts, or each prompt's real tokens, as far as a mask says which these are.

    Raises:
        TokenError: as `read`.
    """
    ids, mask = read(given)
    if not isinstance(ids, Tensor):
        return ids
    if mask is None:
        return cast(list[list[int]], ids.tolist())
    return [row[real.to(row.device)].tolist() for row, real in zip(ids, mask, strict=True)]


def read_mask(given: AnyMask, shape: torch.Size) -> Tensor:
    """A mask [b p], True at real tokens, for tokens of this shape.

    Raises:
        TokenError: for another shape, and for numbers other than 0 and 1.
    """
    try:
        rows = isinstance(given, list | tuple) and any(isinstance(row, Tensor) for row in given)
        mask = torch.stack([*cast(Any, given)]) if rows else torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        raise TokenError(
            f"attention_mask is {reprlib.repr(given)}; give 1 or 0 a token, in one row a prompt"
        ) from None
    mask = mask[None] if mask.ndim == 1 else mask
    if mask.shape != shape:
        raise TokenError(
            f"attention_mask has shape {tuple(mask.shape)}, the tokens have {tuple(shape)}; give "
            "one entry a token"
        )
    if mask.dtype == torch.bool:
        return mask
    if not torch.compiler.is_compiling() and not bool(((mask == 0) | (mask == 1)).all()):
        raise TokenError(
            "attention_mask has numbers other than 0 and 1; give 1 at real tokens, 0 at padding"
        )
    return mask.bool()


def _read(given: Any) -> Read:
    """What is given, as texts, rows or a tensor, without a mask."""
    if isinstance(given, Tensor):
        return _tensor(given)
    if isinstance(given, str):
        return [given]
    if hasattr(given, "to_numpy"):  # a column or a table of pandas or polars
        given = given.to_numpy()
    if isinstance(given, np.ndarray) and given.dtype.kind not in "OUT":  # of texts, or of rows
        return _array(given)
    if not isinstance(given, Sequence | np.ndarray) or isinstance(given, bytes | bytearray):
        raise TokenError(f"the input is {_name(given)}; {_ALLOWED}")
    items = list(given)
    if items and all(isinstance(item, str) for item in items):
        return [str(item) for item in items]
    if any(isinstance(item, str) for item in items):
        place = next(i for i, item in enumerate(items) if not isinstance(item, str))
        raise TokenError(
            f"prompt {place} is {reprlib.repr(items[place])}, and others are texts; give texts only"
        )
    rows = [_row(item) for item in items]
    if rows and rows[0] and len({len(row) for row in rows}) == 1:
        try:
            return torch.tensor(rows)
        except (RuntimeError, ValueError, OverflowError):  # beyond 64 bits, and any vocabulary
            raise TokenError(f"token id {max(map(max, rows))} is outside any vocabulary") from None
    return rows


_ALLOWED = (
    "give a text, a list of texts, rows of token ids such as [[5, 6], [7]], token ids [batch, pos] "
    "as a tensor, or what a tokenizer returns, with 'input_ids' in it"
)


def _tensor(given: Tensor) -> Tensor:
    tokens = given[None] if given.ndim == 1 else given
    is_integer = not (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)
    if tokens.ndim != 2 or not is_integer:
        raise _no_ids(str(given.dtype), tuple(given.shape))
    tokens = tokens.long()
    if torch.compiler.is_compiling() or torch.is_inference_mode_enabled():
        return tokens
    return tokens.clone() if tokens.is_inference() else tokens  # gradients need an ordinary tensor


def _array(given: NDArray[Any]) -> Tensor:
    if given.dtype.kind not in "iu":
        raise _no_ids(str(given.dtype), given.shape)
    if given.dtype.kind == "u" and given.size and given.max() > np.iinfo(np.int64).max:
        raise TokenError(f"token id {given.max()} is outside any vocabulary")
    return _tensor(torch.from_numpy(given.astype(np.int64)))


def _no_ids(kind: str, shape: tuple[int, ...]) -> TokenError:
    return TokenError(
        f"the input is a {kind} tensor of shape {shape}; give whole numbers as "
        "token ids [batch, pos], or a residual stream together with start_at_layer"
    )


def _row(tokens: Any) -> list[int]:
    is_text = isinstance(tokens, str | bytes | bytearray | Mapping)
    try:
        row = [] if is_text else [operator.index(token) for token in tokens]
        if not is_text and not any(_is_bool(token) for token in tokens):
            return row
    except TypeError:  # no row, or not of whole numbers
        pass
    raise TokenError(
        f"{reprlib.repr(tokens)} is no row of token ids; give a text, a list of texts, or rows "
        "of whole numbers such as [[5, 6], [7]]"
    )


def _is_bool(token: Any) -> bool:
    return isinstance(token, bool | np.bool_) or getattr(token, "dtype", None) == torch.bool


def _unpacked(given: Mapping[str, Any], mask: AnyMask | None) -> tuple[Any, AnyMask | None]:
    """The ids and the mask of what a tokenizer returned; a single prompt's as one row."""
    if given.get("input_ids") is None:
        raise TokenError(f"the input is {_name(given)} without 'input_ids'; {_ALLOWED}")
    known = ("input_ids", "attention_mask", "token_type_ids", *_IGNORED)
    if more := [key for key in given if key not in known]:
        raise TokenError(
            f"{', '.join(map(repr, more))} beside 'input_ids' would not be read; give 'input_ids' "
            "and 'attention_mask' alone"
        )
    ids, inner_mask, kinds = (
        _as_rows(given.get(name)) for name in ("input_ids", "attention_mask", "token_type_ids")
    )
    if kinds is not None and any(number for row in _lists(kinds) for number in row):
        # GPT-2 in transformers adds the embeddings of these numbers, read as tokens.
        raise TokenError("token_type_ids are not all 0, and are not read here; leave them out")
    both = inner_mask is not None and mask is not None
    if both and _lists(inner_mask) != _lists(_as_rows(mask)):
        raise TokenError(
            "attention_mask was given twice, beside the input and in it, and the two differ; give "
            "it once"
        )
    return ids, mask if inner_mask is None else inner_mask


def _as_rows(values: Any) -> Any:
    """A list of numbers as one row of them; all else as it is."""
    is_list = isinstance(values, list | tuple) and len(values) > 0
    return [values] if is_list and isinstance(values[0], int | np.integer) else values


def _lists(values: Any) -> list[list[int]]:
    """Rows of numbers, of any type, as lists."""
    if isinstance(values, Tensor | np.ndarray):
        values = values[None] if values.ndim == 1 else values
    return [row.tolist() if hasattr(row, "tolist") else list(row) for row in values]


def _require_full(mask: AnyMask, rows: Sequence[Any]) -> None:
    """Raise if the mask marks padding in these rows, which have several lengths."""
    if [len(row) for row in _lists(mask)] != [len(row) for row in rows]:
        raise TokenError("attention_mask and the rows differ in length; give one entry a token")
    if not all(number == 1 for row in _lists(mask) for number in row):
        raise TokenError(
            "the rows have different lengths and padding; leave padding out, or give rows of one "
            "length"
        )


def _name(given: Any) -> str:
    kind = type(given).__name__
    return "None" if given is None else f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}"
