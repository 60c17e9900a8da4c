"""A command in a process of its own: `python bounded_command.py KIND MEMORY`, "" for no bound.

Printed are the numbers, and by how many bytes the process has grown at most, see `bounded_sweep`.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import numpy as np
import torch
from bounded_sweep import report

import circuits
from circuits.model import HookedModel
from circuits.registry import find

IOI: dict[str, Any] = {"task": "ioi", "n": 50}
SITE: dict[str, Any] = {"component": "resid_pre.6@END", "variable": "position", **IOI}
# The command, its options, and which bound it is measured to keep: 32 MB, or what it needs. The
# scores of heads leave up to 38 MB in pieces, whatever the bound; gradients at all edges take 34 MB
# for a single prompt.
COMMANDS: dict[str, tuple[str, dict[str, Any], str]] = {
    "ablate": ("ablate", {"all_heads": True, **IOI}, "32M"),
    "ablate by means": ("ablate", {"all_heads": True, "method": "mean", **IOI}, "32M"),
    "approximate": ("approximate", {"what": "head", "check": 2, **IOI}, "32M"),
    "discover": ("discover", {"method": "eap", "keep": 20, **IOI}, "48M"),
    "discover by IG": ("discover", {"method": "eap-ig", "keep": 20, "steps": 2, **IOI}, "48M"),
    "heads": ("heads", {"n": 20}, "48M"),
    "interchange": ("interchange", {"variable": "s", "what": "mlp", **IOI}, "32M"),
    "interchange, rank": ("interchange", {"rank": 1, "steps": 2, **SITE}, "32M"),
    "patch": ("patch", IOI, "32M"),
    "paths": ("paths", {"to": "logits", **IOI}, "32M"),
}


def words(command: str) -> list[str]:
    """The command with little to do, for a shell."""
    more = {
        "ablate": ["--component", "a1.h1"],
        "evaluate": ["mini-ioi", "--controls", "45", "--subsets", "10", "--untrained", "0"],
        "heads": ["--kind", "copying"],
        "interchange": ["--variable", "s", "--component", "m1"],
        "paths": ["--to", "logits"],
    }
    task = [] if command == "heads" else ["--task", "ioi"]
    return [command, *more.get(command, []), *task, "-n", "4"]


def asked(kind: str, model: HookedModel, **more: Any) -> Any:
    """The values of an answer."""
    name, options, _ = COMMANDS[kind]
    answer = find(name).load()(model, **{**options, **more})
    return np.sort(answer.frame["value"].fillna(0).to_numpy())  # equal ones in any order


def main(kind: str, memory: str) -> None:
    torch.set_num_threads(1)
    model = circuits.load("mini")
    asked(kind, model, n=4, memory=memory or None)  # what is loaded when it is first used
    report(partial(asked, kind, model, memory=memory or None), memory)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
