"""Does the model compute what a causal graph says it computes? Interchange interventions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from circuits.alignment import CausalGraph, graph_of
from circuits.analyses._effects import source_of
from circuits.analyses._grid import Positions, What
from circuits.analyses._interchange import MEANINGS, searched, swept
from circuits.analyses._prompts import Batch
from circuits.components import Component
from circuits.errors import CircuitsError
from circuits.model import HookedGPT2
from circuits.prompts import Prompts, make, suitable_tasks
from circuits.registry import Progress, analysis
from circuits.result import Result


@analysis
def interchange(
    model: HookedGPT2,
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
    memory: str | None = None,
    progress: Progress | None = None,
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
        positions: Sweep over roles or indices, or swap at all positions at once. Without it, by
            roles, and for heads all at once.
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
    return _interchange(model, dict(locals()))


def _interchange(model: HookedGPT2, given: Mapping[str, Any]) -> Result:
    _require_fitting(given)
    every = _prompts(model, given)
    frames = []
    for i, prompts in enumerate(every):
        graph = given["graph"] or graph_of(prompts.task)
        names = [given["variable"]] if given["variable"] else list(graph.variables)
        for j, name in enumerate(names):
            done, total = i * len(names) + j, len(every) * len(names)
            one = {**given, "variable": graph.require(name), "progress": _part(given, done, total)}
            look = swept if given["rank"] is None else searched
            frames.append(look(model, graph, prompts, one))
    frame = pd.concat(frames, ignore_index=True)
    axes = _axes(frame, given)
    about = source_of(model, "interchange", [Batch(one, [one]) for one in every])
    return Result(
        frame,
        unit="share of pairs",
        title=_title(frame, given, about.model),
        provenance=about,
        axes=axes,
        view="heatmap" if given["component"] is None and len(axes) > 1 else "bars",
        meanings=MEANINGS,
    )


def _require_fitting(given: Mapping[str, Any]) -> None:
    """What would be ignored without a word is an error."""
    if given["rank"] is None:
        unused = [name for name in ("neurons", "reader", "steps") if given[name]]
        if unused:
            raise CircuitsError(f"{unused[0]} is about a subspace; give its rank, too")
        return
    if given["component"] is None or given["what"] or given["positions"]:
        raise CircuitsError(
            "a subspace is searched for at one site; name it as component (resid_pre.6@END, "
            "a5.h3@END), without what and positions"
        )
    if given["steps"] is not None and given["steps"] < 1:
        raise CircuitsError(f"steps={given['steps']}: take at least 1")


def _prompts(model: HookedGPT2, given: Mapping[str, Any]) -> list[Prompts]:
    task, graph = given["task"], given["graph"]
    if isinstance(task, Prompts):
        if given["n"] is not None:
            raise CircuitsError(f"n={given['n']}: only a task's prompts are drawn; leave n out")
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
    return [make(name, model, given["n"], given["seed"]) for name in names]


def _has_graph(task: str) -> bool:
    try:
        graph_of(task)
    except CircuitsError:
        return False
    return True


def _part(given: Mapping[str, Any], done: int, total: int) -> Progress | None:
    """Progress in thousandths of the whole, where this is only a part of it."""
    progress: Progress | None = given["progress"]
    if progress is None:
        return None
    whole = progress
    return lambda here, of: whole(round(1000 * (done + here / max(of, 1)) / total), 1000)


def _axes(frame: pd.DataFrame, given: Mapping[str, Any]) -> tuple[str, ...]:
    panels = tuple(name for name in ("task", "variable") if frame[name].nunique() > 1)
    if given["rank"] is not None:
        return (*panels, "subspace")
    if given["component"] is not None:
        return panels or ("component",)
    row = ("layer", "head") if frame["head"].notna().any() else ("layer",)
    if frame["position"].isna().all():
        return (*panels, *row) if len(row) > 1 else (*panels, "component")
    return (*panels, "position", *row) if len(row) > 1 else (*panels, "layer", "position")


def _title(frame: pd.DataFrame, given: Mapping[str, Any], model: str) -> str:
    names = list(frame["variable"].unique())
    one, listed = len(names) == 1, ", ".join(names)
    if given["component"] is None:
        return f"Where {'does' if one else 'do'} {listed} live? (interchange, {model})"
    site = frame["component"].iloc[0]
    how = "interchange" if given["rank"] is None else f"rank {given['rank']}"
    return f"{'Does' if one else 'Do'} {listed} live at {site}? ({how}, {model})"
