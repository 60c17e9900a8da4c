"""Swaps of a variable's value: at whole sites by a sweep, in subspaces of one by gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from circuits.alignment import (
    CausalGraph,
    Pairs,
    Subspace,
    draw,
    learn,
    random_basis,
    read_space,
    share_interval,
    split,
    swapped,
)
from circuits.analyses._effects import BASE, Named, parts_of
from circuits.analyses._grid import Grid, grid, labels, per_head, what_of
from circuits.components import Component
from circuits.config import ModelConfig
from circuits.errors import CircuitsError
from circuits.model import HookedModel
from circuits.prompts import Prompts
from circuits.registry import MemoryOptions
from circuits.sweep import Cell, Source, Sweep, cell, plan, run

STEPS = 100  # of the search for a subspace
OTHER_PLACES = 12  # drawn for the control of a site that is asked for by name
WHOLE, LEARNED, READ, DORMANT, RANDOM = "whole", "learned", "read", "dormant", "random"
WHOLE_NUMBERS = {"layer": "Int64", "head": "Int64"}
MEANINGS = {
    "task": "which prompts",
    "variable": "of the causal graph, whose value was swapped",
    "component": "the site; plus signs join what was swapped together",
    "layer": "of the component",
    "head": "of the component, where it is one",
    "position": "where it was swapped: a role of the prompts, or an index; empty for everywhere",
    "subspace": "what of the site was swapped: all of it (whole), the subspace that was learned, "
    "its part that is read by later parts, its part that nobody reads (dormant), a random subspace",
    "dimensions": "of that subspace",
    "share_read": "of the learned subspace, which share lies in what is read",
    "value": "interchange-intervention accuracy: share of n pairs in which the model gives the "
    "answer that the graph predicts, where that is not the prompt's own answer",
    "stderr": "standard error of that share",
    "ci_low": "lower end of its 95 % interval (Wilson's)",
    "ci_high": "upper end of its 95 % interval (Wilson's)",
    "n": "number of pairs whose predicted answer is not the prompt's own",
    "kept": "share of n_kept pairs in which the model keeps its answer, as the graph predicts",
    "n_kept": "number of pairs whose predicted answer is the prompt's own",
    "both": "share of all pairs in which the model gives the predicted answer",
    "clean": "share of prompts in which the model, as it is, gives the graph's answer",
    "control": "mean value at other places of the same kind",
    "places": "how many other places these were",
    "illusion": "whether the learned subspace works, and clearly less so without what nobody reads",
    "trained": "pairs that the subspace was learned on",
}


@dataclass(frozen=True)
class Search:
    """A search for a subspace of `rank` dimensions, in so many steps of gradient descent.

    `neurons`: among an MLP's neurons, not in what it writes; `reader`: by whom it may be read.
    """

    rank: int
    neurons: bool
    reader: Named
    steps: int


def search_of(rank: int | None, neurons: bool, reader: Named, steps: int | None) -> Search | None:
    """The search that was asked for; without a rank none, so that whole sites are swapped.

    Raises:
        CircuitsError: for what would be ignored without a word, and less than 1 step.
    """
    if rank is not None:
        if steps is not None and steps < 1:
            raise CircuitsError(f"steps={steps}: take at least 1")
        return Search(rank, neurons, reader, steps or STEPS)
    given = {"neurons": neurons, "reader": reader, "steps": steps}
    unused = [name for name, value in given.items() if value]
    if unused:
        raise CircuitsError(f"{unused[0]} is about a subspace; give its rank, too")
    return None


@dataclass(frozen=True)
class Swap:
    """At which sites is a variable's value swapped: at whole ones, or in a subspace of one?

    Raises:
        CircuitsError: when a subspace is searched for at more than one site.
    """

    where: Grid
    search: Search | None
    seed: int

    def __post_init__(self) -> None:
        where = self.where
        several = where.component is None or where.what or where.positions
        if self.search is not None and several:
            raise CircuitsError(
                "a subspace is searched for at one site; name it as component (resid_pre.6@END, "
                "a5.h3@END), without what and positions"
            )


def swept(
    model: HookedModel,
    graph: CausalGraph,
    prompts: Prompts,
    variable: str,
    swap: Swap,
    how: MemoryOptions,
) -> pd.DataFrame:
    """The variable's value swapped at whole sites: a row for each."""
    sites = _sites(model.cfg, prompts, swap)
    alone = swap.where.component is not None
    others = _elsewhere(model.cfg, prompts, sites[0], swap.seed) if alone else []
    pairs = draw(graph, prompts, variable, swap.seed)
    cells = tuple(dict.fromkeys([BASE, *sites, *others]))
    source = Source("resample", pairs.sources, pairs.prompts.mask)
    sweep = Sweep(pairs.prompts, pairs.metric(), cells, source)
    scores = run(model, plan(model, sweep, memory=how.memory), progress=how.progress)
    right = dict(zip(cells, scores.values, strict=True))
    _require_change(dict(zip(cells, scores.changed.tolist(), strict=True)), sites, variable, swap)
    moved = pairs.moved
    shares = {site: float(right[site][moved].mean()) for site in cells}
    clean = _clean(model, pairs)
    rows = []
    for site in sites:
        peers = [shares[other] for other in (others if alone else sites) if other != site]
        rows.append(
            {
                "task": prompts.task,
                "variable": variable,
                **labels(site),
                **_accuracies(right[site], moved, how.draws),
                "clean": clean,
                "control": float(np.mean(peers)) if peers else np.nan,
                "places": len(peers),
            }
        )
    frame: pd.DataFrame = pd.DataFrame(rows).astype(WHOLE_NUMBERS)
    return frame


def _sites(cfg: ModelConfig, prompts: Prompts, swap: Swap) -> list[Cell]:
    wanted = swap.where
    if wanted.component is None and not per_head(what_of(wanted)):
        wanted = replace(wanted, positions=wanted.positions or "roles")
    return grid(cfg, prompts, wanted)


def _elsewhere(cfg: ModelConfig, prompts: Prompts, site: Cell, seed: int) -> list[Cell]:
    """The same kinds of parts in other layers, of other heads, at other roles: the control."""
    rng = np.random.default_rng(seed)
    found: dict[Cell, None] = {}
    for _ in range(20 * OTHER_PLACES):
        moved = cell(*(_moved(cfg, prompts, write.target, rng) for write in site))
        if len(moved) == len(site) and not {*moved} & {*site}:
            found[moved] = None
        if len(found) == OTHER_PLACES:
            break
    return list(found)


def _moved(
    cfg: ModelConfig, prompts: Prompts, part: Component, rng: np.random.Generator
) -> Component:
    numbers = {"layer": cfg.n_layers, "head": cfg.n_heads, "neuron": cfg.d_mlp}
    other: dict[str, Any] = {
        name: int(rng.integers(count))
        for name, count in numbers.items()
        if getattr(part, name) is not None
    }
    if part.position is not None:
        roles = sorted(prompts.roles)
        other["position"] = roles[rng.integers(len(roles))]
    return replace(part, **other)


def _require_change(
    changed: Mapping[Cell, bool], sites: Sequence[Cell], variable: str, swap: Swap
) -> None:
    if not any(changed[site] for site in sites):
        where = swap.where.component or "every site"
        raise CircuitsError(
            f"swapping {variable!r} at {where} changed nothing: the source prompts have "
            "the same values there, or nothing that is read can see it; choose another site"
        )


def _accuracies(
    right: NDArray[np.float64], moved: NDArray[np.bool_], draws: bool
) -> dict[str, Any]:
    """The columns value to both of one site, from each pair's 1 or 0; and, if asked, `draws`."""
    kept = right[~moved]
    return {
        **share_interval(right[moved], draws=draws),
        "kept": float(kept.mean()) if len(kept) else np.nan,
        "n_kept": len(kept),
        "both": float(right.mean()),
    }


def _clean(model: HookedModel, pairs: Pairs) -> float:
    """How often does the model as it is answer as the graph does?"""
    prompts = replace(pairs.prompts, answers=pairs.base)
    asked = replace(pairs, prompts=prompts)
    source = Source("resample", pairs.sources, prompts.mask)
    sweep = Sweep(prompts, asked.metric(), (BASE,), source)
    values = run(model, plan(model, sweep)).values[0]
    rows = pairs.rows.cpu().numpy()
    return float(pd.Series(values).groupby(rows).first().mean())


def searched(
    model: HookedModel,
    graph: CausalGraph,
    prompts: Prompts,
    variable: str,
    swap: Swap,
    how: MemoryOptions,
) -> pd.DataFrame:
    """The variable's value swapped in subspaces of one site: a row for each subspace."""
    parts, search = parts_of(swap.where.component), swap.search
    assert search is not None
    if len(parts) > 1:
        raise CircuitsError(f"a subspace is of one site; {len(parts)} components were given")
    at = Subspace(parts[0], search.neurons)
    random = random_basis(model, at, search.rank, swap.seed + 1)
    space = read_space(model, at, parts_of(search.reader))
    if len(prompts) < 2:
        raise CircuitsError("a subspace is learned on some prompts and tested on others; give more")
    pairs = draw(graph, prompts, variable, swap.seed)
    half = int((pairs.rows < len(prompts) // 2).sum())
    train, test = pairs.part(slice(0, half)), pairs.part(slice(half, None))
    for what, some in {"learn from": train, "test on": test}.items():
        if not some.moved.any():
            raise CircuitsError(f"no pair to {what} has another answer; give more prompts (n)")
    learned = learn(
        model, train, at, search.rank, steps=search.steps, seed=swap.seed, progress=how.progress
    )
    halves = split(learned, space)
    bases = {
        WHOLE: None,
        LEARNED: learned,
        READ: halves.read,
        DORMANT: halves.dormant,
        RANDOM: random,
    }
    frame = pd.DataFrame(_subspaces(model, test, at, bases, how.draws))
    about = {"task": prompts.task, "variable": variable, **labels(cell(at.component))}
    for place, (name, value) in enumerate(about.items()):
        frame.insert(place, name, value)
    frame["share_read"] = halves.share
    frame["clean"] = _clean(model, test)
    frame["illusion"] = _is_illusion(frame)
    frame["trained"] = len(train)
    whole: pd.DataFrame = frame.astype(WHOLE_NUMBERS)
    return whole


def _subspaces(
    model: HookedModel,
    pairs: Pairs,
    at: Subspace,
    bases: Mapping[str, Tensor | None],
    draws: bool,
) -> list[dict[str, Any]]:
    rows = []
    for name, basis in bases.items():
        right = swapped(model, pairs, at, basis).double().cpu().numpy()
        width = at.width(model) if basis is None else basis.shape[1]
        shares = _accuracies(right, pairs.moved, draws)
        rows.append({"subspace": name, "dimensions": width, **shares})
    return rows


def _is_illusion(frame: pd.DataFrame) -> bool:
    """Does the learned subspace work, and what is read of it clearly less? By their intervals."""
    by = frame.set_index("subspace")
    works = by.loc[LEARNED, "ci_low"] > by.loc[RANDOM, "ci_high"]
    return bool(works and by.loc[READ, "ci_high"] < by.loc[LEARNED, "ci_low"])
