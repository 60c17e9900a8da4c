"""What would a perfect program take? The least arithmetic, at the speed this machine can reach.

    python -m experiments.benchmarks.limits WEIGHT_BYTES SECONDS CLOCK [DTYPE]

measures that speed: the fastest of torch's matrix products, large enough to be at its best, and for
generation how fast as many bytes as the model has can be read. Only products are counted (two
operations for each weight and token); LayerNorm, GELU and softmax would have to be free.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from experiments.benchmarks.edges import HALF, SHARES, STEPS, Edges, Mask
from experiments.benchmarks.items import Item, Shape
from experiments.benchmarks.worker import CLOCKS

Clock = Callable[[], float]
ROWS, WIDTH, HIDDEN = 2048, 768, 3072


def machine_speed(
    weight_bytes: int, seconds: float, clock: Clock, dtype: torch.dtype = torch.float32
) -> dict[str, object]:
    """Operations and bytes a second, and which product was the fastest; `seconds` for each.

    Products are of this precision; what is read is float32.
    """
    torch.manual_seed(0)
    shapes = (ROWS, WIDTH), (HIDDEN, WIDTH), (HIDDEN,)
    x, w, b = (torch.randn(shape).to(dtype) for shape in shapes)
    w /= 28
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
        speeds = {name: work / _fastest(way, seconds, clock) for name, way in ways.items()}
        vector, matrix = torch.randn(WIDTH), torch.randn(weight_bytes // 4 // WIDTH, WIDTH)
        reads = (lambda: matrix @ vector), matrix.sum
        reading = min(_fastest(way, seconds, clock) for way in reads)
    best = max(speeds, key=lambda name: speeds[name])
    bandwidth = 4 * matrix.numel() / reading
    return {"flops": speeds[best], "by": best, "all_flops": speeds, "bytes": bandwidth}


def _fastest(way: Callable[[], object], seconds: float, clock: Clock) -> float:
    """How many seconds takes the fastest of the calls that fit into `seconds`?"""
    best, stop = float("inf"), clock() + seconds
    while (start := clock()) < stop:
        way()
        best = min(best, clock() - start)
    return best


def seconds(item: Item, shape: Shape, flops: float, bandwidth: float) -> float | None:
    """The least time for this task at these speeds; None where arithmetic is not what it takes.

    Operations are counted for GPT-2's blocks alone.
    """
    if item.where != "worker" or shape.kind != "gpt2":
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
    size, seconds, clock, *dtype = sys.argv[1:5]
    kind = getattr(torch, dtype[0]) if dtype else torch.float32
    print(json.dumps(machine_speed(int(size), float(seconds), CLOCKS[clock], kind)))


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

    def edges_eap(self, steps: int = 0) -> int:
        """Two runs and the gradient at one, or with steps, at as many, of which one is the first.

        What each writer changes; and each edge's product, in the last layer's queries, its MLP and
        the logits for one position.
        """
        s, t = self.shape, self.length
        runs = (2 + max(0, steps - 1)) * self.body()
        backward = self.body() + s.layers * self.mixing() - t * self.keys_values
        changes = t * s.layers * 2 * s.width * s.width
        products = 2 * s.width * int((self._edges.n_before * self._positions).sum())
        return self.batch * (runs + changes + max(1, steps) * (backward + products))

    def edges_eap_ig(self) -> int:
        return self.edges_eap(STEPS)

    def circuit(self, mask: Mask) -> int:
        """One circuit of these edges [r w], of one prompt.

        Who reads nothing new writes nothing new. A head's queries, keys and values are products of
        their own, as is what it writes.
        """
        s, edges = self.shape, self._edges
        head = 2 * s.width * s.width // s.heads
        moves = mask.any(1)
        at_mlp = np.arange(len(moves) - 1) % (3 * s.heads + 1) == 3 * s.heads
        inputs = np.where(at_mlp, self.mlp, head)
        writes = np.bincount(edges.writer_of, moves[:-1], minlength=mask.shape[1]) > 0
        heads = np.arange(1, len(writes)) % (s.heads + 1) != 0
        total = 2 * s.width * int((mask.sum(1) * self._positions).sum())
        total += int((inputs * moves[:-1] * self._positions[:-1]).sum())
        mixed = int((writes[1:] & heads)[: -s.heads - 1].sum())  # the last layer's: one position
        return total + mixed * (self.length * head + self.mixing() // s.heads)

    def circuit_alone(self) -> int:
        """The reference's run, and the circuit."""
        return self.batch * (self.body() + self.circuit(self._edges.largest(HALF)))

    def circuit_curve(self) -> int:
        """Both runs, which are the ends, and the circuits between them."""
        circuits = sum(self.circuit(self._edges.largest(share)) for share in SHARES if share < 1)
        return self.batch * (2 * self.body() + circuits)

    def edges_exact(self) -> int:
        """Both runs. For each edge its reader's own product, and the layers above."""
        s, t = self.shape, self.length
        head = 2 * s.width * s.width // s.heads
        total = 2 * self.body()
        for layer in range(s.layers - 1):
            above = self.layers(s.layers - 2 - layer) + self.last_layer() + self.two_logits
            inputs, before = t * 2 * head + self.mixing() // s.heads, 1 + layer * (s.heads + 1)
            total += before * 3 * s.heads * (inputs + t * self.mlp + above)
            total += (before + s.heads) * (t * self.mlp + above)
        before = 1 + (s.layers - 1) * (s.heads + 1)
        total += before * 3 * s.heads * (2 * head + self.mlp + self.two_logits)
        total += (before + s.heads) * (self.mlp + self.two_logits)
        return self.batch * (total + (before + s.heads + 1) * self.two_logits)

    @property
    def _edges(self) -> Edges:
        return Edges(self.shape.layers, self.shape.heads)

    @property
    def _positions(self) -> NDArray[np.int64]:
        """At how many positions each reader matters, [r]; to keys and values all do."""
        h = self.shape.heads
        positions = np.full(self.shape.layers * (3 * h + 1) + 1, self.length)
        positions[-3 * h - 2 : -2 * h - 2] = positions[-2:] = 1
        return positions


if __name__ == "__main__":
    main()
