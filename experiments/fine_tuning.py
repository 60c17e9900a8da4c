"""What does `mini` learn from a few hundred examples, by which method, and what changes inside?

Two tasks that it cannot do: to tell who gives and who receives (a readout of the last token), and
toy instructions ("repeat: book ring key =", "reverse: ..."). Each is learned in full, in the last
two layers, by LoRA, and by adapters; what counts are held-out examples. The control is training on
shuffled labels, or answers: what is reached by them held out is no learning of the task.

Two claims of the literature are tested, and not taken for granted. Fine-tuning is said to enhance
mechanisms that are there (Prakash et al. 2024): `mini` is trained on indirect objects, which it
finds already, and the effects of its heads before and after are compared, held out. LoRA is said
to need a very small rank, and its place to matter (Hu et al. 2021): ranks, attention and MLPs.

    circuits run fine_tuning
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from circuits.analyses.ablate import ablate
from circuits.architectures import HookedGPT2
from circuits.checkpoints.copying import copied
from circuits.cli.experiments import as_command
from circuits.comparison import weights_compared
from circuits.comparison.along import Ends, alike, part_by_part
from circuits.experiment import Check, Finding, check, table
from circuits.metrics import readout_metric
from circuits.model import Readout
from circuits.prompts import Prompts, make
from circuits.prompts.prompts import start_tokens
from circuits.prompts.user import Row, from_rows
from circuits.result import Result
from circuits.training import (
    Example,
    Examples,
    Method,
    Settings,
    Training,
    of_task,
    prepared,
    repeatable,
)

CLAIM = (
    "mini learns a classifier and two instructions from a few hundred examples, by each method, "
    "and what it could do before it goes on doing by the same heads."
)
MODEL = "mini"
NAME = "fine_tuning"
NAMES = ("Mary", "John", "Tom", "Anna", "Peter", "Lucy", "James", "Emma")
NEW_NAMES = ("Jack", "Kate", "Paul", "Sarah")  # that no example trained on has
WORDS = (
    *("letter", "book", "ball", "ring", "key", "basket", "garden", "house", "door", "river"),
    *("bread", "horse", "water", "tree"),
)
LABELS = ("gives", "receives")
CLASSES, INSTRUCTIONS, IOI = "gives or receives", "instructions", "indirect objects"
EXAMPLES, HELD_OUT = 400, 100
STEPS = {CLASSES: 60, INSTRUCTIONS: 160, IOI: 40}
QUICK_STEPS = {CLASSES: 40, INSTRUCTIONS: 60, IOI: 20}
BATCH, RANK, WIDTH = 16, 8, 16
RATES = {"full": 3e-4, "lora": 3e-3, "adapter": 3e-3}
REACHED, BY_CHANCE = 0.9, {CLASSES: 0.75, INSTRUCTIONS: 0.2}  # chance is a half, and about 0
ALIKE = 0.7  # correlation of heads' effects before and after
LOOKED_AT = 24  # prompts on which parts are swapped


@dataclass(frozen=True)
class Way:
    """What is trained, and by which method."""

    name: str
    what: str
    method: Method
    size: int = 0


FULL = Way("full", "all", "full")
WAYS = (
    FULL,
    Way("last 2 layers", "last 2 layers", "full"),
    Way(f"LoRA, rank {RANK}", "all", "lora", RANK),
    Way(f"adapters, width {WIDTH}", "all", "adapter", WIDTH),
)
MORE_LORA = (
    Way("LoRA, rank 1", "all", "lora", 1),
    Way(f"LoRA, rank {RANK}, attention", "attention", "lora", RANK),
    Way(f"LoRA, rank {RANK}, MLPs", "mlp", "lora", RANK),
)
SHUFFLED = replace(FULL, name="full, shuffled")


def run(model: HookedGPT2, *, seed: int = 0, quick: bool = False) -> Finding:
    """Train, look at what was held out, and inside."""
    steps = QUICK_STEPS if quick else STEPS
    data = {CLASSES: givers(model, seed), INSTRUCTIONS: instructions(model, seed)}
    rows: list[dict[str, Any]] = []
    trained: dict[tuple[str, str], HookedGPT2] = {}
    with repeatable():
        for task, (seen, unseen) in data.items():
            more = () if task == CLASSES or quick else MORE_LORA
            for way in (*WAYS, *more, SHUFFLED):
                examples = shuffled(seen, seed) if way is SHUFFLED else seen
                found, after = learned(model, task, way, (examples, unseen), steps[task], seed)
                rows += found
                trained[task, way.name] = after
        effects, ioi = indirect_objects(model, steps[IOI], seed)
        carriers = carried(model, trained[CLASSES, FULL.name], seed)
    every = pd.DataFrame(rows)
    last = every[every["step"] == every.groupby(["task", "way"])["step"].transform("max")]
    return Finding(verdict(last, effects, ioi), tables(model, every, last, effects, carriers))


def tables(
    model: HookedGPT2,
    every: pd.DataFrame,
    last: pd.DataFrame,
    effects: pd.DataFrame,
    carriers: pd.DataFrame,
) -> dict[str, Result]:
    """What was reached, on the way and at last, and what changed inside."""
    says = {"way": "what is trained, and how", "learned": "how many numbers are trained"}
    drawn = [way.name for way in (*WAYS, SHUFFLED)]
    curves = every[(every["task"] == INSTRUCTIONS) & every["way"].isin(drawn)]
    share = "share of examples"
    return {
        "reached": table(
            model, NAME, last, share, "Right, held out", axes=("task", "way"), view="bars",
            meanings=says,
        ),
        "curves": table(
            model, NAME, curves, share, "Instructions right, held out, while training",
            axes=("way", "step"), view="curves", meanings=says,
        ),
        "effects": table(
            model, NAME, effects, "logits", "What silencing a head does to indirect objects, after",
            axes=("layer", "head"), view="heatmap",
            meanings={"before": "the same before fine-tuning on indirect objects"},
        ),
        "carriers": table(
            model, NAME, carriers, "logits",
            "What each part of the classifier's weights does in mini", axes=("layer", "part"),
            view="heatmap",
            meanings={
                "back": "what the part of mini does in the classifier",
                "changed": "share of its norm by which the part changed",
                "share": "of the whole change",
            },
        ),
    }  # fmt: skip


def verdict(last: pd.DataFrame, effects: pd.DataFrame, ioi: dict[str, float]) -> tuple[Check, ...]:
    """What the claim stands or falls with."""
    by = last.set_index(["task", "way"]).loc
    checks = []
    for task in (CLASSES, INSTRUCTIONS):
        for way in WAYS:
            row = by[task, way.name]
            checks.append(check(f"{task}, {way.name}: right, held out", row, above=REACHED))
        control = by[task, SHUFFLED.name]
        says = f"{task}, {SHUFFLED.name}: right, held out"
        checks.append(check(says, control, below=BY_CHANCE[task], control=True))
    both = effects[["before", "value"]].to_numpy().T
    draw = np.random.default_rng(0)
    by_chance = max(float(np.corrcoef(both[0], draw.permutation(both[1]))[0, 1]) for _ in range(20))
    return (
        *checks,
        Check(
            "indirect objects: gain in logit difference, held out", ioi["gain"], "logits", above=0
        ),
        Check("correlation of heads' effects before and after", ioi["same"], above=ALIKE),
        Check("the largest of 20 with heads shuffled", by_chance, below=ALIKE, control=True),
    )


Trained = tuple[list[dict[str, Any]], HookedGPT2]


def learned(
    model: HookedGPT2, task: str, way: Way, data: tuple[Examples, Examples], steps: int, seed: int
) -> Trained:
    """What is right, held out, at each measurement; and the model after."""
    ready, what = copied(model), [way.what]
    if data[0].kind == "labels":
        draw = torch.Generator().manual_seed(seed)
        W = 0.02 * torch.randn(model.cfg.d_model, len(LABELS), generator=draw)
        ready.readouts["score"] = Readout(W, labels=LABELS).requires_grad_(False)
        what.append("readout")
    change = prepared(ready, what, way.method, way.size, seed)
    settings = Settings(steps, RATES[way.method], BATCH, seed, looks=8)
    about = {"task": task, "way": way.name, "learned": change.n_learned}
    rows = [
        {
            **about,
            "step": row["step"],
            "value": row["right"],
            "stderr": (row["right"] * (1 - row["right"]) / row["n"]) ** 0.5,
            "ci_low": row["right_low"],
            "ci_high": row["right_high"],
            "n": row["n"],
            "loss": row["value"],
        }
        for row in Training(change, *data, settings).run().held_out
    ]
    return rows, change.model()


def givers(model: HookedGPT2, seed: int) -> tuple[Examples, Examples]:
    """Who gives, who receives: held out are names that no example trained on has."""
    return (
        classes(model, giver_rows(NAMES, EXAMPLES, seed)),
        classes(model, giver_rows(NEW_NAMES, HELD_OUT, seed + 1)),
    )


def giver_rows(names: Sequence[str], n: int, seed: int) -> list[tuple[str, str]]:
    """Sentences that end with the name of one of two, and what that one does."""
    draw, rows = np.random.default_rng(seed), []
    for _ in range(n):
        pair = draw.choice(names, 2, replace=False)
        who, thing = int(draw.integers(2)), draw.choice(WORDS[:6])
        rows.append((f"{pair[0]} gave a {thing} to {pair[1]}. Then {pair[who]}", LABELS[who]))
    return rows


def classes(model: HookedGPT2, rows: Sequence[tuple[str, str]]) -> Examples:
    """Texts with labels as examples."""
    tokenizer, start = model.require_tokenizer(), start_tokens(model, None)
    read = [((*start, *tokenizer.encode(text)), LABELS.index(label)) for text, label in rows]
    examples = tuple(Example(ids, (-1,) * len(ids), label) for ids, label in read)
    return Examples("labels", CLASSES, examples, LABELS)


def instructions(model: HookedGPT2, seed: int) -> tuple[Examples, Examples]:
    """Three words to repeat, or to reverse, and an end; no three words are in both halves."""
    tokenizer, start = model.require_tokenizer(), start_tokens(model, None)
    draw, rows = np.random.default_rng(seed), []
    for i in range(EXAMPLES + HELD_OUT):
        words = [str(word) for word in draw.choice(WORDS, 3, replace=False)]
        verb, answer = ("repeat", words) if i % 2 else ("reverse", words[::-1])
        prompt = [*start, *tokenizer.encode(f"{verb}: {' '.join(words)} =")]
        said = [*tokenizer.encode(f" {' '.join(answer)}"), *tokenizer.eos_ids[:1]]
        full = [*prompt, *said]
        rows.append(Example(tuple(full[:-1]), (*[-1] * (len(prompt) - 1), *said)))
    return Examples("answers", INSTRUCTIONS, tuple(rows)).split(HELD_OUT / len(rows), seed)


def shuffled(seen: Examples, seed: int) -> Examples:
    """The same prompts, each with the label or the answer of another one."""
    order = np.random.default_rng(seed).permutation(len(seen))
    rows = []
    for row, i in zip(seen.rows, order, strict=True):
        other = seen.rows[int(i)]
        if seen.kind == "labels":
            rows.append(replace(row, label=other.label))
            continue
        n = sum(target < 0 for target in row.targets) + 1  # tokens of the prompt
        answer = [target for target in other.targets if target >= 0]
        full = [*row.ids[:n], *answer]
        rows.append(Example(tuple(full[:-1]), (*[-1] * (n - 1), *answer)))
    return replace(seen, rows=tuple(rows))


def indirect_objects(
    model: HookedGPT2, steps: int, seed: int
) -> tuple[pd.DataFrame, dict[str, float]]:
    """The effect of every head before and after training on a task that the model can do."""
    seen, unseen = (of_task(model, "ioi", n, seed + i) for i, n in enumerate((EXAMPLES, HELD_OUT)))
    _, after = learned(model, IOI, FULL, (seen, unseen), steps, seed)
    prompts = make("ioi", model, HELD_OUT, seed + 2)
    options: dict[str, Any] = {"all_heads": True, "task": prompts}
    old, new = (ablate(each, **options).frame for each in (model, after))
    new["before"] = old["value"].to_numpy()
    same = float(np.corrcoef(new["before"], new["value"])[0, 1])
    return new, {"gain": float(new["clean"].iloc[0] - old["clean"].iloc[0]), "same": same}


def carried(model: HookedGPT2, after: HookedGPT2, seed: int) -> pd.DataFrame:
    """What each part of the classifier's weights does, put into `mini` alone and taken back."""
    both = alike(model, after)
    rows = [
        Row(f"sentence {i}", text, answer=label)
        for i, (text, label) in enumerate(giver_rows(NEW_NAMES, LOOKED_AT, seed + 1))
    ]
    prompts: Prompts = from_rows(model, rows, CLASSES, classes=True)
    frame = part_by_part(Ends(*both, [prompts], readout_metric(both[0], "score")))
    moved = weights_compared(model, after, ("mini", "classifier")).set_index("component")
    frame["changed"] = moved["value"].reindex(frame["component"]).to_numpy()
    return frame


if __name__ == "__main__":
    as_command(__file__)
