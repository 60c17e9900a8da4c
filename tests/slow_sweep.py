"""The slow twin of the sweep engine: one plain forward with hooks for each cell, nothing shared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from circuits.components import Component
from circuits.hooks import HookFn, HookPoint
from circuits.interventions import replacements, write_hook
from circuits.model import HookedGPT2

if TYPE_CHECKING:
    from circuits.sweep import Cell, Sweep, Write

Site = tuple[str, int | None]  # a hook site, and which head there
Hook = tuple[str, HookFn]


@torch.no_grad()
def scores(model: HookedGPT2, sweep: Sweep) -> Tensor:
    """The metric in every cell [cells prompts]."""
    clean = None
    if "clean" in sweep.metric.needs:
        tokens = sweep.prompts.tokens if sweep.clean is None else sweep.clean
        clean = model(tokens, attention_mask=sweep.prompts.mask)
    found = [sweep.metric(run(model, sweep, cell), sweep.prompts, clean) for cell in sweep.cells]
    return torch.stack(found).double()


def run(model: HookedGPT2, sweep: Sweep, cell: Cell) -> Tensor:
    """The whole run's logits [b p v]."""
    hooks = [hook for write in cell for hook in _hooks(model, sweep, write)]
    prompts = sweep.prompts
    logits: Tensor = model.run_with_hooks(
        prompts.tokens, fwd_hooks=hooks, attention_mask=prompts.mask
    )
    return logits


def _hooks(model: HookedGPT2, sweep: Sweep, write: Write) -> Iterator[Hook]:
    part = write.target
    if not write.senders:
        yield write_hook(part, _source(model, sweep, part), _where(sweep, part))
        return
    shift = sum(_sent(model, sweep, sender) for sender in write.senders) * _at(sweep, part)
    reads = [_adding(site, head, shift) for site, head in _inputs(model, part)]
    if part.kind == "logits":
        yield from reads
        return
    # What the receiver makes of it while all else is as in the base run ...
    site, where = part.site, _where(sweep, part)
    if part.slot:
        site = f"blocks.{part.layer}.attn.hook_{part.slot}"
    elif part.kind != "mlp":  # a changed key or value is read at later positions, too
        where = None
    prompts = sweep.prompts
    seen: list[Tensor] = []
    model.run_with_hooks(
        prompts.tokens,
        fwd_hooks=[*reads, (site, lambda value, hook: seen.append(value))],
        attention_mask=prompts.mask,
    )
    own = seen[0] if part.head is None else seen[0][:, :, part.head]
    # ... goes on from there.
    _, written = write_hook(replace(part, slot=None, position=None), own, where)
    yield site, written


def _adding(site: str, head: int | None, shift: Tensor) -> Hook:
    def add(value: Tensor, hook: HookPoint) -> Tensor:
        (value if head is None else value[:, :, head]).add_(shift)
        return value

    return site, add


def _source(model: HookedGPT2, sweep: Sweep, part: Component) -> Tensor:
    source = sweep.source
    return replacements(model, [part], source.method, source.tokens, source.mask)[0]


def _where(sweep: Sweep, part: Component) -> Tensor | None:
    return None if part.position is None else sweep.prompts.where(part.position)


def _at(sweep: Sweep, part: Component) -> Tensor:
    """[b p 1], 1 where the part acts."""
    return sweep.prompts.where(part.position)[..., None]


def _sent(model: HookedGPT2, sweep: Sweep, sender: Component) -> Tensor:
    """What the residual stream gains when the sender writes the source's value: [b p d]."""
    prompts = sweep.prompts
    base = replacements(model, [sender], "resample", prompts.tokens, prompts.mask)[0]
    change = _source(model, sweep, sender) - base
    if sender.kind == "head":
        change = change @ model.blocks[sender.layer].attn.W_O[sender.head]
    return change * _at(sweep, sender)


def _inputs(model: HookedGPT2, receiver: Component) -> list[Site]:
    """Where does the receiver read the residual stream?"""
    block = f"blocks.{receiver.layer}."
    if receiver.kind == "logits":
        return [(f"blocks.{model.cfg.n_layers - 1}.hook_resid_post", None)]
    if receiver.kind == "mlp":
        return [(block + "hook_mlp_in", None)]
    heads = range(model.cfg.n_heads) if receiver.kind == "attn" else [receiver.head]
    slots = receiver.slot or "qkv"
    return [(f"{block}hook_{slot}_input", head) for head in heads for slot in slots]
