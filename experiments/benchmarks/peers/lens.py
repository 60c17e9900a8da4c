"""What the two generations of TransformerLens have in common: hooks by name, and `patching`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformer_lens import patching
from transformer_lens.utilities import get_act_name

from experiments.benchmarks.items import Given


def metric_of(given: Given) -> Callable[[Tensor], Tensor]:
    """The mean logit difference after the last token."""
    rows = torch.arange(len(given.tokens))
    answers, distractors = torch.from_numpy(given.answers), torch.from_numpy(given.distractors)
    return lambda logits: (logits[rows, -1, answers] - logits[rows, -1, distractors]).mean()


@torch.no_grad()
def forward(model: Any, given: Given) -> Tensor:
    return model(torch.from_numpy(given.tokens))


@torch.no_grad()
def full_cache(model: Any, given: Given) -> list[Tensor]:
    _, cache = model.run_with_cache(torch.from_numpy(given.tokens))
    last = model.cfg.n_layers - 1
    return [cache[name, last] for name in ("pattern", "z", "resid_post")]


@torch.no_grad()
def ablate_heads(model: Any, given: Given) -> Tensor:
    tokens, metric = torch.from_numpy(given.tokens), metric_of(given)
    result = torch.zeros(model.cfg.n_layers, model.cfg.n_heads)
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):

            def silence(z: Tensor, hook: Any, head: int = head) -> Tensor:
                z[:, :, head] = 0
                return z

            hooks = [(get_act_name("z", layer), silence)]
            result[layer, head] = metric(model.run_with_hooks(tokens, fwd_hooks=hooks))
    return result


@torch.no_grad()
def patch_residual(model: Any, given: Given) -> Tensor:
    _, cache = model.run_with_cache(
        torch.from_numpy(given.tokens), names_filter=lambda name: name.endswith("hook_resid_pre")
    )
    corrupted = torch.from_numpy(given.corrupted)
    return patching.get_act_patch_resid_pre(model, corrupted, cache, metric_of(given))


@torch.no_grad()
def patch_heads(model: Any, given: Given) -> Tensor:
    _, cache = model.run_with_cache(
        torch.from_numpy(given.tokens), names_filter=lambda name: name.endswith("hook_z")
    )
    corrupted = torch.from_numpy(given.corrupted)
    return patching.get_act_patch_attn_head_out_all_pos(model, corrupted, cache, metric_of(given))


def attribution(model: Any, given: Given) -> Tensor:
    layers = range(model.cfg.n_layers)
    names = [get_act_name("z", layer) for layer in layers]
    with torch.no_grad():
        _, clean = model.run_with_cache(
            torch.from_numpy(given.tokens), names_filter=lambda name: name in names
        )
    seen: dict[str, Tensor] = {}

    def keep(z: Tensor, hook: Any, name: str) -> Tensor:
        # The weights are frozen (see `load`), so the graph begins with the first layer's z.
        seen[name] = z if z.requires_grad else z.requires_grad_()
        return z

    hooks = [(name, lambda z, hook, name=name: keep(z, hook, name)) for name in names]
    with torch.enable_grad():
        logits = model.run_with_hooks(torch.from_numpy(given.corrupted), fwd_hooks=hooks)
        grads = torch.autograd.grad(metric_of(given)(logits), [seen[name] for name in names])
    return torch.stack(
        [
            ((clean[name] - seen[name].detach()) * grad).sum((0, 1, 3))
            for name, grad in zip(names, grads, strict=True)
        ]
    )


@torch.no_grad()
def logit_lens(model: Any, given: Given) -> Tensor:
    n = model.cfg.n_layers
    names = [get_act_name("resid_pre", layer) for layer in range(n)]
    names.append(get_act_name("resid_post", n - 1))
    _, cache = model.run_with_cache(
        torch.from_numpy(given.tokens), names_filter=lambda name: name in names, return_type=None
    )
    states = torch.cat([cache[name] for name in names])
    return model.unembed(model.ln_final(states)).log_softmax(-1).amax(-1)
