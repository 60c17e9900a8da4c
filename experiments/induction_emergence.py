"""How does induction emerge? Two tiny models learn the same language, live, in a few minutes.

Half of the language's sequences are drawn from a fixed table of bigrams, half repeat a random
segment, so that it pays to look back for what followed the last time. The model of two layers
learns the bigrams, then nothing for a long time, then within a few hundred steps induction, while a
previous-token head appears in its first layer. The model of one layer, which cannot compose two
heads, never does. Against the claim would speak: a fall of the loss spread over the training, a
previous-token head that comes at another time or is not below, or one layer that does it, too.

The curve of the bundled `mini` is shown beside theirs. It is no evidence that induction comes
suddenly: it jumps soon after the step at which that training got more repetitions and a higher
learning rate (its model card tells when).

    circuits run induction_emergence
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from mini_metrics import training_log
from torch import Tensor

from circuits.architectures import HookedGPT2
from circuits.cli.experiments import as_command
from circuits.components import parse
from circuits.config import ModelConfig
from circuits.detectors import DETECTORS, attention_to
from circuits.experiment import Check, Finding, check, interval, table
from circuits.hooks import get_act_name
from circuits.training import descend, falling, repeatable

CLAIM = (
    "Induction appears suddenly in a model of two layers, at about the same time as a "
    "previous-token head in the layer below, and never in a model of one layer."
)
MODEL = "mini"  # its own curve is shown beside the two that are trained here
VOCABULARY, LENGTH = 64, 65  # token 0 begins every sequence
SEGMENTS = (8, 32)  # how long the repeated segments are
WIDTH, HEADS = 64, 4
STEPS, QUICK_STEPS, ROWS = 2400, 1600, 32
LEARNING_RATE, WARMUP_STEPS = 3e-3, 50
EVALUATIONS = 40
TESTS, COPY = 64, 32  # sequences BOS + r + r that are measured, and the length of r
EARLY, LATE = slice(8, 16), slice(48, 64)  # the windows of the ICL score
SUDDEN = 0.3  # of the fall in a tenth of the training: three times what an even fall would have
TOGETHER = 0.1  # of the training, the same tenth: as long as a sudden change may take
MEASURES = {
    "first-copy loss": "nats per token",
    "second-copy loss": "nats per token",
    "ICL score": "nats per token",
    "previous-token": "attention",
    "prefix matching": "attention",
}


def run(model: HookedGPT2, *, seed: int = 0, quick: bool = False) -> Finding:
    """Train both, and look when what appears."""
    steps = QUICK_STEPS if quick else STEPS
    curves = pd.concat([train(n_layers, steps, seed) for n_layers in (1, 2)], ignore_index=True)
    name = "induction_emergence"
    about = {
        "axes": ("layers", "measure", "step"),
        "view": "curves",
        "meanings": {"component": "the best head at this step, whichever layer it is in"},
    }
    losses = curves[curves["unit"] == "nats per token"].drop(columns="component")
    heads = curves[curves["unit"] == "attention"]
    tables = {
        "losses": table(model, name, losses, "nats per token", "Loss while training", **about),
        "heads": table(model, name, heads, "attention", "Best heads while training", **about),
    }
    shown = {"best_previous": "previous-token", "best_induction": "induction"}
    own = training_log(model, shown | {"control_induction": "induction, random tokens"})
    if own is not None:
        title = f"{model.cfg.model_name} while it was trained"
        tables["own"] = table(
            model, name, own, "attention", title, axes=("measure", "million tokens"), view="curves"
        )
    return Finding(verdict(curves, steps), tables)


def verdict(curves: pd.DataFrame, steps: int) -> tuple[Check, ...]:
    """What the claim stands or falls with."""
    last = curves[curves["step"] == steps].set_index(["layers", "measure"]).loc
    at_random = math.log(VOCABULARY - 1)
    fall, where = steepest_fall(curves, steps)
    heads = [last["2 layers", kind] for kind in ("prefix matching", "previous-token")]
    induction, before = (str(head["component"]) for head in heads)
    halves = [half_risen(curves, kind) for kind in ("prefix matching", "previous-token")]
    return (
        check(
            f"2 layers: second-copy loss (at random {at_random:.2f})",
            last["2 layers", "second-copy loss"],
            "nats",
            below=at_random / 2,
        ),
        check(f"2 layers: prefix matching, best head ({induction})", heads[0], above=0.3),
        check(f"2 layers: previous-token, best head ({before})", heads[1], above=0.2),
        Check(
            f"how far {before} is below {induction}",
            parse(induction).layer - parse(before).layer,
            "layers",
            above=0,
        ),
        Check(
            f"share of the training between steps {min(halves)} and {max(halves)}, of half scores",
            abs(halves[0] - halves[1]) / steps,
            below=TOGETHER,
        ),
        Check(
            f"share of its fall in the steepest tenth of the training, up to step {where}",
            fall,
            above=SUDDEN,
        ),
        check(
            "1 layer: second-copy loss",
            last["1 layer", "second-copy loss"],
            "nats",
            above=at_random / 2,
            control=True,
        ),
        check(
            "1 layer: best prefix matching",
            last["1 layer", "prefix matching"],
            below=0.15,
            control=True,
        ),
    )


def steepest_fall(curves: pd.DataFrame, steps: int) -> tuple[float, int]:
    """Which share of the second-copy loss's fall is in its steepest tenth, which ends where?"""
    rows = curves[(curves["layers"] == "2 layers") & (curves["measure"] == "second-copy loss")]
    at, loss = rows["step"].to_numpy(), rows["value"].to_numpy()
    before = np.interp(at - steps / 10, at, loss)
    best = int(np.argmax(before - loss))
    return float((before - loss)[best] / (loss.max() - loss.min())), int(at[best])


def half_risen(curves: pd.DataFrame, measure: str) -> int:
    """The first step at which the best head of two layers has half of its final score."""
    rows = curves[(curves["layers"] == "2 layers") & (curves["measure"] == measure)]
    at, score = rows["step"].to_numpy(), rows["value"].to_numpy()
    return int(at[np.argmax(score >= score[-1] / 2)])


def train(n_layers: int, steps: int, seed: int) -> pd.DataFrame:
    """The curve of a model of so many layers: a row for each measure at each evaluation."""
    cfg = ModelConfig(n_layers, n_heads=HEADS, d_model=WIDTH, n_ctx=LENGTH, d_vocab=VOCABULARY)
    draw = torch.Generator().manual_seed(seed)
    model = initialized(HookedGPT2.random(cfg, seed=seed), draw)
    chain = torch.randn(VOCABULARY - 1, VOCABULARY - 1, generator=draw).mul(2).softmax(-1)
    tests = repeats(TESTS, COPY, torch.Generator().manual_seed(seed + 1))
    texts = batch(chain, torch.Generator().manual_seed(seed + 2), 4 * ROWS)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    every = steps // EVALUATIONS

    def gradients(step: int) -> float:
        tokens = batch(chain, draw, ROWS)
        loss = F.cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        return loss.item()

    rate = falling(LEARNING_RATE, steps, warmup=WARMUP_STEPS, last=0.1)
    with repeatable():
        rows = measure(model, tests, texts, 0)
        for step, _ in descend(optimizer, gradients, range(steps), rate):
            if (step + 1) % every == 0:
                rows += measure(model, tests, texts, step + 1)
    layers = "1 layer" if n_layers == 1 else f"{n_layers} layers"
    return pd.DataFrame(rows).assign(layers=layers)


def initialized(model: HookedGPT2, draw: torch.Generator) -> HookedGPT2:
    """With larger weights than GPT-2's, which leave attention almost uniform for a long time."""
    with torch.no_grad():
        model.W_E.normal_(0, 0.1, generator=draw)
        place = torch.arange(LENGTH)[:, None] / 10_000 ** (torch.arange(WIDTH // 2) * 2 / WIDTH)
        model.W_pos.copy_(0.14 * torch.cat([place.sin(), place.cos()], 1))
        for block in model.blocks:
            block.attn.W_QKV.normal_(0, 0.08, generator=draw)
    return model


def batch(chain: Tensor, draw: torch.Generator, n: int) -> Tensor:
    """One half from the table of bigrams, one half repeated segments: [n LENGTH]."""
    tokens = torch.zeros(n, LENGTH, dtype=torch.long)
    half = n // 2
    now = torch.randint(VOCABULARY - 1, (half,), generator=draw)
    for position in range(1, LENGTH):
        tokens[:half, position] = now + 1
        now = torch.multinomial(chain[now], 1, generator=draw)[:, 0]
    for row in tokens[half:]:
        length = int(torch.randint(SEGMENTS[0], SEGMENTS[1] + 1, (1,), generator=draw))
        segment = torch.randint(1, VOCABULARY, (length,), generator=draw)
        row[1:] = segment.repeat(LENGTH // length + 1)[: LENGTH - 1]
    return tokens


def repeats(n: int, length: int, draw: torch.Generator) -> Tensor:
    """BOS + r + r, r of different tokens: [n 1+2*length]."""
    rows = [torch.randperm(VOCABULARY - 1, generator=draw)[:length] + 1 for _ in range(n)]
    copies = torch.stack(rows)
    return torch.cat([torch.zeros(n, 1, dtype=torch.long), copies, copies], 1)


@torch.no_grad()
def measure(model: HookedGPT2, tests: Tensor, texts: Tensor, step: int) -> list[dict[str, object]]:
    """Every measure after so many steps, each with its interval over sequences."""
    sites = [get_act_name("pattern", layer) for layer in range(model.cfg.n_layers)]
    losses, cache = model.run_with_cache(
        tests, names_filter=sites, return_type="loss", loss_per_token=True
    )
    in_text = model(texts, return_type="loss", loss_per_token=True)
    patterns = [cache[site] for site in sites]
    values = {
        "first-copy loss": ("", losses[:, 1:COPY].mean(1)),
        "second-copy loss": ("", losses[:, COPY + 1 :].mean(1)),
        "ICL score": ("", in_text[:, LATE].mean(1) - in_text[:, EARLY].mean(1)),
        "previous-token": best_head(patterns, tests, "previous-token"),
        "prefix matching": best_head(patterns, tests, "induction"),
    }
    return [
        {
            "measure": name,
            "step": step,
            "unit": MEASURES[name],
            "component": component,
            **interval(value),
        }
        for name, (component, value) in values.items()
    ]


def best_head(patterns: list[Tensor], tokens: Tensor, detector: str) -> tuple[str, Tensor]:
    """The head that scores best, and its scores [n]: patterns [n h q k] of each layer."""
    targets = DETECTORS[detector](tokens)
    scores = torch.cat([attention_to(pattern, targets) for pattern in patterns], 1)
    layer, head = divmod(int(scores.mean(0).argmax()), patterns[0].shape[1])
    return f"a{layer}.h{head}", scores[:, layer * patterns[0].shape[1] + head]


if __name__ == "__main__":
    as_command(__file__)
