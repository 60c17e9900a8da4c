"""A layer's parts replaced one at a time in an edited model: one batch, a row a part.

The engine of sweeps runs a model as it is; under the edits of a tray these are plain passes, which
begin at the layer in question. Not a question itself.

Shapes: r rows (the layer's heads, then its MLP), h heads, p positions, d = d_model, e = d_head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from einops import repeat
from torch import Tensor

from circuits.arrays import Floats
from circuits.explorer.questions.predictions import numbers
from circuits.explorer.subject import Subject
from circuits.explorer.tray import Tray
from circuits.hooks import HookPoint
from circuits.interventions import run_sites

if TYPE_CHECKING:
    from circuits.explorer.desk import Desk, Followed

_MOST_POSITIONS = 8192  # of all rows of a batch


@dataclass(frozen=True, eq=False)
class Replaced:
    """What the parts of layers are replaced by, one at a time, in which run.

    Attributes:
        ids: the tokens of the run that is edited.
        method: ``zero``, ``mean`` over these tokens, or ``copy``, from the run of `source`.
        source: the tokens whose run is copied from.
    """

    ids: Sequence[int]
    method: str
    source: Sequence[int] = ()


def replaced(
    desk: Desk, about: Subject, tray: Tray, pair: Followed, how: Replaced, layer: int
) -> Floats:
    """The difference of the two logits with each part of the layer replaced: [r]"""
    values = _values(desk, tray, how, layer)
    n_heads = desk.model.cfg.n_heads
    rows = list(range(n_heads + (0 if desk.model.cfg.attn_only else 1)))
    stream = desk.run(about, tray, how.ids).streams[layer]
    at_once = max(1, _MOST_POSITIONS // stream.shape[1])
    differences = []
    for first in range(0, len(rows), at_once):
        some = rows[first : first + at_once]
        final = _final(desk, tray, repeat(stream, "1 p d -> r p d", r=len(some)), some, values)
        logits = desk.logits(final[:, -1])
        differences.append(logits[:, pair.answer] - logits[:, pair.distractor])
    return numbers(torch.cat(differences))


def _final(
    desk: Desk, tray: Tray, stream: Tensor, rows: Sequence[int], values: tuple[Tensor, Tensor, int]
) -> Tensor:
    """The final stream [r p d] when each row has another part replaced."""
    z, mlp, layer = values
    n_layers, n_heads = desk.model.cfg.n_layers, desk.model.cfg.n_heads

    def write_heads(value: Tensor, hook: HookPoint) -> Tensor:
        for row, part in enumerate(rows):
            if part < n_heads:
                value[row, :, part] = z[:, part]
        return value

    def write_mlp(value: Tensor, hook: HookPoint) -> Tensor:
        if n_heads in rows:
            value[rows.index(n_heads)] = mlp
        return value

    hooks = [*tray.hooks(layer, n_layers), (f"blocks.{layer}.attn.hook_z", write_heads)]
    if not desk.model.cfg.attn_only:
        hooks.append((f"blocks.{layer}.hook_mlp_out", write_mlp))
    final: Tensor = desk.model.run_with_hooks(
        stream,
        fwd_hooks=hooks,
        attention_mask=torch.ones(stream.shape[:2], device=stream.device),
        start_at_layer=layer,
        stop_at_layer=n_layers,
    )
    return final


def _values(desk: Desk, tray: Tray, how: Replaced, layer: int) -> tuple[Tensor, Tensor, int]:
    """What heads [p h e] and the MLP [p d] are replaced by, and in which layer."""
    source = torch.tensor([list(how.source or how.ids)], device=desk.model.W_E.device)
    sites = [f"blocks.{layer}.attn.hook_z"]
    sites += [] if desk.model.cfg.attn_only else [f"blocks.{layer}.hook_mlp_out"]
    with desk.under(tray):
        passed = run_sites(desk.model, source, torch.ones_like(source).bool(), sites)
    z = passed[sites[0]][0]
    mlp = passed[sites[-1]][0]
    if how.method == "zero":
        z, mlp = torch.zeros_like(z), torch.zeros_like(mlp)
    elif how.method == "mean":
        z, mlp = z.mean(0, keepdim=True).expand_as(z), mlp.mean(0, keepdim=True).expand_as(mlp)
    return z, mlp, layer
