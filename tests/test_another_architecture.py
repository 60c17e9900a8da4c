"""An architecture is one file: this one, of which nothing else knows, runs on the fast engine.

Rotary positions, RMSNorm, a gated MLP, and pairs of heads that share keys and values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import pytest
import slow_sweep
import torch
import torch.nn.functional as F
from einops import einsum, rearrange, repeat
from numpy.testing import assert_allclose, assert_array_equal
from random_sweeps import random_prompts
from torch import Tensor, nn
from torch.testing import assert_close

import circuits
from circuits.components import all_heads
from circuits.config import ModelConfig
from circuits.errors import CircuitsError
from circuits.hooks import HookFn, HookPoint
from circuits.metrics import get_metric
from circuits.model import MLP, Attention, Block, Norm, Transformer, Unembed, Visit
from circuits.model.mlp import ALL
from circuits.precision import wide
from circuits.prompts import make
from circuits.sweep import Source, Sweep, cell, plan, run
from circuits.sweep.engine import runner_of
from circuits.sweep.flow_runner import FlowRunner
from circuits.sweep.gradient import attribute


@dataclass(frozen=True)
class ToyConfig(ModelConfig):
    n_key_value_heads: int | None = 2
    positional_embedding_type: str = "rotary"
    gated_mlp: bool = True
    normalization_type: str = "RMS"


class RMSNorm(Norm):
    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__(cfg.eps)
        self.w = nn.Parameter(torch.ones(cfg.d_model))

    @property
    def b(self) -> Tensor:  # type: ignore[override]
        return torch.zeros_like(self.w)

    def center(self, x: Tensor) -> Tensor:
        return wide(x)


class RotaryAttention(Attention):
    W_Q: nn.Parameter
    W_O: nn.Parameter

    def __init__(self, cfg: ToyConfig) -> None:
        super().__init__(cfg.d_head)
        groups = cast(int, cfg.n_key_value_heads)
        self.per_group = cfg.n_heads // groups
        self.W_Q = nn.Parameter(torch.empty(cfg.n_heads, cfg.d_model, cfg.d_head))
        self.W_KV = nn.Parameter(torch.empty(2, groups, cfg.d_model, cfg.d_head))
        self.W_O = nn.Parameter(torch.empty(cfg.n_heads, cfg.d_head, cfg.d_model))

    def _shared(self, i: int) -> Tensor:
        return repeat(self.W_KV[i], "g d e -> (g n) d e", n=self.per_group)

    def _none(self) -> Tensor:
        return torch.zeros_like(self.W_Q[:, 0])

    W_K = property(lambda self: self._shared(0))
    W_V = property(lambda self: self._shared(1))
    b_Q = b_K = b_V = property(_none)
    b_O = property(lambda self: torch.zeros_like(self.W_O[0, 0]))

    def qkv(self, x: Tensor) -> Tensor:
        weights = torch.stack([self.W_Q, self.W_K, self.W_V])
        return einsum(x, weights, "... d, three h d e -> ... three h e")

    def placed(self, x: Tensor, slot: int, positions: Tensor) -> Tensor:
        """Turn each half of a query or key against the other, the further on the more."""
        rate = 10_000 ** -torch.arange(0, 1, 2 / x.shape[-1], dtype=x.dtype)
        angle = rearrange(positions[..., None] * rate, "... p half -> ... p 1 half")
        a, b = x.chunk(2, -1)
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)

    def out(self, z: Tensor) -> Tensor:
        return einsum(z, self.W_O, "... h e, h e d -> ... d")


class GatedMLP(MLP):
    W_in: nn.Parameter
    W_out: nn.Parameter

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.W_gate = nn.Parameter(torch.empty(cfg.d_model, cfg.d_mlp))
        self.W_in = nn.Parameter(torch.empty(cfg.d_model, cfg.d_mlp))
        self.W_out = nn.Parameter(torch.empty(cfg.d_mlp, cfg.d_model))

    b_in = property(lambda self: torch.zeros_like(self.W_in[0]))
    b_out = property(lambda self: torch.zeros_like(self.W_out[0]))

    def pre(self, x: Tensor, which: slice = ALL) -> Tensor:
        return x @ self.W_gate[:, which]

    def activate(self, pre: Tensor, x: Tensor, which: slice = ALL) -> Tensor:
        return F.silu(pre) * (x @ self.W_in[:, which])

    def out(self, post: Tensor) -> Tensor:
        return post @ self.W_out


class ToyUnembed(Unembed):
    b_U = None

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(cfg.d_model, cfg.d_vocab))

    W_U = property(lambda self: self.weight)

    def plain(self, x: Tensor) -> Tensor:
        return x @ self.weight


class Toy(Transformer):
    W_E: nn.Parameter
    blocks: list[Block]
    ln_final: RMSNorm
    unembed: ToyUnembed

    def __init__(self, cfg: ToyConfig) -> None:
        super().__init__(cfg)
        self.W_E = nn.Parameter(torch.empty(cfg.d_vocab, cfg.d_model))
        self.hook_tokens, self.hook_embed = HookPoint(), HookPoint()
        blocks = [
            Block(RMSNorm(cfg), RotaryAttention(cfg), RMSNorm(cfg), GatedMLP(cfg))
            for _ in range(cfg.n_layers)
        ]
        self.blocks = cast(list[Block], nn.ModuleList(blocks))
        self.ln_final, self.unembed = RMSNorm(cfg), ToyUnembed(cfg)
        self.name_sites()

    def embed(self, tokens: Tensor, where: slice | Tensor, visit: Visit) -> Tensor:
        return visit("hook_embed", F.embedding(tokens, self.W_E))


@pytest.fixture(scope="module")
def toy() -> Toy:
    """Random weights in float64, and the vocabulary of the model that sorts letters."""
    tokenizer = circuits.load("sort-abc").tokenizer
    assert tokenizer is not None
    shape = {"n_layers": 3, "n_heads": 4, "d_model": 24, "n_ctx": 16, "d_vocab": tokenizer.n_vocab}
    model = Toy(ToyConfig(**shape, model_name="toy", default_prepend_bos=False)).double()
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        weight.data = torch.randn(weight.shape, generator=generator, dtype=torch.float64) * 0.3 + (
            weight.ndim == 1
        )
    model.tokenizer = tokenizer
    return model


def by_hand(model: Toy, tokens: Tensor) -> Tensor:
    """The logits [p v] of one prompt [p], written out head by head, with complex rotations."""
    p = torch.arange(len(tokens))
    rate = 10_000 ** -torch.arange(0, 1, 2 / model.cfg.d_head, dtype=torch.float64)
    turn = torch.polar(torch.ones(len(p), len(rate), dtype=torch.float64), p[:, None] * rate)

    def turned(x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        return torch.complex(x[:, :half], x[:, half:]) * turn

    def normed(x: Tensor, norm: RMSNorm) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt() * norm.w

    x = model.W_E[tokens]
    for block in model.blocks:
        attn, mlp, read = cast(RotaryAttention, block.attn), cast(GatedMLP, block.mlp), None
        read = normed(x, cast(RMSNorm, block.ln1))
        for head in range(model.cfg.n_heads):
            W_K, W_V = attn.W_KV[:, head // 2]
            scores = (turned(read @ attn.W_Q[head]) @ turned(read @ W_K).conj().T).real
            scores = (scores / math.sqrt(model.cfg.d_head)).masked_fill(p[:, None] < p, -math.inf)
            x = x + scores.softmax(-1) @ (read @ W_V) @ attn.W_O[head]
        read = normed(x, cast(RMSNorm, block.ln2))
        x = x + (F.silu(read @ mlp.W_gate) * (read @ mlp.W_in)) @ mlp.W_out
    return normed(x, model.ln_final) @ model.unembed.weight


CELLS = ["a0.h1", "a1.h2@END", "a1", "m0", "m1@END", "embed@MID", "resid_pre.1", "resid_mid.2"]
CELLS += ["a1.h0<q>", "a0.h3<k>@0", "a2.h1<v>", "m0.n3", "m2.n0@-1", "a0.h1<pattern>@END"]
EDGES = ["a0.h1->a1.h2<q>", "embed->a0.h0<k>", "m0->logits", "m0.n3->a1.h2<v>@MID", "a0->a1"]
EDGES += ["a0.h2@MID->a1.h1", "a1->logits@END", "a0.h0->a2.h0@MID", "a0->m1", "a0.h1->m0@END"]


def asked(model: Toy, *cells: str, **options: Any) -> Sweep:
    prompts = random_prompts(model.cfg, (7, 5, 7, 5), seed=1, n_same=1)
    assert prompts.corrupted is not None
    source = Source("resample", prompts.corrupted, prompts.mask)
    every = ((), *map(cell, cells))
    return Sweep(prompts, get_metric("loss"), every, source, **options)


def test_it_runs_on_the_fast_engine(toy: Toy) -> None:
    assert runner_of(toy) is FlowRunner


def test_its_logits_are_those_written_out_by_hand(toy: Toy) -> None:
    tokens = torch.tensor([0, 2, 1, 1, 0, 0, 1])
    for given in (tokens, tokens[:1]):
        assert_close(toy(given[None])[0], by_hand(toy, given), rtol=1e-10, atol=1e-10)


def test_every_site_is_there_and_watching_changes_nothing(toy: Toy) -> None:
    tokens = torch.tensor([[0, 2, 1, 2], [1, 1, 2, 0]])
    logits, cache = toy.run_with_cache(tokens, names_filter=list(toy.hook_dict))
    assert_close(logits, toy(tokens), rtol=1e-12, atol=1e-12)
    assert "hook_pos_embed" not in cache
    assert len(cache) == 1 + 1 + 3 * 23 + 2 + 2
    k = cache["k", 1]
    assert_close(k[:, :, 0], k[:, :, 1])
    assert not torch.allclose(k[:, :, 1], k[:, :, 2])
    parts = cache.get_full_resid_decomposition(expand_neurons=True)
    assert_close(parts.sum(0), cache["resid_post", 2])


def test_text_goes_on_from_its_keys_and_padded_prompts_are_those_alone(toy: Toy) -> None:
    rows = [[0, 2, 1], [2, 1, 2, 0, 1]]
    text, again = (
        toy.generate(rows, max_new_tokens=6, temperature=0, use_past_kv_cache=use_past)
        for use_past in (True, False)
    )
    assert_close(text, again)
    tokens, mask = torch.tensor([[0, 0, 0, 2, 1], [2, 1, 2, 0, 1]]), torch.ones(2, 5)
    mask[0, :2] = 0
    padded = toy(tokens, attention_mask=mask)
    assert_close(padded[0, 2:], by_hand(toy, torch.tensor(rows[0])))
    assert_close(padded[1], by_hand(toy, torch.tensor(rows[1])))


@pytest.mark.parametrize("options", [{}, {"hold": "heads"}, {"freeze": "patterns"}])
def test_every_kind_of_cell_equals_a_plain_run_with_hooks(toy: Toy, options: Any) -> None:
    cells = [*CELLS, *EDGES]
    if "freeze" in options:
        cells = [name for name in cells if not any(f"<{slot}" in name for slot in ("q", "k", "pa"))]
    sweep = asked(toy, *cells, **options)
    scores, expected = run(toy, plan(toy, sweep)), slow_sweep.scores(toy, sweep).numpy()
    assert_allclose(scores.values, expected, rtol=1e-9, atol=1e-9)
    moved = (abs(expected - expected[0]) > 1e-9).any(1)
    assert moved[1:].mean() > 0.8
    assert scores.changed[moved].all()
    still = scores.values[~scores.changed]
    assert_array_equal(still, np.broadcast_to(scores.values[0], still.shape))


def test_what_it_has_not_is_one_clear_error(toy: Toy) -> None:
    with pytest.raises(CircuitsError, match="rotary positions.*no 'pos'"):
        plan(toy, asked(toy, "pos"))


@pytest.mark.parametrize("method", ["zero", "mean"])
def test_ablate_all_heads(toy: Toy, method: Any) -> None:
    result = circuits.ablate(toy, all_heads=True, task="sorting", n=6, method=method)
    prompts, metric = make("sorting", toy, 6), get_metric("logit_diff")
    base = metric(toy(prompts.tokens, attention_mask=prompts.mask), prompts)
    _, cache = toy.run_with_cache(prompts.tokens, attention_mask=prompts.mask)
    rows = result.frame.set_index(["layer", "head"])["value"]
    for head in all_heads(toy.cfg):
        site, index = head.site, cast(int, head.head)
        value = cache[site][prompts.mask][:, index].mean(0) * (method == "mean")

        def write(z: Tensor, hook: HookPoint, index: int = index, value: Tensor = value) -> Tensor:
            z[:, :, index] = value
            return z

        hooks: list[tuple[str, HookFn]] = [(site, write)]
        logits = toy.run_with_hooks(prompts.tokens, fwd_hooks=hooks, attention_mask=prompts.mask)
        effect = (metric(logits, prompts) - base).mean().item()
        assert rows[head.layer, index] == pytest.approx(effect, abs=1e-9)


def test_patch_paths_and_approximate(toy: Toy) -> None:
    ask = partial(dict[str, Any], task="sorting", n=6)
    patched = circuits.patch(toy, **ask()).frame
    assert len(patched)
    assert patched["value"].notna().all()
    paths = circuits.paths(toy, to=["logits"], **ask()).frame
    assert paths["value"].abs().max() > 0
    guess = circuits.approximate(toy, **ask()).frame
    assert guess["value"].abs().max() > 0


def test_estimates_are_the_slope_of_a_small_patch(toy: Toy) -> None:
    sweep = asked(toy, "a0.h1", "m1", "embed@MID", "resid_post.1")
    estimates, step = attribute(toy, sweep), 1e-6
    prompts, mask = sweep.prompts, sweep.prompts.mask
    _, base = toy.run_with_cache(prompts.tokens, attention_mask=mask)
    _, other = toy.run_with_cache(sweep.source.tokens, attention_mask=mask)
    change = step * (other["mlp_out", 1] - base["mlp_out", 1])
    moved = toy.run_with_hooks(
        prompts.tokens,
        fwd_hooks=[("blocks.1.hook_mlp_out", lambda value, hook: value + change)],
        attention_mask=mask,
    )
    slope = (sweep.metric(moved, prompts) - torch.as_tensor(estimates.base)) / step
    assert_allclose(estimates.effects[2], slope.detach().numpy(), rtol=1e-3, atol=1e-4)
