"""What would a perfect program take? The least arithmetic, at the speed this machine can reach.

    python -m experiments.benchmarks.limits WEIGHT_BYTES SECONDS

measures that speed: the fastest of torch's matrix products, large enough to be at its best, and for
generation how fast as many bytes as the model has can be read. Only products are counted (two
operations for each weight and token); LayerNorm, GELU and softmax would have to be free.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import torch
import torch.nn.functional as F

from experiments.benchmarks.items import Item, Shape

ROWS, WIDTH, HIDDEN = 2048, 768, 3072


def machine_speed(weight_bytes: int, seconds: float) -> dict[str, object]:
    """Operations and bytes a second, and which product was the fastest; `seconds` for each."""
    torch.manual_seed(0)
    x, w, b = torch.randn(ROWS, WIDTH), torch.randn(HIDDEN, WIDTH) / 28, torch.randn(HIDDEN)
    w_t = w.T.contiguous()
    ways: dict[str, Callable[[], object]] = {
        "torch.addmm": lambda: torch.addmm(b, x, w_t),
        "F.linear": lambda: F.linear(x, w, b),
    }
    with suppress(AttributeError, RuntimeError):  # a private operation, which may be missing
        packed = torch.ops.mkldnn._reorder_linear_weight(w, ROWS)
        torch.ops.mkldnn._linear_pointwise(x, packed, b, "none", [], "")
        ways["oneDNN with packed weights"] = lambda: torch.ops.mkldnn._linear_pointwise(
            x, packed, b, "none", [], ""
        )
    with torch.inference_mode():
        work = 2 * ROWS * WIDTH * HIDDEN
        speeds = {name: work / _fastest(way, seconds) for name, way in ways.items()}
        vector, matrix = torch.randn(WIDTH), torch.randn(weight_bytes // 4 // WIDTH, WIDTH)
        reading = min(_fastest(lambda: matrix @ vector, seconds), _fastest(matrix.sum, seconds))
    best = max(speeds, key=lambda name: speeds[name])
    bandwidth = 4 * matrix.numel() / reading
    return {"flops": speeds[best], "by": best, "all_flops": speeds, "bytes": bandwidth}


def _fastest(way: Callable[[], object], seconds: float) -> float:
    """How many seconds takes the fastest of the calls that fit into `seconds`?"""
    best, stop = float("inf"), time.perf_counter() + seconds
    while (start := time.perf_counter()) < stop:
        way()
        best = min(best, time.perf_counter() - start)
    return best


def seconds(item: Item, shape: Shape, flops: float, bandwidth: float) -> float | None:
    """The least time for this task at these speeds; None where arithmetic is not what it takes."""
    if item.where != "worker":
        return None
    count = Count(shape, *item.given(shape).tokens.shape)
    if item.name == "generate":
        read = 4 * (shape.parameters - shape.context * shape.width)
        new = item.given(shape).new
        # The prompt at once, then each token but the last reads all weights.
        return count.last_logits() / flops + (new - 1) * read / bandwidth
    return getattr(count, item.function)() / flops


def main() -> None:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    print(json.dumps(machine_speed(int(sys.argv[1]), float(sys.argv[2]))))


class Count:
    """Operations of the cheapest exact algorithm for `batch` prompts of `length` tokens."""

    def __init__(self, shape: Shape, batch: int, length: int) -> None:
        self.shape, self.batch, self.length = shape, batch, length
        d = shape.width
        self.keys_values, self.query, self.out = 4 * d * d, 2 * d * d, 2 * d * d  # each per token
        self.mlp = 4 * d * shape.hidden
        self.token = self.keys_values + self.query + self.out + self.mlp
        self.unembed = 2 * d * shape.vocabulary
        self.two_logits = 4 * d

    def mixing(self, first: int = 0) -> int:
        """Attention from positions `first` on, each to those up to it: scores and their use."""
        return sum(4 * self.shape.width * (i + 1) for i in range(first, self.length))

    def layers(self, n: int, first: int = 0) -> int:
        """`n` whole layers at positions `first` on, of one prompt."""
        return n * ((self.length - first) * self.token + self.mixing(first))

    def last_layer(self, first: int = 0) -> int:
        """Keys and values at positions `first` on, and everything else at the last one."""
        t = self.length
        own = self.query + self.out + self.mlp + 4 * self.shape.width * t
        return (t - first) * self.keys_values + own

    def body(self) -> int:
        """All layers, the last one for its last position."""
        return self.layers(self.shape.layers - 1) + self.last_layer()

    def forward(self) -> int:
        return self.batch * (self.layers(self.shape.layers) + self.length * self.unembed)

    full_cache = forward

    def last_logits(self) -> int:
        return self.batch * (self.body() + self.unembed)

    def logit_lens(self) -> int:
        s, n = self.shape, self.length
        return self.batch * (self.layers(s.layers) + (s.layers + 1) * n * self.unembed)

    def ablate_heads(self) -> int:
        """One clean run. Then for each head: its own output taken off, that layer's MLP, the rest.

        In the last layer only the last position of all this matters.
        """
        s, t = self.shape, self.length
        one_head = 2 * s.width * s.width // s.heads
        each = 0
        for layer in range(s.layers - 1):
            above = self.layers(s.layers - 2 - layer) + self.last_layer()
            each += t * (one_head + self.mlp) + above + self.two_logits
        each += one_head + self.mlp + self.two_logits
        return self.batch * (self.body() + s.heads * each)

    def patch_heads(self) -> int:
        """As `ablate_heads`, and one run for the values that are written."""
        source = self.layers(self.shape.layers - 1) + self.last_layer() - self.out - self.mlp
        return self.ablate_heads() + self.batch * source

    def patch_residual(self) -> int:
        """Two runs. Then a patch at a position leaves what is before it as it was.

        In its own layer, a later position keeps its query, key and value.
        """
        s, t = self.shape, self.length
        total = 2 * self.body()
        for position in range(t):
            own = self.keys_values + self.query
            own += (t - position) * (self.out + self.mlp) + self.mixing(position)
            for layer in range(s.layers - 1):
                above = self.layers(s.layers - 2 - layer, position) + self.last_layer(position)
                total += own + above + self.two_logits
            total += self.last_layer(t - 1) + self.two_logits
            total -= 0 if position == t - 1 else self.query
        return self.batch * total

    def attribution(self) -> int:
        """Two runs forward; back from the last position to the first layer's z, inputs only."""
        s = self.shape
        backward = self.last_layer() + 4 * s.width * self.length  # attention's costs twice as much
        if s.layers > 1:
            backward += self.layers(s.layers - 2) + (s.layers - 2) * self.mixing()
            backward += self.length * (self.out + self.mlp)  # the first layer, down to its z
        source = self.layers(s.layers - 1) + self.last_layer() - self.out - self.mlp
        return self.batch * (self.body() + source + backward)


if __name__ == "__main__":
    main()
