"""GPT-NeoX (Black et al. 2022), the architecture of Pythia.

What differs from GPT-2:

- Attention and MLP are parallel: both read the stream that enters the block, each behind a
  LayerNorm of its own, and both are added at once. There is no stream between them, so heads of a
  layer cannot tell its MLP anything.
- No position is added to the stream: the first quarter of each query and key is turned by its
  position (`rotary`), the rest carries no position.
- The nonlinearity is the exact GELU.
- The unembedding is a matrix of its own.
- Checkpoints keep queries, keys and values in one matrix, as GPT-2's do, but head by head.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from circuits.architectures.config import DecoderConfig
from circuits.architectures.decoder import Decoder
from circuits.architectures.heads import RotaryAttention
from circuits.architectures.parts import LayerNorm, PlainMLP
from circuits.architectures.settings import Said
from circuits.backend import Backend
from circuits.kv_cache import Extend
from circuits.model.attention import Attention, Places
from circuits.model.block import Block
from circuits.model.mlp import MLP
from circuits.model.norm import Norm
from circuits.model.views import view

Stream = Float[Tensor, "b p d"]


class ParallelBlock(Block):
    """x + attention(ln1(x)) + mlp(ln2(x))."""

    def __init__(self, ln1: Norm, attn: Attention, ln2: Norm, mlp: MLP) -> None:
        super().__init__(ln1, attn, ln2, mlp)
        del self.hook_resid_mid  # nothing is between attention and MLP

    def forward(self, x: Stream, places: Places, past: Extend | None) -> Stream:
        """The residual stream after this block."""
        resid_pre = self.hook_resid_pre(x)
        attn_out = self.attend(resid_pre, places, past)
        attn_out = self.hook_attn_out(attn_out)
        mlp_out = self.hook_mlp_out(self.mlp(self.ln2(self.hook_mlp_in(resid_pre))))
        return self.hook_resid_post(resid_pre + attn_out + mlp_out)

    def plain(self, x: Stream, places: Places, past: Extend | None) -> Stream:
        """The whole step without hooks."""
        attn_out = self.attn.plain(self.ln1.plain(x), places, past)
        return x + attn_out + self.mlp.plain(self.ln2.plain(x))


class NeoXAttention(RotaryAttention):
    """Rotary attention with one matrix, whose rows are each head's queries, keys and values."""

    b_O: nn.Parameter

    def __init__(self, cfg: DecoderConfig, layer: int, backend: Backend) -> None:
        super().__init__(cfg, layer)
        self.n_heads, self.backend = cfg.n_heads, backend
        inner = cfg.n_heads * cfg.d_head
        self.qkv_rows = nn.Parameter(torch.zeros(3 * inner, cfg.d_model))
        self.qkv_bias = nn.Parameter(torch.zeros(3 * inner))
        self.o_rows = nn.Parameter(torch.zeros(cfg.d_model, inner))
        self.b_O = nn.Parameter(torch.zeros(cfg.d_model))

    def _weight(self, slot: int) -> Tensor:
        every = rearrange(self.qkv_rows, "(h three e) d -> three h d e", three=3, e=self.d_head)
        return view(every[slot])

    def _bias(self, slot: int) -> Tensor:
        every = rearrange(self.qkv_bias, "(h three e) -> three h e", three=3, e=self.d_head)
        return view(every[slot])

    W_Q = property(lambda self: self._weight(0), doc="[h d e], a view")
    W_K = property(lambda self: self._weight(1), doc="[h d e], a view")
    W_V = property(lambda self: self._weight(2), doc="[h d e], a view")
    b_Q = property(lambda self: self._bias(0), doc="[h e], a view")
    b_K = property(lambda self: self._bias(1), doc="[h e], a view")
    b_V = property(lambda self: self._bias(2), doc="[h e], a view")

    @property
    def W_O(self) -> Tensor:
        """[h e d], a view"""
        return view(rearrange(self.o_rows, "d (h e) -> h e d", h=self.n_heads))

    def qkv(self, x: Float[Tensor, "*any d"]) -> Float[Tensor, "*any 3 h e"]:
        """x W + b, by head."""
        flat = self.backend.linear(x, self.qkv_rows.T, self.qkv_bias)
        return flat.view(*x.shape[:-1], self.n_heads, 3, self.d_head).transpose(-3, -2)

    def out(self, z: Float[Tensor, "*any h e"]) -> Float[Tensor, "*any d"]:
        """z W_O + b_O, summed over heads."""
        return self.backend.linear(z.flatten(-2), self.o_rows.T, self.b_O)


class HookedGPTNeoX(Decoder):
    """A GPT-NeoX, such as Pythia, that can be read and edited at every step."""

    kinds: ClassVar[tuple[str, ...]] = ("gpt_neox",)
    layer: ClassVar[str] = "gpt_neox.layers.{}."
    outside: ClassVar = {
        "embedding": "gpt_neox.embed_in.weight",
        "ln_final.w": "gpt_neox.final_layer_norm.weight",
        "ln_final.b": "gpt_neox.final_layer_norm.bias",
        "unembed.rows": "embed_out.weight",
    }
    inside: ClassVar = {
        "ln1.w": "input_layernorm.weight",
        "ln1.b": "input_layernorm.bias",
        "attn.qkv_rows": "attention.query_key_value.weight",
        "attn.qkv_bias": "attention.query_key_value.bias",
        "attn.o_rows": "attention.dense.weight",
        "attn.b_O": "attention.dense.bias",
        "ln2.w": "post_attention_layernorm.weight",
        "ln2.b": "post_attention_layernorm.bias",
        "mlp.in_rows": "mlp.dense_h_to_4h.weight",
        "mlp.b_in": "mlp.dense_h_to_4h.bias",
        "mlp.out_rows": "mlp.dense_4h_to_h.weight",
        "mlp.b_out": "mlp.dense_4h_to_h.bias",
    }

    @classmethod
    def shape(cls, said: Said) -> DecoderConfig:
        """The shape that a ``config.json`` describes."""
        said.require("attention_bias", True)
        d_head = said.size("hidden_size") // said.size("num_attention_heads")
        share, base = said.number("rotary_pct", 0.25), said.number("rotary_emb_base", 10_000)
        sizes = said.sizes() | {
            "eps": said.number("layer_norm_eps", 1e-5),
            "act_fn": said.function("hidden_act", "gelu"),
            "rotary": said.rotary(d_head, share=share, base=base),
        }
        parallel = said.flag("use_parallel_residual", True)
        return DecoderConfig(**sizes, parallel=parallel, normalization_type="LN", gated_mlp=False)

    def norm(self) -> LayerNorm:
        """A new norm of the stream."""
        return LayerNorm(self._cfg)

    def block(self, layer: int) -> Block:
        """Attention and MLP, parallel unless the checkpoint says otherwise."""
        attn = NeoXAttention(self._cfg, layer, self.backend)
        kind = ParallelBlock if self._cfg.parallel else Block
        return kind(self.norm(), attn, self.norm(), PlainMLP(self._cfg, self.backend))
