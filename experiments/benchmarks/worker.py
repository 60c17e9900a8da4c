"""One library in a process of its own: reads tasks as JSON lines, answers with times and numbers.

    python -m experiments.benchmarks.worker MODULE FOLDER

Whatever the library prints goes to standard error; standard output is the protocol's alone.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.items import ITEMS, Given
from experiments.benchmarks.peers import Declined

NUMBERS = 2000  # as many of a result's numbers are compared, evenly spaced
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
VERSIONS = ("torch", "numpy", "transformers", "transformer-lens", "nnsight")


def main() -> None:
    module, folder = sys.argv[1:3]
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    library = importlib.import_module(module)
    _use_threads(int(os.environ["OMP_NUM_THREADS"]))
    model = library.load(Path(folder))
    _send(lines, {"versions": _versions()})
    for line in sys.stdin:
        _send(lines, _answer(library, model, Path(folder), json.loads(line)))


def _answer(library: Any, model: Any, folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Do one task once."""
    item = next(item for item in ITEMS if item.name == asked["item"])
    given = Given.from_json(asked["given"])
    function = getattr(library, item.function, None)
    if function is None and item.function == "last_logits":
        # Without such an option everybody's logits are computed.
        function = lambda model, given: library.forward(model, given)[:, -1]  # noqa: E731
        if item.where == "worker":
            return {"declined": "has no such option"}
    if function is None:
        return {"declined": "is not made for it"}
    if hasattr(library, "prepare"):
        library.prepare(model, item.name)
    tasks: dict[str, Callable[[], Any]] = {
        "load": lambda: library.load(folder),
        "first_logits": lambda: function(library.load(folder), given),
    }
    try:
        task = tasks.get(item.name, lambda: function(model, given))
        clock = CLOCKS[asked["clock"]]
        seconds, peak, result = measured(task, asked["memory"], clock)
    except Declined as why:
        return {"declined": str(why)}
    numbers, exact = ([], True) if item.name == "load" else _numbers(result)
    return {"seconds": seconds, "peak_bytes": peak, "numbers": numbers, "exact": exact}


def measured(
    task: Callable[[], Any], for_memory: bool, clock: Callable[[], float]
) -> tuple[float, int | None, Any]:
    """How long does it take, by how many bytes does the process grow, and what comes out?

    Memory is measured from a process that has given back what it does not use. To get it again
    takes time, which is not the task's: a run for memory is none for time.
    """
    gc.collect()
    before = _reset_peak() if for_memory else None
    start = clock()
    result = task()
    seconds = clock() - start
    return seconds, None if before is None else memory("VmHWM") - before, result


def _reset_peak() -> int | None:
    """Give back what is not used, forget the old peak; how much is in use? None if unknown."""
    try:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        return memory("VmRSS")
    except (OSError, TypeError):
        return None


def memory(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024


def _numbers(result: Any) -> tuple[list[float], bool]:
    """The numbers to compare, and whether they are whole ones, which agree exactly or not."""
    parts = result if isinstance(result, list) else [result]
    flat = [
        np.asarray(part.detach() if hasattr(part, "detach") else part).ravel() for part in parts
    ]
    chosen = [np.linspace(0, len(f) - 1, min(len(f), NUMBERS)).astype(int) for f in flat]
    values = np.concatenate([f[at] for f, at in zip(flat, chosen, strict=True)])
    return values.astype(float).tolist(), bool(np.issubdtype(values.dtype, np.integer))


def _use_threads(n: int) -> None:
    """BLAS libraries read the environment; torch, where it is loaded, is told as well."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(n)


def _versions() -> dict[str, str]:
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in VERSIONS:
        try:
            if name.replace("-", "_") in sys.modules:
                found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _send(lines: Any, message: dict[str, Any]) -> None:
    lines.write(json.dumps(message) + "\n")
    lines.flush()


if __name__ == "__main__":
    main()
