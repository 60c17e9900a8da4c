"""GPT-2, exactly as the released checkpoints are run.

Blocks normalize before they read, positions are learned, the nonlinearity is `gelu_new`, and the
unembedding is the transposed embedding. The names, shapes and meanings of sites are those of
``HookedTransformer``; a costly one (``hook_result``, ``hook_q_input``, attention scores, ...) is
computed only while it is watched.

Shapes: b batch, p position, h head; d = d_model, e = d_head, m = d_mlp, n neurons, v = d_vocab.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn

from circuits.architectures.parts import ACTIVATIONS, FUSED, LayerNorm
from circuits.backend import Backend
from circuits.config import ModelConfig
from circuits.errors import CircuitsError, brief
from circuits.hooks import HookPoint
from circuits.kv_cache import Extend
from circuits.model.attention import Attention, Places, mix_by_head
from circuits.model.block import Block, Stepper, Unembed
from circuits.model.mlp import ALL, MLP
from circuits.model.transformer import Transformer, Visit
from circuits.model.views import view
from circuits.tokenizer import Tokenizer


class GPT2Attention(Attention):
    """Attention whose positions are already in the stream.

    The checkpoint's one matrix for queries, keys and values is kept as it is, so that loading
    copies nothing and a forward pass needs one product; `W_Q` and its siblings are views of it.
    """

    b_O: nn.Parameter

    def __init__(self, cfg: ModelConfig, backend: Backend, layer: int) -> None:
        super().__init__(cfg.d_head, scale=cfg.score_scale(layer), window=cfg.window(layer))
        self.n_heads, self.backend = cfg.n_heads, backend
        inner = cfg.n_heads * cfg.d_head
        self.W_QKV = nn.Parameter(torch.zeros(cfg.d_model, 3 * inner))
        self.b_QKV = nn.Parameter(torch.zeros(3 * inner))
        self.W_O_flat = nn.Parameter(torch.zeros(inner, cfg.d_model))
        self.b_O = nn.Parameter(torch.zeros(cfg.d_model))

    def _weight(self, i: int) -> Tensor:
        """Q, K or V (i = 0, 1, 2) as [h d e], a view of W_QKV."""
        every = rearrange(self.W_QKV, "d (three h e) -> three h d e", three=3, e=self.d_head)
        return view(every[i])

    def _bias(self, i: int) -> Tensor:
        return view(rearrange(self.b_QKV, "(three h e) -> three h e", three=3, e=self.d_head)[i])

    W_Q = property(lambda self: self._weight(0), doc="[h d e]")
    W_K = property(lambda self: self._weight(1), doc="[h d e]")
    W_V = property(lambda self: self._weight(2), doc="[h d e]")
    b_Q = property(lambda self: self._bias(0), doc="[h e]")
    b_K = property(lambda self: self._bias(1), doc="[h e]")
    b_V = property(lambda self: self._bias(2), doc="[h e]")

    @property
    def W_O(self) -> Tensor:
        """[h e d], a view"""
        return view(rearrange(self.W_O_flat, "(h e) d -> h e d", h=self.n_heads))

    def qkv(self, x: Float[Tensor, "*any d"]) -> Float[Tensor, "*any 3 h e"]:
        """x W_QKV + b_QKV, by head."""
        qkv = self.backend.linear(x, self.W_QKV, self.b_QKV)
        return qkv.view(*x.shape[:-1], 3, self.n_heads, self.d_head)

    def out(self, z: Float[Tensor, "*any h e"]) -> Float[Tensor, "*any d"]:
        """z W_O + b_O, summed over heads."""
        return self.backend.linear(z.flatten(-2), self.W_O_flat, self.b_O)


class GPT2MLP(MLP):
    """gelu(x W_in + b_in) W_out + b_out."""

    W_in: nn.Parameter
    b_in: nn.Parameter
    W_out: nn.Parameter
    b_out: nn.Parameter

    def __init__(self, cfg: ModelConfig, backend: Backend) -> None:
        super().__init__()
        self.act_fn, self.fused = ACTIVATIONS[cfg.act_fn], FUSED.get(cfg.act_fn)
        self.backend = backend
        self.W_in = nn.Parameter(torch.zeros(cfg.d_model, cfg.d_mlp))
        self.b_in = nn.Parameter(torch.zeros(cfg.d_mlp))
        self.W_out = nn.Parameter(torch.zeros(cfg.d_mlp, cfg.d_model))
        self.b_out = nn.Parameter(torch.zeros(cfg.d_model))

    def pre(self, x: Float[Tensor, "*any d"], which: slice = ALL) -> Float[Tensor, "*any n"]:
        """x W_in + b_in"""
        if which == ALL:
            return self.backend.linear(x, self.W_in, self.b_in)
        return einsum(x, self.W_in[:, which], "... d, d n -> ... n") + self.b_in[which]

    def activate(
        self, pre: Float[Tensor, "*any n"], x: Float[Tensor, "*any d"], which: slice = ALL
    ) -> Float[Tensor, "*any n"]:
        """gelu(pre), or what stands for it in ``cfg.act_fn``"""
        return self.act_fn(pre)

    def out(self, post: Float[Tensor, "*any m"]) -> Float[Tensor, "*any d"]:
        """post W_out + b_out"""
        return self.backend.linear(post, self.W_out, self.b_out)

    def plain(self, x: Float[Tensor, "*any d"]) -> Float[Tensor, "*any d"]:
        """The whole step without hooks, with the nonlinearity inside of the product."""
        if self.fused is None:
            return self.out(self.neurons(x))
        return self.out(self.backend.linear(x, self.W_in, self.b_in, self.fused))


class GPT2Unembed(Unembed):
    """x W_U + b_U; with tied weights W_U is a view of the token embedding."""

    b_U: nn.Parameter | None

    def __init__(self, cfg: ModelConfig, W_E: nn.Parameter, backend: Backend) -> None:
        super().__init__()
        self.tied, self.backend = cfg.tied, backend
        if cfg.tied:
            self.W_E = W_E  # the same parameter, counted and saved once
            self.register_parameter("W_U_untied", None)
            self.register_parameter("b_U", None)
        else:
            self.W_U_untied = nn.Parameter(torch.zeros(cfg.d_model, cfg.d_vocab))
            self.b_U = nn.Parameter(torch.zeros(cfg.d_vocab))

    @property
    def W_U(self) -> Tensor:
        """[d v]"""
        return view(self.W_E.T) if self.tied else self.W_U_untied

    def plain(self, x: Float[Tensor, "*any d"]) -> Float[Tensor, "*any v"]:
        """Logits, without hooks."""
        return self.backend.linear(x, self.W_U, self.b_U)

    def prepared(self, n_rows: int) -> Callable[[Tensor], Tensor]:
        """What computes the logits of so many rows from now on."""
        return self.backend.prepared(n_rows, self.W_U, self.b_U)


class GPT2Block(Block):
    """A block of GPT-2's own steps."""

    ln1: LayerNorm
    attn: GPT2Attention
    ln2: LayerNorm
    mlp: GPT2MLP

    def __init__(self, cfg: ModelConfig, backend: Backend, layer: int) -> None:
        attn, mlp = GPT2Attention(cfg, backend, layer), GPT2MLP(cfg, backend)
        super().__init__(LayerNorm(cfg), attn, LayerNorm(cfg), mlp)

    def stepper(self, past: Extend, n_rows: int) -> Stepper:
        """In as few calls as there can be: for small models, they and looking up weights are all.

        Reading the weights takes everything else out of the CPU's caches, so that each object that
        a step touches is read from memory.
        """
        attn, ln1, ln2, mlp = self.attn, self.ln1, self.ln2, self.mlp
        if attn.window is not None or mlp.fused is None:
            return super().stepper(past, n_rows)
        prepared, add_one, scale = attn.backend.prepared, past.one_more, attn.scale
        qkv_of = prepared(n_rows, attn.W_QKV, attn.b_QKV)
        out_of = prepared(n_rows, attn.W_O_flat, attn.b_O)
        post_of = prepared(n_rows, mlp.W_in, mlp.b_in, mlp.fused)
        mlp_out_of = prepared(n_rows, mlp.W_out, mlp.b_out)
        shape = (n_rows, 3, attn.n_heads, attn.d_head)
        norm1, norm2 = ((each.w.shape, each.w, each.b, each.eps) for each in (ln1, ln2))

        def step(x: Tensor, places: Places) -> Tensor:
            qkv = qkv_of(torch.layer_norm(x, *norm1)).view(shape)
            k, v = add_one(qkv.narrow(1, 1, 2))
            z = mix_by_head(qkv.narrow(1, 0, 1), k, v, places.mask, scale)  # [b h 1 e]
            x = x + out_of(z.flatten(1))
            return x + mlp_out_of(post_of(torch.layer_norm(x, *norm2)))

        return step


class HookedGPT2(Transformer):
    """A GPT-2 that can be read and edited at every step.

    Text or tokens go in, logits come out, and every value between passes a site of `hook_dict`.
    Methods known from ``HookedTransformer`` behave as they do there and call the functions of this
    package. A new model's matrices are all zero: use `circuits.load` or `HookedGPT2.random`.

    >>> cfg = ModelConfig(n_layers=2, n_heads=2, d_model=8, n_ctx=16, d_vocab=20)
    >>> model = HookedGPT2.random(cfg)
    >>> logits, cache = model.run_with_cache([[1, 2, 3], [4]])
    >>> logits.shape, cache["pattern", 1].shape, len(model.hook_dict)
    (torch.Size([2, 3, 20]), torch.Size([2, 2, 3, 3]), 53)
    """

    W_E: nn.Parameter
    W_pos: nn.Parameter
    blocks: list[GPT2Block]
    ln_final: LayerNorm
    unembed: GPT2Unembed

    def __init__(self, cfg: ModelConfig, tokenizer: Tokenizer | None = None) -> None:
        if cfg.normalization_type != "LN":
            raise CircuitsError(
                f"normalization_type={cfg.normalization_type!r}: a GPT-2 has LayerNorm, 'LN'"
            )
        super().__init__(cfg)
        self.W_E = nn.Parameter(torch.zeros(cfg.d_vocab, cfg.d_model))
        self.W_pos = nn.Parameter(torch.zeros(cfg.n_ctx, cfg.d_model))
        self.hook_tokens = HookPoint()  # [b p]
        self.hook_embed, self.hook_pos_embed = HookPoint(), HookPoint()  # [b p d]
        blocks = nn.ModuleList(GPT2Block(cfg, self.backend, i) for i in range(cfg.n_layers))
        self.blocks = cast(
            list[GPT2Block], blocks
        )  # a ModuleList does not keep the type of its items
        self.ln_final = LayerNorm(cfg)
        self.unembed = GPT2Unembed(cfg, self.W_E, self.backend)
        self.name_sites()
        self.tokenizer = tokenizer

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

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Take these weights, under this model's names.

        Raises:
            CircuitsError: for TransformerLens' names, also where `strict` is False.
        """
        if theirs := {"embed.W_E", "unembed.W_U"} & {*state_dict}:
            raise CircuitsError(
                f"{' and '.join(sorted(theirs))} are TransformerLens' names, and would not be "
                "loaded; give circuits.load the HookedTransformer, or take "
                "circuits.transformer_lens.HookedTransformer, which has these names"
            )
        result = super().load_state_dict(state_dict, strict=strict, assign=assign)
        missed, unread = result
        if missed or unread:
            warnings.warn(
                f"{len(missed)} weights of the model were not given {brief(missed[:3], 300)}, and "
                f"{len(unread)} given ones have no place in it {brief(unread[:3], 300)}",
                stacklevel=2,
            )
        return result

    def tie(self) -> None:
        """Let the unembedding be the embedding again, after it was exchanged."""
        if self._cfg.tied:
            self.unembed.W_E = self.W_E

    def embed(self, tokens: Tensor, where: slice | Tensor, visit: Visit) -> Float[Tensor, "b p d"]:
        """W_E[token] + W_pos[position]"""
        positions = self.W_pos[where].expand(*tokens.shape, -1)
        embed = visit("hook_embed", F.embedding(tokens, self.W_E))
        return embed + visit("hook_pos_embed", positions)
