"""Which way the cells of a model are run."""

from __future__ import annotations

from circuits.model import HookedModel, Transformer
from circuits.sweep.flow_runner import FlowRunner
from circuits.sweep.hooked import HookedRunner
from circuits.sweep.runner import CellRunner


def runner_of(model: HookedModel) -> type[CellRunner]:
    """The fast engine where the model is made of our steps; else plain passes with hooks."""
    return FlowRunner if isinstance(model, Transformer) else HookedRunner
