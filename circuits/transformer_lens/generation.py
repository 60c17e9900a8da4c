"""`generate` and `generate_stream` as TransformerLens has them: by torch's own random numbers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from circuits.errors import CircuitsError
from circuits.transformer_lens import utils
from circuits.transformer_lens.kv_cache import HookedTransformerKeyValueCache
from circuits.transformer_lens.options import only_known, require_length, require_sampling

if TYPE_CHECKING:
    from circuits.transformer_lens.model import HookedTransformer


@only_known
def generate(
    self: HookedTransformer,
    input: Any = "",
    max_new_tokens: int = 10,
    stop_at_eos: bool = True,
    eos_token_id: int | Sequence[int] | None = None,
    do_sample: bool = True,
    top_k: int | None = None,
    top_p: float | None = None,
    temperature: float = 1.0,
    freq_penalty: float = 0.0,
    use_past_kv_cache: bool = True,
    prepend_bos: bool | None = None,
    padding_side: Any = None,
    return_type: str | None = "input",
    verbose: bool = True,
    repetition_penalty: float = 1.0,
) -> Any:
    """The prompt and what follows: text for text, ids [b p] for ids, or as `return_type` says.

    Texts are padded on the left, so that all go on at the same place. A row that has ended is
    filled up with its end token.

    Raises:
        CircuitsError: for a `max_new_tokens` or `temperature` below 0, a `top_k` below 1, ...
    """
    require_length(max_new_tokens)
    require_sampling(temperature, top_k, top_p, repetition_penalty)
    sampling = {"top_k": top_k, "top_p": top_p, "temperature": temperature}
    sampling |= {"freq_penalty": freq_penalty, "repetition_penalty": repetition_penalty}
    tokens, mask = _prompt(self, input, prepend_bos, padding_side)
    ends = _ends(self, eos_token_id) if stop_at_eos else []
    kept = [tokens]
    steps = _steps(self, tokens, mask, ends, sampling if do_sample else None, use_past_kv_cache)
    for _, new in zip(range(max_new_tokens), steps, strict=False):
        kept.append(new)
    return _answer(self, input, torch.cat(kept, 1), return_type)


@only_known
def generate_stream(
    self: HookedTransformer,
    input: Any = "",
    max_new_tokens: int = 10,
    max_tokens_per_yield: int = 25,
    stop_at_eos: bool = True,
    eos_token_id: int | Sequence[int] | None = None,
    do_sample: bool = True,
    top_k: int | None = None,
    top_p: float | None = None,
    temperature: float = 1.0,
    freq_penalty: float = 0.0,
    use_past_kv_cache: bool = True,
    prepend_bos: bool | None = None,
    padding_side: Any = None,
    return_type: str | None = "input",
    verbose: bool = True,
) -> Iterator[Any]:
    """The same in pieces of `max_tokens_per_yield` tokens, the prompt counted into the first.

    A prompt that is as long comes with one new token; what is left at the end comes by itself.
    """
    require_length(max_new_tokens)
    require_length(max_tokens_per_yield, "max_tokens_per_yield", least=1)
    require_sampling(temperature, top_k, top_p)
    sampling = {"top_k": top_k, "top_p": top_p, "temperature": temperature}
    sampling |= {"freq_penalty": freq_penalty}
    tokens, mask = _prompt(self, input, prepend_bos, padding_side)
    ends = _ends(self, eos_token_id) if stop_at_eos else []
    steps = _steps(self, tokens, mask, ends, sampling if do_sample else None, use_past_kv_cache)
    new = itertools.islice(steps, max_new_tokens)
    pieces = _pieces(tokens, new, max_tokens_per_yield)
    return (_answer(self, input, piece, return_type) for piece in pieces)


def _pieces(tokens: Tensor, new: Iterator[Tensor], most: int) -> Iterator[Tensor]:
    kept, n_kept = [tokens], tokens.shape[1]
    for token in new:
        kept.append(token)
        n_kept += 1
        if n_kept >= most:
            yield torch.cat(kept, 1)
            kept, n_kept = [], 0
    if kept:
        yield torch.cat(kept, 1)


def _prompt(
    model: HookedTransformer, given: Any, prepend_bos: bool | None, padding_side: Any
) -> tuple[Tensor, Tensor | None]:
    """Token ids [b p] and, where texts were padded, which of them are real."""
    if isinstance(given, Tensor):
        if given.is_floating_point():
            raise CircuitsError("generation starts with a text or token ids, not with embeddings")
        tokens = given if given.ndim == 2 else given[None]
        return tokens.to(model.W_E.device), None
    several = not isinstance(given, str)
    side = "left" if several else padding_side
    tokens = model.to_tokens(given, prepend_bos, side)
    bos = model.cfg.default_prepend_bos if prepend_bos is None else prepend_bos
    mask = utils.get_attention_mask(model.tokenizer, tokens, bos, "left") if several else None
    return tokens, mask


def _ends(model: HookedTransformer, given: int | Sequence[int] | None) -> list[int]:
    if given is None:
        end = None if model.tokenizer is None else model.require_tokenizer().eos_token_id
        if end is None:
            raise CircuitsError(
                "nothing says which token ends a text; give eos_token_id=, or stop_at_eos=False"
            )
        return [end]
    return [given] if isinstance(given, int) else list(given)


def _steps(
    model: HookedTransformer,
    tokens: Tensor,
    mask: Tensor | None,
    ends: list[int],
    sampling: dict[str, Any] | None,
    cached: bool,
) -> Iterator[Tensor]:
    """New tokens [b 1], one step after the other, until every row has ended."""
    n_rows = len(tokens)
    past = HookedTransformerKeyValueCache() if cached else None
    real = torch.ones_like(tokens) if mask is None else mask
    finished = torch.zeros(n_rows, dtype=torch.bool, device=tokens.device)
    given = tokens
    while not bool(finished.all()):
        new_mask = real[:, -given.shape[1] :] if cached else real
        with torch.inference_mode():
            logits = model(given, attention_mask=new_mask, past_kv_cache=past)[:, -1]
            if sampling is None:
                new = logits.argmax(-1)
            else:
                new = utils.sample_logits(logits, tokens=tokens, **sampling)
            if ends:
                new = torch.where(finished, ends[0], new)
                finished = finished | torch.isin(new, torch.tensor(ends, device=new.device))
        new = new[:, None]
        tokens, real = torch.cat([tokens, new], 1), torch.cat([real, torch.ones_like(new)], 1)
        yield new
        given = new if cached else tokens


def _answer(model: HookedTransformer, given: Any, tokens: Tensor, return_type: str | None) -> Any:
    is_text = not isinstance(given, Tensor)
    kind = ("str" if is_text else "tokens") if return_type == "input" else return_type
    if kind == "tokens":
        return tokens
    if kind != "str":
        raise CircuitsError(f"return_type={return_type!r}: choose 'input', 'str' or 'tokens'")
    texts = model.require_tokenizer().batch_decode(tokens, skip_special_tokens=True)
    return texts[0] if len(texts) == 1 else texts
