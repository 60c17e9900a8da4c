"""Random questions for the sweep engine: prompts of several lengths, components, edges, cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import hypothesis.strategies as st
import torch
from random_models import randomized, seeds, tiny_configs

from circuits.architectures import HookedGPT2
from circuits.components import Component, Edge, Kind
from circuits.config import ACTIVATIONS, ModelConfig
from circuits.interventions import METHODS as ABLATIONS
from circuits.metrics import METRICS
from circuits.prompts import UNSCORED, Prompts
from circuits.sweep import Cell, Source, Sweep, Write, cell

WRITERS = ("head", "attn", "mlp", "neuron")
POSITIONS = (None, None, "END", "MID", 0, -1)


def random_prompts(cfg: ModelConfig, lengths: Sequence[int], seed: int, n_same: int = 1) -> Prompts:
    """Random tokens; the corrupted twin shares the first `n_same` with the clean prompt."""
    rng = torch.Generator().manual_seed(seed)
    n, width = len(lengths), max(lengths)
    ends = torch.tensor(lengths) - 1
    mask = torch.arange(width) <= ends[:, None]

    def tokens(*shape: int) -> torch.Tensor:
        return torch.randint(cfg.d_vocab, shape, generator=rng)

    clean = tokens(n, width) * mask
    answers = tokens(n)
    scored = (torch.rand(n, width, generator=rng) < 0.3) & mask
    targets = torch.where(scored, tokens(n, width), UNSCORED)
    targets[torch.arange(n), ends] = answers
    return Prompts(
        task="random",
        texts=tuple(f"prompt {i}" for i in range(n)),
        tokens=clean,
        mask=mask,
        targets=targets,
        roles={"END": ends, "MID": ends // 2},
        metric="logit_diff",
        prepend_bos=False,
        answers=answers,
        distractors=(answers + 1) % cfg.d_vocab,
        corrupted=torch.where(torch.arange(width) < n_same, clean, tokens(n, width) * mask),
    )


@st.composite
def models(draw: st.DrawFn, dtype: torch.dtype = torch.float64) -> HookedGPT2:
    cfg = replace(draw(tiny_configs()), act_fn=draw(st.sampled_from(sorted(ACTIVATIONS))))
    return randomized(cfg, seed=draw(seeds), dtype=dtype)


@st.composite
def sweeps(draw: st.DrawFn, cfg: ModelConfig, metric: str | None = None) -> Sweep:
    """Any metric, any method, one to six cells of any parts, patterns held or not.

    Between sender and receiver of paths all is held, or heads only.
    """
    lengths = draw(st.lists(st.integers(1, cfg.n_ctx), min_size=1, max_size=4))
    prompts = random_prompts(cfg, lengths, draw(seeds), n_same=draw(st.integers(0, cfg.n_ctx)))
    assert prompts.corrupted is not None
    method = draw(st.sampled_from(["resample", *ABLATIONS]))
    source = Source(method, prompts.corrupted, prompts.mask, draw(seeds))
    if method in ("mean", "noise") and draw(st.booleans()):
        others = random_prompts(cfg, [min(2, cfg.n_ctx), 1, cfg.n_ctx], draw(seeds))
        source = Source(method, others.tokens, others.mask, draw(seeds))
    if method == "position-mean":  # needs several prompts of each length
        others = random_prompts(cfg, [*lengths, *lengths, 1], draw(seeds))
        templates = None
        if draw(st.booleans()):
            labels = draw(
                st.lists(st.sampled_from("ab"), min_size=len(lengths), max_size=len(lengths))
            )
            prompts, templates = replace(prompts, templates=tuple(labels)), (*labels, *labels, "a")
        source = Source(method, others.tokens, others.mask, templates=templates)
    freeze: Any = draw(st.sampled_from([None, None, None, "patterns"]))
    slots: tuple[Any, ...] = ("v",) if freeze else ("q", "k", "v")
    if not freeze and method in ("resample", "position-mean"):
        slots = (*slots, "pattern", "pattern")
    cells = draw(st.lists(random_cells(cfg, slots), min_size=1, max_size=6))
    return Sweep(
        prompts=prompts,
        metric=METRICS[metric or draw(st.sampled_from(sorted(METRICS)))],
        cells=(*cells, *((),) * draw(st.integers(0, 1))),
        source=source,
        clean=draw(st.sampled_from([None, prompts.corrupted])),
        freeze=freeze,
        hold=draw(st.sampled_from(["all", "heads"])),
    )


@st.composite
def random_cells(draw: st.DrawFn, cfg: ModelConfig, slots: tuple[Any, ...]) -> Cell:
    """One to three writes, which may lie in the same layer, overlap, or feed each other.

    `slots` are those of heads that can be written.
    """
    inputs = tuple(slot for slot in slots if slot != "pattern")
    kinds = st.one_of(parts(cfg, slots), paths(cfg, inputs))
    writes = draw(st.lists(kinds, min_size=1, max_size=3))
    edges = [Edge(sender, write.target) for write in writes for sender in write.senders]
    found = cell(*(write.target for write in writes if not write.senders), *edges)
    held = draw(st.booleans())
    return tuple(
        replace(write, scale_held=held and write.target.kind == "logits") for write in found
    )


@st.composite
def parts(draw: st.DrawFn, cfg: ModelConfig, slots: tuple[Any, ...]) -> Write:
    kind = draw(st.sampled_from(["head", *(kind for kind in get_args(Kind) if kind != "logits")]))
    return Write(draw(_component(cfg, kind, slots=(None, None, *slots))))


@st.composite
def paths(draw: st.DrawFn, cfg: ModelConfig, slots: tuple[Any, ...]) -> Write:
    """A receiver, and one to three senders before it."""
    kind = draw(st.sampled_from(["head", "head", "head", "attn", "mlp", "logits"]))
    receiver = draw(_component(cfg, kind, slots=(None, *slots)))
    layer = cfg.n_layers if receiver.layer is None else receiver.layer
    before: list[Any] = [_component(cfg, kind) for kind in ("embed", "pos")]
    if layer:
        before += [_component(cfg, kind, n_layers=layer) for kind in WRITERS]
    if kind == "mlp":
        same = [Component("attn", layer)] + [
            Component("head", layer, head) for head in range(cfg.n_heads)
        ]
        before.append(st.sampled_from(same))
    senders = draw(st.lists(st.one_of(before), min_size=1, max_size=3, unique=True))
    return Write(receiver, tuple(senders))


@st.composite
def _component(
    draw: st.DrawFn,
    cfg: ModelConfig,
    kind: Any,
    slots: tuple[Any, ...] = (None,),
    n_layers: int | None = None,
) -> Component:
    in_a_layer = kind not in ("embed", "pos", "logits")
    is_head = kind == "head"
    return Component(
        kind,
        layer=draw(st.integers(0, (n_layers or cfg.n_layers) - 1)) if in_a_layer else None,
        head=draw(st.integers(0, cfg.n_heads - 1)) if is_head else None,
        neuron=draw(st.integers(0, max(0, min(2, cfg.d_mlp - 1)))) if kind == "neuron" else None,
        slot=draw(st.sampled_from(slots)) if is_head else None,
        position=draw(st.sampled_from(POSITIONS)),
    )
