"""Start tokens and padding: which tokens of a row are real, and how a start token is put or cut."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from circuits.transformer_lens.axes import get_cumsum_along_dim


def get_tokenizer_with_bos(tokenizer: Any) -> Any:
    """The tokenizer as it is: start tokens are put before texts by the model here."""
    return tokenizer


def get_input_with_manually_prepended_bos(bos_token: str | None, input: Any) -> Any:
    """The text, or texts, with the start token's before it."""
    if bos_token is None:
        return input
    return bos_token + input if isinstance(input, str) else [bos_token + text for text in input]


def get_tokens_with_bos_removed(
    tokenizer: Any, tokens: Tensor, padding_side: str | None = None
) -> Tensor:
    """Rows without their start token, [.. p-1]."""
    if tokenizer.bos_token_id is None:
        return tokens
    if (padding_side or tokenizer.padding_side) == "right":
        return tokens[..., 1:]
    real = get_attention_mask(tokenizer, tokens, True, "left")
    first = real.argmax(-1)
    rows = [
        torch.cat([row[:i], row[i + 1 :]]) for row, i in zip(tokens, first.tolist(), strict=True)
    ]
    return torch.stack(rows)


def get_attention_mask(
    tokenizer: Any, tokens: Tensor, prepend_bos: bool, padding_side: str | None = None
) -> Tensor:
    """Which tokens [b p] are real: 1, or 0 for padding at the tokenizer's side.

    Where the start token is the padding token, the last one before a prompt is its start.
    """
    mask = torch.ones_like(tokens)
    if tokenizer is None:
        return mask
    text = tokens.ne(tokenizer.pad_token_id)
    if (padding_side or tokenizer.padding_side) == "right":
        mask[get_cumsum_along_dim(text, -1, reverse=True) == 0] = 0
        return mask
    leading = get_cumsum_along_dim(text, -1) == 0
    mask[leading] = 0
    if prepend_bos and tokenizer.bos_token_id == tokenizer.pad_token_id:
        mask[torch.arange(len(mask)), leading.sum(-1) - 1] = 1
    return mask
