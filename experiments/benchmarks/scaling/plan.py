"""On paper: every edge of GPT-2 XL on a hundred thousand prompts, on 32 machines like this one.

Every figure is measured (the page says at which point) or follows by the arithmetic beside it.
"""

from __future__ import annotations

import pickle  # noqa: TID251  # only to see how long a text is
import tracemalloc
from dataclasses import dataclass, replace
from functools import cache

from circuits.architectures import HookedGPT2
from circuits.circuit import graph
from circuits.config import GPT2_SIZES
from circuits.prompts.files import BLOCK
from circuits.sweep import cell
from circuits.sweep import plan as make_plan
from circuits.sweep.plans import _FASTEST as FASTEST
from experiments.benchmarks.items import Given, Shape
from experiments.benchmarks.limits import Count
from experiments.benchmarks.peers import ours
from experiments.benchmarks.scaling.counting import operations
from experiments.benchmarks.scaling.lines import Line, more, of_axis, seconds
from experiments.benchmarks.scaling.points import Point
from experiments.benchmarks.scaling.runs import Results, Row

MODEL, PROMPTS, TOKENS, MACHINES = "gpt2-xl", 100_000, 16, 32
NETWORK = 1.25e9  # bytes a second: 10 Gbit/s, which is not measured here
HOUR, YEAR = 3600, 3600 * 24 * 365.25
SAMPLE = 500  # cells, and twice as many, are packed to see how large one is


@dataclass(frozen=True)
class Known:
    """What the plan is made of, as measured.

    Attributes:
        edges: the largest point of “edges, one by one”.
        heads: the sweep of heads in the shapes of GPT-2 small and XL.
        eap: all edges by one gradient, in XL's shape.
        task: the cluster, with the largest model that was sent there; `tiny` with the smallest.
        cores: of a machine.
    """

    edges: Row
    heads: tuple[Row, Row]
    eap: Row
    task: Row
    tiny: Row
    heads_line: Line
    cores: int


def plan(results: Results) -> list[str]:
    """The plan's paragraphs; a sentence that says what is missing, where something is."""
    title = "## On paper: GPT-2 XL × all edges × 10⁵ prompts on 32 machines"
    known = gathered(results)
    if isinstance(known, str):
        return [title, f"Needs “{known}”, which is not measured yet."]
    return [title, *work(known), *traffic(known), *manner(known)]


def gathered(results: Results) -> Known | str:
    """The points that the plan needs, or the name of the first line that lacks one."""
    wanted = {
        "edges": ("cells", "edges, one by one", "gpt2"),
        "small": ("model", "12 heads ablated, float32", "gpt2"),
        "large": ("model", "12 heads ablated, float32", MODEL),
        "eap": ("model", "EAP, all edges, float32", MODEL),
    }
    rows: dict[str, Row] = {}
    for name, (axis, series, model) in wanted.items():
        line = next((line for line in of_axis(results, axis) if line.name == series), None)
        some = [row for row in line.rows if row.point.model == model] if line else []
        if not some:
            return f"{series}, {model}"
        rows[name] = some[-1]
    line = next(x for x in of_axis(results, "model") if x.name == "12 heads ablated, float32")
    heads = rows["small"], rows["large"]
    sent = [row for line in of_axis(results, "workers") for row in line.rows]
    if not sent:
        return "workers"
    cores = results.machine["cores"]
    by_size = sorted(sent, key=lambda row: (*more([row], "model_bytes"), -abs(row.point.n - cores)))
    return Known(rows["edges"], heads, rows["eap"], by_size[-1], by_size[0], line, cores)


def rate(row: Row) -> float:
    """Operations a second of one thread, those of the cheapest exact algorithm counted."""
    return (operations(row.point) or 0) / seconds(row)


@dataclass(frozen=True)
class Way:
    """One way to score all edges: how many operations, and how many of them a second a thread."""

    name: str
    flops: float
    rate: float

    def hours(self, threads: float) -> float:
        return self.flops / self.rate / threads / HOUR


def ways(known: Known) -> tuple[Way, Way]:
    """Patching each edge; all edges by one gradient."""
    shape = Point("model", "", "", MODEL).shape
    count = Count(shape, 1, TOKENS)
    faster = rate(known.heads[1]) / rate(known.heads[0])
    return (
        Way("each edge patched", count.edges_exact() * PROMPTS, rate(known.edges) * faster),
        Way("EAP, one gradient", count.edges_eap() * PROMPTS, rate(known.eap)),
    )


def n_edges() -> int:
    """How many edges, by the package's own graph."""
    return len(graph(GPT2_SIZES[MODEL]))


def share_of_work(known: Known) -> float:
    """Which share of what processors do on a cluster is the work itself?"""
    (here,), (there,) = (more([known.task], f"{where}_processor") for where in ("here", "there"))
    return min(1.0, here / there)


def work(known: Known) -> list[str]:
    """Operations and hours."""
    exact, gradient = ways(known)
    share = share_of_work(known)
    threads = MACHINES * known.cores * share
    faster = rate(known.heads[1]) / rate(known.heads[0])
    power = known.heads_line.time
    each = seconds(known.edges) / known.edges.point.n / known.edges.point.batch
    grown = (known.heads_line.sizes[-1] / known.heads_line.sizes[0]) ** (
        power.exponent if power else 1
    )
    again = each * grown * n_edges() * PROMPTS / threads / HOUR
    return [
        f"The graph of GPT-2 XL has {n_edges():,} edges (`len(circuits.circuit.graph(cfg))`); "
        f"{PROMPTS:,} prompts of {TOKENS} tokens, each with its corrupted twin, in float32; "
        f"{MACHINES} machines of {known.cores} cores, each core as fast as the one measured here.",
        "\n".join(
            [
                "| | operations | measured rate of a thread | all machines |",
                "| --- | ---: | ---: | ---: |",
                *(
                    f"| {way.name} | {way.flops:.2g} | {way.rate / 1e9:.0f} GFLOP/s | "
                    f"{told(way.hours(threads))} |"
                    for way in (exact, gradient)
                ),
            ]
        ),
        "- Operations: `limits.Count`, the cheapest exact algorithm of a prompt, times "
        f"{PROMPTS:,}: {exact.flops / PROMPTS:.3g} and {gradient.flops / PROMPTS:.3g} a prompt.\n"
        f"- Rates: {known.edges.point.n:,} edges of GPT-2 small took {seconds(known.edges):.3g} s, "
        f"{rate(known.edges) / 1e9:.0f} GFLOP/s; from small to XL the rate of the sweep of 12 "
        f"heads changes by {faster:.2f}, so {exact.rate / 1e9:.0f} GFLOP/s. EAP was measured in "
        f"XL's shape: {known.eap.point.batch} prompts in {seconds(known.eap):.3g} s.\n"
        f"- All machines: {MACHINES} × {known.cores} threads × {share:.3f}, the share of a "
        f"cluster's processor time that is the sweep itself (“{known.task.point.series}”, "
        f"{known.task.point.n} workers).\n"
        f"- By the exponent instead: {1000 * each:.3g} ms for an edge and prompt of GPT-2 small, × "
        f"{known.heads_line.sizes[-1] / known.heads_line.sizes[0]:.1f} times the parameters to the "
        f"power {power.exponent if power else 1:.2f} = {1000 * each * grown:.3g} ms, × "
        f"{n_edges():,} × {PROMPTS:,} / {threads:.0f} threads = {told(again)}.",
        f"So each edge alone is out of reach of such machines by a factor of "
        f"{exact.hours(threads) / gradient.hours(threads):,.0f}: score all by the gradient, "
        f"and patch those that matter. A thousand edges each patched on all prompts take "
        f"{told(exact.hours(threads) * 1000 / n_edges())}.",
    ]


def traffic(known: Known) -> list[str]:
    """Bytes that move, and bytes that stay."""
    edges = n_edges()
    weights = 4 * Point("model", "", "", MODEL).shape.parameters
    prompts = 2 * PROMPTS * TOKENS * 8
    packed, held = cell_bytes()
    at_once = max(1, FASTEST["cpu"] // GPT2_SIZES[MODEL].d_mlp // TOKENS)
    (bare,), (small,) = (more([known.tiny], f"{what}_bytes") for what in ("worker", "model"))
    (own,), (sent,), (around,) = (
        more([known.task], f"{what}_bytes") for what in ("worker", "model", "scores")
    )
    alike = "each worker holds" if own - bare > sent / 2 else "workers share"
    blocks = -(-PROMPTS // BLOCK)
    sums = 33 * edges
    peak = known.eap.measured.peak if known.eap.measured else 0
    lines = [
        ("weights out", f"{weights / 1e9:.2f} GB to each machine", weights * MACHINES),
        ("prompts out", f"{TOKENS} tokens × 2 runs × 8 B a prompt", prompts),
        (
            "EAP: sums back",
            f"{edges:,} edges × (4 × 8 + 1) B a machine (`Moments`)",
            sums * MACHINES,
        ),
        (
            "each edge: plan out",
            f"{packed:.0f} B a cell × {edges:,} to each machine × {blocks} blocks of {BLOCK}",
            packed * edges * MACHINES * blocks,
        ),
        (
            "each edge: scores back",
            f"{at_once} numbers a task, 8 B each, and at most {around:.0f} B around them",
            edges * PROMPTS * (8 + around / at_once),
        ),
    ]
    return [
        "### Bytes",
        "\n".join(
            [
                "| what moves | how much each | in all | at 10 Gbit/s |",
                "| --- | --- | ---: | ---: |",
                *(
                    f"| {name} | {each} | {total / 1e9:,.3g} GB | {told(total / NETWORK / HOUR)} |"
                    for name, each, total in lines
                ),
            ]
        ),
        "- 10 Gbit/s is assumed, and that one link carries everything, as that of the machine "
        "which all others fetch from.\n"
        f"- Memory of a machine by EAP: {known.cores} processes × {peak / 1e9:.1f} GB (measured, "
        f"{known.eap.point.batch} prompts at once) = {known.cores * peak / 1e9:.1f} GB, and on Ray "
        f"{weights / 1e9:.1f} GB more for the copy that workers take theirs from: a worker's own "
        f"memory was {own / 1e6:,.0f} MB with a model of {sent / 1e6:,.0f} MB and "
        f"{bare / 1e6:,.0f} MB with one of {small / 1e6:,.1f} MB, so {alike} the weights. "
        "One process of "
        f"{known.cores} threads takes {peak / 1e9:.1f} GB.\n"
        f"- Memory of the machine that plans, for each edge: {held:.0f} B a cell × {edges:,} = "
        f"{held * edges / 1e9:.1f} GB, and the scores of one block, {edges:,} × {BLOCK} × 8 B = "
        f"{edges * BLOCK * 8 / 1e9:.1f} GB.",
    ]


def manner(known: Known) -> list[str]:
    """How the work is split, what is done twice, what a dead machine costs, what breaks first."""
    exact, gradient = ways(known)
    threads = MACHINES * known.cores * share_of_work(known)
    at_once = max(1, FASTEST["cpu"] // GPT2_SIZES[MODEL].d_mlp // TOKENS)
    task = exact.flops / PROMPTS / n_edges() * at_once / exact.rate
    tasks = n_edges() * PROMPTS / at_once
    shape = Point("model", "", "", MODEL).shape
    body = 2 * Count(shape, 1, TOKENS).body() * PROMPTS
    slice_hours = gradient.hours(threads)
    (here,), (there,), (tasks_there,) = (
        more([known.task], what) for what in ("here_processor", "there_processor", "tasks")
    )
    beyond = (there - here) / tasks_there
    peak = known.eap.measured.peak if known.eap.measured else 0
    back = n_edges() * BLOCK * 8
    return [
        "### How it is split, and what happens when a machine dies",
        f"- **Split by prompts**, {-(-PROMPTS // MACHINES):,} to a machine. Prompts share nothing "
        "but the weights, and all edges of a prompt share its two runs and its gradient; split by "
        f"edges, every worker would do both runs of every prompt again: {body:.2g} operations × "
        f"{MACHINES * known.cores} workers = {body * MACHINES * known.cores / gradient.flops:.0f} "
        "times all of EAP. Sums merge exactly (`Moments.merge`), in a fixed order to the same "
        "bits.\n"
        "- **Done twice** by EAP: nothing but the import and the weights in each process. For each "
        "edge: both runs, once in every worker that takes tasks of a prompt, "
        f"{body * MACHINES * known.cores / exact.flops:.1g} of the work.\n"
        "- **Today** sweeps go to Ray (`--engine ray`); scores by gradient run in one process. "
        f"EAP on {MACHINES} machines is {MACHINES} files of prompts, `circuits discover --method "
        "eap` in Python on each, and `Moments.merge` over what comes back.\n"
        "- **A machine dies.** By EAP its slice is done again: "
        f"{told(slice_hours)} at worst, as long as the whole, or in slices of {BLOCK} prompts "
        f"{told(slice_hours * BLOCK * MACHINES / PROMPTS)}. On Ray the task in hand is done again "
        f"on another worker, up to three times: {told(task / HOUR)} of work. The machine that "
        "plans is the one whose death ends a run; `--parts` keeps each block, and `--resume` "
        "goes on after the last.\n"
        f"- **What breaks first**, each edge patched: the time ({told(exact.hours(threads))}). "
        f"With machines that were fast enough: the scores of one block in the planning machine, "
        f"{back / 1e9:.1f} GB, where 16 GB are reached with {int(16e9 / n_edges() / 8):,} prompts "
        f"a block; then its {tasks:.2g} tasks, {1000 * beyond:.1f} ms of processors each "
        f"(measured, the cluster's own processes included) beside {task:.1f} s of work.\n"
        "- **What breaks first**, EAP: the memory, since every process holds the weights and the "
        f"products of its prompts: {known.cores * peak / 1e9:.1f} GB with a process for each core, "
        f"{peak / 1e9:.1f} GB with one process of {known.cores} threads; not the network, "
        f"which moves the weights in {told(4 * shape.parameters * MACHINES / NETWORK / HOUR)}.",
    ]


@cache
def cell_bytes() -> tuple[float, float]:
    """How many bytes is an edge's cell of a plan on its way to another process, and how many here?

    Of GPT-2 small's edges in a thin model, so that nothing but cells is large.
    """
    cfg = replace(GPT2_SIZES["gpt2"], d_model=24, d_head=2, d_mlp=24, n_ctx=4, d_vocab=8)
    model, edges = HookedGPT2.random(cfg), graph(cfg).edges[-2 * SAMPLE :]
    shape = Shape(cfg.n_layers, cfg.n_heads, cfg.d_model, cfg.d_mlp, cfg.n_ctx, cfg.d_vocab)
    sizes = []
    for n in (SAMPLE, SAMPLE, 2 * SAMPLE):  # the first one for what comes once
        tracemalloc.start()
        some = tuple(cell(edge) for edge in edges[:n])
        made = make_plan(model, ours.patching(some, Given.draw(shape, BLOCK, 2)))
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        sizes.append((len(pickle.dumps(made)), held))
    _, (small, few), (large, many) = sizes
    return (large - small) / SAMPLE, (many - few) / SAMPLE


def told(hours: float) -> str:
    """A time in the unit that people would say it in.

    >>> told(0.001), told(0.5), told(30), told(24 * 365.25 * 12)
    ('3.6 s', '30 min', '30 h', '12 years')
    """
    if hours < 1 / 60:
        return f"{hours * HOUR:.2g} s"
    if hours < 1:
        return f"{hours * 60:.2g} min"
    if hours < 24 * 10:
        return f"{hours:.2g} h"
    days = hours / 24
    return f"{days:.3g} days" if days < 365 else f"{days / 365.25:,.2g} years"
