"""How the metric depends on what each reader reads: gradients at every input of the graph.

A head's query, key and value each have a gradient of their own, at the stream before their norm,
and so have MLPs and the logits: one backward pass gives all of them.

Shapes: b prompts, p positions, n positions that the metric reads, r readers, h head, d = d_model,
e = d_head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor

from circuits.circuit import Graph, graph
from circuits.errors import CircuitsError
from circuits.model import HookedModel, Places, Transformer
from circuits.model.block import Block
from circuits.precision import wide
from circuits.sweep.engine import runner_of
from circuits.sweep.reading import read_logits

if TYPE_CHECKING:
    from circuits.metrics import Metric
    from circuits.prompts import Prompts


@dataclass(frozen=True)
class Start:
    """Where a pass begins: the stream [b p d] that enters a layer, or with `mid` its MLP."""

    stream: Tensor
    layer: int = 0
    mid: bool = False


@dataclass(frozen=True, eq=False)
class Step:
    """What a pass kept of a layer, for the way back.

    Attributes:
        entering: [b p d], what its heads read.
        qkv: [b p 3 h e], queries, keys and values; None where the pass began behind them.
        into_mlp: what its MLP read; None where there is none.
        z: [b p h e], what heads mixed; None where `qkv` is.
        mlp: what its MLP wrote, as `into_mlp`: in the last layer only where the metric reads.
    """

    layer: int
    entering: Tensor
    qkv: Tensor | None
    into_mlp: Tensor | None
    z: Tensor | None
    mlp: Tensor | None

    @property
    def wanted(self) -> list[Tensor]:
        """Where gradients are taken."""
        return [tensor for tensor in (self.qkv, self.into_mlp) if tensor is not None]


@dataclass(frozen=True, eq=False)
class Pass:
    """A pass that gradients can go back through, once: its layers and its final stream [n d]."""

    steps: tuple[Step, ...]
    final: Tensor


def begun(model: Transformer, start: Start, reads: Tensor) -> Pass:
    """A pass on the model's own steps, which ends where `reads` [b p] says."""
    last, steps = model.cfg.n_layers - 1, []
    if start.mid and model.cfg.parallel:
        raise CircuitsError(
            f"no pass of {model.cfg.model_name} begins between attention and MLP, which are "
            "parallel; choose another method, such as eap-ig"
        )
    with torch.enable_grad():
        x = start.stream.clone().requires_grad_()  # which also leaves inference mode
        places = Places.causal(x.shape[1], x.device)
        for layer in range(start.layer, last + 1):
            block, entering, qkv, mixed = model.blocks[layer], x.detach(), None, None
            entered = x
            if not (start.mid and layer == start.layer):
                qkv = block.attn.qkv(block.ln1.plain(x))
                q, k, v = qkv.unbind(2)
                z = block.attn.mix(q, k, v, places)
                mixed = z.detach()
                z, entered = (z[reads], x[reads]) if layer == last else (z, x)
                x = entered + block.attn.out(z)
            elif layer == last:
                x = x[reads]
            into_mlp, written = None, None
            if not model.cfg.attn_only:
                read = entered if model.cfg.parallel else x
                into_mlp = read.view_as(read)
                written = block.mlp.plain(block.ln2.plain(into_mlp))
                x = x + written
            written = None if written is None else written.detach()
            steps.append(Step(layer, entering, qkv, into_mlp, mixed, written))
        final = (x[reads] if start.layer > last else x).view(-1, x.shape[-1])
    return Pass(tuple(steps), final)


@dataclass(frozen=True, eq=False)
class Reading:
    """What is measured of these prompts, by a model that passes gradients back.

    `clean` [n ..] are the logits that a metric such as ``kl`` compares with; None: those of the
    pass itself.
    """

    model: HookedModel
    prompts: Prompts
    metric: Metric
    clean: Tensor | None = None
    graph: Graph = field(init=False)
    reads: Tensor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "graph", graph(self.model.cfg))
        object.__setattr__(self, "reads", self.metric.positions(self.prompts))  # [b p]

    def logits(self, final: Tensor) -> Tensor:
        """What the metric reads of the final stream [n d]."""
        tokens = self.metric.tokens
        return read_logits(self.model, final, None if tokens is None else tokens(self.prompts))

    def score(self, logits: Tensor) -> Tensor:
        """The metric of each prompt, [b]."""
        clean = logits.detach() if self.clean is None else self.clean
        return self.metric.score(logits, self.prompts, clean)

    def gradients(self, start: Start | Pass) -> Iterator[tuple[slice, Tensor]]:
        """Which readers, by their places, and the metric's gradient at what they read: [r b p d].

        The pass is of the stream that `start` says, or one that has been begun; readers before it
        have no gradient.

        Raises:
            CircuitsError: for a metric without a gradient.
        """
        if isinstance(self.model, Transformer) and self.model.steps_add_up:
            taken = start if isinstance(start, Pass) else begun(self.model, start, self.reads)
            yield from self._back(self.model, taken)
        else:
            assert isinstance(start, Start)  # only steps begin a pass
            yield from self._by_hooks(start)

    def _back(self, model: Transformer, taken: Pass) -> Iterator[tuple[slice, Tensor]]:
        """Back through a pass: a head's inputs were computed once, and are told apart here."""
        wanted = [tensor for step in taken.steps for tensor in step.wanted]
        with torch.enable_grad():
            gradients = iter(self._backward(taken.final, wanted))
        for step in taken.steps:
            inputs = self.graph.inputs(step.layer)
            if step.qkv is not None:
                yield inputs, _by_head(model.blocks[step.layer], step, next(gradients))
            if step.into_mlp is not None:
                yield slice(inputs.stop, inputs.stop + 1), self._placed(next(gradients))[None]
        yield self._logits, self._placed(next(gradients))[None]

    def _by_hooks(self, start: Start) -> Iterator[tuple[slice, Tensor]]:
        """By a plain pass, in which every reader has a stream of its own."""
        if start.layer or start.mid:
            raise CircuitsError(
                f"{self.model.cfg.model_name} runs by whole passes, which begin at the embedding; "
                "choose another method"
            )
        seen: dict[str, Tensor] = {}

        def visit(site: str, value: Tensor) -> Tensor:
            if site == "hook_embed":
                return start.stream.clone().requires_grad_()
            if site == "hook_pos_embed":  # which is in the stream that the pass begins with
                return torch.zeros_like(value)
            seen[site] = value
            return value

        sites = self._sites()
        starts = {"hook_embed", "hook_pos_embed"} & {*self.model.hook_dict}
        lacking = [site for site in sites if site not in self.model.hook_dict]
        if lacking:
            raise CircuitsError(
                f"{self.model.cfg.model_name} has no site {lacking[0]}, where a reader's gradient "
                "could be taken; choose the method exact"
            )
        read_stream = runner_of(self.model).read_stream
        with torch.enable_grad():
            final = read_stream(
                self.model,
                self.prompts,
                self.prompts.tokens,
                [*sites, *starts],
                visit,
                self.reads,
            ).view(-1, self.model.cfg.d_model)
            gradients = iter(self._backward(final, [seen[site] for site in sites]))
        n_heads = self.graph.n_heads
        for layer in range(self.graph.n_layers):
            inputs = self.graph.inputs(layer)
            for slot in range(3):
                places = slice(inputs.start + slot * n_heads, inputs.start + (slot + 1) * n_heads)
                by_head = next(gradients)
                if by_head.shape[2] != n_heads:
                    raise CircuitsError(
                        f"heads of {self.model.cfg.model_name} share what their keys and values "
                        "read, so their edges have no gradients of their own; choose exact"
                    )
                yield places, rearrange(by_head, "b p h d -> h b p d")
            if self.graph.has_mlps:
                yield slice(inputs.stop, inputs.stop + 1), next(gradients)[None]
        yield self._logits, self._placed(next(gradients))[None]

    def _sites(self) -> list[str]:
        sites = []
        for layer in range(self.graph.n_layers):
            sites += [f"blocks.{layer}.hook_{slot}_input" for slot in "qkv"]
            sites += [f"blocks.{layer}.hook_mlp_in"] * self.graph.has_mlps
        return sites

    @property
    def _logits(self) -> slice:
        n = len(self.graph.readers)
        return slice(n - 1, n)

    def _backward(self, final: Tensor, wanted: list[Tensor]) -> list[Tensor]:
        """The gradients of the sum over prompts at these tensors, and last at `final`."""
        values = self.score(self.logits(final))
        if not values.requires_grad:
            raise CircuitsError(
                f"{self.metric.name} moves in steps and has no gradient; choose a metric such as "
                "logit_diff, prob or loss, or the method exact"
            )
        return [*torch.autograd.grad(values.sum(), [*wanted, final])]

    def _placed(self, gradient: Tensor) -> Tensor:
        """What is known only where the metric reads, [n d], at its place in [b p d]."""
        if gradient.ndim == 3:
            return gradient
        placed = gradient.new_zeros(*self.reads.shape, gradient.shape[-1])
        placed[self.reads] = gradient
        return placed


def _by_head(block: Block, step: Step, gradient: Tensor) -> Tensor:
    """From the gradient at queries, keys and values, [b p 3 h e], to that at each one's stream.

    Returns [(3 h) b p d]. The norm divides what it has centered, c, by its scale s: u = c / s. A
    gradient g at what it writes is (g - u mean(g u)) / s at c. What it takes away when it centers,
    it takes away of the gradient, too: of the weights that g is made of, which are fewer, since u
    has none of it. And g u is the gradient at a query times what u makes of the query.
    """
    assert step.qkv is not None
    b, norm, attn = len(step.entering), block.ln1, block.attn
    centered = norm.center(wide(step.entering))
    scale = norm.scale_of(centered)
    unit = (centered / scale).flatten(0, 1)  # [(b p) d]
    weights = norm.center(
        rearrange([attn.W_Q, attn.W_K, attn.W_V], "s h d e -> (s h) e d") * norm.w
    )
    scaled = wide(gradient) / scale[..., None, None]
    made = wide(step.qkv.detach()) - wide(attn.qkv(norm.b))  # of u alone
    along = rearrange((scaled * made).sum(-1), "b p s h -> (s h) (b p) 1") / unit.shape[-1]
    at_norm = torch.bmm(rearrange(scaled, "b p s h e -> (s h) (b p) e"), weights)
    at_norm.addcmul_(along, unit, value=-1)
    return rearrange(at_norm, "r (b p) d -> r b p d", b=b)
