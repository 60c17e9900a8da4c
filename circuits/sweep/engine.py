"""Which way the cells of a model are run."""

from __future__ import annotations

from circuits.model import HookedModel, Transformer
from circuits.sweep.base_run import base_run
from circuits.sweep.circuit_flow import CircuitFlow
from circuits.sweep.circuit_hooked import HookedCircuit
from circuits.sweep.circuit_sweep import CircuitRoutes
from circuits.sweep.flow_runner import FlowRunner
from circuits.sweep.hooked import HookedRunner
from circuits.sweep.routes import Routes
from circuits.sweep.runner import CellRunner, TaskRunner
from circuits.sweep.values import Reference


def task_runner(
    model: HookedModel,
    routes: Routes | CircuitRoutes,
    rows: slice,
    reference: Reference,
    logits_at_once: int,
) -> TaskRunner:
    """What runs the tasks on these prompts of a sweep."""
    if isinstance(routes, CircuitRoutes):
        alone = CircuitFlow if runner_of(model) is FlowRunner else HookedCircuit
        sites = alone.base_sites(model, routes)
        base = base_run(model, routes.sweep, rows, sites, reference, logits_at_once)
        return alone(base, routes)
    kind = runner_of(model)
    sites = kind.base_sites(model, routes)
    return kind(base_run(model, routes.sweep, rows, sites, reference, logits_at_once), routes)


def source_sites(model: HookedModel, routes: Routes | CircuitRoutes) -> set[str]:
    """The sites of the source's run that are needed."""
    if isinstance(routes, CircuitRoutes):
        return CircuitFlow.source_sites(model, routes)
    return runner_of(model).source_sites(model, routes)


def runner_of(model: HookedModel) -> type[CellRunner]:
    """The fast engine where the model is made of our steps; else plain passes with hooks."""
    in_steps = isinstance(model, Transformer) and model.steps_add_up
    return FlowRunner if in_steps else HookedRunner
