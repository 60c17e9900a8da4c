"""What every command costs as people call it: `python -m experiments.benchmarks.commands`.

Each command runs on the bundled `mini` in fresh processes, in turn with a bare ``import torch``. A
ratio of 1 would be a command that takes no more than that import and its own arithmetic, which is
the second call of the analysis in one process. Times are the processor's own, so that other
programs on the machine count little; Python's compiled files are there, as after the first call.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from circuits.cli.contents import questions
from experiments.benchmarks.driver import ROOT, environment

TEXT = "When Mary and John went to the garden, John gave a letter to"
RESULTS = Path(__file__).resolve().parent / "results" / "commands.md"
# What each command is asked; what is not named takes a text, or no words.
WORDS = {
    "ablate": ["--layer", "5", "--head", "3"],
    "compare": ["ioi", "greater-than"],
    "diff": ["mini", "--analysis", "weights"],
    "evaluate": ["compiled-ioi", "--model", "compiled", "-n", "8"],
    "fine-tune": ["tuned", "--task", "ioi", "--steps", "5"],
    "generate": [TEXT, "-n", "8", "--seed", "1"],
    "interchange": ["--component", "a1", "--task", "ioi", "-n", "8"],
    "neurons": ["m5.n290"],
    "ov": ["a1.h0"],
    "paths": ["--to", "logits", "--task", "ioi", "-n", "8"],
    "qk": ["a1.h0"],
    "run": ["--list"],
    "tune-lens": ["lens.safetensors", "--steps", "2", "-n", "4"],
    "walkthrough": ["CBABBC"],
    "why": ["a1.h0", "Mr Brown went home. Mr"],
    **{
        name: ["--task", "ioi", "-n", "8"]
        for name in ("approximate", "attribute", "discover", "patch")
    },
    **{name: [TEXT] for name in ("attention", "logit-lens")},
}
WITHOUT = {"explore", "pull"}  # which serve a page, and wait for the network
# Runs a command, and then what it asked once more: the processor's seconds of that.
ARITHMETIC = """
import json, os, sys, tempfile, time
from circuits.registry import recipes
from circuits.cli import main, commands
spent = []
def twice(function):
    def call(*given, **named):
        result = function(*given, **named)
        here = os.getcwd()
        with tempfile.TemporaryDirectory() as folder:  # what it writes is not there yet
            os.chdir(folder)
            began = time.process_time()
            function(*given, **named)
            spent.append(time.process_time() - began)
            os.chdir(here)
        return result
    return call
load = recipes.Recipe.load
recipes.Recipe.load = lambda recipe: twice(load(recipe))
commands.generate = twice(commands.generate)
try:
    main()
finally:
    sys.stderr.write("\\n" + json.dumps(sum(spent)))
"""


@dataclass(frozen=True)
class Cost:
    """What a command took, in seconds: medians; `imports` is what share of it they take."""

    name: str
    processor: float
    wall: float
    imports: float
    arithmetic: float
    torch: float

    @property
    def ratio(self) -> float:
        """The processor's time over that of importing torch and of the arithmetic."""
        return self.processor / (self.torch + self.arithmetic)


def timed(words: list[str], folder: Path, env: dict[str, str]) -> tuple[float, float]:
    """The processor's seconds of one process, and those that passed."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: {done.stderr.strip().splitlines()[-1]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def measured(name: str, repeats: int, env: dict[str, str]) -> Cost:
    """One command, in turn with the bare import."""
    words = [name, *WORDS.get(name, [])]
    command = [sys.executable, "-m", "circuits", *words]
    bare = [sys.executable, "-c", "import torch"]
    alone, whole = [], []
    for _ in range(repeats + 1):
        with tempfile.TemporaryDirectory() as folder:
            alone.append(timed(bare, Path(folder), env))
            whole.append(timed(command, Path(folder), env))
    alone, whole = alone[1:], whole[1:]  # the first compiles
    with tempfile.TemporaryDirectory() as folder:
        options = {"cwd": folder, "env": env, "capture_output": True, "text": True, "check": True}
        again = subprocess.run([sys.executable, "-c", ARITHMETIC, *words], **options)
        began = time.perf_counter()
        options["cwd"] = tempfile.mkdtemp(dir=folder)
        traced = subprocess.run([sys.executable, "-X", "importtime", *command[1:]], **options)
        passed = time.perf_counter() - began
    took = re.findall(r"^import time: +(\d+) \|", traced.stderr, re.M)
    processor, wall = (statistics.median(each) for each in zip(*whole, strict=True))
    imports = sum(map(int, took)) / 1e6 / passed
    torch = statistics.median(seconds for seconds, _ in alone)
    arithmetic = json.loads(again.stderr.strip().splitlines()[-1])
    return Cost(name, processor, wall, imports, arithmetic, torch)


def table(costs: list[Cost], threads: int) -> str:
    """All commands, the most expensive first."""
    rows = [
        f"| `{' '.join([c.name, *WORDS.get(c.name, [])])[:60]}` | {c.processor:.2f} | {c.wall:.2f} "
        f"| {c.imports:.0%} | {c.arithmetic:.2f} | {c.torch:.2f} | {c.ratio:.2f} |"
        for c in sorted(costs, key=lambda cost: -cost.processor)
    ]
    return "\n".join(
        [
            "# Commands on `mini`",
            "",
            f"{(__doc__ or '').split(chr(10), 2)[2].strip()}",
            "",
            f"Seconds, {threads} thread{'s' * (threads > 1)}, other programs beside.",
            "",
            "| command | processor | wall | imports | arithmetic | import torch | ratio |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
            *rows,
            "",
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    made = argparse.ArgumentParser(prog="python -m experiments.benchmarks.commands")
    made.add_argument("--only", action="append", choices=[*questions()], metavar="COMMAND")
    made.add_argument("--repeats", type=int, default=3)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--out", type=Path, default=RESULTS, help="where the table goes")
    asked = made.parse_args(arguments)
    costs = []
    with tempfile.TemporaryDirectory() as cache:
        env = environment(asked.threads) | {"PYTHONPYCACHEPREFIX": cache, "PYTHONPATH": str(ROOT)}
        env = {name: value for name, value in env.items() if name != "PYTHONDONTWRITEBYTECODE"}
        for name in asked.only or [name for name in questions() if name not in WITHOUT]:
            costs.append(measured(name, asked.repeats, env))
            print(json.dumps(asdict(costs[-1]) | {"ratio": round(costs[-1].ratio, 2)}), flush=True)
    if not asked.only:
        asked.out.write_text(table(costs, asked.threads), encoding="utf-8")
    print(table(costs, asked.threads))


if __name__ == "__main__":
    main()
