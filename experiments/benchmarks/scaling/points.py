"""What is measured: every point of every axis, and how it is called."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from circuits.config import GPT2_SIZES, ModelConfig
from experiments.benchmarks.items import Shape

AXES = {
    "model": "parameters",
    "context": "tokens of a prompt",
    "prompts": "prompts",
    "cells": "cells",
    "workers": "workers",
}
TRAINED = ("mini", "sort-abc")  # the bundled models; all others have random weights
TINY = {
    f"tiny-{n}": ModelConfig(n_layers=n, n_heads=2, d_model=16 * n, n_ctx=128, d_vocab=64)
    for n in (2, 4)
}
SIZES = GPT2_SIZES | TINY


@dataclass(frozen=True)
class Point:
    """One measurement.

    Attributes:
        axis: what grows, of `AXES`.
        series: the line of the figure that it is a point of.
        task: what is done, of `tasks.TASKS`.
        model: whose shape; one of the bundled models, or with random weights.
        dtype: the precision of the weights.
        batch, length: how many prompts of how many tokens.
        n: how many cells or workers there are; 0 where that is not asked.
        limit: after so many seconds the process is stopped.
    """

    axis: str
    series: str
    task: str
    model: str = "gpt2"
    dtype: str = "float32"
    batch: int = 1
    length: int = 16
    n: int = 0
    limit: int = 300

    @property
    def x(self) -> int:
        """Where it stands on its axis."""
        sizes = {"context": self.length, "prompts": self.batch, "cells": self.n, "workers": self.n}
        return self.shape.parameters if self.axis == "model" else sizes[self.axis]

    @property
    def shape(self) -> Shape:
        """How large is the model? Not known here for bundled ones."""
        cfg = SIZES[self.model]
        return Shape(cfg.n_layers, cfg.n_heads, cfg.d_model, cfg.d_mlp, cfg.n_ctx, cfg.d_vocab)

    @property
    def key(self) -> tuple[object, ...]:
        """What tells it from others: everything but the limit."""
        return tuple(value for name, value in vars(self).items() if name != "limit")

    def __str__(self) -> str:
        more = f", n={self.n}" if self.n else ""
        return f"{self.axis}: {self.series}, {self.model} {self.batch}×{self.length}{more}"


def points(*, quick: bool = False) -> list[Point]:
    """All of them, each line from small to large."""
    if quick:
        return list(_rehearsal())
    return [*_models(), *_contexts(), *_prompts(), *_cells(), *_workers()]


def _models() -> Iterator[Point]:
    """GPT-2's four shapes in two precisions."""
    work = {
        "forward": ("forward", 1, 64, 0),
        "12 heads ablated": ("ablate_heads", 2, 16, 12),
        "attribution on z": ("attribution", 2, 32, 0),
        "EAP, all edges": ("edges_eap", 2, 16, 0),
    }
    for dtype in ("float32", "bfloat16"):
        for name, (task, batch, length, n) in work.items():
            for model in GPT2_SIZES:
                yield Point("model", f"{name}, {dtype}", task, model, dtype, batch, length, n)


def _contexts() -> Iterator[Point]:
    """One prompt of 64 to 1024 tokens, in the shape of GPT-2 small."""
    work = {
        "forward": ("forward", 0),
        "all sites cached": ("full_cache", 0),
        "4 heads ablated": ("ablate_heads", 4),
        "attribution on z": ("attribution", 0),
    }
    for name, (task, n) in work.items():
        for length in (64, 128, 256, 512, 1024):
            yield Point("context", name, task, length=length, n=n)


def _prompts() -> Iterator[Point]:
    """A hundred to a million prompts out of a file, in the bundled `sort-abc`."""
    work = {
        "9 heads ablated": ("ablate_file", 10**6),
        "9 heads by gradient": ("approximate_file", 10**5),
        "EAP, all edges": ("discover_file", 10**5),
    }
    for name, (task, most) in work.items():
        for batch in (10**2, 10**3, 10**4, 10**5, 10**6):
            if batch <= most:
                yield Point("prompts", name, task, "sort-abc", batch=batch, length=6, limit=900)


def _cells() -> Iterator[Point]:
    """Some to all heads, positions, neurons and edges of GPT-2 small, 2 prompts of 16 tokens."""
    work = {
        "heads": ("ablate_heads", (9, 18, 36, 72, 144)),
        "resid_pre, layer × position": ("patch_residual", (12, 24, 48, 96, 192)),
        "neurons": ("ablate_neurons", (16, 64, 256, 1024)),
        "edges, one by one": ("patch_edges", (16, 64, 256, 1024)),
    }
    for name, (task, sizes) in work.items():
        for n in sizes:
            yield Point("cells", name, task, batch=2, n=n)


def _workers() -> Iterator[Point]:
    """One to four processes of one thread each."""
    for name, model, batch, length, most in (
        ("all heads of mini", "mini", 16, 32, 4),
        ("tiny tasks of sort-abc", "sort-abc", 2000, 6, 4),
        ("all heads of GPT-2 small's shape", "gpt2", 2, 16, 2),
    ):
        for n in range(1, most + 1):
            yield Point("workers", name, "ray_heads", model, batch=batch, length=length, n=n)


def _rehearsal() -> Iterator[Point]:
    """Something small of every axis."""
    for model in TINY:
        yield Point("model", "forward, float32", "forward", model)
    for length in (16, 64):
        yield Point("context", "all sites cached", "full_cache", "tiny-2", length=length)
    for batch in (10, 100):
        yield Point("prompts", "9 heads ablated", "ablate_file", "sort-abc", batch=batch, length=6)
    for n in (2, 4):
        yield Point("cells", "heads", "ablate_heads", "tiny-2", n=n)
    for n in (1, 2):
        yield Point("workers", "all heads", "ray_heads", "sort-abc", batch=100, length=6, n=n)
