"""Which part pushes the answer? Direct logit attribution."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from circuits.attribution import Split, Term, decomposed, neuron_pushes, scored, unit
from circuits.decompose import require_sums
from circuits.effects import (
    by_template,
    group_meanings,
    label_of,
    measured_over,
    panels,
    places,
    require_templates,
    source_of,
    unit_of,
)
from circuits.errors import CircuitsError, nearest
from circuits.model import HookedModel
from circuits.prompts import Prompts
from circuits.registry import MeanOptions, PromptOptions, TemplateOptions, analysis
from circuits.registry.asked_prompts import Batch, asked_prompts
from circuits.result import Result
from circuits.sweep.moments import Moments, moments

What = Literal["heads", "layers", "neurons"]
Positions = Literal["roles", "indices"]
USUAL_TOP = 20
WORDS: Mapping[str, str] = {
    "heads": "Heads and MLPs",
    "layers": "Attention and MLPs",
    "neurons": "Attention and neurons",
}
MEANINGS = {
    "task": "which prompts",
    "component": "the part; bias is what no other row has: output biases of heads (or of neurons), "
    "the final LayerNorm's, the unembedding's",
    "writer": "the component that writes it",
    "layer": "of the component",
    "head": "of the component, where it is one",
    "neuron": "of the component, where it is one",
    "part": "which part of its layer it is: a head, or the MLP",
    "source": "the position that the head read it from: a role of the prompts, or an index",
    "unit": "of value, recomputed, error and total",
    "value": "what the part adds, the final LayerNorm's scale held, mean over n",
    "share": "of the total",
    "recomputed": "the total less what it is without the part, with LayerNorm computed anew",
    "recomputed_low": "lower end of its 95 % interval",
    "recomputed_high": "upper end of its 95 % interval",
    "error": "of holding the scale: value less recomputed",
    "total": "the whole difference of logits, mean over n; the values sum to it",
}
WHOLE_NUMBERS = dict.fromkeys(("layer", "head", "neuron"), "Int64")


@analysis
def attribute(
    model: HookedModel,
    *,
    what: What = "heads",
    positions: Positions | None = None,
    top: int | None = None,
    layer: int | None = None,
    prompts: PromptOptions,
    templates: TemplateOptions,
    means: MeanOptions,
) -> Result:
    """Which part pushes the answer?

    Direct logit attribution: the final residual stream is a sum of parts c, and with the final
    LayerNorm's scale held each adds LN(c) (W_U[:, answer] - W_U[:, distractor]), in logits. All
    rows together are the logit difference. Without a distractor the answer is compared with the
    mean over all tokens, for a logit alone may be shifted without any effect. Prompts that ask for
    more than one token (repeated ones) are read at each of them, and the mean is taken. Logits are
    those before a soft cap, where a model has one.

    These are direct pushes: what a part makes later parts do is theirs (see ablate, paths).
    Holding the scale is an approximation: the column recomputed says how much is really lost when
    the part is taken out of the stream, and error by how much the two differ.

    $ circuits attribute --task ioi
    $ circuits attribute --task ioi --positions roles --figure sources.png
    $ circuits attribute --what neurons --top 10 --prompt "The keys to the cabinet" --answer " are"

    Args:
        what: The parts: heads (and MLPs), layers (attention and MLPs), or neurons (of all MLPs, and
            attention layers); embeddings and biases always.
        positions: Take the strongest heads apart by the position that they read from: by roles of
            the prompts, or by indices.
        top: How many neurons, or with positions how many heads, to take apart (20 without it).
            What the other neurons add is one row.
        layer: Take neurons of this layer's MLP apart, and no others.

    Raises:
        CircuitsError: for prompts that ask for no token, parts that do not exist, or options that
            do not fit together.

    >>> from circuits.checkpoints import load
    >>> asked = {"prompt": "aAbBcdeBfg.", "answer": "A", "distractor": "B"}
    >>> found = attribute(load("compiled"), **asked)
    >>> found.top(1).frame[["component", "value", "share"]].round(2).values.tolist()
    [['a2.h0', 10.0, 1.0]]
    """
    _check(model, what, positions, top, layer)
    batches = _batches(model, prompts)
    require_templates(batches, templates)
    wanted = _Wanted(what, positions, top or USUAL_TOP, means.draws, label_of(templates), layer)
    return _attributed(model, wanted, batches, templates)


@dataclass(frozen=True)
class _Wanted:
    """Which parts, whether heads are taken apart by the positions they read from, and how many.

    With `draws`, each row has the numbers that its mean is of, too. `label` says by which column
    of the prompts groups are told apart.
    """

    what: What
    positions: Positions | None
    top: int
    draws: bool
    label: str
    layer: int | None = None  # of the neurons


def _attributed(
    model: HookedModel, wanted: _Wanted, batches: Sequence[Batch], templates: TemplateOptions
) -> Result:
    """What the parts add, on all batches of prompts."""
    what, positions = wanted.what, wanted.positions
    tables = [_of_batch(model, batch, wanted, templates) for batch in batches]
    frame = pd.concat([rows for rows, _ in tables]).astype(WHOLE_NUMBERS)
    unused = {"neuron": what != "neurons", "part": what != "heads"}
    unused |= dict.fromkeys(("writer", "source"), positions is None)
    frame = frame.drop(columns=[name for name, is_unused in unused.items() if is_unused])
    tasks = () if len(batches) == 1 else ("task",)
    axes: tuple[str, ...] = ("component",)
    if what == "heads":
        axes = ("layer", "part") if positions is None else ("writer", "source")
    return Result(
        frame,
        unit=unit_of(frame),
        title=f"What pushes the answer? {WORDS[what]} ({model.cfg.model_name})",
        provenance=source_of(model, "attribute", batches, [n for _, n in tables], templates),
        axes=panels((*tasks, *axes), templates, frame),
        view="heatmap" if what == "heads" else "bars" if not tasks else "curves",
        meanings=MEANINGS | group_meanings(templates, frame),
    )


def _check(
    model: HookedModel,
    what: What,
    positions: Positions | None,
    top: int | None,
    layer: int | None,
) -> None:
    if what not in WORDS:
        raise CircuitsError(f"what={what!r}: choose {', '.join(WORDS)}{nearest(str(what), WORDS)}")
    if what != "layers":
        require_sums(model)
    if positions is not None and what != "heads":
        raise CircuitsError(
            f"positions says where heads read from, and what={what!r} has no heads; choose heads"
        )
    n_layers = model.cfg.n_layers
    if layer is not None and (what != "neurons" or not 0 <= layer < n_layers):
        raise CircuitsError(
            f"layer={layer}, what={what!r}: layer is of neurons, and one of 0 to {n_layers - 1}"
        )
    n_neurons = (n_layers if layer is None else 1) * model.cfg.d_mlp
    if top is not None and (top < 1 or (what == "neurons" and top > n_neurons)):
        raise CircuitsError(f"top={top}: take at least 1 apart, and at most all {n_neurons}")
    if top is not None and what != "neurons" and positions is None:
        raise CircuitsError(
            f"top={top}: all {WORDS[what].lower()} are shown; top is of neurons, or of heads by "
            "position"
        )


def _batches(model: HookedModel, options: PromptOptions) -> list[Batch]:
    """The prompts, if they ask for tokens; of all tasks those that do."""
    batches = asked_prompts(model, options)
    if len(batches) == 1:
        scored(batches[0].first)
        return batches
    asking = [b for b in batches if b.first.answers is not None or (b.first.targets >= 0).any()]
    return asking or batches[:1]


def _of_batch(
    model: HookedModel, batch: Batch, wanted: _Wanted, templates: TemplateOptions
) -> tuple[pd.DataFrame, int]:
    """A row for each term, and how many prompts these are means over."""
    split = _split(model, batch, wanted)
    labels, averages = _averaged(model, batch, split, wanted.label, draws=wanted.draws)
    averages = measured_over(averages, batch, templates)
    table = by_template(averages, templates, lambda some: _table(batch.first, labels, some))
    return table, averages.n


def _table(prompts: Prompts, labels: Sequence[Term], averages: Moments) -> pd.DataFrame:
    """A row for each term but the total, whose statistics come first."""
    n = len(labels)
    columns = averages.interval()
    held = {name: column[1 : n + 1] for name, column in columns.items()}
    removed = {name: column[n + 1 : 2 * n + 1] for name, column in columns.items()}
    total = held["value"][0]
    frame = pd.DataFrame(
        {
            "task": prompts.task,
            **pd.DataFrame(labels)[list(Term._fields)],
            "part": [_in_layer(term) for term in labels],
            "unit": unit(prompts),
            **held,
            "share": held["value"] / total if total else np.nan,
            "recomputed": removed["value"],
            "recomputed_low": removed["ci_low"],
            "recomputed_high": removed["ci_high"],
            "error": columns["value"][2 * n + 1 :],
            "total": total,
        }
    )
    terms: pd.DataFrame = frame.iloc[1:]
    return terms


def _split(model: HookedModel, batch: Batch, wanted: _Wanted) -> Split:
    """The heads or neurons that are taken apart: those that add most on average, up or down."""
    what, top = wanted.what, wanted.top
    if what == "neurons":
        total = sum(numbers.sum(-1) for b in batch.blocks for numbers in neuron_pushes(model, b))
        assert isinstance(total, torch.Tensor)
        pushed = total.abs()
        if wanted.layer is not None:  # the others come last
            others = torch.arange(len(pushed), device=pushed.device) != wanted.layer
            pushed = pushed.masked_fill(others.view(-1, *[1] * (pushed.ndim - 1)), -1.0)
        order = pushed.flatten().sort(descending=True, stable=True).indices[:top].tolist()
        neurons: dict[int, list[int]] = {}
        for index in sorted(order):
            neurons.setdefault(index // model.cfg.d_mlp, []).append(index % model.cfg.d_mlp)
        return Split(what, neurons=neurons)
    if wanted.positions is None:
        return Split(what)
    where = [place for place in places(batch.first, wanted.positions) if place is not None]
    labels, averages = _averaged(model, batch, Split(what), wanted.label)
    size = np.abs(averages.effect[1 : len(labels) + 1])
    ranked = [labels[i] for i in np.argsort(-size, kind="stable") if labels[i].head is not None]
    heads = frozenset((term.layer or 0, term.head or 0) for term in ranked[:top])
    return Split(what, tuple(where), heads)


def _averaged(
    model: HookedModel, batch: Batch, split: Split, label: str, *, draws: bool = False
) -> tuple[list[Term], Moments]:
    """The terms, the total first, and statistics of [nothing, pushes, recomputed, errors]."""
    labels: list[Term] = []
    averages: Moments | None = None
    for numbers, groups in _numbers(model, batch, split, label):
        labels = list(numbers)
        values = np.concatenate(list(numbers.values()), 1).reshape(3 * len(labels), -1)
        values = np.concatenate([np.zeros_like(values[:1]), values])
        some = moments(values, np.zeros(len(values), bool), groups)
        some = some.drawn_from(values, groups) if draws else some
        averages = some if averages is None else averages.merge(some)
    assert averages is not None
    return labels, averages


def _numbers(
    model: HookedModel, batch: Batch, split: Split, label: str
) -> Iterator[tuple[dict[Term, NDArray[np.float64]], Sequence[str] | None]]:
    """Each term's numbers of some prompts at a time, and which groups these are of."""
    for prompts in batch.blocks:
        if split.places and isinstance(split.places[0], int):
            _require_lengths(prompts, len(split.places))
        labels, done = prompts.labels(label), 0
        for some in decomposed(model, prompts, split):
            rows = {term: numbers.double().cpu().numpy()[:, None] for term, numbers in some.items()}
            n = next(iter(rows.values())).shape[-1]
            groups = labels and labels[done : done + n]
            done += n
            yield rows, groups


def _require_lengths(prompts: Prompts, length: int) -> None:
    lengths = prompts.mask.sum(1)
    if bool((lengths != length).any()):
        raise CircuitsError(
            f"the prompts have {int(lengths.min())} to {int(lengths.max())} tokens, and the first "
            f"of them {length}, so the same index is something else in each; ask by roles"
        )


def _in_layer(term: Term) -> str | None:
    """What it is within its layer, as the column part says it."""
    if term.head is not None:
        return f"h{term.head}"
    return None if term.layer is None else "mlp"
