"""Does a GPT-2 of 85,000 parameters learn to sort six letters, also in words it never saw?

Trains the bundled model `sort-abc`, in about 20 seconds of one CPU core:

    python experiments/train_sort.py --out circuits/models/sort-abc

As an experiment it trains a model in the same way, and writes none: what speaks against the claim
are mistakes in words that were held out, or an untrained model that makes none. The bundled model
is asked for the words that its own training held out.

    circuits run train_sort

The model reads a word of six letters A, B, C and continues with the same letters in order:
CABACA, then AAABCC. Its input is 11 tokens, the word and the first five letters of the answer; the
six letters of the answer are predicted at positions 5 to 10, and only there is a loss. One word in
five is held out of the training. The same seed gives the same weights, bit for bit, on the same
kind of machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from circuits.alignment import share_interval
from circuits.architectures import HookedGPT2
from circuits.checkpoints import checksum, save
from circuits.config import ModelConfig
from circuits.experiment import Check, Finding, check, table
from circuits.prompts import make
from circuits.tokenizer import Tokenizer
from circuits.training import descend, falling, repeatable

CLAIM = (
    "A GPT-2 of 85,000 parameters learns in 600 steps to sort six letters, also in words that it "
    "never saw."
)
MODEL = "sort-abc"
LETTERS, LENGTH = "ABC", 6
CFG = ModelConfig(
    n_layers=3,
    n_heads=3,
    d_model=48,
    n_ctx=2 * LENGTH - 1,
    d_vocab=len(LETTERS),
    model_name="sort-abc",
    default_prepend_bos=False,
)
SEED = 0
HELD_OUT = 146  # of the 729 words
STEPS, QUICK_STEPS, ROWS = 600, 250, 128
LEARNING_RATE, WEIGHT_DECAY, WARMUP_STEPS = 1e-3, 0.1, 50
EVAL_STEPS = (1, 10, 20, 30, 40, 60, 80, 100, 125, 150, 200, 250, 300, 400, 500, 600)

SORTED, GUESSED = 0.9, 0.1  # of the words: nearly all of them, hardly any

Line = dict[str, float]


def run(model: HookedGPT2, *, seed: int = 0, quick: bool = False) -> Finding:
    """Train one, and ask it, an untrained one and the bundled one for words they never saw."""
    make("sorting", model, 1)  # says so if the model has other letters
    with repeatable():
        trained, curve = train(seed, QUICK_STEPS if quick else STEPS, say=None)
        untrained, _ = train(seed, 0, say=None)
        held_out = split(seed)[1]
        models = {
            "trained here": (trained, held_out),
            "untrained": (untrained, held_out),
            "bundled": (model, split(SEED)[1]),
        }
        rows = [
            {"model": name, **share_interval(is_sorted(one, given).double().numpy())}
            for name, (one, given) in models.items()
        ]
    found = pd.DataFrame(rows)
    columns = {"accuracy": "words trained on", "held_out_accuracy": "words held out"}
    curves = pd.DataFrame(curve).rename(columns=columns)
    curves = curves.melt(["step", "loss", "held_out_loss"], list(columns.values()), "which")
    tables = {
        "curve": table(
            model,
            "train_sort",
            curves,
            "share of words",
            "Words sorted without a mistake, while training",
            axes=("which", "step"),
            view="curves",
            meanings={"loss": "nats per letter", "held_out_loss": "nats per letter"},
        ),
        "held_out": table(
            model,
            "train_sort",
            found,
            "share of words",
            "Held-out words sorted without a mistake",
            axes=("model",),
            view="bars",
            meanings={"model": "the bundled one is asked for words its own training held out"},
        ),
    }
    return Finding(verdict(found), tables)


def verdict(found: pd.DataFrame) -> tuple[Check, ...]:
    """What the claim stands or falls with."""
    by = found.set_index("model").loc
    says = "held-out words sorted without a mistake"
    return (
        check(f"trained here: {says}", by["trained here"], above=SORTED),
        check(f"bundled: {says}", by["bundled"], above=SORTED),
        check(f"untrained: {says}", by["untrained"], below=GUESSED, control=True),
    )


def words() -> Tensor:
    """Every word: [729 6], in alphabetical order."""
    return torch.tensor(list(product(range(len(LETTERS)), repeat=LENGTH)))


def with_answer(given: Tensor) -> Tensor:
    """[b 6] -> [b 12]: the word, then its letters in order."""
    return torch.cat([given, given.sort(-1).values], -1)


def split(seed: int) -> tuple[Tensor, Tensor]:
    """The words to train on, and the words held out."""
    order = torch.randperm(len(words()), generator=torch.Generator().manual_seed(seed))
    return words()[order[HELD_OUT:]], words()[order[:HELD_OUT]]


def answer_loss(model: HookedGPT2, given: Tensor) -> Tensor:
    """Mean loss over the six letters of the answer, in nats."""
    tokens = with_answer(given)
    logits = model(tokens[:, :-1])[:, LENGTH - 1 :]
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, LENGTH:].flatten())


@torch.no_grad()
def sort_greedily(model: HookedGPT2, given: Tensor) -> Tensor:
    """The model's own answer, letter by letter, each fed back: [b 6] -> [b 6]."""
    tokens = given
    for _ in range(LENGTH):
        tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], 1)
    return tokens[:, LENGTH:]


def is_sorted(model: HookedGPT2, given: Tensor) -> Tensor:
    """Which of these words are sorted without one mistake? [b]"""
    right: Tensor = (sort_greedily(model, given) == given.sort(-1).values).all(1)
    return right


def accuracy(model: HookedGPT2, given: Tensor) -> float:
    """Which share of these words is sorted without one mistake?"""
    return float(is_sorted(model, given).float().mean())


def say_line(line: Line) -> None:
    print("  ".join(f"{name} {value:.4g}" for name, value in line.items()), flush=True)


def train(
    seed: int = SEED, n_steps: int = STEPS, say: Callable[[Line], None] | None = say_line
) -> tuple[HookedGPT2, list[Line]]:
    """The model after `n_steps`, and its curve, each line of which is said at once."""
    model = HookedGPT2.random(CFG, seed=seed, tokenizer=Tokenizer.characters(LETTERS))
    seen, held_out = split(seed)
    decayed = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0}],
        betas=(0.9, 0.95),
    )
    generator = torch.Generator().manual_seed(seed)
    curve: list[Line] = []

    def gradients(step: int) -> float:
        loss = answer_loss(model, seen[torch.randint(len(seen), (ROWS,), generator=generator)])
        loss.backward()
        return loss.item()

    rate = falling(LEARNING_RATE, STEPS, warmup=WARMUP_STEPS, shape="cosine")
    for step, _ in descend(optimizer, gradients, range(n_steps), rate, clip=1.0):
        if step + 1 in EVAL_STEPS:
            curve.append(measure(model, step + 1, seen, held_out))
            if say is not None:
                say(curve[-1])
    return model, curve


@torch.no_grad()
def measure(model: HookedGPT2, step: int, seen: Tensor, held_out: Tensor) -> Line:
    return {
        "step": step,
        "loss": answer_loss(model, seen).item(),
        "held_out_loss": answer_loss(model, held_out).item(),
        "accuracy": accuracy(model, seen),
        "held_out_accuracy": accuracy(model, held_out),
    }


def curve_table(curve: list[Line]) -> str:
    rows = [
        f"| {line['step']:.0f} | {line['loss']:.5f} | {line['held_out_loss']:.5f} "
        f"| {line['accuracy']:.1%} | {line['held_out_accuracy']:.1%} |"
        for line in curve
    ]
    head = "| step | loss, training words | loss, held-out words | sorted, training | held out |"
    return "\n".join([head, "| --- | --- | --- | --- | --- |", *rows])


def model_card(model: HookedGPT2, curve: list[Line], command: str) -> str:
    n_right = round(accuracy(model, words()) * len(words()))
    return f"""# sort-abc

A GPT-2 small enough to read in full: {CFG.n_layers} layers, {CFG.n_heads} heads, width
{CFG.d_model}, {CFG.d_vocab} tokens (A = 0, B = 1, C = 2), {CFG.n_ctx} positions,
{CFG.n_params:,} parameters in float32. It reads six letters and continues with the same six in
alphabetical order: CABACA, then AAABCC. It has the task and the size of a well-known illustrated
walkthrough of nano-GPT, and was trained anew. There is no start token: the word's first letter
stands at position 0, and the answer's first letter is predicted at position {LENGTH - 1}.

**Accuracy: {n_right} of all {len(words())} words are sorted without a mistake**, decoded greedily,
letter by letter; of the {HELD_OUT} words that the training never showed,
{curve[-1]["held_out_accuracy"]:.1%}.

## Recipe

- Data: all {len(words())} words of {LENGTH} letters, generated: {len(words()) - HELD_OUT} to train
  on, {HELD_OUT} held out. There is no other source; the license is this package's.
- Loss: only on the {LENGTH} letters of the answer.
- {curve[-1]["step"]} steps of {ROWS} random words. AdamW with betas 0.9 and 0.95, learning
  rate {LEARNING_RATE:g} after {WARMUP_STEPS} warm-up steps, then a half cosine to 0; weight decay
  {WEIGHT_DECAY} on matrices; gradient norm clipped at 1; no dropout.
- Initial weights as GPT-2's, the unembedding tied to the embedding.
- Seed {SEED} for weights, held-out words and batches; one thread, deterministic algorithms,
  torch {torch.__version__.split("+")[0]}.

Made by

    {command}

Checksum of the weights: `{checksum(model)}`

## Curve

The loss is in nats per letter of the answer. A word is sorted when all its letters are right.

{curve_table(curve)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    args = parser.parse_args()
    started = time.time()
    with repeatable():
        model, curve = train()
    print(f"{time.time() - started:.0f} s; {accuracy(model, words()):.2%} of all words sorted")
    card = args.out / "MODEL_CARD.md"
    card.unlink(missing_ok=True)  # an earlier one: `save` replaces only what it wrote itself
    save(model, args.out)
    command = "python experiments/train_sort.py --out circuits/models/sort-abc"
    card.write_text(model_card(model, curve, command), encoding="utf-8")


if __name__ == "__main__":
    main()
