"""Text from a model, token by token, each new token computed once.

`stream` yields every step as it is made; `generate` collects the steps. Prompts of any lengths go
through the model together and get the text they would get alone: positions count from each
prompt's first token, and every prompt draws its own random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from circuits.backend import packed
from circuits.batch import Batch, PaddingSide, as_batch, pad_rows, unpadded
from circuits.errors import CircuitsError, TokenError
from circuits.hooks import Hooks
from circuits.inputs import AnyMask, ModelInput, read
from circuits.kv_cache import KVCache
from circuits.sampling import Sampler, random_numbers
from circuits.tokenizer import Tokenizer

if TYPE_CHECKING:
    from circuits.model import HookedModel

NO_TOKEN = -1  # stands where a row had already ended
PACKED_STEPS = 32  # from about this many steps on, packing the weights saves time
Stop = int | str | Sequence[int | str]


@dataclass(frozen=True, eq=False)
class Step:
    """What one step of generation adds to each prompt.

    `tokens` [b] are the new tokens, -1 in rows that had already ended. `finished` [b] is True in
    rows that have ended, with this token or before. `logprobs` [b], in nats, is what the model gave
    the token, before temperature, top_k and top_p; 0 in rows that had ended, so that the sum over
    steps is the log-probability of the text. `text` is each row's new text in whole characters: one
    whose bytes are spread over several tokens comes with the last of them. It is empty for a model
    without a tokenizer.
    """

    tokens: Tensor
    finished: Tensor
    logprobs: Tensor
    text: tuple[str, ...]


def stream(
    model: HookedModel,
    given: ModelInput,
    *,
    max_new_tokens: int = 20,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: Stop = (),
    seed: int | None = None,
    prepend_bos: bool | None = None,
    attention_mask: AnyMask | None = None,
    use_past_kv_cache: bool = True,
    fwd_hooks: Hooks = (),
) -> Iterator[Step]:
    """How does the text go on, one token at a time?

    Tokens are drawn from softmax(logits / temperature), restricted to the `top_k` most likely ones
    and then to the fewest that hold a share `top_p` of the probability; temperature 0 takes the
    most likely token. The same `seed` gives a prompt the same text, whatever else is in the batch;
    copies of a prompt in one batch differ from each other. Torch's random state is neither read
    nor changed. Without a seed every call differs.

    `stop` holds token ids, which end a row when they are drawn, and texts, which end it as soon as
    its new text contains them, also across tokens or inside one. The row keeps the token that
    ended it. The other rows go on; an ended row stays in the batch, so hooks see all rows.

    `attention_mask` [b p] marks the real tokens of a padded tensor; padding is taken away.

    `fwd_hooks` act at every step. With the key-value cache, hooks see each token once: the whole
    prompt first, then one position a step. ``hook.positions`` [b p] says which these are, so a hook
    that uses it has the same effect with and without the cache. Hooks are on the model only
    while it computes, not while a step is handed out.

    Weights that are edited while a step is handed out act from the next step on; the keys and
    values of earlier tokens stay in the cache as they were. So weights are not packed here, as
    `generate` does: put ``with circuits.packed(model)`` around the loop for that.

    Raises:
        CircuitsError: for impossible options, before anything is computed.
        TokenError: for a stop or a prompt that the vocabulary or the context cannot take: of a text
            with n_ctx + 1 tokens the model has read all but the last.

    >>> from circuits.config import ModelConfig
    >>> from circuits.architectures import HookedGPT2
    >>> model = HookedGPT2.random(ModelConfig(n_layers=1, n_heads=2, d_model=8, n_ctx=9, d_vocab=9))
    >>> for step in stream(model, [[1, 2, 3], [4]], max_new_tokens=2, seed=0):
    ...     step.tokens.shape, step.finished.tolist()
    (torch.Size([2]), [False, False])
    (torch.Size([2]), [True, True])
    """
    sampler, stops = Sampler(temperature, top_k, top_p), _stops(model, stop)
    batch = as_batch(model, given, prepend_bos=prepend_bos, attention_mask=attention_mask)
    prompts = _prompts(model, batch, max_new_tokens)
    noise = random_numbers(prompts, max_new_tokens, seed)
    return _Text.begin(model, prompts, stops, use_past_kv_cache).steps(sampler, noise, fwd_hooks)


def generate(
    model: HookedModel,
    given: ModelInput,
    *,
    max_new_tokens: int = 20,
    stop_at_eos: bool = True,
    eos_token_id: int | Sequence[int] | None = None,
    do_sample: bool = True,
    top_k: int | None = None,
    top_p: float | None = None,
    temperature: float = 1.0,
    stop: Stop = (),
    seed: int | None = None,
    prepend_bos: bool | None = None,
    attention_mask: AnyMask | None = None,
    padding_side: PaddingSide | None = None,
    return_type: Literal["input", "str", "tokens"] = "input",
    use_past_kv_cache: bool = True,
    fwd_hooks: Hooks = (),
    verbose: bool = False,
) -> Any:
    """How does the text go on? Prompt and continuation, in the form of the prompt.

    A text gives a string, texts a list of strings, rows of token ids a list of lists, and a tensor
    [b p] a tensor [b p+n], or a list of lists when its rows differ in length. `return_type` asks
    for "str" or "tokens" in any case; the tokens of a text include its start token.

    Rows end at any end token of the checkpoint, or at `eos_token_id` (one or several), unless
    `stop_at_eos` is False; ``do_sample=False`` is temperature 0. For sampling, `stop`, `seed`,
    `attention_mask` and hooks see `stream`. `padding_side` and `verbose`, known from
    ``HookedTransformer``, change nothing: padding never shows, and nothing is printed.

    Raises:
        CircuitsError, TokenError: as `stream`.

    >>> from circuits.config import ModelConfig
    >>> from circuits.architectures import HookedGPT2
    >>> model = HookedGPT2.random(ModelConfig(n_layers=1, n_heads=2, d_model=8, n_ctx=9, d_vocab=9))
    >>> generate(model, torch.tensor([[1, 2, 3]]), max_new_tokens=4, seed=0).shape
    torch.Size([1, 7])
    """
    if return_type not in ("input", "str", "tokens"):
        raise CircuitsError(f"return_type={return_type!r}; choose 'input', 'str' or 'tokens'")
    sampler = Sampler(temperature if do_sample else 0.0, top_k, top_p)
    stops = _stops(model, _with_eos(model, stop, eos_token_id) if stop_at_eos else stop)
    batch = as_batch(model, given, prepend_bos=prepend_bos, attention_mask=attention_mask)
    rows = _prompts(model, batch, max_new_tokens)
    noise = random_numbers(rows, max_new_tokens, seed)
    text = _Text.begin(model, rows, stops, use_past_kv_cache)
    steps = text.steps(sampler, noise, fwd_hooks, is_undisturbed=not fwd_hooks)
    texts = _collect(packed_steps(model, steps, max_new_tokens, fwd_hooks), rows)
    return _like(given, rows, texts, model, return_type)


def _collect(steps: Iterator[Step], rows: list[list[int]]) -> list[str]:
    """Append each prompt's new tokens to its row, and return each prompt's new text."""
    texts = [""] * len(rows)
    for step in steps:
        for row, token in zip(rows, step.tokens.tolist(), strict=True):
            row += [token] if token != NO_TOKEN else []
        for i, new in enumerate(step.text):
            texts[i] += new
    return texts


def _like(
    given: ModelInput, rows: list[list[int]], texts: list[str], model: HookedModel, kind: str
) -> Any:
    """Prompt and continuation in the form of the prompt, or in the one that was asked for."""
    prompts = read(given)[0]
    is_text = not isinstance(prompts, Tensor) and isinstance(prompts[0], str)
    if is_text and kind != "tokens":
        continued = [str(prompt) + text for prompt, text in zip(prompts, texts, strict=True)]
        return continued[0] if isinstance(given, str) else continued
    if kind == "str":
        return [model.require_tokenizer().decode(row) for row in rows]
    ids = given["input_ids"] if isinstance(given, Mapping) else given
    same_length = len({len(row) for row in rows}) == 1
    if same_length and (is_text or isinstance(ids, Tensor | np.ndarray)):
        return torch.tensor(rows, device=model.W_E.device)
    return rows


def _declared(rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Rows of real tokens with their mask, so that no token at their ends is taken for padding."""
    tokens, mask = pad_rows(rows, 0, "left")
    return {"input_ids": tokens, "attention_mask": mask}


class _Row:
    """One prompt as it grows: its tokens, whether it has ended, how much text it has returned."""

    def __init__(self, prompt: list[int], tokenizer: Tokenizer | None, stops: _Stops) -> None:
        self.ids, self.tokenizer, self.stops = list(prompt), tokenizer, stops
        self.ended = False
        self.start = self.n_out = len(_complete(self._decode()))

    def _decode(self) -> str:
        return "" if self.tokenizer is None else self.tokenizer.decode(self.ids)

    def add(self, token: int, *, last: bool) -> str:
        """Take a new token, the last one allowed or not; returns the text that is now certain."""
        if self.ended:
            return ""
        self.ids.append(token)
        text = self._decode()
        new = text[self.start :]
        self.ended = last or token in self.stops[0] or any(stop in new for stop in self.stops[1])
        certain = text if self.ended else _complete(text)
        piece = certain[self.n_out :]
        self.n_out += len(piece)
        return piece


_Stops = tuple[frozenset[int], tuple[str, ...]]  # token ids, and texts


def _complete(text: str) -> str:
    """The text without a last character whose bytes are not all there yet."""
    return text.rstrip("\N{REPLACEMENT CHARACTER}")


@dataclass(frozen=True, eq=False)
class _Text:
    """The prompts as they grow, and what the model keeps of them."""

    model: HookedModel
    rows: list[_Row]
    cache: KVCache | None

    @classmethod
    def begin(
        cls, model: HookedModel, prompts: list[list[int]], stops: _Stops, keep: bool
    ) -> _Text:
        """The prompts, with keys and values kept if the model can."""
        rows = [_Row(prompt, model.tokenizer, stops) for prompt in prompts]
        return cls(model, rows, KVCache() if keep and model.cfg.keeps_keys else None)

    def steps(
        self, sampler: Sampler, noise: Tensor, fwd_hooks: Hooks, *, is_undisturbed: bool = False
    ) -> Iterator[Step]:
        """A step for each column of random numbers [b n]; undisturbed if nobody acts in between."""
        model, rows, n_steps = self.model, self.rows, noise.shape[1]
        noise = noise.to(model.W_E.device)
        given: ModelInput = _declared([row.ids for row in rows])
        done = torch.zeros(len(rows), dtype=torch.bool, device=noise.device)
        next_logits: Callable[[Any], Tensor] = self._pass(fwd_hooks)
        for i in range(n_steps):
            logits = next_logits(given).double()
            drawn = sampler(logits, noise[:, i])
            logprobs = _logprobs(logits, drawn)
            text = [
                row.add(token, last=i == n_steps - 1)
                for row, token in zip(rows, drawn.tolist(), strict=True)
            ]
            before, done = done, torch.tensor([row.ended for row in rows], device=drawn.device)
            yield Step(
                tokens=drawn.masked_fill(before, NO_TOKEN),
                finished=done,
                logprobs=logprobs.masked_fill(before, 0.0),
                text=tuple(text) if model.tokenizer is not None else (),
            )
            if all(row.ended for row in rows):
                return
            given = _declared([row.ids for row in rows]) if self.cache is None else drawn[:, None]
            if i == 0 and is_undisturbed:
                next_logits = self._stepper() or next_logits

    def _pass(self, fwd_hooks: Hooks) -> Callable[[ModelInput], Tensor]:
        """What gives the logits after the last of the new tokens [b v]."""

        def next_logits(given: ModelInput) -> Tensor:
            # Not inference_mode: a hook may store what it sees and compute gradients with it later.
            with torch.no_grad(), self.model.hooks(fwd_hooks):
                return self.model.next_logits(given, self.cache)

        return next_logits

    def _stepper(self) -> Callable[[Tensor], Tensor] | None:
        """The same of one more token of each row, while nobody changes anything."""
        with torch.no_grad():
            step = None if self.cache is None else self.model.stepper(self.cache)
        return None if step is None else torch.no_grad()(step)


def packed_steps(
    model: HookedModel, steps: Iterator[Step], n_steps: int, fwd_hooks: Hooks = ()
) -> Iterator[Step]:
    """The steps, with `packed` weights where it saves time and no hook can edit weights meanwhile.

    Not the first: a prompt's rows would pack what a small model's single rows do not use.
    """
    hooked = bool(fwd_hooks) or any(hook.watched for hook in model.hook_dict.values())
    yield from islice(steps, 1)
    with nullcontext() if hooked or n_steps < PACKED_STEPS else packed(model):
        yield from steps


def _logprobs(logits: Tensor, drawn: Tensor) -> Tensor:
    """The log-probability [b] of the drawn token of each row, in nats.

    Raises:
        CircuitsError: when the logits of a row are no distribution.
    """
    logprobs = logits.log_softmax(-1).gather(-1, drawn[:, None])[:, 0]
    for row, logprob in enumerate(logprobs.tolist()):
        if not math.isfinite(logprob):
            raise CircuitsError(
                f"the model's next-token logits in row {row} are not finite numbers; check the "
                "hooks and the weights"
            )
    return logprobs


def _prompts(model: HookedModel, batch: Batch, max_new_tokens: int) -> list[list[int]]:
    """The token ids of each prompt, once it is clear that the new tokens fit as well."""
    if max_new_tokens < 1:
        raise CircuitsError(f"max_new_tokens={max_new_tokens}: choose at least 1")
    rows = [tokens.tolist() for tokens in unpadded(batch)]
    longest, n_ctx = max(map(len, rows)), model.cfg.n_ctx
    # The last new token is not read by the model, so a text may be one token longer than n_ctx.
    room = n_ctx + 1 - longest
    if max_new_tokens > room:
        raise TokenError(
            f"a prompt of {longest} tokens (the start token included) leaves room for {room} more "
            f"in {model.cfg.model_name}, which reads {n_ctx}; lower max_new_tokens="
            f"{max_new_tokens}, or shorten the prompt"
        )
    return rows


def _listed(stop: Stop) -> list[int | str]:
    return [stop] if isinstance(stop, int | str) else list(stop)


def _with_eos(model: HookedModel, stop: Stop, eos_token_id: int | Sequence[int] | None) -> Stop:
    """`stop`, and the tokens that end a text: those asked for, otherwise the checkpoint's own."""
    if eos_token_id is None:
        eos_token_id = model.roles.eos_ids
    return [*_listed(stop), *_listed(eos_token_id)]


def _stops(model: HookedModel, stop: Stop) -> _Stops:
    ids, texts = set(), []
    for item in _listed(stop):
        if isinstance(item, str):
            if not model.require_tokenizer().encode(item):
                raise TokenError("a stop text is empty; give at least one character")
            texts.append(item)
        elif 0 <= item < model.cfg.d_vocab:
            ids.add(int(item))
        else:
            raise TokenError(
                f"stop token {item} is outside the vocabulary of {model.cfg.model_name}, 0 to "
                f"{model.cfg.d_vocab - 1}"
            )
    return frozenset(ids), tuple(texts)
