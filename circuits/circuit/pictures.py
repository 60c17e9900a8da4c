"""Circuits as figures, with the words that pictures of them say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from circuits.figures import Wording, wiring

if TYPE_CHECKING:
    from circuits.circuit.circuit import Circuit


def plot(circuit: Circuit) -> Figure:
    """The kept parts, layer by layer.

    Raises:
        CircuitsError: when nothing is kept.
    """
    return wiring(circuit.frame, n_layers=circuit.graph.n_layers, words=wording(circuit))


def wording(circuit: Circuit) -> Wording:
    """What pictures of the circuit say of it.

    >>> from circuits.circuit import Circuit
    >>> wording(Circuit.published("ioi")).title
    'gpt2: 26 heads by path patching, by hand (ioi)'
    """
    about = circuit.origin
    task = "" if about.task is None else f" ({about.task})"
    title = f"{about.model}: {len(circuit):,} {circuit.level} by {about.method}{task}"
    return Wording(title, about.metric or "the metric", circuit.classes)
