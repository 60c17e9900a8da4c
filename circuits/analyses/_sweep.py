"""Many ablations of the same prompts, without computing anything twice.

A run starts at the first block that its ablation changes, from the clean run's residual stream;
runs that start at the same block share a batch; only the positions and tokens that the metric reads
are unembedded.

Shapes: b prompts, p positions, s runs in a batch, n positions read, d = d_model, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from einops import einsum, repeat
from torch import Tensor

from circuits.components import Component
from circuits.errors import CircuitsError
from circuits.hooks import HookFn, HookPoint
from circuits.interventions import replacements, write_hook
from circuits.metrics import Metric

if TYPE_CHECKING:
    from circuits.model import HookedGPT2
    from circuits.prompts import Prompts

Parts = tuple[Component, ...]  # what is ablated together in one run; none is the clean run
TOKENS_AT_ONCE = 2048  # more needs more memory and is no faster
_FROM_TOKENS = -1  # where a run starts that changes the embeddings


@dataclass(frozen=True)
class Reference:
    """From which prompts do the values come that are written instead?

    `tokens` and `mask` [b p] are those of `circuits.interventions.replacements`.
    """

    method: str
    tokens: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Run:
    """What came of ablating these parts? (the `index`-th of those asked for)

    `logits` are those that the metric reads, [n v] or [n t]. `changed` is whether any value that
    was written differs from the one it replaced.
    """

    index: int
    logits: Tensor
    changed: bool


@torch.inference_mode()
def ablation_runs(
    model: HookedGPT2,
    prompts: Prompts,
    metric: Metric,
    wanted: Sequence[Parts],
    reference: Reference,
) -> Iterator[Run]:
    """What does the metric read when each of these is ablated? Late layers come first.

    Raises:
        CircuitsError: for components that cannot be ablated.
    """
    edits = _edits(model, prompts, wanted, reference)
    starts = [min((_start(part) for part in parts), default=model.cfg.n_layers) for parts in wanted]
    streams = _clean_streams(model, prompts, set(starts))
    at_once = max(1, TOKENS_AT_ONCE // prompts.tokens.numel())
    order = sorted(range(len(wanted)), key=lambda i: -starts[i])
    for start, group in groupby(order, key=starts.__getitem__):
        same_start = list(group)
        for first in range(0, len(same_start), at_once):
            batch = same_start[first : first + at_once]
            changed = [False] * len(batch)
            hooks = _hooks([[edits[p] for p in wanted[i]] for i in batch], prompts, changed)
            final = _final_stream(model, prompts, start, streams[start], hooks, len(batch))
            for place, rows in enumerate(final.chunk(len(batch))):
                logits = read_logits(model, prompts, metric, rows)
                yield Run(batch[place], logits, changed[place])


def read_logits(model: HookedGPT2, prompts: Prompts, metric: Metric, final: Tensor) -> Tensor:
    """The logits that the metric reads, of the last stream: [b p d] -> [n v] or [n t]."""
    at = model.ln_final(final[metric.positions(prompts)][None])
    if metric.tokens is None:
        logits: Tensor = model.unembed(at)[0]
    else:
        tokens = metric.tokens(prompts)
        directions = model.unembed.W_U.T[tokens]
        logits = einsum(at[0], directions, "n d, n t d -> n t") + model.b_U[tokens]
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _start(part: Component) -> int:
    if part.kind == "logits":
        raise CircuitsError(
            "the logits are what is measured, and cannot be ablated; name a head (a5.h3), an "
            "attention layer (a5), an MLP (m5), embed, pos or resid_pre.5"
        )
    return _FROM_TOKENS if part.layer is None else part.layer


def _edits(
    model: HookedGPT2, prompts: Prompts, wanted: Sequence[Parts], reference: Reference
) -> Mapping[Component, tuple[str, HookFn]]:
    parts = list(dict.fromkeys(part for parts in wanted for part in parts))
    if not parts:
        return {}
    values = replacements(model, parts, reference.method, reference.tokens, reference.mask)
    where = [None if p.position is None else prompts.where(p.position) for p in parts]
    return {p: write_hook(p, v, w) for p, v, w in zip(parts, values, where, strict=True)}


def _clean_streams(model: HookedGPT2, prompts: Prompts, starts: set[int]) -> Mapping[int, Tensor]:
    """The clean run's residual stream [b p d] at each start; tokens where it starts with these."""
    n_layers = model.cfg.n_layers
    names = [f"blocks.{start}.hook_resid_pre" for start in starts if 0 <= start < n_layers]
    options: dict[str, Any] = {"attention_mask": prompts.mask, "stop_at_layer": n_layers}
    if not names:
        return {_FROM_TOKENS: prompts.tokens, n_layers: model(prompts.tokens, **options)}
    final, cache = model.run_with_cache(prompts.tokens, names_filter=names, **options)
    streams = {start: cache["resid_pre", start] for start in starts if 0 <= start < n_layers}
    return streams | {_FROM_TOKENS: prompts.tokens, n_layers: final}


def _hooks(
    edits: Sequence[Sequence[tuple[str, HookFn]]], prompts: Prompts, changed: list[bool]
) -> list[tuple[str, HookFn]]:
    """One hook a site, which edits each run's rows of the batch and notes whether they changed."""
    n = len(prompts)
    by_site: dict[str, list[tuple[int, HookFn]]] = {}
    for place, own in enumerate(edits):
        for site, fn in own:
            by_site.setdefault(site, []).append((place, fn))

    def hook_of(fns: list[tuple[int, HookFn]]) -> Callable[[Tensor, HookPoint], Tensor]:
        def edit(value: Tensor, hook: HookPoint) -> Tensor:
            for place, fn in fns:
                rows = slice(place * n, (place + 1) * n)
                old = value[rows]
                new = fn(old, hook)  # a new tensor: `write_hook` leaves what it is given
                if new is not None and not torch.equal(old[prompts.mask], new[prompts.mask]):
                    value[rows], changed[place] = new, True
            return value

        return edit

    return [(site, hook_of(fns)) for site, fns in by_site.items()]


def _final_stream(
    model: HookedGPT2,
    prompts: Prompts,
    start: int,
    stream: Tensor,
    hooks: Sequence[tuple[str, HookFn]],
    n_runs: int,
) -> Tensor:
    """The stream that leaves the last block, [(s b) p d]."""
    if start == model.cfg.n_layers:
        return stream
    final: Tensor = model.run_with_hooks(
        repeat(stream, "b p ... -> (s b) p ...", s=n_runs),
        fwd_hooks=hooks,
        attention_mask=repeat(prompts.mask, "b p -> (s b) p", s=n_runs),
        start_at_layer=None if start == _FROM_TOKENS else start,
        stop_at_layer=model.cfg.n_layers,
    )
    return final
