"""A circuit alone, written plainly with hooks: the slow twin of the engine's circuit runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

import torch
from torch import Tensor

from circuits.components import Edge
from circuits.hooks import HookPoint
from circuits.model import HookedModel
from circuits.prompts import Prompts

Values = Mapping[str, Tensor]  # what writers write in the reference, by site, [b p ...]


def written(model: HookedModel, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """What every writer writes to the stream, [b p d], by the writer's name."""
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens, attention_mask=mask)
    return writers_of(model, {site: cache[site] for site in cache})


def writers_of(model: HookedModel, values: Values) -> dict[str, Tensor]:
    """The same, from what passes the sites."""
    writers = {"embed": values["hook_embed"]}
    if "hook_pos_embed" in values:
        writers["embed"] = writers["embed"] + values["hook_pos_embed"]
    for layer in range(model.cfg.n_layers):
        writers |= heads_of(model, layer, values[f"blocks.{layer}.attn.hook_z"])
        if f"blocks.{layer}.hook_mlp_out" in values:
            writers[f"m{layer}"] = values[f"blocks.{layer}.hook_mlp_out"]
    return writers


def heads_of(model: HookedModel, layer: int, z: Tensor) -> dict[str, Tensor]:
    """What each head of this layer writes, from what they mix together [b p h e]."""
    way_out = model.blocks[layer].attn.W_O
    return {f"a{layer}.h{head}": z[:, :, head] @ way_out[head] for head in range(len(way_out))}


def before(model: HookedModel, layer: int, *, mid: bool) -> list[str]:
    """Who writes before the heads of this layer read, or with `mid` before its MLP does."""
    names = ["embed"]
    mid = mid and not model.cfg.parallel
    for i in range(layer + mid):
        names += [f"a{i}.h{head}" for head in range(model.cfg.n_heads)]
        names += [f"m{i}"] if i < layer and not model.cfg.attn_only else []
    return names


def alone(
    model: HookedModel, prompts: Prompts, reference: Mapping[str, Tensor], edges: Iterable[Edge]
) -> Tensor:
    """The logits [b p v] of the circuit of these edges, one reader after another.

    `reference` is what each writer writes there, [b p d].
    """
    edges = list(edges)
    now: dict[str, Tensor] = {}
    biases = [block.attn.b_O for block in model.blocks]

    def stream(reader: str, writers: Iterable[str], n_biases: int) -> Tensor:
        total = sum(reference[writer] for writer in writers)
        total = total + sum(biases[:n_biases])
        for edge in edges:
            if str(edge.receiver.at(None)) == reader:
                sender = str(edge.sender)
                change = now[sender] - reference[sender]
                total = total + change * prompts.where(edge.receiver.position)[..., None]
        return total

    order = partial(before, model)

    def read_heads(value: Tensor, hook: HookPoint) -> Tensor:
        layer, slot = int(hook.name.split(".")[1]), hook.name.split("hook_")[1][0]
        each = [
            stream(f"a{layer}.h{head}<{slot}>", order(layer, mid=False), layer)
            for head in range(model.cfg.n_heads)
        ]
        return torch.stack(each, 2)

    def read_mlp(value: Tensor, hook: HookPoint) -> Tensor:
        layer = int(hook.name.split(".")[1])
        return stream(f"m{layer}", order(layer, mid=True), layer + 1 - model.cfg.parallel)

    def read_logits(value: Tensor, hook: HookPoint) -> Tensor:
        return stream("logits", order(model.cfg.n_layers, mid=False), model.cfg.n_layers)

    def note(value: Tensor, hook: HookPoint) -> None:
        layer = hook.name.split(".")[1]
        if hook.name.endswith("mlp_out"):
            now[f"m{layer}"] = value
        elif hook.name.endswith("hook_z"):
            now.update(heads_of(model, int(layer), value))
        else:
            now["embed"] = value.clone()

    hooks = [("blocks.0.hook_resid_pre", note)]
    for layer in range(model.cfg.n_layers):
        at = f"blocks.{layer}."
        hooks += [(f"{at}hook_{slot}_input", read_heads) for slot in "qkv"]
        hooks += [(at + "attn.hook_z", note)]
        if not model.cfg.attn_only:
            hooks += [(at + "hook_mlp_in", read_mlp), (at + "hook_mlp_out", note)]
    hooks.append((f"blocks.{model.cfg.n_layers - 1}.hook_resid_post", read_logits))
    with torch.no_grad():
        logits: Tensor = model.run_with_hooks(
            prompts.tokens, fwd_hooks=hooks, attention_mask=prompts.mask
        )
    return logits
