"""What would each cell of a sweep change? Estimated for all of them at once, from one gradient.

Attribution patching (Nanda 2023; Syed et al. 2023): to first order, writing the source's value at
a part changes the metric by (source's value - base value) . d metric / d value. That is one run of
the source, and one run and one backward pass of the base, however many cells there are.

Shapes: b prompts, p positions, n positions that the metric reads, h head, d = d_model, e = d_head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuits.errors import CircuitsError
from circuits.memory import tensor_bytes
from circuits.precision import wide
from circuits.progress import Progress
from circuits.sweep.cells import Cell, Sweep, check_cell
from circuits.sweep.engine import runner_of
from circuits.sweep.moments import Moments, moments
from circuits.sweep.plans import default_memory
from circuits.sweep.reading import read_logits

if TYPE_CHECKING:
    from circuits.model import HookedModel
    from circuits.prompts import Prompts

TOKENS_AT_ONCE = 2048  # more needs more memory and is no faster
_KINDS = ("head", "attn", "mlp", "resid_pre", "resid_mid", "resid_post", "embed", "pos")


@dataclass(frozen=True, eq=False)
class Attributions:
    """What would writing each cell change, and what do the two runs themselves say?

    `effects` [cells prompts] are estimates of metric(cell) - metric(base); `base` and `source`
    [prompts] are the metric of the two runs, exactly.
    """

    effects: NDArray[np.float64]
    base: NDArray[np.float64]
    source: NDArray[np.float64]


def attribute(
    model: HookedModel,
    sweep: Sweep,
    *,
    memory: int | str | None = None,
    progress: Progress | None = None,
) -> Attributions:
    """What would each cell change, prompt by prompt, if the metric were linear in what it writes?

    `memory` bounds the tensors that are alive at the same time besides the weights: bytes, or a
    text such as "4G". `progress` is called with the prompts done and all prompts.

    Raises:
        CircuitsError: for paths and inputs of heads, for a metric without a gradient, when every
            gradient is zero, and for a budget too small for a single prompt.

    >>> from circuits.checkpoints import load
    >>> from circuits.metrics import get_metric
    >>> from circuits.prompts import make
    >>> from circuits.sweep.cells import Source, Sweep, cell
    >>> model = load("sort-abc")
    >>> prompts = make("sorting", model, 3)
    >>> source = Source("resample", prompts.corrupted, prompts.mask)
    >>> cells = (cell("a0.h1"), cell("m1@END"))
    >>> attribute(model, Sweep(prompts, get_metric("logit_diff"), cells, source)).effects.shape
    (2, 3)
    """
    _check(model, sweep)
    n, width = sweep.prompts.tokens.shape
    parts, step = [], _at_once(model, width, memory)
    with frozen(model), torch.inference_mode(False):
        for first in range(0, n, step):
            last = min(first + step, n)
            parts.append(_Batch(model, sweep, slice(first, last)).attributions())
            if progress is not None:
                progress(last, n)
    together = Attributions(
        *(
            np.concatenate([getattr(part, name) for part in parts], -1)
            for name in ("effects", "base", "source")
        )
    )
    if together.effects.size and not together.effects.any():
        raise CircuitsError(
            f"the gradient of {sweep.metric.name} is zero at every one of these parts, so it tells "
            "nothing about them; patch them instead"
        )
    return together


def _at_once(model: HookedModel, width: int, memory: int | str | None) -> int:
    """How many prompts of this width may be computed together: one at least, if nobody said."""
    cfg = model.cfg
    inner = cfg.n_heads * cfg.d_head
    floats = cfg.n_layers * (12 * cfg.d_model + 10 * inner + 4 * cfg.d_mlp) + 4 * cfg.d_vocab
    per_prompt = floats * width * model.W_E.element_size()
    what = f"the gradient of one prompt of {width} tokens takes"
    budget = tensor_bytes(memory, default_memory(model), per_prompt, what)
    return max(1, min(budget // per_prompt, TOKENS_AT_ONCE // width))


def _check(model: HookedModel, sweep: Sweep) -> None:
    if not sweep.source.rule.copies:
        raise CircuitsError(
            "a gradient estimates patching from another run (the method 'resample'), not "
            f"{sweep.source.method!r}; sweep over these cells instead"
        )
    same = sweep.clean is None or torch.equal(sweep.clean, sweep.prompts.tokens)
    if "clean" in sweep.metric.needs and same:
        raise CircuitsError(
            f"{sweep.metric.name} has no gradient at the very run that it compares with; patch "
            "clean values into the corrupted run (denoise), or choose another metric"
        )
    for cell in sweep.cells:
        check_cell(cell, model.cfg)
        for write in cell:
            if write.senders or write.target.slot or write.target.kind not in _KINDS:
                raise CircuitsError(
                    f"{write} has no estimate by gradient; name what writes to the residual stream "
                    f"({', '.join(_KINDS)}), or patch it instead"
                )


@contextmanager
def frozen(model: HookedModel) -> Iterator[None]:
    """No gradient of a parameter is computed, and nothing is stored for one."""
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in learned:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in learned:
            weight.requires_grad_(True)


class _Batch:
    """Some of the prompts, in both runs."""

    def __init__(self, model: HookedModel, sweep: Sweep, rows: slice) -> None:
        self.model, self.sweep, self.rows = model, sweep, rows
        self.prompts = sweep.prompts.subset(rows)
        self.width = self.prompts.tokens.shape[1]
        self.reads = sweep.metric.positions(self.prompts)  # [b p]
        self.sites = {write.target.site for cell in sweep.cells for write in cell}

    def attributions(self) -> Attributions:
        """Two runs, one backward pass, and every cell's share of it."""
        source: dict[str, Tensor] = {}
        base: dict[str, Tensor] = {}
        clean = None
        with torch.no_grad():
            final = self._final(self.sweep.source.tokens[self.rows, : self.width], source)
            other = self._read(final)
            if "clean" in self.sweep.metric.needs and self.sweep.clean is not None:
                clean = self._read(self._final(self.sweep.clean[self.rows, : self.width], {}))
        with torch.enable_grad():
            logits = self._read(self._final(self.prompts.tokens, base))
            clean = logits.detach() if clean is None else clean
            values = self.sweep.metric.score(logits, self.prompts, clean)
            if not values.requires_grad:
                raise CircuitsError(
                    f"{self.sweep.metric.name} moves in steps and has no gradient; choose a metric "
                    "such as logit_diff, prob or loss"
                )
            gradients = torch.autograd.grad(values.sum(), list(base.values()))
        changes = {
            site: self._placed(_moved(source[site] - value.detach(), gradient))
            for (site, value), gradient in zip(base.items(), gradients, strict=True)
        }
        scored = self.sweep.metric.score(other, self.prompts, clean)
        effects = [self._effect(cell, changes) for cell in self.sweep.cells]
        return Attributions(
            torch.stack(effects).cpu().numpy(),
            values.detach().double().cpu().numpy(),
            scored.double().cpu().numpy(),
        )

    def _effect(self, cell: Cell, changes: Mapping[str, Tensor]) -> Tensor:
        """The cell's change, summed over its parts and their positions: [b]."""
        total = torch.zeros(len(self.prompts), dtype=torch.float64, device=self.reads.device)
        for write in cell:
            part = write.target
            change = changes[part.site]  # [b p], or [b p h]
            change = change if part.head is None else change[..., part.head]
            total = total + (change * self.prompts.where(part.position)).sum(1)
        return total

    def _placed(self, change: Tensor) -> Tensor:
        """What is known only where the metric reads, [n], at its place in [b p]."""
        if change.ndim > 1:
            return change
        return change.new_zeros(self.reads.shape).masked_scatter(self.reads, change)

    def _read(self, final: Tensor) -> Tensor:
        """The logits that the metric reads, [n v] or [n t]."""
        metric = self.sweep.metric
        tokens = None if metric.tokens is None else metric.tokens(self.prompts)
        return read_logits(self.model, final, tokens, readout=metric.readout)

    def _final(self, tokens: Tensor, seen: dict[str, Tensor]) -> Tensor:
        """The final stream where the metric reads, [n d]; the values at the sites, into `seen`.

        The last block's MLP runs only where the metric reads, and its sites are [n d].
        """

        def keep(site: str, value: Tensor) -> Tensor:
            if site in self.sites:
                if torch.is_grad_enabled() and not value.requires_grad:
                    value.requires_grad_()  # everything before needs no gradient
                seen[site] = value
            return value

        read_stream = runner_of(self.model).read_stream
        return read_stream(self.model, self.prompts, tokens, self.sites, keep, self.reads)


def _moved(change: Tensor, gradient: Tensor) -> Tensor:
    """What the change does along the gradient: [... d] each -> [...], in float64."""
    return (wide(change) * wide(gradient)).sum(-1).double()


def estimates(
    model: HookedModel,
    blocks: Iterable[Prompts],
    make_sweep: Callable[[Prompts], Sweep],
    *,
    memory: int | str | None = None,
    progress: Progress | None = None,
    draws: bool = False,
    label: str = "template",
) -> Moments:
    """What would each cell do on average over all these prompts, by gradient?

    The moments' cells are: 0 the base run and 1 the source's whole run, both as they are, then the
    sweep's own; the second is the full effect. For the rest see `attribute`; `progress` counts all
    prompts, or, where they are read block by block, those so far. With `draws`, the moments have
    every prompt's estimates, too. By `label` prompts are told apart, where they have it (see
    `Prompts.labels`).
    """
    so_far: Moments | None = None
    for prompts in blocks:
        block = attribute(model, make_sweep(prompts), memory=memory, progress=progress)
        values = np.concatenate([[block.base, block.source], block.base + block.effects])
        changed = np.concatenate([[False, True], block.effects.any(1)])
        labels = prompts.labels(label)
        here = moments(values, changed, labels, full=1)
        here = here.drawn_from(values, labels) if draws else here
        so_far = here if so_far is None else so_far.merge(here)
    if so_far is None:
        raise CircuitsError("there are no prompts to ask; give at least one")
    return so_far
