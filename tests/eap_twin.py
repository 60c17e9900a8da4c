"""Scores of edges by gradients, written plainly with hooks: the slow twin of the estimates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from circuit_twin import written
from torch import Tensor

from circuits.circuit import graph
from circuits.components import Component
from circuits.hooks import HookPoint
from circuits.metrics import Metric
from circuits.model import HookedModel
from circuits.prompts import Prompts


def scores(
    model: HookedModel,
    prompts: Prompts,
    reference: Mapping[str, Tensor],
    metric: Metric,
    points: Iterable[float],
) -> Tensor:
    """Each edge's score in each prompt, [e b], in the graph's order.

    The gradient is the mean over runs whose embedding is the reference's plus this share of the
    way to the prompts' own.
    """
    own = written(model, prompts.tokens, prompts.mask)
    with torch.no_grad():
        clean = model(prompts.tokens, attention_mask=prompts.mask)
    total: Tensor | float = 0.0
    points = list(points)
    for point in points:
        embed = reference["embed"] + point * (own["embed"] - reference["embed"])
        gradients = _gradients(model, prompts, metric, clean, embed)
        each: list[Tensor] = [
            ((reference[str(e.sender)] - own[str(e.sender)]) * _of(gradients, e.receiver)).sum(
                (1, 2)
            )
            for e in graph(model.cfg)
        ]
        total = total + torch.stack(each) / len(points)
    assert isinstance(total, Tensor)
    return total.detach()


def _of(gradients: Mapping[str, Tensor], reader: Component) -> Tensor:
    """The gradient at what this reader reads, [b p d]."""
    if reader.kind == "head":
        by_head = gradients[f"blocks.{reader.layer}.hook_{reader.slot}_input"]
        return by_head[:, :, reader.head or 0]
    if reader.kind == "mlp":
        return gradients[f"blocks.{reader.layer}.hook_mlp_in"]
    return gradients["last"]


def _gradients(
    model: HookedModel, prompts: Prompts, metric: Metric, clean: Tensor, embed: Tensor
) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}

    def begin(value: Tensor, hook: HookPoint) -> Tensor:
        return embed.detach().clone().requires_grad_()

    def keep(value: Tensor, hook: HookPoint) -> Tensor:
        seen[hook.name] = value.clone()
        return seen[hook.name]

    def keep_last(value: Tensor, hook: HookPoint) -> Tensor:
        seen["last"] = value.clone()
        return seen["last"]

    sites = [
        f"blocks.{layer}.hook_{what}"
        for layer in range(model.cfg.n_layers)
        for what in ("q_input", "k_input", "v_input", *(() if model.cfg.attn_only else ("mlp_in",)))
    ]
    last = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    hooks = [("blocks.0.hook_resid_pre", begin), *((site, keep) for site in sites)]
    logits = model.run_with_hooks(
        prompts.tokens, fwd_hooks=[*hooks, (last, keep_last)], attention_mask=prompts.mask
    )
    values = metric(logits, prompts, clean).sum()
    return dict(zip(seen, torch.autograd.grad(values, list(seen.values())), strict=True))
