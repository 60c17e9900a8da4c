"""Which prompts is a circuit tested on? Those of its task, which discovery has not seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from circuits.circuit import Circuit, Origin, read_circuit
from circuits.errors import CircuitsError
from circuits.evaluation.evidence import Row
from circuits.prompts import TASKS, PromptFile, Prompts, make
from circuits.registry import UnseenOptions
from circuits.registry.asked_prompts import Batch, asked_prompts

if TYPE_CHECKING:
    from circuits.model import HookedModel


def named_circuit(model: HookedModel, circuit: str | Path | Circuit) -> Circuit:
    """The circuit in a file, or of a published name, or as such, if it is one of this model.

    Raises:
        CircuitsError: when it cannot be read, is of another model, or is empty.
    """
    circuit = read_circuit(circuit)
    circuit.require_fits(model)
    if not circuit.parts:
        raise CircuitsError(
            "the circuit is empty, so there is nothing to test; give one that keeps some part"
        )
    return circuit


def unseen_prompts(
    model: HookedModel, origin: Origin, options: UnseenOptions
) -> tuple[UnseenOptions, list[Batch]]:
    """The prompts that a circuit of this origin is tested on, and the options that ask for them.

    Without task, prompt and file they are of the task that it was found on, drawn with the seed
    after discovery's.

    Raises:
        CircuitsError: when they are those that discovery used, or the circuit names no task.
    """
    task = options.task
    if task is None and options.prompt is None and options.file is None:
        task = _own_task(origin)
    seed = options.seed
    if seed is None:
        seed = 0 if origin.seed is None else origin.seed + 1
    if isinstance(task, str) and task == origin.task and seed == origin.seed:
        raise CircuitsError(
            f"seed={seed} drew the prompts of {task!r} on which the circuit was found; test it on "
            "others: leave the seed out, or give another"
        )
    metric = origin.metric if options.metric is None else options.metric
    asked = replace(options, task=task, seed=seed, metric=metric)
    batches = asked_prompts(model, asked)
    for batch in batches:
        if origin.prompts is not None and origin.prompts in _sums(batch):
            raise CircuitsError(
                f"the prompts of {batch.first.task!r} are those on which the circuit was found; "
                "test it on others: another seed, or another file"
            )
    return asked, batches


def overlap_rows(model: HookedModel, origin: Origin, prompts: Prompts) -> Iterator[Row]:
    """How many of the prompts discovery has seen, too; nothing where its own cannot be had."""
    task, seed = origin.task, origin.seed
    if task not in TASKS or seed is None or prompts.task != task or prompts.seed is None:
        return
    seen = set(_rows(make(task, model, origin.n, seed)))
    rows = _rows(prompts)
    n_seen = sum(row in seen for row in rows)
    yield Row(
        "prompts",
        "share that discovery has seen, too",
        n_seen / len(rows),
        n=len(rows),
        against=f"drawn with seed {prompts.seed}, those of discovery with {seed}",
    )


def _own_task(origin: Origin) -> str:
    if origin.task is None:
        raise CircuitsError(
            "the circuit does not say which task it is for; give one (task=ioi), or a prompt or "
            "file of your own"
        )
    if origin.task not in TASKS:
        raise CircuitsError(
            f"the circuit was found on {origin.task!r}, which is no task whose prompts can be "
            "drawn anew; give other prompts of the kind (file=...)"
        )
    return origin.task


def _sums(batch: Batch) -> Sequence[str]:
    first = batch.first.checksum
    return [first, batch.blocks.checksum] if isinstance(batch.blocks, PromptFile) else [first]


def _rows(prompts: Prompts) -> list[tuple[int, ...]]:
    """The tokens of each prompt, without padding."""
    pairs = zip(prompts.tokens.tolist(), prompts.mask.sum(1).tolist(), strict=True)
    return [tuple(row[:length]) for row, length in pairs]
