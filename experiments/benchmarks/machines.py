"""The machine that is measured on: which it is, and what it can do at its best."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from experiments.benchmarks.driver import PACKAGE, ROOT, Effort, environment


def speed(weight_bytes: int, effort: Effort, dtype: str = "float32") -> dict[str, Any]:
    """What this machine can do at its best, measured in a process of its own."""
    size, probe = str(weight_bytes), str(effort.probe)
    done = subprocess.run(
        [sys.executable, "-m", f"{PACKAGE}.limits", size, probe, effort.clock, dtype],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=environment(effort.threads),
    )
    return json.loads(done.stdout)


def machine(threads: int) -> dict[str, Any]:
    """What is this measured on?"""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        facts = dict(re.findall(r"(?m)^(\S[^\t]*)\t*: (.*)$", info.read_text()))
        generation = [facts[name] for name in ("cpu family", "model") if name in facts]
        cpu = facts.get("model name", cpu)
        if len(generation) == 2:  # hosts often hide the name: these two say which it is
            cpu += ", family {}, model {}".format(*generation)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": threads,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
