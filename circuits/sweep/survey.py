"""A sweep over more prompts than fit into memory: block by block, on disk as it goes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial, reduce
from itertools import chain, repeat, starmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from circuits import __version__
from circuits.checkpoints import checksum
from circuits.errors import CircuitsError, nearest
from circuits.progress import Progress
from circuits.prompts import Mark, PromptFile, Prompts
from circuits.sweep.cells import Sweep, name
from circuits.sweep.circuit_sweep import CircuitSweep
from circuits.sweep.execute import Scores, run
from circuits.sweep.moments import Differences, Moments, Scales, moments
from circuits.sweep.parts import Parts, opened
from circuits.sweep.planning import plan
from circuits.sweep.ray_engine import workers

if TYPE_CHECKING:
    from circuits.model import HookedModel

Blocks = PromptFile | Sequence[Prompts]
# Of a block: values [cells prompts], which cells changed anything, and the prompts' groups.
Answer = tuple[NDArray[np.float64], NDArray[np.bool_], tuple[str, ...] | None]
AnySweep = Sweep | CircuitSweep
MakeSweep = Callable[[Prompts], Sweep] | Callable[[Prompts], CircuitSweep]
Engine = Callable[[AnySweep, Progress | None], Scores]  # how a sweep's tasks are run
ENGINES = ("local", "ray", "ray=ADDRESS")


@dataclass(frozen=True)
class How:
    """How a sweep shall run. None of it changes what comes out beyond float noise.

    Attributes:
        memory: what tensors may take besides the weights: bytes, or a text such as "4G".
        engine: "local"; "ray" for a Ray cluster (the one that RAY_ADDRESS names or that runs on
            this machine, else one of this machine's own cores, for as long as it takes); or
            "ray=ADDRESS" for the cluster at an address.
        parts: a folder that gets every prompt's numbers, as Parquet, block by block.
        resume: go on with the run in `parts`.
        progress: called with what is done and the whole: bytes of a file (records of
            Parquet), otherwise forward passes that a loop would need.
        draws: whether what comes out has every prompt's effects, too (`Moments.draws`).
        label: by what groups are told apart: template, or a column of the prompts (see
            `Prompts.labels`).

    Raises:
        CircuitsError: for an engine there is not, or `resume` without `parts`.
    """

    memory: int | str | None = None
    engine: str = "local"
    parts: Path | None = None
    resume: bool = False
    progress: Progress | None = None
    draws: bool = False
    label: str = "template"

    def __post_init__(self) -> None:
        if self.engine != "local" and self.engine.partition("=")[0] != "ray":
            raise CircuitsError(
                f"there is no engine {self.engine!r}; choose {', '.join(ENGINES)}"
                f"{nearest(self.engine, ENGINES)}"
            )
        if self.resume and self.parts is None:
            raise CircuitsError("resume goes on with the run in a folder; give the folder as parts")


def survey(
    model: HookedModel,
    blocks: Blocks,
    make_sweep: MakeSweep,
    how: How | None = None,
    *,
    full: int | None = None,
    differences: Differences = (),
    question: Mapping[str, Any] | None = None,
) -> Moments:
    """What does each cell do on average over all these prompts, however many they are?

    `make_sweep` says what is asked of a block: always the same cells, the base run () among them,
    and nothing may decide about it but the block and the first block of the input (say, whose
    tokens a mean is over). Then a run that was killed and resumed gives the same bits as one that
    was not. `full` is the index of the cell whose effect is the whole of `Moments.ratio`, and
    `differences` are pairs of cells to compare (see `moments`). Prompts of templates, or other
    groups (``how.label``), are also told apart (`Moments.groups`). A run in ``how.parts`` is known
    by the model, the metric, the cells, what is asked of the first block, and by `question` (JSON
    values, such as the analysis' name).

    >>> import circuits
    >>> from circuits.metrics import get_metric
    >>> from circuits.prompts import make
    >>> from circuits.sweep import Source, Sweep, cell
    >>> model = circuits.load("sort-abc")
    >>> cells = ((), cell("a1"))
    >>> def without_attention(block):
    ...     source = Source("zero", block.tokens, block.mask)
    ...     return Sweep(block, get_metric("logit_diff"), cells, source)
    >>> moments = survey(model, [make("sorting", model, 20)], without_attention)
    >>> moments.n, moments.changed.tolist()
    (20, [False, True])

    Raises:
        CircuitsError: when there are no prompts, the cells differ between blocks, or parts cannot
            be written or continued.
    """
    how = how or How()
    first = next(iter(blocks), None)
    if first is None:
        raise CircuitsError("there are no prompts to ask; give at least one")
    sweep = make_sweep(first)
    if () not in sweep.cells:
        raise CircuitsError("the sweep lacks the base run; add the cell () to its cells")
    base = sweep.cells.index(())
    more: dict[str, Any] = {"base": base, "full": full, "scales": _scales(sweep)}
    summary = partial(moments, differences=tuple(differences), **more)
    with ExitStack() as stack:
        parts = stack.enter_context(_store(model, blocks, sweep, how, question or {}))
        # The beginning of a run decides for its end: see `Backend.using`.
        onednn = parts.began["onednn"] if parts else model.backend.uses_onednn
        stack.enter_context(model.backend.using(onednn=onednn))
        engine = stack.enter_context(_engine(model, how))
        progress = _Overall(how.progress, blocks, len(sweep.cells), parts.end if parts else Mark())
        label = None if first.labels(how.label) is None else how.label
        known = _known(parts, blocks, label) if parts else ()
        new = _answers(blocks, make_sweep, engine, parts, progress, label)
        summary = partial(_with_draws, summary, base=base) if how.draws else summary
        return reduce(Moments.merge, starmap(summary, chain(known, new)))


def _with_draws(
    summary: Callable[..., Moments],
    values: NDArray[np.float64],
    changed: NDArray[np.bool_],
    labels: tuple[str, ...] | None,
    *,
    base: int,
) -> Moments:
    """What `summary` says of an answer, with every prompt's effects."""
    return summary(values, changed, labels).drawn_from(values, labels, base=base)


def _known(parts: Parts, blocks: Blocks, label: str | None) -> Iterator[Answer]:
    """What stands in the parts; where prompts are told apart, by what is read again."""
    labels: Iterator[tuple[str, ...] | None] = repeat(None)
    if label is not None:
        labels = (prompts.labels(label) for prompts, _ in _after(blocks, Mark()))
    for (values, changed), some in zip(parts.read(), labels, strict=False):
        yield values, changed, some


def _answers(
    blocks: Blocks,
    make_sweep: MakeSweep,
    engine: Engine,
    parts: Parts | None,
    progress: _Overall,
    label: str | None,
) -> Iterator[Answer]:
    """The answer to each block that is not answered yet, stored as they come."""
    cells = None
    for prompts, end in _after(blocks, parts.end if parts else Mark()):
        if parts is not None and parts.complete:
            raise CircuitsError(
                f"{parts.folder} holds a complete run of {parts.end.n_prompts} prompts, and the "
                "input has more now; start anew in another folder, or ask the new ones alone"
            )
        labels = None if label is None else prompts.labels(label)
        sweep = make_sweep(prompts)
        if sweep.cells != (cells := cells or sweep.cells):
            raise CircuitsError("the cells differ between blocks; ask the same of all of them")
        scores = engine(sweep, progress.until(end))
        if parts is not None:
            parts.write(scores.values, scores.changed, end, _carried(prompts, parts))
        yield scores.values, scores.changed, labels
    if parts is not None:
        parts.finish()
    progress.finish()


def _scales(sweep: AnySweep) -> Scales:
    """The numbers that effects on this metric can be: above a base of 0, the metric's own."""
    metric, mask = sweep.metric, sweep.prompts.mask
    is_clean = sweep.clean is None or torch.equal(sweep.clean[mask], sweep.prompts.tokens[mask])
    change = metric.scale.change
    return Scales(metric.scale if metric.against_clean and is_clean else change, change)


def _store(
    model: HookedModel, blocks: Blocks, sweep: AnySweep, how: How, question: Mapping[str, Any]
) -> AbstractContextManager[Parts | None]:
    """The folder for the parts, opened for this question, if one was given."""
    if how.parts is None:
        return nullcontext()
    names = [name(cell) or "base" for cell in sweep.cells]
    known_by = {
        **question,
        "circuits": __version__,
        "torch": str(torch.__version__),
        "model": checksum(model),
        "tokenizer": model.tokenizer.checksum if model.tokenizer else None,
        "dtype": str(model.cfg.dtype),
        "device": model.W_E.device.type,
        "metric": sweep.metric.name,
        "method": sweep.source.method,
        "seed": sweep.source.seed,
        **sweep.manner,
        "n_cells": len(names),
        "cells": hashlib.sha256("\n".join(names).encode()).hexdigest(),
        "block": blocks.block if isinstance(blocks, PromptFile) else None,
        "first_block": _asked(sweep),
    }
    began = {"onednn": model.backend.uses_onednn, "columns": _columns(blocks)}
    return opened(how.parts, known_by, names, resume=how.resume, began=began)


def _columns(blocks: Blocks) -> list[str]:
    """What is said of any of the prompts besides, by name: every part has these columns."""
    if isinstance(blocks, PromptFile):
        return list(blocks.columns)
    return list(dict.fromkeys(name for prompts in blocks for name in prompts.columns))


def _carried(prompts: Prompts, parts: Parts) -> Mapping[str, Sequence[str | None]]:
    """What is said of these prompts besides, in the columns that all parts have."""
    names = parts.began.get("columns", list(prompts.columns))
    new = [name for name in prompts.columns if name not in names]
    if new:
        raise CircuitsError(
            f"{prompts.task} has a column {new[0]!r} that it did not have when the run in "
            f"{parts.folder} began, and all parts have the same columns "
            f"({', '.join(names) or 'none'}); take it out again, or start anew in another folder"
        )
    nothing = (None,) * len(prompts)
    return {name: prompts.columns.get(name, nothing) for name in names}


def _asked(sweep: AnySweep) -> str:
    """A hash of the prompts, of what they are compared with, and of what is written into them."""
    digest = hashlib.sha256(sweep.prompts.checksum.encode())
    if sweep.source.templates is not None:
        digest.update(json.dumps(sweep.source.templates).encode())
    if sweep.metric.readout is not None:  # prompts name their classes there
        digest.update(json.dumps(dict(sweep.prompts.columns)).encode())
    for tokens in (sweep.source.tokens, sweep.source.mask.int(), sweep.clean):
        content = None if tokens is None else tokens.tolist()
        digest.update(json.dumps(content).encode())
    return digest.hexdigest()


@contextmanager
def _engine(model: HookedModel, how: How) -> Iterator[Engine]:
    """What runs a sweep's tasks, here or on a cluster, for as long as the survey takes."""

    def with_plan(execute: Callable[..., Scores]) -> Engine:
        return lambda sweep, progress: execute(
            plan(model, sweep, memory=how.memory), progress=progress
        )

    if how.engine == "local":
        yield with_plan(partial(run, model))
        return
    with workers(model, how.engine.partition("=")[2] or None) as execute:
        yield with_plan(execute)


def _after(blocks: Blocks, mark: Mark) -> Iterator[tuple[Prompts, Mark]]:
    """The blocks that follow a mark, each with the mark at its end."""
    if isinstance(blocks, PromptFile):
        yield from blocks.after(mark)
        return
    digest, marks = hashlib.sha256(), [Mark()]
    for prompts in blocks:
        digest.update(prompts.checksum.encode())
        n_prompts = marks[-1].n_prompts + len(prompts)
        marks.append(Mark(n_prompts, sha256=digest.hexdigest()))
    if mark not in marks:
        raise CircuitsError(
            f"the first {mark.n_prompts} prompts are not those that the run began with; ask the "
            "same prompts, or start anew in another folder"
        )
    start = marks.index(mark)
    yield from zip(blocks[start:], marks[start + 1 :], strict=True)


class _Overall:
    """Progress over all blocks: each block's share of the whole, and within it that of its work."""

    def __init__(self, tell: Progress | None, blocks: Blocks, n_cells: int, done: Mark) -> None:
        self._tell, self._n_cells = tell, n_cells
        self._in_bytes = isinstance(blocks, PromptFile)
        self._done = self._at(done)
        self._total = 0
        if tell is not None:
            self._total = (
                blocks.size
                if isinstance(blocks, PromptFile)
                else n_cells * sum(len(prompts) for prompts in blocks)
            )

    def until(self, end: Mark) -> Progress | None:
        """What to call with the work done, and the work in all, of the block that ends here."""
        tell = self._tell
        if tell is None:
            return None
        start, self._done = self._done, self._at(end)
        share, total = self._done - start, self._total
        return lambda done, work: tell(start + round(share * done / (work or 1)), total)

    def finish(self) -> None:
        """All of it is done."""
        if self._tell is not None:
            self._tell(self._total, self._total)

    def _at(self, mark: Mark) -> int:
        return mark.offset if self._in_bytes else mark.n_prompts * self._n_cells
