"""A circuit: its parts for the map, and what it does alone on this prompt."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from circuits.circuit import Circuit, read_circuit
from circuits.components import Edge
from circuits.errors import CircuitsError
from circuits.explorer.pieces import Note, Options, Piece, question
from circuits.explorer.subject import Subject
from circuits.explorer.takes import Taking
from circuits.metrics import get_metric
from circuits.sweep import CircuitSweep, Kept, Source
from circuits.sweep.alone import Alone

if TYPE_CHECKING:
    from circuits.explorer.desk import Desk
    from circuits.explorer.view import View

MOST_CHARACTERS = 4_000_000
REST = {
    "resample": "what the contrast's run has",
    "mean": "the mean over this prompt's tokens",
}


@dataclass(frozen=True)
class CircuitPart:
    """A head or MLP of the circuit, and what it is for, if that is known."""

    part: str
    text: str


@dataclass(frozen=True, eq=False)
class Parts(Piece):
    """What the circuit is.

    Attributes:
        title: its name or its origin, in words.
        n_edges: how many edges it has.
        parts: its heads and MLPs.
        edges: the edges by name.
    """

    kind: ClassVar[str] = "parts"
    title: str
    n_edges: int
    parts: list[CircuitPart]
    edges: list[str]


@dataclass(frozen=True, eq=False)
class AloneOnPrompt(Piece):
    """The logit difference of the whole model, of the circuit alone, and of nothing."""

    kind: ClassVar[str] = "alone"
    whole: float
    alone: float
    nothing: float
    meaning: str


@question
def circuit(desk: Desk, view: View, options: Options) -> Iterator[Piece]:
    """Which parts does this circuit have, and what does it do alone on this prompt?

    Options: `text`, what stands in a circuit's file; or `name`, that of a published circuit.

    Pieces: `parts`; `alone`, where what the circuit lacks is as in the contrast, or without one
    the mean over the prompt's tokens; a `note` where it cannot be run; `take`.
    """
    options.only("text", "name")
    name, text = options.read("name", ""), options.read("text", "")
    given = _given(name, text).require_fits(desk.model)
    title = name or given.origin.task or "the file's circuit"
    edges = [str(edge) for edge in given.edges]
    classes = {str(node): what for node, what in given.classes.items()}
    parts = [CircuitPart(str(node), classes.get(str(node), "")) for node in given.nodes]
    yield Parts(title, len(edges), parts, edges)
    about = desk.subject(view)
    if about.view.edits:
        yield Note("alone", "Circuits are run alone in the model without the edits of the tray.")
    if any(edge.sender.position or edge.receiver.position for edge in given.edges):
        yield Note("alone", "This circuit names positions, and is run here at all of them.")
    paired = about.twin is not None and about.unaligned is None
    yield _alone(desk, about, given, paired=paired)
    yield _take(desk, about, name, paired=paired)


def _given(name: str, text: str) -> Circuit:
    """The circuit that is named or written down."""
    if bool(name) == bool(text):
        raise CircuitsError("give the name of a published circuit, or the text of a file")
    if name:
        return Circuit.published(name)
    if len(text) > MOST_CHARACTERS:
        raise CircuitsError(
            f"the circuit has {len(text)} characters; give a file of at most {MOST_CHARACTERS}"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "circuit.json"
        path.write_text(text, encoding="utf-8")
        try:
            return read_circuit(path)
        except CircuitsError as error:
            raise CircuitsError(str(error).replace(str(path), "the circuit's file")) from None


def _alone(desk: Desk, about: Subject, given: Circuit, *, paired: bool) -> Piece:
    pair = desk.followed(about)
    method = "resample" if paired else "mean"
    prompts = about.prompts(pair.answer, pair.distractor, paired=paired)
    twin = prompts.corrupted
    source = Source(method, prompts.tokens if twin is None else twin, prompts.mask)
    kept = everywhere(given, desk.model.cfg.d_mlp)
    nothing = Kept.only(given.graph, np.zeros_like(given.graph.exists), "nothing")
    sweep = CircuitSweep(prompts, get_metric("logit_diff"), ((),), source)
    ask = Alone(desk.model, sweep)
    alone, none = ask([kept, nothing])[:, 0].tolist()
    return AloneOnPrompt(
        float(ask.base[0]),
        alone,
        none,
        f"The logit difference when every connection that is left out carries {REST[method]}.",
    )


def everywhere(circuit: Circuit, d_mlp: int = 0) -> Kept:
    """What a circuit keeps, at all positions."""
    edges = {
        Edge(replace(edge.sender, position=None), replace(edge.receiver, position=None))
        for edge in circuit.edges
    }
    kept = Kept.of(replace(circuit, scores={}), d_mlp=d_mlp)
    return replace(kept, masks=dict(circuit.graph.masks(edges).items()))


def _take(desk: Desk, about: Subject, name: str, *, paired: bool) -> Piece:
    taking = Taking(desk, about, desk.followed(about), paired)
    circuit = f"read_circuit({name!r})" if name else "read_circuit('circuit.json')  # your file"
    method, options = ("resample", "PairOptions") if paired else ("mean", "PromptOptions")
    tokens = "prompts.corrupted" if paired else "prompts.tokens"
    lines = [
        "import numpy as np",
        "from circuits.circuit import read_circuit",
        "from circuits.explorer.questions.circuit import everywhere",
        "from circuits.metrics import get_metric",
        f"from circuits.registry import {options}",
        "from circuits.registry.asked_prompts import asked_prompts",
        "from circuits.sweep import CircuitSweep, Kept, Source",
        "from circuits.sweep.alone import Alone",
        f"prompts = asked_prompts(model, {options}(**asked))[0].first",
        f"circuit = {circuit}",
        f"source = Source({method!r}, {tokens}, prompts.mask)",
        "sweep = CircuitSweep(prompts, get_metric('logit_diff'), ((),), source)",
        "ask = Alone(model, sweep)",
        "whole, kept = ask.base, everywhere(circuit, model.cfg.d_mlp)",
        "alone, nothing = ask([kept, Kept.only(ask.graph, np.zeros_like(ask.graph.exists))])",
    ]
    return taking.take([], lines, edited=lines)
