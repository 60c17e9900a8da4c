"""Swaps of a variable's value: at whole sites by a sweep, in subspaces of one by gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from circuits.components import Component
from circuits.config import ModelConfig
from circuits.effects import (
    ALL_ALIKE,
    BASE,
    Grid,
    Named,
    cells_of,
    components_of,
    each_group,
    label_of,
    labels,
    per_head,
    what_of,
)
from circuits.errors import CircuitsError
from circuits.model import HookedModel
from circuits.prompts import Prompts
from circuits.registry import MemoryOptions, TemplateOptions
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
    """Where a variable's value is swapped: at sites, or in a subspace of one.

    By `templates` base prompts are told apart.

    Raises:
        CircuitsError: when a subspace is searched for at more than one site.
    """

    where: Grid
    search: Search | None
    seed: int
    templates: TemplateOptions = ALL_ALIKE

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
    clean = _clean(model, pairs, how.memory)
    groups = _groups(prompts, pairs, swap.templates)
    clusters = groups if swap.templates.cluster else None  # they are of all pairs: `some` is all

    def table(some: NDArray[np.bool_]) -> pd.DataFrame:
        moved = pairs.moved[some]
        shares = {site: _share(right[site][some][moved]) for site in cells}
        rows = []
        for site in sites:
            peers = [shares[other] for other in (others if alone else sites) if other != site]
            rows.append(
                {
                    "task": prompts.task,
                    "variable": variable,
                    **labels(site),
                    **_accuracies(right[site][some], moved, how.draws, clusters),
                    "clean": _of_prompts(clean[some], pairs, some),
                    "control": float(np.mean(peers)) if peers else np.nan,
                    "places": len(peers),
                }
            )
        frame: pd.DataFrame = pd.DataFrame(rows).astype(WHOLE_NUMBERS)
        return frame

    return _told_apart(table, groups, swap.templates, len(pairs))


def _groups(
    prompts: Prompts, pairs: Pairs, templates: TemplateOptions
) -> NDArray[np.object_] | None:
    """The group of each pair's base prompt, [b]; None where groups are not told apart."""
    of_prompts = prompts.labels(label_of(templates))
    if (templates.by or templates.cluster) is None or of_prompts is None:
        return None
    return np.array([of_prompts[row] for row in pairs.rows.tolist()], dtype=object)


def _told_apart(
    table: Callable[[NDArray[np.bool_]], pd.DataFrame],
    groups: NDArray[np.object_] | None,
    templates: TemplateOptions,
    n: int,
) -> pd.DataFrame:
    """The table of all n pairs, or with ``by`` that of each group, one below the other."""
    if templates.by is None or groups is None:
        return table(np.ones(n, dtype=bool))
    every = {str(name): table(groups == name) for name in dict.fromkeys(groups.tolist())}
    return each_group(every, templates.by)


def _share(successes: NDArray[np.float64]) -> float:
    return float(successes.mean()) if len(successes) else np.nan


def _sites(cfg: ModelConfig, prompts: Prompts, swap: Swap) -> list[Cell]:
    wanted = swap.where
    if wanted.component is None and not per_head(what_of(wanted)):
        wanted = replace(wanted, positions=wanted.positions or "roles")
    return cells_of(cfg, prompts, wanted)


def _elsewhere(cfg: ModelConfig, prompts: Prompts, site: Cell, seed: int) -> list[Cell]:
    """The same kinds of parts in other layers, of other heads, at other roles: the control."""
    rng = np.random.default_rng(seed)
    others: dict[Cell, None] = {}
    for _ in range(20 * OTHER_PLACES):
        moved = cell(*(_moved(cfg, prompts, write.target, rng) for write in site))
        if len(moved) == len(site) and not {*moved} & {*site}:
            others[moved] = None
        if len(others) == OTHER_PLACES:
            break
    return list(others)


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
    right: NDArray[np.float64],
    moved: NDArray[np.bool_],
    draws: bool,
    clusters: NDArray[np.object_] | None,
) -> dict[str, object]:
    """The columns value to both of one site, from each pair's 1 or 0; and, if asked, `draws`.

    With `clusters` [b] the interval is over these groups.
    """
    unmoved = right[~moved]
    groups = None if clusters is None else tuple(clusters[moved])
    return {
        **share_interval(right[moved], groups, draws=draws),
        "kept": _share(unmoved),
        "n_kept": len(unmoved),
        "both": float(right.mean()),
    }


def _clean(model: HookedModel, pairs: Pairs, memory: str | None) -> NDArray[np.float64]:
    """Whether the model, as it is, answers as the graph does, 1 or 0 for each base prompt: [b]."""
    prompts = replace(pairs.prompts, answers=pairs.base)
    asked = replace(pairs, prompts=prompts)
    source = Source("zero", prompts.tokens, prompts.mask)  # which takes no run of its own
    sweep = Sweep(prompts, asked.metric(), (BASE,), source)
    values: NDArray[np.float64] = run(model, plan(model, sweep, memory=memory)).values[0]
    return values


def _of_prompts(values: NDArray[np.float64], pairs: Pairs, some: NDArray[np.bool_]) -> float:
    """The mean over base prompts, each of which may be in several of these pairs."""
    rows = pairs.rows.cpu().numpy()[some]
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
    parts, search = components_of(swap.where.component), swap.search
    assert search is not None
    if len(parts) > 1:
        raise CircuitsError(f"a subspace is of one site; {len(parts)} components were given")
    at = Subspace(parts[0], search.neurons)
    random = random_basis(model, at, search.rank, swap.seed + 1)
    space = read_space(model, at, components_of(search.reader))
    if len(prompts) < 2:
        raise CircuitsError("a subspace is learned on some prompts and tested on others; give more")
    pairs = draw(graph, prompts, variable, swap.seed)
    half = int((pairs.rows < len(prompts) // 2).sum())
    train, test = pairs.subset(slice(0, half)), pairs.subset(slice(half, None))
    for what, some in {"learn from": train, "test on": test}.items():
        if not some.moved.any():
            raise CircuitsError(f"no pair to {what} has another answer; give more prompts (n)")
    learned = learn(model, train, at, search.rank, steps=search.steps, seed=swap.seed, how=how)
    halves = split(learned, space)
    bases = {
        WHOLE: None,
        LEARNED: learned,
        READ: halves.read,
        DORMANT: halves.dormant,
        RANDOM: random,
    }
    answered = _subspaces(model, test, at, bases, how.memory)
    clean = _clean(model, test, how.memory)
    groups = _groups(prompts, test, swap.templates)
    clusters = groups if swap.templates.cluster else None
    about = {"task": prompts.task, "variable": variable, **labels(cell(at.component))}

    def table(some: NDArray[np.bool_]) -> pd.DataFrame:
        frame = pd.DataFrame(
            {**about, **row, **_accuracies(right[some], test.moved[some], how.draws, clusters)}
            for row, right in answered
        )
        frame["share_read"] = halves.share
        frame["clean"] = _of_prompts(clean[some], test, some)
        frame["illusion"] = _is_illusion(frame)
        frame["trained"] = len(train)
        typed: pd.DataFrame = frame.astype(WHOLE_NUMBERS)
        return typed

    return _told_apart(table, groups, swap.templates, len(test))


def _subspaces(
    model: HookedModel,
    pairs: Pairs,
    at: Subspace,
    bases: Mapping[str, Tensor | None],
    memory: str | None,
) -> list[tuple[dict[str, object], NDArray[np.float64]]]:
    """Each of these subspaces, None for the site itself, and which pairs are right with it: [b]."""
    rows: list[tuple[dict[str, object], NDArray[np.float64]]] = []
    for name, basis in bases.items():
        right = swapped(model, pairs, at, basis, memory=memory).double().cpu().numpy()
        width = at.width(model) if basis is None else basis.shape[1]
        rows.append(({"subspace": name, "dimensions": width}, right))
    return rows


def _is_illusion(frame: pd.DataFrame) -> bool:
    """Whether the learned subspace works, and what is read of it less, by their intervals."""
    by = frame.set_index("subspace")
    works = by.loc[LEARNED, "ci_low"] > by.loc[RANDOM, "ci_high"]
    return bool(works and by.loc[READ, "ci_high"] < by.loc[LEARNED, "ci_low"])
