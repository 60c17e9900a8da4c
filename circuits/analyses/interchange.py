"""Does the model compute what a causal graph says it computes? Interchange interventions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from circuits.alignment import (
    SWAP_MEANINGS,
    CausalGraph,
    Swap,
    graph_of,
    search_of,
    searched,
    swept,
)
from circuits.components import Component
from circuits.effects import (
    Grid,
    Positions,
    What,
    group_meanings,
    panels,
    require_templates,
    share_of_progress,
    source_of,
)
from circuits.errors import CircuitsError
from circuits.model import HookedModel
from circuits.prompts import Prompts, make, suitable_tasks
from circuits.registry import MemoryOptions, TemplateOptions, analysis
from circuits.registry.asked_prompts import Batch
from circuits.result import Result

# Where groups of base prompts are independent, and not pairs.
OF_CLUSTERS = {
    "stderr": "standard error of that share, over groups of prompts",
    "ci_low": "lower end of its 95 % interval over groups (cluster-robust)",
    "ci_high": "upper end of its 95 % interval over groups (cluster-robust)",
}


@analysis
def interchange(
    model: HookedModel,
    *,
    variable: str | None = None,
    component: str | Component | Sequence[str | Component] | None = None,
    what: What | None = None,
    positions: Positions | None = None,
    rank: int | None = None,
    neurons: bool = False,
    reader: str | Component | Sequence[str | Component] | None = None,
    steps: int | None = None,
    task: str | Prompts | None = None,
    graph: CausalGraph | None = None,
    n: int | None = None,
    seed: int = 0,
    templates: TemplateOptions,
    how: MemoryOptions,
) -> Result:
    """Does the model compute what this causal graph says?

    A causal graph computes an answer from a prompt by way of named variables: for ioi, s (the
    repeated name), position (is it the first or the second of the two) and io (the answer); for
    repeated, current, previous and copied tokens; for sorting, a and b (how many there are) and the
    letter. Each prompt gets, at one site, the value that the site has in a source prompt; the graph
    says what the answer should be then. The interchange-intervention accuracy is the share of pairs
    in which the model gives it, of those in which it is not the prompt's own answer.

    With a rank, only a subspace of the site is swapped: the one that, by gradient descent on half
    of the prompts, makes the model answer as the graph says; accuracies are on the other half. A
    subspace whose effect is gone without the part of it that nobody reads is an illusion.

    $ circuits interchange --task ioi --variable s
    $ circuits interchange --task ioi --what head --positions roles --figure heads.png
    $ circuits interchange --task ioi --component resid_pre.6@END --variable position --rank 1
    $ circuits interchange --task sorting --model sort-abc --json

    Args:
        variable: Which variable to swap. Without it, all of the graph's, one after the other.
        component: At which site: resid_pre.6@END, a5.h3@S2, m7. Repeat it for a set of sites.
        what: Sweep over these parts instead, one at a time. Without it, resid_pre.
        positions: Sweep by roles or indices, or all at once. Without it, roles; of heads, all.
        rank: Dimensions of the subspace to find; 1 is a single direction.
        neurons: Of an MLP, search among its neurons' activations, not in what it writes.
        reader: Who may read the subspace: a9.h9<q>, m7, logits. Without it, everything later.
        steps: Steps of gradient descent. Without it, 100.
        task: Which prompts: ioi, repeated or sorting. Without it, all that suit the model.
        graph: The causal graph, for prompts of your own (Python only). Without it, the task's.

    Raises:
        CircuitsError: for variables, parts and positions that do not exist or do not fit together,
            prompts that the graph does not explain, and swaps that change nothing.

    >>> from circuits.checkpoints import load
    >>> found = interchange(load("compiled"), variable="previous", what="head", n=10)
    >>> found.top(1).frame[["component", "value", "kept", "control"]].round(2).values.tolist()
    [['a0.h0', 1.0, 1.0, 0.0]]
    """
    where, search = Grid(what, component, positions), search_of(rank, neurons, reader, steps)
    swap = Swap(where, search, seed, templates)
    return _swapped(model, swap, _prompts(model, task, graph, n, seed), graph, variable, how)


def _swapped(
    model: HookedModel,
    swap: Swap,
    every: Sequence[Prompts],
    graph: CausalGraph | None,
    variable: str | None,
    how: MemoryOptions,
) -> Result:
    """What came of the swaps, of one variable or of all, on all these prompts."""
    batches = [Batch(prompts, [prompts]) for prompts in every]
    require_templates(batches, swap.templates)
    frames = []
    for i, prompts in enumerate(every):
        explained = graph or graph_of(prompts.task)
        names = [variable] if variable else list(explained.variables)
        for j, name in enumerate(names):
            step = share_of_progress(how.progress, i * len(names) + j, 1, len(every) * len(names))
            look = swept if swap.search is None else searched
            run = replace(how, progress=step)
            frames.append(look(model, explained, prompts, explained.require(name), swap, run))
    frame = pd.concat(frames, ignore_index=True)
    axes = panels(_axes(frame, swap), swap.templates, frame)
    about = source_of(model, "interchange", batches, templates=swap.templates)
    return Result(
        frame,
        unit="share of pairs",
        title=_title(frame, swap, about.model),
        provenance=about,
        axes=axes,
        view="heatmap" if swap.where.component is None and len(axes) > 1 else "bars",
        meanings=SWAP_MEANINGS
        | group_meanings(swap.templates, frame)
        | (OF_CLUSTERS if swap.templates.cluster else {}),
    )


def _prompts(
    model: HookedModel,
    task: str | Prompts | None,
    graph: CausalGraph | None,
    n: int | None,
    seed: int,
) -> list[Prompts]:
    """The prompts that were asked for, of one task or of all that suit."""
    if isinstance(task, Prompts):
        if n is not None:
            raise CircuitsError(f"n={n}: only a task's prompts are drawn; leave n out")
        return [task]
    if task is not None:
        names = [task]
    elif graph is not None:
        names = [graph.task]
    else:
        names = [name for name in suitable_tasks(model) if _has_graph(name)]
    if not names:
        raise CircuitsError(
            f"no task with a causal graph suits {model.cfg.model_name}; from Python, give prompts "
            "and a graph of your own (task=, graph=)"
        )
    for name in names:
        if graph is None:
            graph_of(name.replace("_", "-"))  # says so before anything is drawn
    return [make(name, model, n, seed) for name in names]


def _has_graph(task: str) -> bool:
    try:
        graph_of(task)
    except CircuitsError:
        return False
    return True


def _axes(frame: pd.DataFrame, swap: Swap) -> tuple[str, ...]:
    several = tuple(name for name in ("task", "variable") if frame[name].nunique() > 1)
    if swap.search is not None:
        return (*several, "subspace")
    if swap.where.component is not None:
        return several or ("component",)
    row = ("layer", "head") if frame["head"].notna().any() else ("layer",)
    if frame["position"].isna().all():
        return (*several, *row) if len(row) > 1 else (*several, "component")
    return (*several, "position", *row) if len(row) > 1 else (*several, "layer", "position")


def _title(frame: pd.DataFrame, swap: Swap, model: str) -> str:
    names = list(frame["variable"].unique())
    single, listed = len(names) == 1, ", ".join(names)
    if swap.where.component is None:
        return f"Where {'does' if single else 'do'} {listed} live? (interchange, {model})"
    site = frame["component"].iloc[0]
    method = "interchange" if swap.search is None else f"rank {swap.search.rank}"
    return f"{'Does' if single else 'Do'} {listed} live at {site}? ({method}, {model})"
