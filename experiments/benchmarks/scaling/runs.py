"""Measures point after point, writes each result down as it comes, and goes on where it was."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from circuits.files import replacing
from experiments.benchmarks.driver import PACKAGE, ROOT, Effort, environment
from experiments.benchmarks.machines import machine, speed
from experiments.benchmarks.scaling.points import TRAINED, Point
from experiments.benchmarks.scaling.tasks import Measured

PROGRAM = 2**29  # bytes of the program itself, before any weights
WORK = 2**30  # bytes that a sweep takes at most, if it is not told
SIZE = {"float32": 4, "bfloat16": 2}
Say = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """What is known of a point: `measured`, or in `word` why not; by which `code`."""

    point: Point
    measured: Measured | None
    word: str
    code: str


@dataclass(frozen=True)
class Results:
    """All rows, and the machine that they are from.

    Attributes:
        date: when the last row was measured.
        machine: which machine, see `machines.machine`.
        speed: by precision, its fastest matrix product, see `machines.speed`.
        clock: "processor" or "wall".
        rows: in the order of the points.
    """

    date: str
    machine: dict[str, Any]
    speed: dict[str, dict[str, Any]]
    clock: str
    rows: tuple[Row, ...] = ()

    def row(self, point: Point) -> Row | None:
        """The row of this point."""
        return next((row for row in self.rows if row.point.key == point.key), None)

    def only(self, points: Sequence[Point]) -> Results:
        """The rows of these points, in their order."""
        rows = (self.row(point) for point in points)
        return replace(self, rows=tuple(row for row in rows if row is not None))

    def having(self, row: Row) -> Results:
        """The same with this row, in place of an older one."""
        rows = (*(r for r in self.rows if r.point.key != row.point.key), row)
        return replace(self, rows=rows, date=datetime.now(timezone.utc).date().isoformat())


def read(path: Path) -> Results | None:
    """What was written to this file; None if it is not there."""
    if not path.exists():
        return None
    known = json.loads(path.read_text(encoding="utf-8"))
    rows = tuple(
        Row(
            Point(**row["point"]),
            None if row["measured"] is None else measured_of(row["measured"]),
            row["word"],
            row["code"],
        )
        for row in known.pop("rows")
    )
    return Results(**known, rows=rows)


def measured_of(sent: dict[str, Any]) -> Measured:
    """What `asdict` made of it."""
    return Measured(**(sent | {"seconds": tuple(sent["seconds"])}))


def write(results: Results, path: Path) -> None:
    """Write them all; the file is the earlier one or the new one at every moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(results), indent=1, ensure_ascii=False)
    with replacing(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def measure(
    points: Sequence[Point], path: Path, effort: Effort, *, again: bool = False, say: Say = print
) -> Results:
    """Measure what is not known yet, each in a process of its own; Ctrl-C loses none of it.

    What is in the file from another machine is dropped as soon as something new is known; what is
    from other code is replaced point by point. With `again`, everything is measured anew.
    """
    results, code = begun(read(path), effort), code_now()
    for i, point in enumerate(points):
        known = results.row(point)
        if known is not None and known.measured and known.code == code and not again:
            say(f"{i + 1:3}/{len(points)}  {point}: known")
            continue
        word = unfit(point, available()) or overdue(results, point, code)
        row = Row(point, None, word, code) if word else alone(point, effort, code)
        results = results.having(row)
        write(results, path)
        say(f"{i + 1:3}/{len(points)}  {point}: {row.word or shown(row)}")
    return results


def begun(known: Results | None, effort: Effort) -> Results:
    """What was known of this machine; otherwise nothing but how fast it is."""
    here = machine(effort.threads)
    if known is not None and known.machine == here and known.clock == effort.clock:
        return known
    speeds = {dtype: speed(2**29, effort, dtype) for dtype in SIZE}
    return Results(datetime.now(timezone.utc).date().isoformat(), here, speeds, effort.clock)


def alone(point: Point, effort: Effort, code: str) -> Row:
    """Measure this point in a process of its own, within its limit."""
    told = json.dumps(asdict(point)), json.dumps(asdict(effort))
    try:
        done = subprocess.run(
            [sys.executable, "-m", f"{PACKAGE}.scaling.tasks", *told],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment(effort.threads),
            timeout=point.limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Row(point, None, f"stopped after {point.limit} s", code)
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        last = said[-1][:200] if said else "no message"
        return Row(point, None, f"failed: {last} (status {done.returncode})", code)
    return Row(point, measured_of(json.loads(done.stdout)), "", code)


def unfit(point: Point, free: int) -> str:
    """Why does this point not fit into so many free bytes? Empty if it does.

    It needs its weights, what a sweep may take by default, and the program.
    """
    if point.model in TRAINED:
        return ""
    weights = point.shape.parameters * SIZE[point.dtype]
    needs = weights + WORK + PROGRAM
    if needs <= free:
        return ""
    return (
        f"skipped: it needs {needs / 1e9:.1f} GB (weights {weights / 1e9:.1f}, work "
        f"{WORK / 1e9:.1f}, program {PROGRAM / 1e9:.1f}), and {free / 1e9:.1f} GB are free"
    )


def overdue(results: Results, point: Point, code: str) -> str:
    """Why is this point not worth a try? Empty unless a smaller one of its line took too long."""
    for row in results.rows:
        same = (row.point.axis, row.point.series) == (point.axis, point.series)
        if same and row.code == code and row.point.x < point.x and row.word.startswith("stopped"):
            return f"skipped: {row.point.x:,} were {row.word} already"
    return ""


def available() -> int:
    """How many bytes are free for a new program, as Linux says; elsewhere as good as all."""
    about = Path("/proc/meminfo")
    if not about.exists():
        return 2**63
    line = next(x for x in about.read_text().splitlines() if x.startswith("MemAvailable:"))
    return int(line.split()[1]) * 1024


def code_now() -> str:
    """A hash of the code that is measured, and of that which measures."""
    digest = hashlib.sha256()
    here = Path(__file__).resolve().parent
    measuring = [here / f"{name}.py" for name in ("points", "tasks", "clusters")]
    for path in [*sorted((ROOT / "circuits").rglob("*.py")), *measuring]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def shown(row: Row) -> str:
    """A row in a few words."""
    if row.measured is None:
        return row.word
    middle = sorted(row.measured.seconds)[len(row.measured.seconds) // 2]
    return f"{middle:.3g} s, {row.measured.peak / 1e6:.0f} MB"
