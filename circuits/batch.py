"""Prompts of different lengths in one tensor, and the losses on them.

A `Batch` carries which of its tokens are real. Positions are counted from each prompt's first real
token and padding is never attended to, so a padded batch equals its prompts run one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from circuits.config import ModelConfig
from circuits.errors import CircuitsError, TokenError
from circuits.inputs import AnyMask, ModelInput, read, read_mask, texts_or_rows
from circuits.padding import PadTokens
from circuits.tokenizer import no_tokenizer

if TYPE_CHECKING:
    from circuits.model import HookedModel

UNKNOWN = -1  # stands for every token when the input is a residual stream
PaddingSide = Literal["left", "right"]


@dataclass(frozen=True, eq=False)
class Batch:
    """The tokens that go through the model, and which of them are real.

    `tokens` [b p]; `mask` [b p] is True at real tokens, None when all are. `where` gives each
    token's position in its own prompt: one slice that serves all prompts, or [b p]. `undeclared`
    are the tokens that may be padding at the ends of rows, where no mask says whether they are.
    """

    tokens: Tensor
    mask: Tensor | None
    where: slice | Tensor
    undeclared: PadTokens | None = None

    @property
    def positions(self) -> Tensor:
        """The position of each token in its own prompt, [b p]; padding counts as 0."""
        if isinstance(self.where, Tensor):
            return self.where
        steps = torch.arange(self.where.start, self.where.stop, device=self.tokens.device)
        return steps.expand(self.tokens.shape)

    @property
    def lengths(self) -> Tensor:
        """How many real tokens each prompt has, [b]."""
        if self.mask is None:
            return torch.full_like(self.tokens[:, 0], self.tokens.shape[1])
        return self.mask.sum(1)

    @property
    def last(self) -> Tensor:
        """The index of each prompt's last real token, [b]."""
        if self.mask is None:
            return self.lengths - 1
        columns = torch.arange(self.mask.shape[1], device=self.mask.device)
        return (self.mask * columns).argmax(1)


def one_prompt(model: HookedModel, prompt: ModelInput) -> Tensor:
    """The tokens [1 p] of a question that is about one prompt, without padding.

    Raises:
        CircuitsError: for several prompts.
    """
    rows = unpadded(as_batch(model, prompt))
    if len(rows) > 1:
        raise CircuitsError(f"{len(rows)} prompts were given; ask about one at a time")
    return rows[0][None]


def unpadded(batch: Batch) -> list[Tensor]:
    """Each prompt's own tokens [p].

    Raises:
        TokenError: where nothing says whether the ends of rows are padding.
    """
    if batch.undeclared is not None:
        batch.undeclared.refuse_ends(batch.tokens)
    if batch.mask is None:
        return list(batch.tokens)
    return [tokens[real] for tokens, real in zip(batch.tokens, batch.mask, strict=True)]


def pad_rows(
    rows: Sequence[Sequence[int]], pad_id: int, side: PaddingSide = "right"
) -> tuple[Tensor, Tensor]:
    """Rows of token ids of any lengths as one tensor: tokens [b p], and mask [b p].

    The mask is True at real tokens.

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
    model: HookedModel,
    given: ModelInput,
    *,
    prepend_bos: bool | None = None,
    padding_side: PaddingSide = "right",
    attention_mask: AnyMask | None = None,
    n_past: int | Tensor = 0,
) -> Batch:
    """What the model reads when it is given this text, these rows, or this tensor.

    Text gets a start token when `prepend_bos` is True (None: the model's default); token ids are
    taken as they are, and `circuits.padding` says which of them count as padding where no mask
    does. `n_past` real tokens, one number or [b], stand before these.

    Raises:
        TokenError: for empty input, ids outside the vocabulary, more tokens than the context, and
            tokens that may or may not be padding.
    """
    ids, mask = read(given, attention_mask)
    undeclared = None
    if isinstance(ids, Tensor):
        tokens = ids
        starts = not isinstance(n_past, Tensor) and n_past == 0
        if mask is None and starts and tokens.numel() and not torch.compiler.is_compiling():
            undeclared = PadTokens.of(model.tokenizer)
            mask = undeclared.found_in(tokens)
    else:
        tokens, mask = pad_rows(_rows(model, ids, prepend_bos), pad_id(model), padding_side)
    tokens = tokens.to(model.W_E.device)
    if mask is not None:
        mask = _some_real(mask.to(tokens.device), n_past)
    if not torch.compiler.is_compiling():
        _check(tokens, n_past, model.cfg)
    return Batch(tokens, mask, _where(mask, tokens.shape[1], n_past), undeclared)


def residual_batch(
    resid: Any, attention_mask: AnyMask | None, cfg: ModelConfig, n_past: int | Tensor = 0
) -> Batch:
    """The positions that a residual stream [b p d], given from outside, stands for.

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
    mask = None
    if attention_mask is not None:
        mask = _some_real(read_mask(attention_mask, resid.shape[:2]).to(resid.device), n_past)
    tokens = torch.full(resid.shape[:2], UNKNOWN, device=resid.device)
    return Batch(tokens, mask, _where(mask, resid.shape[1], n_past))


def token_rows(
    model: HookedModel, given: ModelInput, prepend_bos: bool | None = None
) -> list[list[int]]:
    """The token ids of each prompt, with a start token before texts if asked for.

    Raises:
        TokenError: as `as_batch`, except about the context and the vocabulary.
    """
    return _rows(model, texts_or_rows(given), prepend_bos)


def _rows(
    model: HookedModel, given: list[str] | list[list[int]], prepend_bos: bool | None
) -> list[list[int]]:
    """Texts as token ids, with a start token if asked for; rows of ids as they are."""
    if not given or not isinstance(given[0], str):
        return cast(list[list[int]], given)
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise no_tokenizer(model.cfg.model_name, "; give token ids, or ")
    bos = model.cfg.default_prepend_bos if prepend_bos is None else prepend_bos
    if bos and tokenizer.bos_id is None:
        raise TokenError(f"{tokenizer.name} has no start token; pass prepend_bos=False")
    start = [cast(int, tokenizer.bos_id)] if bos else []
    return [start + tokenizer.encode(text) for text in given]


def _some_real(mask: Tensor, n_past: int | Tensor) -> Tensor | None:
    """The mask, None if it marks no padding. Every prompt needs a real token, here or before."""
    if torch.compiler.is_compiling():
        return mask
    if bool(mask.all()):
        return None
    empty = (mask.sum(1) + n_past) == 0
    if bool(empty.any()):
        raise TokenError(
            f"prompt {int(empty.nonzero()[0])} of {len(mask)} is all padding; leave it out, or "
            "mark a token of it as real in attention_mask"
        )
    return mask


def causal_mask(
    n_query: int, n_key: int, real: Tensor | None, device: torch.device
) -> Tensor | None:
    """Which keys each query may see: [q k] or, with padding, [b 1 q k]; None for plain causal.

    `real` [b k] is True at real tokens. Every query sees itself, so that the softmax of a padding
    query is defined.
    """
    if n_query == n_key:
        # Padding on the right lies in every real query's future: plain causality hides it. Before
        # a real token, on the left or between others, it has to be masked.
        if real is None or not bool((real[:, 1:] & ~real[:, :-1]).any()):
            return None
    elif n_query == 1 and real is None:
        return None
    causal = torch.ones(n_query, n_key, dtype=torch.bool, device=device).tril(n_key - n_query)
    if real is None:
        return causal
    return causal & real[:, None, None, :] | causal.triu(n_key - n_query)


def _where(mask: Tensor | None, n_tokens: int, n_past: Tensor | int) -> slice | Tensor:
    """Where each token stands in its own prompt: one slice for all prompts, or [b p]."""
    if mask is None and isinstance(n_past, int):
        return slice(n_past, n_past + n_tokens)
    before = n_past[:, None] if isinstance(n_past, Tensor) else n_past
    if mask is None:
        return before + torch.arange(n_tokens, device=cast(Tensor, before).device)
    return (mask.cumsum(1) - 1 + before).clamp(min=0)


def key_positions(real: Tensor | None, n_key: int, device: torch.device) -> Tensor:
    """Where the keys of a pass stand in their own prompts: [k], or [b k] with padding.

    `real` [b k] is True at real tokens; None means that all are.
    """
    if real is None:
        return torch.arange(n_key, device=device)
    return (real.cumsum(1) - 1).clamp(min=0)


def token_losses(logits: Tensor, batch: Batch) -> Tensor:
    """The loss on each next token, [b p-1], in nats; padding gives 0."""
    if logits.shape[:2] != batch.tokens.shape or int(batch.tokens[0, 0]) == UNKNOWN:
        raise TokenError("a loss needs the tokens; with start_at_layer ask for logits")
    if batch.mask is None and batch.undeclared is not None:
        batch.undeclared.refuse_ends(batch.tokens)
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


def pad_id(model: HookedModel) -> int:
    """The token that prompts are padded with. Any would do: no real token sees it."""
    tokenizer = model.tokenizer
    known = () if tokenizer is None else (tokenizer.pad_id, tokenizer.bos_id)
    return next((token for token in known if token is not None), 0)


def _check(tokens: Tensor, n_past: int | Tensor, cfg: ModelConfig) -> None:
    if not tokens.numel():
        raise TokenError("the input has no tokens; give at least one")
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


def to_string(model: HookedModel, tokens: Any) -> Any:
    """The text that these token ids spell: a string for one row, a list of strings for rows."""
    tokenizer = model.require_tokenizer()
    if isinstance(tokens, int) or getattr(tokens, "ndim", None) == 0:
        return tokenizer.decode(token_rows(model, [[tokens]])[0])
    rows = token_rows(model, [tokens] if _is_row(tokens) else tokens)
    texts = [tokenizer.decode(row) for row in rows]
    return texts[0] if _is_row(tokens) else texts


def to_str_tokens(model: HookedModel, given: Any, prepend_bos: bool | None) -> Any:
    """The tokens as strings: a list for one text or row of ids, a list of lists for several."""
    rows = token_rows(model, [given] if _is_row(given) else given, prepend_bos)
    strings = [model.require_tokenizer().token_strings(row) for row in rows]
    several = isinstance(given, list | tuple) and len(given) > 0 and isinstance(given[0], str)
    return strings[0] if len(strings) == 1 and not several else strings


def _is_row(given: Any) -> bool:
    """Whether this is one row of token ids, as a list or tensor."""
    if hasattr(given, "ndim"):
        return bool(given.ndim == 1)
    return isinstance(given, list | tuple) and (not given or isinstance(given[0], int))


def check_layers(start: int | None, stop: int | None, n_layers: int) -> tuple[int, int]:
    """The first block that runs, and the one after the last. Negative ones count from the end.

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
