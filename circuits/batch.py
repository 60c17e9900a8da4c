"""Prompts of different lengths in one tensor, and the losses on them.

A `Batch` carries which of its tokens are real. Positions are counted from each prompt's first real
token and padding is never attended to, so a padded batch equals its prompts run one by one.
"""

from __future__ import annotations

import operator
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from circuits.config import ModelConfig
from circuits.errors import CircuitsError, TokenError
from circuits.tokenizer import Tokenizer

if TYPE_CHECKING:
    from circuits.model import HookedGPT2

UNKNOWN = -1  # stands for every token when the input is a residual stream
PaddingSide = Literal["left", "right"]
# Text, texts, rows of token ids (of any lengths), or a tensor of token ids [b p] or [p].
ModelInput = str | Sequence[str] | Sequence[Sequence[int]] | Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """Which tokens go through the model, and which of them are real?

    `tokens` [b p]; `mask` [b p] is True at real tokens, None when all are. `where` gives each
    token's position in its own prompt: one slice that serves all prompts, or [b p].
    """

    tokens: Tensor
    mask: Tensor | None
    where: slice | Tensor

    @property
    def positions(self) -> Tensor:
        """At which position of its own prompt stands each token? [b p]; padding counts as 0."""
        if isinstance(self.where, Tensor):
            return self.where
        steps = torch.arange(self.where.start, self.where.stop, device=self.tokens.device)
        return steps.expand(self.tokens.shape)

    @property
    def lengths(self) -> Tensor:
        """How many real tokens has each prompt? [b]"""
        if self.mask is None:
            return torch.full_like(self.tokens[:, 0], self.tokens.shape[1])
        return self.mask.sum(1)

    @property
    def last(self) -> Tensor:
        """At which index is each prompt's last real token? [b]"""
        if self.mask is None:
            return self.lengths - 1
        columns = torch.arange(self.mask.shape[1], device=self.mask.device)
        return (self.mask * columns).argmax(1)


def one_prompt(model: HookedGPT2, prompt: ModelInput) -> Tensor:
    """The tokens [1 p] of a question that is about one prompt.

    Raises:
        CircuitsError: for several prompts.
    """
    tokens = as_batch(model, prompt).tokens
    if len(tokens) > 1:
        raise CircuitsError(f"{len(tokens)} prompts were given; ask about one at a time")
    return tokens


def pad_rows(
    rows: Sequence[Sequence[int]], pad_id: int, side: PaddingSide = "right"
) -> tuple[Tensor, Tensor]:
    """How do rows of token ids of any lengths become one tensor?

    Returns tokens [b p] and mask [b p], True at real tokens.

    >>> tokens, mask = pad_rows([[5, 6, 7], [8]], pad_id=0, side="left")
    >>> tokens.tolist(), mask.tolist()
    ([[5, 6, 7], [0, 0, 8]], [[True, True, True], [False, False, True]])

    Raises:
        TokenError: for no rows, an empty row, or an unknown side.
    """
    if side not in ("left", "right"):
        raise TokenError(f"padding_side={side!r}; choose 'left' or 'right'")
    if not rows:
        raise TokenError("no prompts were given; give at least one")
    empty = [i for i, row in enumerate(rows) if not len(row)]
    if empty:
        raise TokenError(
            f"prompt {empty[0]} of {len(rows)} has no tokens; give at least one token, or "
            "prepend_bos=True for the start token alone"
        )
    width = max(map(len, rows))
    tokens = torch.full((len(rows), width), pad_id, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        where = slice(width - len(row), None) if side == "left" else slice(len(row))
        tokens[i, where] = torch.as_tensor(row, dtype=torch.long)
        mask[i, where] = True
    return tokens, mask


def as_batch(
    model: HookedGPT2,
    given: ModelInput,
    *,
    prepend_bos: bool | None = None,
    padding_side: PaddingSide = "right",
    attention_mask: Tensor | None = None,
    n_past: int | Tensor = 0,
) -> Batch:
    """What does the model read when it is given this text, these rows, or this tensor?

    Text gets a start token when `prepend_bos` is True (None: the model's default); token ids are
    taken as they are. `n_past` real tokens, one number or [b], stand before these.

    Raises:
        TokenError: for empty input, ids outside the vocabulary, or more tokens than the context.
    """
    if isinstance(given, Tensor):
        tokens = given[None] if given.ndim == 1 else given
        if tokens.ndim != 2 or tokens.is_floating_point():
            raise TokenError(
                f"the input is a {given.dtype} tensor of shape {tuple(given.shape)}; give token "
                "ids [batch, pos], or a residual stream together with start_at_layer"
            )
        mask = None if attention_mask is None else attention_mask.to(tokens.device).bool()
        if mask is None:
            _refuse_silent_left_padding(tokens, model)
    else:
        if attention_mask is not None:
            raise TokenError("attention_mask belongs to a padded tensor; text is padded here")
        rows = token_rows(model, given, prepend_bos)
        tokens, padded = pad_rows(rows, _pad_id(model), padding_side)
        mask = None if bool(padded.all()) else padded
    tokens = tokens.to(model.W_E.device)
    mask = None if mask is None else mask.to(tokens.device)
    if not torch.compiler.is_compiling():
        _check(tokens, mask, n_past, model.cfg)
    return Batch(tokens, mask, _where(mask, tokens.shape[1], n_past))


def residual_batch(
    resid: Any, attention_mask: Tensor | None, cfg: ModelConfig, n_past: int | Tensor = 0
) -> Batch:
    """Which positions does a residual stream [b p d], given from outside, stand for?

    `n_past` real tokens, one number or [b], stand before them.

    Raises:
        CircuitsError: when it is not a float tensor of the model's width.
    """
    fits = isinstance(resid, Tensor) and resid.is_floating_point() and resid.ndim == 3
    if not fits or resid.shape[-1] != cfg.d_model:
        got = tuple(resid.shape) if isinstance(resid, Tensor) else type(resid).__name__
        raise CircuitsError(
            f"start_at_layer takes a residual stream [batch, pos, {cfg.d_model}], not {got}"
        )
    mask = None if attention_mask is None else attention_mask.to(resid.device).bool()
    tokens = torch.full(resid.shape[:2], UNKNOWN, device=resid.device)
    return Batch(tokens, mask, _where(mask, resid.shape[1], n_past))


def token_rows(
    model: HookedGPT2,
    given: str | Sequence[str] | Sequence[Sequence[int]],
    prepend_bos: bool | None,
) -> list[list[int]]:
    """The token ids of each prompt, with a start token before texts if asked for."""
    texts = [given] if isinstance(given, str) else list(given)
    if not texts or not all(isinstance(text, str) for text in texts):
        return [_row(row) for row in texts]
    tokenizer = model.require_tokenizer()
    bos = model.cfg.default_prepend_bos if prepend_bos is None else prepend_bos
    if bos and tokenizer.bos_id is None:
        raise TokenError(f"{tokenizer.name} has no start token; pass prepend_bos=False")
    start = [cast(int, tokenizer.bos_id)] if bos else []
    return [start + tokenizer.encode(cast(str, text)) for text in texts]


def _row(tokens: Any) -> list[int]:
    try:
        return [operator.index(token) for token in tokens]
    except TypeError:
        raise TokenError(
            f"{reprlib.repr(tokens)} is no row of token ids; give a text, a list of texts, or rows "
            "of whole numbers such as [[5, 6], [7]]"
        ) from None


def causal_mask(
    n_query: int, n_key: int, real: Tensor | None, device: torch.device
) -> Tensor | None:
    """Which keys may each query see? [q k] or, with padding, [b 1 q k]; None for plain causal.

    `real` [b k] is True at real tokens. Every query sees itself, so that the softmax of a padding
    query is defined.
    """
    if n_query == n_key:
        # Padding on the right lies in every real query's future: plain causality hides it.
        left_padded = real is not None and not bool(real[:, 0].all())
        if not left_padded:
            return None
    elif n_query == 1 and real is None:
        return None
    causal = torch.ones(n_query, n_key, dtype=torch.bool, device=device).tril(n_key - n_query)
    if real is None:
        return causal
    return causal & real[:, None, None, :] | causal.triu(n_key - n_query)


def _where(mask: Tensor | None, n_tokens: int, n_past: Tensor | int) -> slice | Tensor:
    """Where in its own prompt stands each token? One slice for all prompts, or [b p]."""
    if mask is None and isinstance(n_past, int):
        return slice(n_past, n_past + n_tokens)
    before = n_past[:, None] if isinstance(n_past, Tensor) else n_past
    if mask is None:
        return before + torch.arange(n_tokens, device=cast(Tensor, before).device)
    return (mask.cumsum(1) - 1 + before).clamp(min=0)


def token_losses(logits: Tensor, batch: Batch) -> Tensor:
    """How surprised is the model by each next token? [b p-1], in nats; padding gives 0."""
    if logits.shape[:2] != batch.tokens.shape or int(batch.tokens[0, 0]) == UNKNOWN:
        raise TokenError("a loss needs the tokens; with start_at_layer ask for logits")
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    losses = F.cross_entropy(logits[:, :-1].mT, batch.tokens[:, 1:], reduction="none")
    return losses if batch.mask is None else losses * _targets(batch)


def mean_loss(logits: Tensor, batch: Batch) -> Tensor:
    """The mean loss over all real next tokens, a scalar in nats per token.

    Raises:
        TokenError: when no prompt has a second token to predict.
    """
    losses = token_losses(logits, batch)
    if batch.mask is None:
        n = losses.numel()
    else:
        n = int(_targets(batch).sum())
    if not n:
        raise TokenError("a loss needs prompts of at least two tokens; these have one")
    return losses.sum() / n


def _targets(batch: Batch) -> Tensor:
    mask = cast(Tensor, batch.mask)
    return mask[:, 1:] & mask[:, :-1]


def _pad_id(model: HookedGPT2) -> int:
    bos = model.tokenizer.bos_id if model.tokenizer is not None else None
    return 0 if bos is None else bos


def _refuse_silent_left_padding(tokens: Tensor, model: HookedGPT2) -> None:
    """Rows that start with pad tokens beside rows that do not: padding nobody declared.

    Two of them may also be a start token and the end of the document before, so it takes three.
    """
    if torch.compiler.is_compiling() or tokens.shape[0] < 2 or tokens.shape[1] < 3:
        return
    if model.tokenizer is None or model.tokenizer.bos_id is None:
        return
    starts = (tokens[:, :3] == model.tokenizer.bos_id).all(1)
    if bool(starts.any()) and not bool(starts.all()):
        raise TokenError(
            f"row {int(starts.nonzero()[0])} begins with several start tokens and looks padded on "
            "the left; pass attention_mask (1 at real tokens), or the prompts as a list"
        )


def _check(tokens: Tensor, mask: Tensor | None, n_past: int | Tensor, cfg: ModelConfig) -> None:
    if not tokens.numel():
        raise TokenError("the input has no tokens; give at least one")
    if mask is not None and mask.shape != tokens.shape:
        raise TokenError(
            f"attention_mask has shape {tuple(mask.shape)}, the tokens have "
            f"{tuple(tokens.shape)}; give one entry a token"
        )
    n_tokens = tokens.shape[1] + (n_past if isinstance(n_past, int) else int(n_past.max()))
    if n_tokens > cfg.n_ctx:
        raise TokenError(
            f"the prompt has {n_tokens} tokens, and {cfg.model_name} reads at most "
            f"{cfg.n_ctx} (the start token included); shorten it"
        )
    low, high = (int(end) for end in tokens.aminmax())
    if low < 0 or high >= cfg.d_vocab:
        bad = low if low < 0 else high
        raise TokenError(
            f"token id {bad} is outside the vocabulary of {cfg.model_name}, 0 to {cfg.d_vocab - 1}"
        )


def to_string(tokenizer: Tokenizer, tokens: Any) -> Any:
    """What text do these token ids spell? A string for one row, a list of strings for rows."""
    ids = tokens.tolist() if hasattr(tokens, "tolist") else tokens
    if isinstance(ids, int):
        return tokenizer.decode([ids])
    if ids and not isinstance(ids[0], int):
        return [tokenizer.decode(row) for row in ids]
    return tokenizer.decode(ids)


def to_str_tokens(model: HookedGPT2, given: Any, prepend_bos: bool | None) -> Any:
    """Which tokens, as strings? A list for one text or row of ids, a list of lists for several."""
    tokenizer = model.require_tokenizer()
    if isinstance(given, str):
        return tokenizer.token_strings(token_rows(model, given, prepend_bos)[0])
    ids = given.tolist() if hasattr(given, "tolist") else list(given)
    if ids and isinstance(ids[0], str):
        return [tokenizer.token_strings(row) for row in token_rows(model, ids, prepend_bos)]
    if ids and not isinstance(ids[0], int):
        rows = [tokenizer.token_strings(row) for row in ids]
        return rows[0] if len(rows) == 1 else rows
    return tokenizer.token_strings(ids)


def check_layers(start: int | None, stop: int | None, n_layers: int) -> tuple[int, int]:
    """Which blocks run? Negative layers count from the end, as in Python.

    Raises:
        CircuitsError: for layers that do not exist or a stop before the start.
    """
    first = 0 if start is None else start + n_layers * (start < 0)
    last = n_layers if stop is None else stop + n_layers * (stop < 0)
    if not 0 <= first <= last <= n_layers:
        raise CircuitsError(
            f"start_at_layer={start}, stop_at_layer={stop}: choose 0 <= start <= stop <= {n_layers}"
            f" in a model of {n_layers} layers"
        )
    return first, last
