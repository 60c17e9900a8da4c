"""The hand-compiled model's prompts and its right answers, for every test that needs them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from circuits.architectures import HookedGPT2
from circuits.arrays import Floats
from circuits.checkpoints import compiled
from circuits.checkpoints.compiled import Recipe
from circuits.circuit import graph
from circuits.components import Edge, parse
from circuits.hooks import HookPoint
from circuits.metrics import get_metric
from circuits.prompts import Example, Prompts, assemble
from circuits.sweep import Source, Sweep, cell, plan, run

HEADS = [(layer, head) for layer in range(3) for head in range(4)]
SMALL = {"d_vocab": 27, "n_ctx": 32, "d_head": 64}
LARGE = {"d_vocab": 60, "n_ctx": 128, "d_head": 192}
IO_AT, S1_AT, S2_AT, END_AT = 2, 4, 8, 11

# The logit difference (10 in the clean run) after one edge carries the corrupted prompt's value,
# for the six edges that matter; every other edge leaves it at 10.
TRUE_EDGES = {
    "emb->0.1.q": -10 / 3,
    "emb->1.1.v": -10 / 3,
    "0.1->1.1.k": -10 / 3,
    "1.1->2.0.q": -10 / 3,
    "emb->2.0.k": 0.0,
    "2.0->out": 0.0,
}

# What all sentences of the task compiled-ioi need; the features need d_model 84.
_TINY = {"d_vocab": 17, "n_ctx": 12, "d_head": 30}

# Other models with the same circuits: of other sizes, with their heads elsewhere.
RECIPES = {
    "three-layers": Recipe(n_layers=3),
    "smallest": Recipe(d_vocab=11, n_ctx=6, d_head=18, n_heads=3, n_layers=3),
    "vocabulary": Recipe(d_vocab=60, n_ctx=16, d_head=77, n_layers=3),
    "context": Recipe(d_vocab=17, n_ctx=64, d_head=82, n_heads=2, n_layers=3),
    "wide-heads": Recipe(d_vocab=20, n_ctx=20, d_head=96, n_heads=2, n_layers=3),
    "beta-45": Recipe(**_TINY, n_heads=3, n_layers=3, beta=45.0),
    "empty-layers": Recipe(
        **_TINY,
        n_heads=3,
        n_layers=6,
        previous_token=parse("a1.h0"),
        duplicate_token=parse("a1.h1"),
        induction=parse("a3.h0"),
        s_inhibition=parse("a3.h1"),
        name_mover=parse("a4.h0"),
    ),
    "permuted-heads": Recipe(
        **_TINY,
        n_layers=3,
        previous_token=parse("a0.h2"),
        duplicate_token=parse("a0.h0"),
        induction=parse("a1.h1"),
        s_inhibition=parse("a1.h3"),
        name_mover=parse("a2.h3"),
    ),
    "one-head-a-layer": Recipe(
        d_vocab=17,
        n_ctx=12,
        d_head=84,
        n_heads=1,
        n_layers=5,
        previous_token=parse("a2.h0"),
        duplicate_token=parse("a0.h0"),
        induction=parse("a4.h0"),
        s_inhibition=parse("a1.h0"),
        name_mover=parse("a3.h0"),
    ),
    "induction-last": Recipe(
        **_TINY,
        n_heads=3,
        n_layers=4,
        previous_token=parse("a2.h2"),
        induction=parse("a3.h2"),
        name_mover=parse("a2.h0"),
    ),
}


def every_edge(model: HookedGPT2, prompts: Prompts) -> tuple[dict[Edge, Floats], Floats]:
    """What exact patching of each edge does to the logit difference [b], and that difference [b].

    With the twins' values, by the sweep.
    """
    assert prompts.corrupted is not None
    edges = graph(model.cfg).edges
    source = Source("resample", prompts.corrupted, prompts.mask)
    cells = (cell(), *map(cell, edges))
    scores = run(model, plan(model, Sweep(prompts, get_metric("logit_diff"), cells, source)))
    clean = scores.values[0]
    return dict(zip(edges, scores.values[1:] - clean, strict=True)), clean


def repeated(model: HookedGPT2, m: int = 15, times: int = 2, seed: int = 0) -> Tensor:
    """BOS and `times` copies of m random tokens, but not END, which starts the other circuit."""
    generator = torch.Generator().manual_seed(seed)
    segment = 2 + torch.randperm(model.cfg.d_vocab - 2, generator=generator)[:m]
    return torch.cat([torch.zeros(1, dtype=torch.long), segment.repeat(times)])[None]


def mini_ioi(model: HookedGPT2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """BOS f A f B f f f B f f END, and the same with a third name at S2."""
    rng = np.random.default_rng(seed)
    a, b, c = rng.choice(compiled.NAMES, 3, replace=False)
    fillers = iter(rng.choice(np.arange(10, model.cfg.d_vocab), 7, replace=False))
    template = [compiled.BOS, None, a, None, b, None, None, None, b, None, None, compiled.END]
    clean = torch.tensor([[next(fillers) if t is None else t for t in template]])
    corrupted = clean.clone()
    corrupted[0, S2_AT] = int(c)
    return clean, corrupted


def mini_ioi_prompts(model: HookedGPT2, n: int = 4) -> Prompts:
    """BOS f A f B f f f B f f END, with a third name at S2 in the twin."""
    at = {"IO": IO_AT, "S1": S1_AT, "S2": S2_AT, "END": END_AT}
    examples = []
    for seed in range(n):
        clean, twin = (x[0].tolist() for x in mini_ioi(model, seed))
        answer, distractor = clean[IO_AT], clean[S1_AT]
        told = {"answer": answer, "distractor": distractor, "corrupted": twin, "roles": at}
        examples.append(Example(f"prompt {seed}", clean, **told))
    return assemble(model, examples, task="small", metric="logit_diff", prepend_bos=True)


def logit_diff(logits: Tensor, tokens: Tensor) -> float:
    """Logit of IO minus logit of S at END, where `tokens` is the clean prompt."""
    return float(logits[0, END_AT, tokens[0, IO_AT]] - logits[0, END_AT, tokens[0, S1_AT]])


def patterns(model: HookedGPT2, tokens: Tensor) -> dict[tuple[int, int], Tensor]:
    """Each head's attention [q k]."""
    _, cache = model.run_with_cache(tokens, names_filter=lambda name: name.endswith("pattern"))
    return {(layer, head): cache["pattern", layer][0, head] for layer, head in HEADS}


def zero(head: int) -> Callable[[Tensor, HookPoint], None]:
    """A hook that removes one head's output."""

    def hook(z: Tensor, hook: HookPoint) -> None:
        z[:, :, head] = 0

    return hook


def ablated(model: HookedGPT2, tokens: Tensor, layer: int, head: int) -> Tensor:
    """Logits [b p v] without this head."""
    hook = (f"blocks.{layer}.attn.hook_z", zero(head))
    logits: Tensor = model.run_with_hooks(tokens, fwd_hooks=[hook])
    return logits
