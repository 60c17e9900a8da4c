"""A long run in a process of its own, to be killed: every head of sort-abc, on a file of words."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from circuits.checkpoints import load
from circuits.components import all_heads
from circuits.metrics import get_metric
from circuits.prompts import PromptFile, Prompts
from circuits.sweep import Source, Sweep, cell
from circuits.sweep.moments import Moments
from circuits.sweep.survey import How, survey

BLOCK = 100
COLUMNS = ("value", "effect", "squares", "products", "changed")


def write_words(path: Path, n: int) -> Path:
    """`n` words of six letters, each with the letter it begins with when sorted."""
    words = ["".join("ABC"[(i * 7 + i // 3**k) % 3] for k in range(6)) for i in range(n)]
    rows = [f"{w},{min(w)},{'ABC'[('ABC'.index(min(w)) + 1) % 3]}" for w in words]
    path.write_text("\n".join(["clean,answer,distractor", *rows]) + "\n")
    return path


def long_run(path: Path, how: How) -> Moments:
    """Every head's mean ablation; the mean is over the first block's tokens."""
    model = load("sort-abc")
    blocks = PromptFile(model, path, BLOCK)
    first = next(iter(blocks))
    cells = ((), *map(cell, all_heads(model.cfg)))
    source = Source("mean", first.tokens, first.mask)

    def make_sweep(block: Prompts) -> Sweep:
        return Sweep(block, get_metric("logit_diff"), cells, source)

    return survey(model, blocks, make_sweep, how, full=1, question={"analysis": "heads"})


def bits(found: Moments) -> str:
    """Every bit of what was found."""
    return " ".join([str(found.n), *(getattr(found, name).tobytes().hex() for name in COLUMNS)])


def environment() -> dict[str, str]:
    """That of a process which can import what this one can."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


if __name__ == "__main__":
    torch.set_num_threads(1)
    words, parts, *options = sys.argv[1:]
    engine = "local" if "--ray" not in options else "ray=local"
    asked = How(parts=Path(parts), resume="--resume" in options, engine=engine)
    sys.stdout.write(bits(long_run(Path(words), asked)))
