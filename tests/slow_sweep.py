"""The slow twin of the sweep engine: one plain forward with hooks for each cell, nothing shared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from circuits.architectures import HookedGPT2
from circuits.components import Component
from circuits.hooks import HookFn, HookPoint
from circuits.interventions import replacements, write_hook
from circuits.interventions.noise import normal_draws

if TYPE_CHECKING:
    from circuits.sweep import Cell, Source, Sweep, Write

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
    hooks = [*_frozen(model, sweep), *hooks]
    if any(write.scale_held for write in cell):
        hooks.append(_scale_as_before(model, sweep))
    logits: Tensor = model.run_with_hooks(
        prompts.tokens, fwd_hooks=hooks, attention_mask=prompts.mask
    )
    return logits


def _hooks(model: HookedGPT2, sweep: Sweep, write: Write) -> Iterator[Hook]:
    part = write.target
    if not write.senders:
        yield write_hook(part, _source(model, sweep, part), _where(sweep, part))
        return
    if sweep.hold == "heads":
        shift = _by_way_of_mlps(model, sweep, write) * _at(sweep, part)
    else:
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
        fwd_hooks=[*_frozen(model, sweep), *reads, (site, lambda value, hook: seen.append(value))],
        attention_mask=prompts.mask,
    )
    own = seen[0][replace(part, slot=None).within]
    # ... goes on from there.
    _, written = write_hook(replace(part, slot=None, position=None), own, where)
    yield site, written


def _by_way_of_mlps(model: HookedGPT2, sweep: Sweep, write: Write) -> Tensor:
    """What enters the receiver with the senders patched and all heads' outputs as they were.

    Less what enters it with all heads' outputs as they were, and nothing patched: [b p d].
    """
    prompts, layer = sweep.prompts, write.target.layer
    if layer is None:
        layer = model.cfg.n_layers
    _, base = model.run_with_cache(
        prompts.tokens,
        attention_mask=prompts.mask,
        names_filter=lambda name: name.endswith("hook_z"),
    )
    held: list[Hook] = [
        (site, lambda value, hook, z=z: z.clone())
        for site, z in base.items()
        if int(site.split(".")[1]) < layer + (write.target.kind == "mlp")
    ]
    patched = [
        write_hook(sender, _source(model, sweep, sender), _where(sweep, sender))
        for sender in write.senders
    ]
    between = write.target.kind == "mlp" and not model.cfg.parallel
    site = "resid_mid" if between else "resid_pre"
    name = f"blocks.{layer}.hook_{site}"
    if layer == model.cfg.n_layers:
        name = f"blocks.{layer - 1}.hook_resid_post"
    streams: list[Tensor] = []
    for hooks in (held, [*held, *patched]):
        reading: Hook = (name, lambda value, hook: streams.append(value.clone()))
        model.run_with_hooks(
            prompts.tokens, fwd_hooks=[*hooks, reading], attention_mask=prompts.mask
        )
    return streams[1] - streams[0]


def _scale_as_before(model: HookedGPT2, sweep: Sweep) -> Hook:
    """The final LayerNorm divides by what it does in the base run."""
    site, prompts = "ln_final.hook_scale", sweep.prompts
    _, base = model.run_with_cache(prompts.tokens, attention_mask=prompts.mask, names_filter=[site])
    return site, lambda value, hook: base[site]


def _frozen(model: HookedGPT2, sweep: Sweep) -> Iterator[Hook]:
    """Every pattern of the base run, written again."""
    if sweep.freeze is None:
        return
    prompts = sweep.prompts
    _, base = model.run_with_cache(
        prompts.tokens,
        attention_mask=prompts.mask,
        names_filter=lambda name: name.endswith("hook_pattern"),
    )
    for site, pattern in base.items():
        yield site, lambda value, hook, pattern=pattern: pattern


def _adding(site: str, head: int | None, shift: Tensor) -> Hook:
    def add(value: Tensor, hook: HookPoint) -> Tensor:
        (value if head is None else value[:, :, head]).add_(shift)
        return value

    return site, add


def _source(model: HookedGPT2, sweep: Sweep, part: Component) -> Tensor:
    """The method's formula written out, from all values of the reference set at once."""
    source = sweep.source
    mask = source.mask.bool()
    values = passed(model, part, source.tokens, mask)
    simple = {
        "zero": lambda: torch.zeros_like(values[:1, :1]),
        "mean": lambda: values[mask].mean(0)[None, None],
        "resample": lambda: values,
    }
    if source.method in simple:
        return simple[source.method]()
    if source.method not in ("position-mean", "noise"):  # whose formula its own test knows
        return replacements(model, [part], source.method, source.tokens, mask)[0]
    # Prompt by prompt, from the reference set's own values.
    lengths, real = mask.sum(1), values[mask]
    found = []
    for row, length in enumerate(sweep.prompts.mask.sum(1).tolist()):
        if source.method == "position-mean":
            same = lengths == length
            if source.templates is not None and sweep.prompts.templates is not None:
                own = sweep.prompts.templates[row]
                same &= torch.tensor([template == own for template in source.templates])
            alike = values[same][:, :length]
            found.append(alike.mean(0)[..., :length] if part.slot == "pattern" else alike.mean(0))
        else:
            drawn = _drawn(model, source, part, row, length)
            found.append(real.mean(0) + real.std(0, correction=0) * drawn)
    if part.slot == "pattern":
        size = sweep.prompts.tokens.shape[1]
        grown = [F.pad(own, (0, size - len(own), 0, size - len(own))) for own in found]
        return torch.stack(grown)
    return pad_sequence(found, batch_first=True)


def passed(model: HookedGPT2, part: Component, tokens: Tensor, mask: Tensor) -> Tensor:
    """What the part writes in these prompts, [b p ...]."""
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens, attention_mask=mask, names_filter=part.site)
    return cache[part.site][part.within]


def _drawn(model: HookedGPT2, source: Source, part: Component, row: int, length: int) -> Tensor:
    """The random numbers that the engine, too, draws for this prompt: [p ...]."""
    cfg = model.cfg
    if part.slot:  # all inputs of heads are one stream
        part = Component("resid_pre", part.layer)
    shapes = {"head": (cfg.n_heads, cfg.d_head), "neuron": (cfg.d_mlp,)}
    shape = (length, *shapes.get(part.kind, (cfg.d_model,)))
    drawn = normal_draws(shape, source.seed, part.site, row)
    return drawn[None][part.within][0].to(cfg.dtype)


def _where(sweep: Sweep, part: Component) -> Tensor | None:
    return None if part.position is None else sweep.prompts.where(part.position)


def _at(sweep: Sweep, part: Component) -> Tensor:
    """[b p 1], 1 where the part acts."""
    return sweep.prompts.where(part.position)[..., None]


def _sent(model: HookedGPT2, sweep: Sweep, sender: Component) -> Tensor:
    """What the residual stream gains when the sender writes the source's value: [b p d]."""
    prompts = sweep.prompts
    base = passed(model, sender, prompts.tokens, prompts.mask)
    change = _source(model, sweep, sender) - base
    if sender.kind == "head":
        change = change @ model.blocks[sender.layer].attn.W_O[sender.head]
    if sender.kind == "neuron":
        change = change * model.blocks[sender.layer].mlp.W_out[sender.neuron]
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
