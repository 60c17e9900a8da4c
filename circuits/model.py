"""The whole hook-instrumented GPT-2.

The mathematics is exactly that of the released checkpoints: pre-norm blocks, learned positions,
`gelu_new`, a tied unembedding. Every intermediate value passes through a named `HookPoint`; the
names, shapes and meanings are those of ``HookedTransformer``. A costly site (``hook_result``,
``hook_q_input``, attention scores, ...) is computed only while somebody watches it.

Shapes: b batch, p position, q query, k key, h head; d = d_model, e = d_head, m = d_mlp,
v = d_vocab.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import replace
from operator import attrgetter
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from circuits.attention_layer import Attention, KeyValue
from circuits.batch import (
    Batch,
    PaddingSide,
    as_batch,
    causal_mask,
    check_layers,
    mean_loss,
    residual_batch,
    to_str_tokens,
    to_string,
    token_losses,
)
from circuits.cache import Cache, run_with_cache
from circuits.config import ACTIVATIONS, ModelConfig
from circuits.errors import CircuitsError
from circuits.factored import FactoredMatrix
from circuits.generation import KVCache, generate
from circuits.hooks import GradHooks, HookPoint, Hooks, Run, WatchedBy, site_names, watching
from circuits.inputs import AnyMask, ModelInput
from circuits.linear import Pack, linear
from circuits.tokenizer import FittedTokenizer, ModelRoles, Tokenizer, no_tokenizer


class LayerNorm(nn.Module):
    """(x - mean) / scale * w + b, with scale = sqrt(var + eps)."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.eps = cfg.eps
        self.w = nn.Parameter(torch.ones(cfg.d_model))
        self.b = nn.Parameter(torch.zeros(cfg.d_model))
        self.hook_scale = HookPoint()  # [b p 1]
        self.hook_normalized = HookPoint()  # [b p d], before w and b

    def forward(self, x: Float[Tensor, "b p d"]) -> Float[Tensor, "b p d"]:
        """LayerNorm's output, by way of its two sites if somebody watches them."""
        if not (self.hook_scale.watched or self.hook_normalized.watched):
            return self.plain(x)
        wide = x if x.dtype.itemsize > 2 else x.float()  # as the fused one: squares overflow
        centered = wide - wide.mean(-1, keepdim=True)
        scale = (centered.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()
        scale = self.hook_scale(scale.to(x.dtype))
        return self.hook_normalized((centered / scale).to(x.dtype)) * self.w + self.b

    def plain(self, x: Float[Tensor, "*any d"]) -> Float[Tensor, "*any d"]:
        """The same without hooks, fused, for any leading axes."""
        return F.layer_norm(x, (x.shape[-1],), self.w, self.b, self.eps)


class MLP(nn.Module):
    """Keys that match the residual stream (W_in) and the values they write (W_out)."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.gelu = ACTIVATIONS[cfg.act_fn]
        self.W_in = nn.Parameter(torch.empty(cfg.d_model, cfg.d_mlp))
        self.b_in = nn.Parameter(torch.zeros(cfg.d_mlp))
        self.W_out = nn.Parameter(torch.empty(cfg.d_mlp, cfg.d_model))
        self.b_out = nn.Parameter(torch.zeros(cfg.d_model))
        self.pack_in, self.pack_out = Pack(), Pack()
        self.hook_pre = HookPoint()  # [b p m]
        self.hook_post = HookPoint()  # [b p m]

    def forward(self, x: Float[Tensor, "b p d"]) -> Float[Tensor, "b p d"]:
        """What the neurons write, b_out included."""
        if not (self.hook_pre.watched or self.hook_post.watched):
            return self.plain(x)
        pre = self.hook_pre(linear(x, self.W_in, self.b_in, self.pack_in))
        post = self.hook_post(F.gelu(pre, approximate=self.gelu))
        return linear(post, self.W_out, self.b_out, self.pack_out)

    def plain(self, x: Float[Tensor, "*any d"]) -> Float[Tensor, "*any d"]:
        """The same without hooks, for any leading axes."""
        post = linear(x, self.W_in, self.b_in, self.pack_in, self.gelu)
        return linear(post, self.W_out, self.b_out, self.pack_out)


class Block(nn.Module):
    """x + attention(ln1(x)), then x + mlp(ln2(x))."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.n_heads = cfg.n_heads
        self.ln1, self.attn = LayerNorm(cfg), Attention(cfg)
        self.ln2, self.mlp = LayerNorm(cfg), MLP(cfg)
        self.hook_resid_pre = HookPoint()  # [b p d], as all below but for [b p h d]:
        self.hook_attn_in = HookPoint()  # [b p h d]
        self.hook_q_input, self.hook_k_input, self.hook_v_input = (HookPoint() for _ in range(3))
        self.hook_attn_out = HookPoint()
        self.hook_resid_mid = HookPoint()
        self.hook_mlp_in = HookPoint()
        self.hook_mlp_out = HookPoint()
        self.hook_resid_post = HookPoint()

    def forward(
        self, x: Float[Tensor, "b p d"], mask: Tensor | None, past: KeyValue | None
    ) -> tuple[Float[Tensor, "b p d"], KeyValue]:
        """The residual stream after this block, and its keys and values."""
        resid_pre = self.hook_resid_pre(x)
        split = (self.hook_attn_in, self.hook_q_input, self.hook_k_input, self.hook_v_input)
        if any(hook.watched for hook in split):
            attn_out, kv = self._attn_split(resid_pre, mask, past)
        else:
            attn_out, kv = self.attn(self.ln1(resid_pre), mask, past)
        resid_mid = self.hook_resid_mid(resid_pre + self.hook_attn_out(attn_out))
        mlp_out = self.mlp(self.ln2(self.hook_mlp_in(resid_mid)))
        return self.hook_resid_post(resid_mid + self.hook_mlp_out(mlp_out)), kv

    def _attn_split(
        self, resid_pre: Float[Tensor, "b p d"], mask: Tensor | None, past: KeyValue | None
    ) -> tuple[Float[Tensor, "b p d"], KeyValue]:
        """Attention whose heads each read a residual stream of their own, [b p h d]."""
        normalized = self.ln1(resid_pre)
        per_head = resid_pre.unsqueeze(2).expand(-1, -1, self.n_heads, -1)
        attn_in = self.hook_attn_in(per_head)
        plain = self.ln1.plain
        # ln1's own sites describe the shared stream; an edit there reaches every branch as a shift.
        shift = (normalized - plain(resid_pre)).unsqueeze(2)
        inputs = tuple(
            plain(hook(attn_in)) + shift
            for hook in (self.hook_q_input, self.hook_k_input, self.hook_v_input)
        )
        return self.attn.forward_split(inputs, mask, past)


class Unembed(nn.Module):
    """x W_U + b_U; with tied weights W_U is a view of the token embedding."""

    def __init__(self, cfg: ModelConfig, W_E: nn.Parameter) -> None:
        super().__init__()
        self.tied = cfg.tied
        if cfg.tied:
            self.W_E = W_E  # the same parameter, counted and saved once
            self.register_parameter("W_U_untied", None)
            self.register_parameter("b_U", None)
        else:
            self.W_U_untied = nn.Parameter(torch.empty(cfg.d_model, cfg.d_vocab))
            self.b_U = nn.Parameter(torch.zeros(cfg.d_vocab))
        self.pack = Pack()
        self.hook_in = HookPoint()  # [b p d]
        self.hook_out = HookPoint()  # [b p v]

    @property
    def W_U(self) -> Tensor:
        """[d v]"""
        return self.W_E.T if self.tied else self.W_U_untied

    def forward(self, x: Float[Tensor, "b p d"]) -> Float[Tensor, "b p v"]:
        """Logits."""
        return self.hook_out(linear(self.hook_in(x), self.W_U, self.b_U, self.pack))


class HookedGPT2(nn.Module):
    """A GPT-2 that can be read and edited at every step.

    Text or tokens go in, logits come out, and every value between passes a site of `hook_dict`.
    Methods known from ``HookedTransformer`` behave as they do there and call the functions of this
    package. A new model is uninitialised: use `circuits.load` or `HookedGPT2.random`.

    >>> cfg = ModelConfig(n_layers=2, n_heads=2, d_model=8, n_ctx=16, d_vocab=20)
    >>> model = HookedGPT2.random(cfg)
    >>> logits, cache = model.run_with_cache([[1, 2, 3], [4]])
    >>> logits.shape, cache["pattern", 1].shape, len(model.hook_dict)
    (torch.Size([2, 3, 20]), torch.Size([2, 2, 3, 3]), 53)
    """

    tokenizer, roles = FittedTokenizer(), ModelRoles()

    def __init__(self, cfg: ModelConfig, tokenizer: Tokenizer | None = None) -> None:
        super().__init__()
        self.source = "built in memory"  # where the weights come from, for provenance
        self.W_E = nn.Parameter(torch.empty(cfg.d_vocab, cfg.d_model))
        self.W_pos = nn.Parameter(torch.empty(cfg.n_ctx, cfg.d_model))
        self.hook_tokens = HookPoint()  # [b p]
        self.hook_embed, self.hook_pos_embed = HookPoint(), HookPoint()  # [b p d]
        # An nn.ModuleList, which forgets the type of what it holds.
        self.blocks = cast(list[Block], nn.ModuleList(Block(cfg) for _ in range(cfg.n_layers)))
        self.ln_final = LayerNorm(cfg)
        self.unembed = Unembed(cfg, self.W_E)
        self._cfg = cfg
        self.tokenizer = tokenizer
        self.run = Run()
        self.hook_dict = {name: attrgetter(name)(self) for name in site_names(cfg.n_layers)}
        for name, hook in self.hook_dict.items():
            hook.name, hook.run = name, self.run

    @classmethod
    def random(
        cls, cfg: ModelConfig, *, seed: int = 0, tokenizer: Tokenizer | None = None
    ) -> HookedGPT2:
        """An untrained model with GPT-2's initial weights; the same seed gives the same ones.

        Matrices are normal with standard deviation 0.02, those that write to the residual stream
        smaller by sqrt(2 * n_layers); positions 0.01; biases 0.
        """
        model = cls(cfg, tokenizer)
        generator = torch.Generator().manual_seed(seed)
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                std = 0.01 if name == "W_pos" else 0.02
                if name.endswith(("W_O_flat", "W_out")):
                    std /= math.sqrt(2 * cfg.n_layers)
                weight.data = torch.randn(weight.shape, generator=generator) * std
        return model

    @property
    def cfg(self) -> ModelConfig:
        """The shape of the model, with the device and precision its weights have now."""
        device, dtype = self.W_E.device, self.W_E.dtype
        if (self._cfg.device, self._cfg.dtype) != (device, dtype):
            self._cfg = replace(self._cfg, device=device, dtype=dtype)
        return self._cfg

    def forward(
        self,
        given: ModelInput,
        *,
        return_type: Literal["logits", "loss", "both"] | None = "logits",
        loss_per_token: bool = False,
        prepend_bos: bool | None = None,
        padding_side: PaddingSide = "right",
        attention_mask: AnyMask | None = None,
        start_at_layer: int | None = None,
        stop_at_layer: int | None = None,
        past_kv_cache: KVCache | None = None,
    ) -> Any:
        """What does the model say next, after each token?

        `given` is text, texts, rows of token ids of any lengths, a tensor or array [b p], what a
        tokenizer of transformers returns, or with `start_at_layer` the residual stream [b p d] that
        enters that block. Returns logits [b p v]; the mean loss, or with `loss_per_token` [b p-1],
        in nats; both; or None. With `stop_at_layer=n`, the residual stream [b p d] that enters
        block n. `attention_mask` [b p] marks the real tokens (see `circuits.padding`).

        Raises:
            TokenError: for input that the vocabulary or the context cannot take.
        """
        first, last = check_layers(start_at_layer, stop_at_layer, self._cfg.n_layers)
        past = KVCache() if past_kv_cache is None else past_kv_cache
        if start_at_layer is None:
            batch = as_batch(
                self,
                given,
                prepend_bos=prepend_bos,
                padding_side=padding_side,
                attention_mask=attention_mask,
                n_past=past.n_past,
            )
        else:
            batch = residual_batch(given, attention_mask, self._cfg, past.n_past)
        self.run.facts = batch.positions, batch.mask
        x = self._embed(batch) if start_at_layer is None else cast(Tensor, given)
        past.check(range(first, last), len(batch.tokens))
        keys_real = past.extend_mask(batch.mask, batch.tokens)
        mask = causal_mask(x.shape[1], past.n_tokens + x.shape[1], keys_real, x.device)
        for i in range(first, last):
            x, kv = self.blocks[i](x, mask, past.layers.get(i))
            if past_kv_cache is not None:
                past.layers[i] = kv
        if stop_at_layer is not None:
            return x
        if return_type is None and not self._end_watched():
            return None
        return self._answer(self.unembed(self.ln_final(x)), batch, return_type, loss_per_token)

    def _embed(self, batch: Batch) -> Float[Tensor, "b p d"]:
        pos_embed = self.W_pos[batch.where].expand(*batch.tokens.shape, -1)
        embed = self.hook_embed(F.embedding(self.hook_tokens(batch.tokens), self.W_E))
        return embed + self.hook_pos_embed(pos_embed)

    def _end_watched(self) -> bool:
        """Does anybody look at what comes after the blocks?"""
        norm, unembed = self.ln_final, self.unembed
        hooks = (norm.hook_scale, norm.hook_normalized, unembed.hook_in, unembed.hook_out)
        return any(hook.watched for hook in hooks)

    def _answer(self, logits: Tensor, batch: Batch, return_type: str | None, each: bool) -> Any:
        if return_type is None or return_type == "logits":
            return logits if return_type else None
        if return_type not in ("loss", "both"):
            raise CircuitsError(f"return_type={return_type!r}; choose logits, loss, both or None")
        loss = token_losses(logits, batch) if each else mean_loss(logits, batch)
        return (logits, loss) if return_type == "both" else loss

    def hooks(
        self, fwd_hooks: Hooks = (), bwd_hooks: GradHooks = ()
    ) -> AbstractContextManager[None]:
        """Hook sites inside a ``with`` block: pairs of (site names, ``fn(value, hook)``).

        Raises:
            SiteError: for unknown sites, and on leaving for hooks that never fired.
        """
        watchers: list[WatchedBy] = [(names, fn, "edit") for names, fn in fwd_hooks]
        watchers += [(names, fn, "grad") for names, fn in bwd_hooks]
        return watching(self.hook_dict, watchers)

    def run_with_hooks(
        self, given: ModelInput, *, fwd_hooks: Hooks = (), bwd_hooks: GradHooks = (), **options: Any
    ) -> Any:
        """`forward` with these hooks, which are gone afterwards. `options` are forward's."""
        with self.hooks(fwd_hooks, bwd_hooks):
            return self(given, **options)

    def run_with_cache(self, given: ModelInput, **options: Any) -> tuple[Any, Cache]:
        """`forward`, and what passed the sites: see `circuits.cache.run_with_cache`."""
        return run_with_cache(self, given, **options)

    def generate(self, given: ModelInput, **options: Any) -> Any:
        """Text that continues the prompt: see `circuits.generation.generate`."""
        return generate(self, given, **options)

    def require_tokenizer(self) -> Tokenizer:
        """The tokenizer, or one clear error when the model was built without."""
        if self.tokenizer is None:
            raise no_tokenizer(self._cfg.model_name)
        return self.tokenizer

    def to_tokens(
        self,
        given: ModelInput,
        prepend_bos: bool | None = None,
        padding_side: PaddingSide = "right",
    ) -> Tensor:
        """Token ids [b p]; give `forward` an attention_mask if you pad on the left."""
        return as_batch(self, given, prepend_bos=prepend_bos, padding_side=padding_side).tokens

    def to_string(self, tokens: Any) -> Any:
        """The text of token ids: a string for one row [p], a list of strings for rows [b p]."""
        return to_string(self, tokens)

    def to_str_tokens(self, given: Any, prepend_bos: bool | None = None) -> Any:
        """The tokens of a text or of one row of ids, each as a string; a list of these for more."""
        return to_str_tokens(self, given, prepend_bos)

    def to_single_token(self, text: str) -> int:
        """The id of a text that is exactly one token; an error that shows the split otherwise."""
        return self.require_tokenizer().single_token(text)

    def to_single_str_token(self, token: int) -> str:
        """The text of one token id."""
        return self.require_tokenizer().token_strings([token])[0]

    def tokens_to_residual_directions(self, tokens: str | int | Tensor) -> Tensor:
        """Which direction of the final residual stream raises these tokens' logits? [... d]"""
        ids = torch.tensor(self.to_single_token(tokens)) if isinstance(tokens, str) else tokens
        return self.W_U.T[torch.as_tensor(ids)].squeeze()

    def _stack(self, name: str) -> Tensor:
        return torch.stack([attrgetter(name)(block) for block in self.blocks])

    W_Q = property(lambda self: self._stack("attn.W_Q"), doc="[l h d e], copied")
    W_K = property(lambda self: self._stack("attn.W_K"), doc="[l h d e], copied")
    W_V = property(lambda self: self._stack("attn.W_V"), doc="[l h d e], copied")
    W_O = property(lambda self: self._stack("attn.W_O"), doc="[l h e d], copied")
    b_Q = property(lambda self: self._stack("attn.b_Q"), doc="[l h e], copied")
    b_K = property(lambda self: self._stack("attn.b_K"), doc="[l h e], copied")
    b_V = property(lambda self: self._stack("attn.b_V"), doc="[l h e], copied")
    b_O = property(lambda self: self._stack("attn.b_O"), doc="[l d], copied")
    OV = property(lambda self: FactoredMatrix(self.W_V, self.W_O), doc="[l h d d], factored")
    QK = property(lambda self: FactoredMatrix(self.W_Q, self.W_K.mT), doc="[l h d d], factored")
    W_in = property(lambda self: self._stack("mlp.W_in"), doc="[l d m], copied")
    b_in = property(lambda self: self._stack("mlp.b_in"), doc="[l m], copied")
    W_out = property(lambda self: self._stack("mlp.W_out"), doc="[l m d], copied")
    b_out = property(lambda self: self._stack("mlp.b_out"), doc="[l d], copied")

    @property
    def W_U(self) -> Tensor:
        """[d v], a view"""
        return self.unembed.W_U

    @property
    def b_U(self) -> Tensor:
        """[v]; zeros when the unembedding is tied, as GPT-2's is."""
        bias = self.unembed.b_U
        return torch.zeros_like(self.W_E[:, 0]) if bias is None else bias
