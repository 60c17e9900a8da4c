"""A circuit on the map, and run alone on this prompt."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from circuits.circuit import Circuit
from circuits.circuit.publications import published, read_published
from circuits.errors import CircuitsError, brief, nearest
from circuits.explorer.pieces import Note, Options, Piece, question
from circuits.explorer.subject import Subject
from circuits.explorer.takes import Taking
from circuits.metrics import get_metric
from circuits.sweep import CircuitSweep, Kept, Source, plan, run

if TYPE_CHECKING:
    from circuits.explorer.desk import Desk
    from circuits.explorer.view import View

MOST_BYTES = 4_000_000  # of a file


@dataclass(frozen=True)
class CircuitPart:
    """A head or an MLP of the circuit, and what it is for, where that is known."""

    part: str
    text: str


@dataclass(frozen=True, eq=False)
class CircuitParts(Piece):
    """What belongs to the circuit: `n_edges` edges between these heads and MLPs."""

    kind: ClassVar[str] = "parts"
    title: str
    n_edges: int
    parts: list[CircuitPart]


@dataclass(frozen=True, eq=False)
class RunAlone(Piece):
    """The difference of the followed tokens' logits in three runs.

    Attributes:
        meaning: what stands for all that the circuit leaves out.
        whole: in the model; `alone`, in the circuit; `nothing`, where no edge is kept.
    """

    kind: ClassVar[str] = "alone"
    meaning: str
    whole: float
    alone: float
    nothing: float


@question
def circuit(desk: Desk, view: View, options: Options) -> Iterator[Piece]:
    """Which parts are in this circuit, and how far does it get alone?

    Options: `name` of a published one, or `text`, the content of a file. Pieces: `parts`; `alone`,
    or a note where that cannot be asked; `take`.
    """
    options.only("name", "text")
    about, model = desk.subject(view), desk.model
    chosen = _read(options).require_fits(model)
    title = options.given.get("name") or chosen.origin.task or "this circuit"
    parts = [CircuitPart(str(node), chosen.classes.get(node, "")) for node in chosen.nodes]
    yield CircuitParts(str(title), len(chosen.edges), parts)
    if about.view.edits:
        yield Note("alone", "Circuits are run in the model as it is: switch the tray's edits off.")
        return
    try:
        paired = about.twin is not None
        pair = desk.followed(about)
        yield _alone(desk, about, chosen, paired=paired)
    except CircuitsError as error:
        yield Note("alone", str(error))
        return
    name = options.given.get("name")
    said = f"{{'name': {name!r}}}" if name else "{'text': Path('FILE').read_text()}"
    lines = [] if name else ["from pathlib import Path"]
    yield Taking(desk, about, pair, paired).at_desk(
        [*lines, f"pieces = list(desk.ask('circuit', view, {said}))"]
    )


def _read(options: Options) -> Circuit:
    """The circuit that was named, or whose file's content was sent.

    Raises:
        CircuitsError: for neither, both, an unknown name, and what is no circuit.
    """
    name, text = options.given.get("name"), options.given.get("text")
    if (name is None) == (text is None):
        raise CircuitsError("name a published circuit, or send the content of a file")
    if name is not None:
        name, names = options.read("name", ""), published()
        if name not in names:  # and never a file: pages name no paths
            raise CircuitsError(
                f"no circuit {brief(name)} is published; there are {', '.join(names)}"
                f"{nearest(name, names)}"
            )
        return read_published(name)
    content = options.read("text", "").encode()
    if len(content) > MOST_BYTES:
        raise CircuitsError(f"the file has {len(content)} bytes; at most {MOST_BYTES} are read")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "circuit.json")
        path.write_bytes(content)
        try:
            return Circuit.load(path)
        except CircuitsError as error:  # which names a file that nobody has
            raise CircuitsError(str(error).replace(str(path), "the file")) from error


def _alone(desk: Desk, about: Subject, chosen: Circuit, *, paired: bool) -> RunAlone:
    model, pair = desk.model, desk.followed(about)
    prompts = about.prompts(pair.answer, pair.distractor, paired=paired)
    if prompts.corrupted is not None:
        source = Source("resample", prompts.corrupted, prompts.mask)
        meaning = "What it leaves out is as in the contrast."
    else:
        source = Source("mean", prompts.tokens, prompts.mask)
        meaning = "What it leaves out is the mean over the prompt's tokens; a contrast says more."
    kept = Kept.of(chosen, d_mlp=0 if model.cfg.attn_only else model.cfg.d_mlp)
    nothing = Kept.only(kept.graph, kept.graph.exists & False, "nothing")
    sweep = CircuitSweep(prompts, get_metric("logit_diff"), ((), (kept,), (nothing,)), source)
    values = run(model, plan(model, sweep)).values[:, 0].tolist()
    return RunAlone(meaning, *values)
