"""Text and tokens as TransformerLens reads them: truncated, padded at the tokenizer's side."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuits.errors import TokenError
from circuits.transformer_lens import utils


def to_tokens(
    model: Any,
    given: Any,
    prepend_bos: bool | None = None,
    padding_side: Any = None,
    move_to_device: bool = True,
    truncate: bool = True,
) -> Tensor:
    """Token ids [b p] of a text or texts, cut to the context if `truncate`."""
    tokenizer = model.require_tokenizer()
    bos = model.cfg.default_prepend_bos if prepend_bos is None else prepend_bos
    start = [tokenizer.bos_token_id] if bos else []
    if bos and start == [None]:
        raise TokenError(f"{tokenizer.name} has no start token; pass prepend_bos=False")
    texts = [given] if isinstance(given, str) else list(given)
    rows = [start + tokenizer.ids(text) for text in texts]
    rows = [row[: model.cfg.n_ctx] for row in rows] if truncate else rows
    with utils.LocallyOverridenDefaults(model, padding_side=padding_side):
        tokens: Tensor = tokenizer.pad_rows(rows, "pt", True, None, False)["input_ids"]
    return tokens.to(model.cfg.device) if move_to_device else tokens


def to_string(model: Any, tokens: Any) -> Any:
    """The text of a row of token ids [p], or of each of several rows [b p]."""
    tokenizer = model.require_tokenizer()
    ids = tokens if isinstance(tokens, Tensor) else torch.tensor(np.array(tokens))
    if ids.ndim > 2:
        raise TokenError(f"token ids of shape {tuple(ids.shape)}; give [pos] or [batch, pos]")
    return tokenizer.batch_decode(ids) if ids.ndim == 2 else tokenizer.decode(ids)


def to_str_tokens(
    model: Any, given: Any, prepend_bos: bool | None = None, padding_side: Any = None
) -> Any:
    """Each token of a text or of a row of ids as a string; lists of them for a list."""
    if isinstance(given, list):
        return [to_str_tokens(model, item, prepend_bos, padding_side) for item in given]
    if isinstance(given, str):
        ids = to_tokens(model, given, prepend_bos, padding_side)[0]
    elif isinstance(given, int):
        ids = torch.tensor([given])
    else:
        ids = torch.as_tensor(given).squeeze()
        ids = ids[None] if ids.ndim == 0 else ids
    if ids.ndim != 1:
        raise TokenError(f"token ids of shape {tuple(ids.shape)}; give one row, [pos] or [1, pos]")
    return [model.require_tokenizer().decode([token]) for token in ids.tolist()]


def token_position(
    model: Any, single_token: Any, given: Any, mode: str, prepend_bos: bool | None
) -> int:
    """Where a token stands in a text or in a row of ids: its first or last place.

    Raises:
        TokenError: when it is not there, and for another mode.
    """
    tokens = to_tokens(model, given, prepend_bos) if isinstance(given, str) else given
    if tokens.ndim == 2 and len(tokens) != 1:
        raise TokenError(f"{len(tokens)} prompts were given; ask about one at a time")
    row = tokens.reshape(-1)
    token = model.to_single_token(single_token) if isinstance(single_token, str) else single_token
    places = (row == int(token)).nonzero().flatten()
    if not len(places):
        raise TokenError(f"the token {single_token!r} does not occur in the prompt")
    if mode not in ("first", "last"):
        raise TokenError(f"mode={mode!r}: choose 'first' or 'last'")
    return int(places[0 if mode == "first" else -1])
