"""Which parts of the model, at which positions, does a sweep go through?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import pandas as pd

from circuits import components
from circuits.components import Component
from circuits.config import ModelConfig
from circuits.effects.measuring import Label, Named, components_of
from circuits.errors import CircuitsError, nearest
from circuits.prompts import Prompts
from circuits.sweep import Cell, cell, check_cell, name

What = Literal[
    "resid_pre", "resid_mid", "resid_post", "attn", "mlp", "head", "q", "k", "v", "pattern"
]
Positions = Literal["roles", "indices", "all"]
WORDS = {
    "resid_pre": "the residual stream before each layer",
    "resid_mid": "the residual stream between attention and MLP",
    "resid_post": "the residual stream after each layer",
    "attn": "the output of each attention layer",
    "mlp": "the output of each MLP",
    "head": "the output of each head",
    "q": "what each head's query reads",
    "k": "what each head's key reads",
    "v": "what each head's value reads",
    "pattern": "where each head looks",
}


@dataclass(frozen=True)
class Grid:
    """What a sweep goes through: parts of a kind at positions, or a component by itself."""

    what: What | None = None
    component: Named = None
    positions: Positions | None = None


def cells_of(cfg: ModelConfig, prompts: Prompts, wanted: Grid) -> list[Cell]:
    """The cells that were asked for, on prompts like these.

    Raises:
        CircuitsError: when they contradict each other, or name what is not there.
    """
    what, positions = what_of(wanted), wanted.positions
    if wanted.component is not None:
        if wanted.what is not None or positions is not None:
            raise CircuitsError(
                "a component is one patch by itself, with its own position (a5.h3@END); leave out "
                "what and positions"
            )
        parts = cell(*components_of(wanted.component))
        check_cell(parts, cfg)
        return [parts]
    where = places(prompts, "all" if positions is None and per_head(what) else positions)
    return [cell(part.at(at)) for part in _parts(cfg, what) for at in where]


def what_of(wanted: Grid) -> str:
    """The kind of part that is patched: the one asked for, or the residual stream.

    Raises:
        CircuitsError: for an unknown one.
    """
    what = wanted.what or "resid_pre"
    if what not in WORDS:
        raise CircuitsError(
            f"there is no {what!r} to patch; choose {', '.join(WORDS)}{nearest(what, WORDS)}, or "
            "name components"
        )
    return what


def per_head(what: str) -> bool:
    """Whether each head has one of it."""
    return what in ("head", "q", "k", "v", "pattern")


def _parts(cfg: ModelConfig, what: str) -> list[Component]:
    heads = components.all_heads(cfg)
    if what == "head":
        return heads
    if per_head(what):
        return [components.parse(f"{head}<{what}>") for head in heads]
    return [components.parse(_NAMES[what].format(layer)) for layer in range(cfg.n_layers)]


_NAMES = {"attn": "a{}", "mlp": "m{}"} | {
    stream: stream + ".{}" for stream in ("resid_pre", "resid_mid", "resid_post")
}


def places(prompts: Prompts, positions: str | None) -> list[str | int | None]:
    """The positions to go through: roles in the text's order, indices, or None for all at once.

    Without a wish these are indices if all prompts have the same length, else roles.

    Raises:
        CircuitsError: for another wish, or indices that only some prompts have.
    """
    if positions is not None and positions not in get_args(Positions):
        raise CircuitsError(
            f"positions={positions!r}: choose {', '.join(get_args(Positions))}"
            f"{nearest(positions, get_args(Positions))}"
        )
    lengths = prompts.mask.sum(1)
    same = bool((lengths == lengths[0]).all())
    if positions == "indices" and not same:
        raise CircuitsError(
            f"the prompts have {int(lengths.min())} to {int(lengths.max())} tokens, so the same "
            "index is something else in each; ask by roles, or give prompts of one length"
        )
    if positions == "all":
        return [None]
    if positions == "indices" or (positions is None and same):
        return list(range(int(lengths[0])))
    means = {role: float(at.double().mean()) for role, at in prompts.roles.items()}
    return [role for role, _ in sorted(means.items(), key=lambda pair: pair[1])]


def labels(cell: Cell) -> Label:
    """What a table says of a cell: its name, and of a single part its layer, head and position."""
    part = cell[0].target if len(cell) == 1 else None
    at = None if part is None or part.position is None else str(part.position)
    return {
        "component": name(cell),
        "layer": None if part is None else part.layer,
        "head": None if part is None else part.head,
        "position": at,
    }


def axes(frame: pd.DataFrame, wanted: Grid) -> tuple[str, ...]:
    """The columns that label the figure of these cells."""
    tasks = ("task",) if frame["task"].nunique() > 1 else ()
    if wanted.component is not None:
        return ("task",)
    if per_head(what_of(wanted)):
        by = ("position",) if frame["position"].notna().any() else ()
        return (*tasks, *by, "layer", "head")
    if frame["position"].notna().any():
        return (*tasks, "layer", "position")
    return (*tasks, "component")
