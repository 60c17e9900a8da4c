"""The directions of a site that hold a variable: found by gradient, and checked for an illusion.

Distributed alignment search (Geiger et al. 2023, arXiv 2303.02536) rotates a site so that a few of
its coordinates can be swapped between two runs: with an orthonormal basis Q [d k] the base value x
becomes x + Q Q^T (source - x). Such a Q may join a direction that only tells the variable
(nothing reads it) with one that only acts (it is the same in all prompts): swapping it works,
although the model itself does not use it. This is the subspace illusion (Makelov et al. 2023,
arXiv 2311.17030); `split` takes the two apart.

Shapes: b pairs, p positions, t candidates, d the site's width, k the subspace's, r what is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from circuits.alignment.pairs import Pairs, answered
from circuits.components import Component, Edge, all_heads, all_mlps, check
from circuits.decompose import through_ln
from circuits.errors import CircuitsError
from circuits.hooks import HookPoint
from circuits.memory import at_once, tensor_bytes
from circuits.precision import wide
from circuits.registry import MemoryOptions
from circuits.sweep.gradient import frozen
from circuits.sweep.reading import read_logits
from circuits.training.adam import Adam

if TYPE_CHECKING:
    from circuits.model import HookedModel

BATCH = 32  # pairs in a step of gradient descent
RATE = 0.1
_NUMBERS = 2**18  # of a weight that are read at once
_ROUNDING = 1e-10  # of the largest eigenvalue: what is smaller is rounding
_TINY = 1e-30  # keeps a matrix of zeros, which reads nothing, from dividing by zero
_KINDS = ("head", "attn", "mlp", "embed", "pos", "resid_pre", "resid_mid", "resid_post")


@dataclass(frozen=True)
class Subspace:
    """The value that is rotated: what the component writes, or an MLP's neurons' activations.

    Raises:
        CircuitsError: for a component that writes nothing which could be rotated.
    """

    component: Component
    neurons: bool = False

    def __post_init__(self) -> None:
        component = self.component
        if component.kind not in _KINDS or component.slot is not None:
            raise CircuitsError(
                f"{component} has no subspace to swap; name what is written to the residual "
                "stream: a head (a5.h3), an attention layer (a5), an MLP (m5), embed, pos or "
                "resid_pre.5"
            )
        if self.neurons and component.kind != "mlp":
            raise CircuitsError(f"{component} has no neurons; name an MLP such as m5")

    @property
    def site(self) -> str:
        """The hook site of that value."""
        component = self.component
        return f"blocks.{component.layer}.mlp.hook_post" if self.neurons else component.site

    def width(self, model: HookedModel) -> int:
        """How many dimensions the value has."""
        cfg = model.cfg
        check(self.component, cfg)
        if self.neurons:
            return cfg.d_mlp
        return cfg.d_model if self.component.head is None else cfg.d_head


class _Runs:
    """The pairs' two runs up to the site, ready for any swap there.

    With `memory` they are kept if they take less than half of it, and else run when they are asked
    for; `at_once` pairs may be asked for together.
    """

    def __init__(
        self,
        model: HookedModel,
        pairs: Pairs,
        at: Subspace,
        memory: int | str | None,
        ask: Callable[[_Runs, Tensor], object],
    ) -> None:
        self.model, self.pairs, self.at = model, pairs, at
        prompts, layer = pairs.prompts, at.component.layer
        self.layer = None if at.component.kind in ("embed", "pos") else layer
        self.mask = prompts.mask
        self.where = rearrange(prompts.where(at.component.position), "b p -> b p 1")
        self.end = prompts.index("END")
        self._kept: tuple[Tensor, Tensor] | None = None
        rows = torch.arange(len(pairs), device=self.end.device)
        run_one, what = partial(ask, self, rows[:1]), "a swap in one pair of prompts takes"
        size = sum(each.nbytes for each in self.of(rows[:1])) * len(rows)
        if memory is not None and 2 * size > tensor_bytes(memory, 0, 1, what):
            size = 0
        self.at_once = at_once(memory, BATCH, run_one, what, size)
        if size:
            entries, sources = zip(*map(self.of, rows.split(self.at_once)), strict=True)
            self._kept = torch.cat(entries), torch.cat(sources)

    @torch.no_grad()
    def of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """What enters the site's layer, and what the source has at the site: [b ..] each."""
        if self._kept is not None:
            return self._kept[0][rows], self._kept[1][rows]
        given: dict[str, Any] = {"attention_mask": self.mask[rows]}
        entry = self.pairs.prompts.tokens[rows]
        if self.layer is not None:
            entry = self.model(entry, stop_at_layer=self.layer, **given)
        given |= {
            "names_filter": [self.at.site],
            "stop_at_layer": 0 if self.layer is None else self.layer + 1,
        }
        _, cache = self.model.run_with_cache(self.pairs.sources[rows], **given)
        value, head = cache[self.at.site], self.at.component.head
        return entry, value if head is None else value[:, :, head]

    def logits(self, basis: Tensor | None, rows: Tensor) -> Tensor:
        """The candidates' logits [b t] after the swap in these pairs; None swaps everything."""
        head = self.at.component.head
        (entry, source), where = self.of(rows), self.where[rows]

        def swap(value: Tensor, hook: HookPoint) -> Tensor:
            target = value if head is None else value[:, :, head]
            change = source - target
            if basis is not None:
                change = (wide(change) @ basis @ basis.T).to(target.dtype)
            new = torch.where(where, target + change, target)
            if head is None:
                return new
            edited = value.clone()
            edited[:, :, head] = new
            return edited

        final = self.model.run_with_hooks(
            entry,
            fwd_hooks=[(self.at.site, swap)],
            attention_mask=self.mask[rows],
            start_at_layer=self.layer,
            stop_at_layer=self.model.cfg.n_layers,
        )
        at_end = final[torch.arange(len(rows), device=final.device), self.end[rows]]
        candidates = self.pairs.candidates
        tokens = None if candidates is None else candidates.expand(len(rows), -1)
        return read_logits(self.model, at_end, tokens)


def swapped(
    model: HookedModel,
    pairs: Pairs,
    at: Subspace,
    basis: Tensor | None = None,
    *,
    memory: int | str | None = None,
) -> Tensor:
    """1 where the model gives the predicted answer after the swap, else 0: for each pair [b].

    `basis` [d k] is orthonormal; None swaps the whole value. `memory` bounds what this takes.
    """

    def score(runs: _Runs, rows: Tensor) -> Tensor:
        return answered(runs.logits(basis, rows), pairs.predicted[rows], pairs.candidates)

    with torch.no_grad():
        runs = _Runs(model, pairs, at, memory, score)
        rows = torch.arange(len(pairs), device=runs.end.device)
        return torch.cat([score(runs, some) for some in rows.split(runs.at_once)])


def learn(
    model: HookedModel,
    pairs: Pairs,
    at: Subspace,
    rank: int,
    *,
    steps: int = 100,
    seed: int = 0,
    how: MemoryOptions | None = None,
) -> Tensor:
    """The subspace [d k] that makes the model give the predicted answers when it is swapped.

    Adam on the cross-entropy of the predicted answers among the candidates; the basis is the Q of a
    QR decomposition, so it stays orthonormal. `how` says what this may take, and who is told of it.

    Raises:
        CircuitsError: for a rank that the site does not have, or when no gradient reaches it.
    """
    how = how or MemoryOptions()
    raw = random_basis(model, at, rank, seed).requires_grad_()
    generator = torch.Generator().manual_seed(seed)
    answers = pairs.predicted
    if pairs.candidates is not None:
        answers = torch.searchsorted(pairs.candidates, answers)

    def gradient(runs: _Runs, rows: Tensor) -> Tensor:
        """Of the sum over these pairs."""
        with torch.inference_mode(False), torch.enable_grad():
            logits = runs.logits(torch.linalg.qr(raw).Q, rows)
            loss = F.cross_entropy(logits, answers[rows], reduction="sum")
            (of_raw,) = torch.autograd.grad(loss, [raw])
        return of_raw

    with frozen(model):
        runs, optimizer = _Runs(model, pairs, at, how.memory, gradient), Adam([raw], lr=RATE)
        for step in range(steps):
            rows = torch.randperm(len(pairs), generator=generator)[:BATCH].to(answers.device)
            parts = [gradient(runs, some) for some in rows.split(runs.at_once)]
            raw.grad = mean = torch.stack(parts).sum(0) / len(rows)
            if step == 0 and not mean.any():
                raise CircuitsError(
                    f"nothing that is swapped at {at.component} changes the logits even a little, "
                    "so no subspace can be learned there; choose another site, or swap it as a "
                    "whole"
                )
            optimizer.step()
            if how.progress is not None:
                how.progress(step + 1, steps)
    learned: Tensor = torch.linalg.qr(raw.detach()).Q
    return learned


def random_basis(model: HookedModel, at: Subspace, rank: int, seed: int = 0) -> Tensor:
    """Some subspace [d k] of the site: where the search starts, and its control.

    Raises:
        CircuitsError: for a rank that the site does not have.
    """
    width = at.width(model)
    if not 1 <= rank <= width:
        raise CircuitsError(
            f"rank={rank}: {at.component} has {width} dimensions; take 1 to {width}"
        )
    drawn = torch.randn(width, rank, generator=torch.Generator().manual_seed(seed))
    basis: Tensor = torch.linalg.qr(drawn.to(wide(model.W_E[:1]))).Q
    return basis


def read_space(model: HookedModel, at: Subspace, readers: Sequence[Component] = ()) -> Tensor:
    """The directions of the site that something later reads: an orthonormal basis [d r].

    Readers are queries, keys and values of later heads, later MLPs and the unembedding, each
    through its LayerNorm, or those named. None of them reads what is orthogonal to this basis:
    it lies in the null space of all of them.

    Raises:
        CircuitsError: for a reader that does not come after the site.
    """
    d_model = model.cfg.d_model
    gram = torch.zeros(d_model, d_model, dtype=torch.float64, device=model.W_E.device)
    for each in _readers(model, at.component, readers):
        gram += each / each.trace().clamp(min=_TINY)
    onto = _writes(model, at)
    if onto is not None:
        gram = onto.double() @ gram @ onto.double().T
    values, vectors = torch.linalg.eigh(gram)
    basis: Tensor = vectors[:, values > _ROUNDING * values.max().clamp(min=_TINY)]
    return basis.to(wide(model.W_E[:1]))


@dataclass(frozen=True, eq=False)
class Split:
    """The part of a subspace that is read, the part that is not, and the share that is read.

    `read` and `dormant` are orthonormal bases [d ..]; a part that is not there has no columns.
    """

    read: Tensor
    dormant: Tensor
    share: float


def split(basis: Tensor, space: Tensor) -> Split:
    """The part of the subspace [d k] that lies in this space [d r], and what is orthogonal to it.

    >>> parts = split(torch.tensor([[0.6], [0.8]]), torch.tensor([[1.0], [0.0]]))
    >>> parts.read.abs().T, parts.dormant.abs().T, round(parts.share, 2)
    (tensor([[1., 0.]]), tensor([[0., 1.]]), 0.36)
    """
    basis, space = wide(basis), wide(space)
    inside = space @ (space.T @ basis)
    share = float(inside.square().sum() / basis.shape[1])
    return Split(_span(inside), _span(basis - inside), share)


def _span(matrix: Tensor) -> Tensor:
    """An orthonormal basis of the columns."""
    left, values, _ = torch.linalg.svd(matrix, full_matrices=False)
    basis: Tensor = left[:, values > 1e-3]
    return basis


def _readers(
    model: HookedModel, sender: Component, readers: Sequence[Component]
) -> Iterator[Tensor]:
    """M M^T [d d], in float64, of the matrices M [d ..] by which these readers, or all, read."""
    cfg = model.cfg
    every = [*all_heads(cfg), *all_mlps(cfg), Component("logits")]
    named = list(readers) or [reader for reader in every if _comes_after(sender, reader)]
    slots = {"q": "W_Q", "k": "W_K", "v": "W_V"}
    for reader in named:
        Edge(sender.at(None), check(reader.at(None), cfg))  # raises if it does not come after
        block = model.blocks[reader.layer or 0]
        if reader.kind == "head":
            for name in [reader.slot] if reader.slot else slots:
                if name not in slots:
                    raise CircuitsError(f"{reader} reads nothing; name <q>, <k> or <v>")
                weight = getattr(block.attn, slots[name])[reader.head]
                yield _gram(weight, partial(through_ln, model, layer=reader.layer))
        elif reader.kind == "mlp":
            for name in ("W_in", "W_gate") if cfg.gated_mlp else ("W_in",):
                weight = getattr(block.mlp, name)
                normed = partial(through_ln, model, layer=reader.layer, mlp_input=True)
                yield _gram(weight, normed)
        elif reader.kind == "logits":
            # The same added to all logits changes no probability.
            common = wide(model.W_U).mean(1, keepdim=True)
            yield _gram(model.W_U, partial(through_ln, model), common)
        else:
            raise CircuitsError(
                f"{reader} is no reader; name heads (a5.h3, a5.h3<q>), MLPs (m5) or logits"
            )


@torch.no_grad()
def _gram(
    weight: Tensor, normed: Callable[[Tensor], Tensor], common: float | Tensor = 0.0
) -> Tensor:
    """M M^T of what the norm makes of the columns of this weight [d ..], less what is common."""
    total = weight.new_zeros(len(weight), len(weight), dtype=torch.float64)
    for some in weight.split(max(1, _NUMBERS // len(weight)), 1):
        columns = wide(some - common).double()
        total += columns @ columns.T
    return normed(normed(total).T)


def _comes_after(sender: Component, reader: Component) -> bool:
    try:
        Edge(sender.at(None), reader)
    except CircuitsError:
        return False
    return True


def _writes(model: HookedModel, at: Subspace) -> Tensor | None:
    """What the site's value is multiplied by on its way into the stream, [d_site d]."""
    component = at.component
    block = model.blocks[component.layer or 0]
    weight: Tensor
    if at.neurons:
        weight = block.mlp.W_out
    elif component.kind == "head":
        weight = block.attn.W_O[component.head]
    else:
        return None
    return weight.detach()
