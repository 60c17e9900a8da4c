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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
from circuits.precision import wide
from circuits.sweep.reading import read_logits
from circuits.training.adam import Adam

if TYPE_CHECKING:
    from circuits.model import HookedModel
    from circuits.registry import Progress

BATCH = 32  # pairs in a step of gradient descent
RATE = 0.1
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
    """The pairs' two runs up to the site, ready for any swap there."""

    def __init__(self, model: HookedModel, pairs: Pairs, at: Subspace) -> None:
        self.model, self.pairs, self.at = model, pairs, at
        prompts, layer = pairs.prompts, at.component.layer
        self.layer = None if at.component.kind in ("embed", "pos") else layer
        stream = None if self.layer is None else f"blocks.{self.layer}.hook_resid_pre"
        self.mask = prompts.mask
        given: dict[str, Any] = {"attention_mask": self.mask, "return_type": None}
        with torch.no_grad():
            self.entry = prompts.tokens
            if stream is not None:
                _, cache = model.run_with_cache(prompts.tokens, names_filter=[stream], **given)
                self.entry = cache[stream]
            _, cache = model.run_with_cache(pairs.sources, names_filter=[at.site], **given)
        head = at.component.head
        value = cache[at.site]
        self.source = value if head is None else value[:, :, head]
        self.where = rearrange(prompts.where(at.component.position), "b p -> b p 1")
        self.end = prompts.index("END")

    def logits(self, basis: Tensor | None, rows: Tensor) -> Tensor:
        """The candidates' logits [b t] after the swap in these pairs; None swaps everything."""
        head = self.at.component.head
        source, where = self.source[rows], self.where[rows]

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
            self.entry[rows],
            fwd_hooks=[(self.at.site, swap)],
            attention_mask=self.mask[rows],
            start_at_layer=self.layer,
            stop_at_layer=self.model.cfg.n_layers,
        )
        at_end = final[torch.arange(len(rows), device=final.device), self.end[rows]]
        candidates = self.pairs.candidates
        tokens = None if candidates is None else candidates.expand(len(rows), -1)
        return read_logits(self.model, at_end, tokens)


def swapped(model: HookedModel, pairs: Pairs, at: Subspace, basis: Tensor | None = None) -> Tensor:
    """1 where the model gives the predicted answer after the swap, else 0: for each pair [b].

    `basis` [d k] is orthonormal; None swaps the whole value.
    """
    runs = _Runs(model, pairs, at)
    scores = []
    with torch.no_grad():
        for rows in torch.arange(len(pairs), device=runs.end.device).split(BATCH):
            logits = runs.logits(basis, rows)
            scores.append(answered(logits, pairs.predicted[rows], pairs.candidates))
    return torch.cat(scores)


def learn(
    model: HookedModel,
    pairs: Pairs,
    at: Subspace,
    rank: int,
    *,
    steps: int = 100,
    seed: int = 0,
    progress: Progress | None = None,
) -> Tensor:
    """The subspace [d k] that makes the model give the predicted answers when it is swapped.

    Adam on the cross-entropy of the predicted answers among the candidates; the basis is the Q of a
    QR decomposition, so it stays orthonormal.

    Raises:
        CircuitsError: for a rank that the site does not have, or when no gradient reaches it.
    """
    raw = random_basis(model, at, rank, seed).requires_grad_()
    generator = torch.Generator().manual_seed(seed)
    runs = _Runs(model, pairs, at)
    answers = pairs.predicted
    if pairs.candidates is not None:
        answers = torch.searchsorted(pairs.candidates, answers)
    optimizer = Adam([raw], lr=RATE)
    for step in range(steps):
        order = torch.randperm(len(pairs), generator=generator)[:BATCH]
        rows = order.to(answers.device)
        with torch.inference_mode(False), torch.enable_grad():
            loss = F.cross_entropy(runs.logits(torch.linalg.qr(raw).Q, rows), answers[rows])
            (raw.grad,) = torch.autograd.grad(loss, [raw])
        if step == 0 and not raw.grad.any():
            raise CircuitsError(
                f"nothing that is swapped at {at.component} changes the logits even a little, so "
                "no subspace can be learned there; choose another site, or swap it as a whole"
            )
        optimizer.step()
        if progress is not None:
            progress(step + 1, steps)
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
    for matrix in _readers(model, at.component, readers):
        weight = matrix.detach().double()
        gram += weight @ weight.T / weight.square().sum().clamp(min=_TINY)
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
    """The matrices [d ..] by which these readers, or all later components, read the stream."""
    cfg = model.cfg
    every = [*all_heads(cfg), *all_mlps(cfg), Component("logits")]
    named = list(readers) or [reader for reader in every if _comes_after(sender, reader)]
    slots = {"q": model.W_Q, "k": model.W_K, "v": model.W_V}
    for reader in named:
        Edge(sender.at(None), check(reader.at(None), cfg))  # raises if it does not come after
        if reader.kind == "head":
            for name in [reader.slot] if reader.slot else slots:
                if name not in slots:
                    raise CircuitsError(f"{reader} reads nothing; name <q>, <k> or <v>")
                yield through_ln(model, slots[name][reader.layer, reader.head], reader.layer)
        elif reader.kind == "mlp":
            for name in ("W_in", "W_gate") if cfg.gated_mlp else ("W_in",):
                weight = getattr(model, name)[reader.layer]
                yield through_ln(model, weight, reader.layer, mlp_input=True)
        elif reader.kind == "logits":
            # The same added to all logits changes no probability.
            W_U = wide(model.W_U)
            yield through_ln(model, W_U - W_U.mean(1, keepdim=True))
        else:
            raise CircuitsError(
                f"{reader} is no reader; name heads (a5.h3, a5.h3<q>), MLPs (m5) or logits"
            )


def _comes_after(sender: Component, reader: Component) -> bool:
    try:
        Edge(sender.at(None), reader)
    except CircuitsError:
        return False
    return True


def _writes(model: HookedModel, at: Subspace) -> Tensor | None:
    """What the site's value is multiplied by on its way into the stream, [d_site d]."""
    component = at.component
    weight: Tensor
    if at.neurons:
        weight = model.W_out[component.layer]
    elif component.kind == "head":
        weight = model.W_O[component.layer, component.head]
    else:
        return None
    return weight.detach()
