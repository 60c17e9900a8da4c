"""What a sweep is made of: cells (what is written in one run), and where the values come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from circuits.components import Component, Edge, check, parse, parse_edge
from circuits.config import ModelConfig
from circuits.errors import CircuitsError, nearest
from circuits.interventions import METHODS, Source

if TYPE_CHECKING:
    from circuits.metrics import Metric
    from circuits.prompts import Prompts

_RECEIVERS = ("head", "attn", "mlp", "logits")
Freeze = Literal["patterns"]
FREEZE: tuple[Freeze, ...] = ("patterns",)
Hold = Literal["all", "heads"]
HOLD: tuple[Hold, ...] = ("all", "heads")


@dataclass(frozen=True)
class Write:
    """Which part is replaced in a run, and by what.

    Without `senders` the target writes (a slot: reads) the source's value. With senders the target
    reads what it would if these wrote the source's values and what the sweep holds (`Sweep.hold`)
    wrote what it does in the base run: this is path patching. What the target then writes goes on
    through the model. With `scale_held`, for the logits, the final norm divides by what it does in
    the base run.
    """

    target: Component
    senders: tuple[Component, ...] = ()
    scale_held: bool = False

    def __str__(self) -> str:
        if not self.senders:
            return str(self.target)
        edges = "+".join(str(Edge(sender, self.target)) for sender in self.senders)
        return f"{edges} (scale held)" if self.scale_held else edges


Cell = tuple[Write, ...]  # what is written together in one run; () is the base run itself


def cell(*parts: str | Component | Edge) -> Cell:
    """What is written together in one run; edges into the same receiver become one write.

    >>> [str(write) for write in cell("m7", "a5.h3@END")]
    ['m7', 'a5.h3@END']
    >>> [str(write) for write in cell("a0.h1->a5.h3<q>", "m2->a5.h3<q>")]
    ['a0.h1->a5.h3<q>+m2->a5.h3<q>']

    Raises:
        CircuitsError: for a name outside the grammar.
    """
    senders: dict[Component, list[Component]] = {}
    writes: dict[Component, None] = {}
    for part in parts:
        if isinstance(part, str):
            part = parse_edge(part) if "->" in part else parse(part)
        if isinstance(part, Edge):
            senders.setdefault(part.receiver, []).append(part.sender)
        else:
            writes[part] = None
    edges = (Write(to, tuple(dict.fromkeys(by))) for to, by in senders.items())
    return (*map(Write, writes), *edges)


def scale_held(cell: Cell) -> bool:
    """Whether the logits of this cell are read with the final norm's scale of the base run."""
    return any(write.scale_held for write in cell)


def name(cell: Sequence[object]) -> str:
    """The name of a cell in tables: plus signs join what is written together.

    >>> name(cell_of_two := cell("m7", "a5.h3"))
    'm7+a5.h3'
    """
    return "+".join(map(str, cell))


@dataclass(frozen=True, eq=False)
class Sweep:
    """Many interventions on the same prompts: what is each prompt's metric in every cell?

    Attributes:
        prompts: their `tokens` are the base run, in which each cell writes.
        metric: what is measured.
        cells: what is written, one run each; () is the base run.
        source: where the written values come from.
        clean: [b p], tokens of the run that a metric such as ``kl`` compares with; the base run's
            if None.
        freeze: with "patterns", every head attends in every cell as in the base run, and only what
            it moves may change (Olsson et al. 2022, pattern-preserving ablation).
        hold: of paths, what stands between sender and receiver as in the base run. With "all", a
            receiver reads its base input plus, for each sender, the source's value minus the base
            value: the direct edge. With "heads", attention heads write what they did and MLPs
            compute anew, so that what goes by way of MLPs arrives, too (Wang et al. 2022,
            2211.00593, appendix B).

    Raises:
        CircuitsError: when shapes disagree, or padding does not stand on the right.
    """

    prompts: Prompts
    metric: Metric
    cells: tuple[Cell, ...]
    source: Source
    clean: Tensor | None = field(default=None)
    freeze: Freeze | None = None
    hold: Hold = "all"

    def __post_init__(self) -> None:
        require_fitting(self.prompts, self.metric, self.source, self.clean)
        self._check_patterns()

    @property
    def manner(self) -> dict[str, str | None]:
        """What else a run of it is known by."""
        return {"freeze": self.freeze, "hold": self.hold}

    def _check_patterns(self) -> None:
        if self.freeze is not None and self.freeze not in FREEZE:
            raise CircuitsError(
                f"freeze={self.freeze!r}: only {' and '.join(FREEZE)} can be held"
                f"{nearest(self.freeze, FREEZE)}"
            )
        if self.hold not in HOLD:
            raise CircuitsError(
                f"hold={self.hold!r}: between sender and receiver, hold {' or '.join(HOLD)}"
                f"{nearest(str(self.hold), HOLD)}"
            )
        for target in (write.target for cell in self.cells for write in cell):
            if target.slot == "pattern" and not self.source.rule.writes_patterns:
                able = [repr(name) for name, rule in METHODS.items() if rule.writes_patterns]
                raise CircuitsError(
                    f"{target} has no {self.source.method!r}: a pattern can come from another run, "
                    f"or from several by position (the methods {' and '.join(able)}); or ablate "
                    f"what the head writes, {replace(target, slot=None)}"
                )
            if self.freeze == "patterns" and target.slot in ("q", "k", "pattern"):
                raise CircuitsError(
                    f"{target} acts through the head's pattern, and all patterns are held "
                    "(freeze); leave freeze out, or take the head's value <v>"
                )


def require_fitting(prompts: Prompts, metric: Metric, source: Source, clean: Tensor | None) -> None:
    """Refuse a source, clean tokens or a metric that do not go with these prompts.

    Raises:
        CircuitsError: when shapes disagree, padding does not stand on the right, or the metric or
            the source needs what these prompts lack.
    """
    mask, shape = prompts.mask, tuple(prompts.tokens.shape)
    if bool((mask[:, 1:] & ~mask[:, :-1]).any()) or not bool(mask[:, 0].all()):
        raise CircuitsError("a sweep takes prompts that are padded on the right")
    same_shape = {"clean": clean}
    method, needs = source.method, source.rule.needs
    if needs == "rows":
        same_shape[f"the source of {method!r}"] = source.tokens
    for what, tokens in same_shape.items():
        if tokens is not None and tuple(tokens.shape) != shape:
            raise CircuitsError(
                f"{what} has shape {tuple(tokens.shape)}, the prompts {shape}; give one row "
                "for each prompt, token for token"
            )
    if needs == "rows" and not torch.equal(source.mask.bool(), mask):
        raise CircuitsError(
            f"the source of {method!r} has prompts of other lengths than those it is written "
            "into; take each prompt's values from one of the same length"
        )
    metric.check(prompts, clean=True)
    if needs == "alike":
        source.require_alike(source.kinds_of(prompts))


def check_cell(cell: Cell, cfg: ModelConfig) -> None:
    """Refuse parts that cannot be written in this model.

    Raises:
        CircuitsError: for parts that do not exist, or that cannot be written or receive.
    """
    for write in cell:
        check(write.target, cfg)
        if write.senders and write.target.kind not in _RECEIVERS:
            raise CircuitsError(
                f"{write.target} cannot receive an edge; choose a head (a5.h3, or a5.h3<q> for one "
                "of its inputs), an attention layer (a5), an MLP (m5) or logits"
            )
        if write.scale_held and not (write.senders and write.target.kind == "logits"):
            raise CircuitsError(
                f"{write.target} does not read by the final norm, whose scale is held; hold it for "
                "edges into the logits"
            )
        if not write.senders and write.target.kind == "logits":
            raise CircuitsError(
                "the logits are what is measured, and cannot be ablated; name a head (a5.h3), an "
                "attention layer (a5), an MLP (m5), embed, pos or resid_pre.5"
            )
        for sender in write.senders:
            check(sender, cfg)
            Edge(sender, write.target)  # says so when the receiver comes first
            is_beside = sender.layer == write.target.layer and sender.kind in ("head", "attn")
            if cfg.parallel and write.target.kind == "mlp" and is_beside:
                raise CircuitsError(
                    f"{sender}->{write.target} is no edge: attention and MLP of a layer of "
                    f"{cfg.model_name} are parallel, and neither reads the other"
                )
