"""The same cells by plain forward passes with hooks: for models whose mathematics is not GPT-2's.

A model of transformer_lens (`circuits.adapter`) runs once for each cell, all prompts together, and
once more for each receiver of paths; twice more where MLPs between sender and receiver compute
anew. What is written is what the engine writes.

Shapes: b prompts, p positions, n positions that the metric reads, d = d_model, v = d_vocab.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from circuits.arrays import Bools
from circuits.components import Component
from circuits.errors import CircuitsError
from circuits.hooks import HookFn, HookPoint
from circuits.interventions import Hook, write_hook
from circuits.model import Visit
from circuits.sweep.base_run import BaseRun, final_site
from circuits.sweep.cells import Write
from circuits.sweep.edits import needed_sites
from circuits.sweep.runner import CellRunner
from circuits.sweep.sent import into_mlp, way_out

if TYPE_CHECKING:
    from circuits.model import HookedModel
    from circuits.prompts import Prompts
    from circuits.sweep.routes import Routes

Site = tuple[str, tuple[slice | int, ...]]  # a hook site, and which part of what passes there


class HookedPilot:
    """Plain passes over `width` positions, about `rows` in all: what a cell costs."""

    def __init__(self, model: HookedModel, width: int, rows: int = 1) -> None:
        self.model, self.blocks = model, model.cfg.n_layers
        n = max(1, rows // width)
        self._tokens = torch.zeros(n, width, dtype=torch.long, device=model.W_E.device)
        self.rows = self._tokens.numel()

    @torch.inference_mode()
    def run(self) -> None:
        """Run them."""
        self.model(self._tokens, stop_at_layer=self.blocks)


class HookedRunner(CellRunner):
    """Plain passes, in which hooks write."""

    passes_whole = True

    def __init__(self, base: BaseRun, routes: Routes) -> None:
        super().__init__(base, routes)
        self.model = base.model
        self._held = _patterns(base.model) if routes.sweep.freeze else []

    @classmethod
    def base_sites(cls, model: HookedModel, routes: Routes) -> set[str]:
        """The final stream, what senders write, and the patterns and heads that are held."""
        paths = [write for write in routes.writes if write.senders]
        sites = {final_site(model), *(_patterns(model) if routes.sweep.freeze else ())}
        sites |= {sender.site for write in paths for sender in write.senders}
        if paths and routes.sweep.hold == "heads":
            sites |= {*_mixed(model), *(_stream(model, write.target) for write in paths)}
        return sites

    @classmethod
    def pilot(cls, model: HookedModel, width: int, rows: int) -> HookedPilot:
        """A few plain passes."""
        return HookedPilot(model, width, rows)

    @classmethod
    def read_stream(
        cls,
        model: HookedModel,
        prompts: Prompts,
        tokens: Tensor,
        sites: Collection[str],
        visit: Visit,
        reads: Tensor,
    ) -> Tensor:
        """A plain pass with hooks."""
        hooks = [(site, lambda value, hook: visit(hook.name, value)) for site in sites]
        stream: Tensor = model.run_with_hooks(
            tokens,
            fwd_hooks=hooks,
            attention_mask=prompts.mask,
            stop_at_layer=model.cfg.n_layers,
        )
        return stream[reads]

    def finals(self, cells: tuple[int, ...]) -> tuple[list[int], Tensor, Bools]:
        """The final stream where the metric reads, [s n d], of the cells that change anything.

        Their places [s] among `cells` come first; last, which cells changed anything.
        """
        changed = np.zeros(len(cells), dtype=bool)
        places: list[int] = []
        finals: list[Tensor] = []
        for place, cell in enumerate(cells):
            noted: list[Tensor] = []  # whether each write changed something
            hooks = [
                hook
                for write in self.routes.routes[cell].writes
                for hook in self._hooks(write, noted)
            ]
            if not hooks:
                continue
            final = self._run(hooks, self.model.cfg.n_layers)[self.base.reads]
            changed[place] = any(map(bool, noted))
            if changed[place]:
                places.append(place)
                finals.append(final)
        changed |= self.arrives(cells, changed)
        return places, torch.stack(finals) if finals else self.base.final[None][:0], changed

    def differs(self, senders: tuple[Component, ...]) -> Tensor:
        """Where any of these write something else: [b p], True or False."""
        differs = self.base.prompts.mask & False
        for sender in senders:
            change = self._value(sender) - self.base.values[sender.site][sender.within]
            differs = differs | (change != 0).any(-1) & self.base.prompts.where(sender.position)
        return differs

    def _run(self, hooks: Sequence[Hook], stop_at_layer: int) -> Tensor:
        """The stream [b p d] that enters this layer, with patterns held where they are."""
        held = [(site, self._holding(site)) for site in self._held]
        stream: Tensor = self.model.run_with_hooks(
            self.base.prompts.tokens,
            fwd_hooks=[*(hook for hook in held if _layer(hook[0]) < stop_at_layer), *hooks],
            attention_mask=self.base.prompts.mask,
            stop_at_layer=stop_at_layer,
        )
        return stream

    def _holding(self, site: str) -> HookFn:
        return lambda value, hook: self.base.values[site].to(value)

    def _hooks(self, write: Write, noted: list[Tensor]) -> Iterator[Hook]:
        """What has to be hooked for this write. Whether it changed anything goes to `noted`."""
        part, where = write.target, self._where(write.target)
        if not write.senders:
            name, function = write_hook(part, self._value(part), where)
            yield name, self._noting(function, part.within, noted)
            return
        shift = self._sent(write.senders) if self.routes.sweep.hold == "all" else self._anew(write)
        if part.position is not None:
            shift = shift * self.base.prompts.where(part.position)[..., None]
        if part.kind == "logits":
            yield final_site(self.model), self._noting(_adding((), shift), (), noted)
            return
        # What the receiver makes of it while all else is as in the base run ...
        site, receiver = part.site, replace(part, slot=None, position=None)
        if part.slot:
            site = f"blocks.{part.layer}.attn.hook_{part.slot}"
        elif part.kind != "mlp":  # a changed key or value is read at later positions, too
            where = None
        reads = [(name, _adding(within, shift)) for name, within in self._inputs(part)]
        seen: list[Tensor] = []
        last = (site, lambda value, hook: seen.append(value))
        self._run([*reads, last], (part.layer or 0) + 1)
        # ... goes on from there.
        _, function = write_hook(receiver, seen[0][receiver.within], where)
        yield site, self._noting(function, receiver.within, noted)

    def _noting(
        self, function: HookFn, within: tuple[slice | int, ...], noted: list[Tensor]
    ) -> HookFn:
        """The same hook, which notes whether a real token's value became another."""

        def write(value: Tensor, hook: HookPoint) -> Tensor | None:
            old = value[within].clone()
            new = function(value, hook)
            assert new is not None
            differs = (new[within] != old).flatten(2).any(-1)
            noted.append((differs & self.base.prompts.mask).any())
            return new

        return write

    def _where(self, part: Component) -> Tensor | None:
        return None if part.position is None else self.base.prompts.where(part.position)

    def _value(self, part: Component) -> Tensor:
        """What the source gives for this part; a head's inputs are all the same stream."""
        (site,) = needed_sites([Write(part)], self.model.cfg)[1]
        value = self.base.source[site]
        return value[part.within] if site == part.site else value

    def _sent(self, senders: Iterable[Component]) -> Tensor:
        """What the stream gains when these write the source's values: [b p d]."""
        total: Any = 0
        for sender in senders:
            change = self._value(sender) - self.base.values[sender.site][sender.within]
            if sender.layer is not None and sender.within:
                change = change @ self._out(sender)
            if sender.position is not None:
                change = change * self.base.prompts.where(sender.position)[..., None]
            total = total + change
        shift: Tensor = total
        return shift

    def _anew(self, write: Write) -> Tensor:
        """What the receiver's stream gains when heads write what they did, and MLPs compute anew.

        [b p d], from one pass in which the senders write the source's values.
        """
        part, site = write.target, _stream(self.model, write.target)
        layer = self.model.cfg.n_layers if part.layer is None else part.layer
        hooks = [
            (name, self._holding(name))
            for name in _mixed(self.model)[: layer + (part.kind == "mlp")]
        ]
        hooks += [
            write_hook(sender, self._value(sender), self._where(sender)) for sender in write.senders
        ]
        seen: list[Tensor] = []
        hooks.append((site, lambda value, hook: seen.append(value.clone())))
        self._run(hooks, min(layer + 1, self.model.cfg.n_layers))
        change = seen[0] - self.base.values[site]
        # Where nothing was sent, rounding on another way through the model shall change nothing.
        return change * self.differs(write.senders)[..., None]

    def _out(self, sender: Component) -> Tensor:
        """A head's or neuron's way into the stream, [e d] or [1 d]."""
        if self.model.cfg.post_norms:
            raise CircuitsError(
                f"{self.model.cfg.model_name} normalizes what a layer writes before it is added, "
                f"so {sender} alone sends nothing that adds up; start the path at "
                f"{'a' if sender.kind == 'head' else 'm'}{sender.layer}"
            )
        return way_out(self.model, sender)

    def _inputs(self, receiver: Component) -> list[Site]:
        """Where the receiver reads the stream."""
        block = f"blocks.{receiver.layer}."
        if receiver.kind == "mlp":
            return [(block + "hook_mlp_in", ())]
        slots = [receiver.slot] if receiver.slot else ["q", "k", "v"]
        return [
            (f"{block}hook_{slot}_input", replace(receiver, slot=None).within) for slot in slots
        ]


def _mixed(model: HookedModel) -> list[str]:
    """The sites of what heads mix together."""
    return [f"blocks.{layer}.attn.hook_z" for layer in range(model.cfg.n_layers)]


def _patterns(model: HookedModel) -> list[str]:
    """The sites of how heads attend."""
    return [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers)]


def _stream(model: HookedModel, receiver: Component) -> str:
    """The site of the stream that this receiver reads."""
    if receiver.layer is None:
        return final_site(model)
    if receiver.kind == "mlp":
        return into_mlp(receiver.layer, model.cfg)
    return f"blocks.{receiver.layer}.hook_resid_pre"


def _adding(within: tuple[slice | int, ...], shift: Tensor) -> HookFn:
    def add(value: Tensor, hook: HookPoint) -> Tensor:
        part = value[within]
        part += shift if part.ndim == shift.ndim else shift.unsqueeze(2)  # the same for all heads
        return value

    return add


def _layer(site: str) -> int:
    return int(site.split(".")[1])
