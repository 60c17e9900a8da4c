"""The command: `python -m experiments.benchmarks`. See the package's docstring."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from experiments.benchmarks import checkpoints, limits, report
from experiments.benchmarks.driver import (
    PACKAGE,
    ROOT,
    Effort,
    Worker,
    WorkerDied,
    chosen_items,
    installed,
    run_items,
)
from experiments.benchmarks.items import Item, Shape
from experiments.benchmarks.machines import machine, speed
from experiments.benchmarks.peers import PEERS, Peer
from experiments.benchmarks.scaling.command import Asked, scaling
from experiments.benchmarks.scaling.points import AXES

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"  # a folder for each day; README.md shows all of them
ENVIRONMENTS = ROOT / "build" / "peers"
QUICK = Effort(repeats=1, seconds=1.0, probe=0.1)


def parser() -> argparse.ArgumentParser:
    """The options."""
    doc = sys.modules[PACKAGE].__doc__
    made = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--install", action="store_true", help="install the peers, and do nothing else")
    add("--peers", type=Path, default=ENVIRONMENTS, help="folder with the peers' environments")
    add(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=PYTHON",
        help=f"the Python that has this peer: {', '.join(peer.name for peer in PEERS)}",
    )
    add("--without", action="append", default=[], metavar="NAME", help="leave a peer out")
    add("--model", action="append", help=f"{', '.join(checkpoints.NAMES)}, or a GPT-2")
    add("--only", action="append", metavar="ITEM", help="measure this item; may be repeated")
    add("--quick", action="store_true", help="every task once: a rehearsal, not a measurement")
    add("--prompts", type=int, help="how many prompts each task gets, instead of its own number")
    add("--tokens", type=int, help="how long they are, instead of the task's own number")
    add("--threads", type=int, default=2)
    add(
        "--clock",
        choices=["wall", "processor"],
        default="wall",
        help="what passes, or the processor's time, where other programs run; then with one thread",
    )
    add("--out", type=Path, default=RESULTS / today(), help="where the results go")
    add("--report", action="store_true", help="write tables and figure anew from what was measured")
    add("--scaling", action="store_true", help="measure how cost grows, instead; see scaling/")
    add("--axis", action="append", choices=list(AXES), help="with --scaling: only this axis")
    add("--again", action="store_true", help="with --scaling: measure also what is known already")
    return made


def today() -> str:
    """The day of a measurement, which is its folder's name."""
    return datetime.now(timezone.utc).date().isoformat()


def main(arguments: list[str] | None = None) -> None:
    asked = parser().parse_args(arguments)
    if asked.install:
        install(asked.peers)
        return
    if asked.scaling:
        sys.exit(0 if measure_growth(asked) else 130)
    if asked.axis or asked.again:
        parser().error("--axis and --again are for --scaling; add it, or leave them out")
    if asked.report:
        results = json.loads((asked.out / "results.json").read_text(encoding="utf-8"))
    else:
        effort = replace(
            QUICK if asked.quick else Effort(), threads=asked.threads, clock=asked.clock
        )
        results = measure(
            asked.model or list(checkpoints.MODELS),
            find_peers(asked.peers, asked.peer, asked.without),
            chosen_items(asked.only, asked.prompts, asked.tokens),
            effort,
        )
    report.write(results, asked.out)
    print(f"\n{report.page(results)}\nwritten to {asked.out}")
    if asked.out.parent == RESULTS and not (asked.quick or asked.only or asked.model):
        report.update_readme(report.kept(RESULTS), ROOT / "README.md")
        print("README.md shows them")


def measure_growth(asked: argparse.Namespace) -> bool:
    """What --scaling does; whether nothing interrupted it."""
    # Growth is measured over more than a day, and a rehearsal must not stand beside it.
    usual = ROOT / "build" / "scaling" if asked.quick else RESULTS
    folder = usual if asked.out == parser().get_default("out") else asked.out
    if asked.report and not (folder / "scaling.json").exists():
        parser().error(f"{folder} has no scaling.json; measure first: --scaling without --report")
    told = Asked(asked.axis or (), asked.quick, asked.again, asked.report)
    return scaling(folder, told)


def install(folder: Path) -> None:
    """Make an environment for each peer that needs one, with this Python and this torch."""
    requirements: dict[str, list[str]] = {}
    for peer in PEERS:
        if peer.environment:
            requirements.setdefault(peer.environment, []).extend(peer.requirements)
    version = torch.__version__.split("+")[0]
    for name, wanted in requirements.items():
        place = folder / name
        print(f"{place}: {', '.join(wanted)}")
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, f"torch=={version}", *wanted], check=True)


def find_peers(folder: Path, given: list[str], without: list[str]) -> list[tuple[Peer, str]]:
    """Which peer is run by which Python? Named ones first, then the folder's, then this one."""
    named = dict(pair.partition("=")[::2] for pair in given)
    known = [peer.name for peer in PEERS]
    for name in [*named, *without]:
        if name not in known:
            sys.exit(f"there is no peer {name!r}; choose from {', '.join(known)}")
    found = []
    for peer in PEERS:
        own = folder / peer.environment / "bin" / "python"
        python = named.get(peer.name, str(own) if peer.environment and own.exists() else "")
        if peer.name not in without:
            found.append((peer, python or sys.executable))
    return found


def measure(
    models: list[str], peers: list[tuple[Peer, str]], items: list[Item], effort: Effort
) -> dict[str, Any]:
    """All tasks in all libraries on all models: what `report` shows."""
    results: dict[str, Any] = {
        "date": today(),
        "machine": machine(effort.threads),
        "repeats": effort.repeats,
        "clock": effort.clock,
        "libraries": {},
        "models": [],
    }
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        for i, name in enumerate(models):
            folder = checkpoints.write(name, Path(scratch) / str(i))
            print(f"\n{checkpoints.title(name)}")
            # An import takes the same time whatever is loaded afterwards.
            asked = [item for item in items if i == 0 or item.where != "process"]
            measured = measure_model(folder, peers, asked, effort, results)
            results["models"].append({"name": name, "title": checkpoints.title(name)} | measured)
    results["minutes"] = round((time.perf_counter() - began) / 60, 1)
    return results


def measure_model(
    folder: Path,
    peers: list[tuple[Peer, str]],
    items: list[Item],
    effort: Effort,
    results: dict[str, Any],
) -> dict[str, Any]:
    """All tasks on one model. `results` learns of the libraries and of the machine's speed."""
    shape = Shape.of(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    before = speed(4 * shape.parameters, effort)
    workers = start(folder, peers, effort.threads, results["libraries"])
    try:
        timings = run_items(items, workers, shape, effort, print)
    finally:
        for worker in workers:
            worker.stop()
    after = speed(4 * shape.parameters, effort)
    flops = max(before["flops"], after["flops"], results.get("speed", before)["flops"])
    fastest = max(before, after, key=lambda s: s["flops"])
    results["speed"] = {"flops": flops, "by": fastest["by"]}
    bandwidth = max(before["bytes"], after["bytes"])
    return {
        "speed": {"flops": fastest["flops"], "bytes": bandwidth, "ways": fastest["all_flops"]},
        "items": [
            {
                "name": item.name,
                "label": item.label(shape),
                "limit_seconds": limits.seconds(item, shape, fastest["flops"], bandwidth),
                "timings": {name: t.to_json() for name, t in timings[item.name].items()},
            }
            for item in items
        ],
    }


def start(
    folder: Path, peers: list[tuple[Peer, str]], threads: int, libraries: dict[str, Any]
) -> list[Worker]:
    """Start every library that is there, and note its version, or why it is skipped."""
    workers = []
    for peer, python in peers:
        about = libraries.setdefault(peer.name, {"title": peer.title})
        word = installed(peer, python)
        worker = Worker(peer, python, folder, threads)
        if word is None:
            try:
                worker.start()
            except WorkerDied as death:
                word = f"does not start: {death}"
        if word is None:
            version = worker.versions.get(peer.distribution)
            about |= {"versions": worker.versions, "version": version}
            workers.append(worker)
        else:
            about["skipped"] = word
            print(f"{peer.title} is skipped: {word}")
    return workers


if __name__ == "__main__":
    main()
