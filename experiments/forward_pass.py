"""At which depth does the thought turn into the next word, and which parts take over?

The residual stream is read after every part as if it were the last: by the logit lens
(nostalgebraist 2020), and by a tuned lens, which is first trained to read each stage in its own
basis (Belrose et al. 2023). A word takes over at the stage from which on it is the likeliest, up
to the end. Measured is where the model's final word takes over,

- on text that the model wrote itself (other texts train the lens);
- on the second copy of random tokens, where the next word can be copied, and on the first copy,
  where nothing announces it;
- on a prompt of questions and answers, whose whole trajectory is one figure.

Direct attribution says which layers push the final word, on the same tokens.

The logit lens reads early stages in a basis that is not theirs, so late need not mean undecided:
what changes under the tuned lens is the lens's, and what stays is the model's. Against the claim
would speak: words of texts that take over early by the logit lens, or mostly late by the tuned one;
copies that take over as text does.

    circuits run forward_pass
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from circuits.analyses.attribute import attribute
from circuits.analyses.logit_lens import logit_lens
from circuits.architectures import HookedGPT2
from circuits.cli.experiments import as_command
from circuits.experiment import Check, Finding, check, interval, own_text, table
from circuits.padding import all_real
from circuits.prompts import UNSCORED, Prompts, make
from circuits.result import AVERAGED, Result
from circuits.tuned_lens import TunedLens, lens_logits, stages, train_tuned_lens

CLAIM = (
    "On text most words take over in the last quarter of the depth by the logit lens and fewer "
    "than half by a tuned lens, while a word to copy takes over in layers 1 and 2 by both."
)
MODEL = "mini"
STORY = """Question: How many legs has a horse?
Answer: A horse has four legs.

Question: How many legs has a bird?
Answer: A bird has two legs.

Question: How many eyes has my foot?
Answer: Your foot has"""
FOLLOWED = (" has", " a", " two", " four")  # what the stages say after the story, one by one
LAST = 9  # tokens of the story that the figure shows
TEXTS, QUICK_TEXTS = 48, 16  # to measure on
TRAINING, QUICK_TRAINING = 96, 32  # texts for the tuned lens
STEPS, QUICK_STEPS = 80, 30
LENGTH, SKIPPED = 64, 8  # tokens of a text; the first ones have too little before them
EARLY, LATE = (1, 2), 0.75  # layers of induction; share of the depth
TOGETHER = 8  # texts read at a time
LENSES, KINDS = ("logit lens", "tuned lens"), ("text", "second copy", "first copy")
NAME = "forward_pass"


def run(model: HookedGPT2, *, seed: int = 0, quick: bool = False) -> Finding:
    """Write text, train the lens, and see where the words take over."""
    n, more = (QUICK_TEXTS, QUICK_TRAINING) if quick else (TEXTS, TRAINING)
    model.to_tokens(STORY)  # says so, before the work, where the vocabulary lacks it
    texts = own_text(model, n + more, seed, LENGTH)
    lens = train_tuned_lens(
        model, texts[n:], steps=QUICK_STEPS if quick else STEPS, lr=0.002, seed=seed
    )
    asked = dict(zip(KINDS, (of_text(model, texts[:n]), *of_copies(model, n, seed)), strict=True))
    lenses = dict(zip(LENSES, (TunedLens.untrained(model), lens), strict=True))
    looks = {
        (kind, name): look(model, prompts, one)
        for kind, prompts in asked.items()
        for name, one in lenses.items()
    }
    settled = pd.concat(settling(model, where, first) for where, (first, _) in looks.items())
    distance = pd.concat(distances(model, where, kl) for where, (_, kl) in looks.items())
    made = partial(table, model, NAME, meanings={"kind": "which tokens", "lens": "read how"})
    tables = {
        "settled": made(
            settled,
            "share of words",
            "By which stage has the final word taken over?",
            axes=("kind", "lens", "stage"),
            view="curves",
        ),
        "distance": made(
            distance[distance["kind"] == KINDS[0]],
            "nats, KL(final || stage)",
            "How far is each stage's prediction from the final one, on text?",
            axes=("lens", "stage"),
            view="curves",
        ),
        "pushes": pushes(model, asked),
    }
    return Finding(verdict(model, looks), tables | story(model, lens))


def verdict(
    model: HookedGPT2, looks: Mapping[tuple[str, str], tuple[Tensor, Tensor]]
) -> tuple[Check, ...]:
    """What the claim stands or falls with."""
    listed = stages(model)
    early = [i for i, stage in enumerate(listed) if stage.layer in EARLY]
    late = [i for i, s in enumerate(listed) if (s.layer or 0) >= LATE * model.cfg.n_layers]
    even = len(early) / len(listed)  # if all stages were alike
    text, copied, first = KINDS
    logit, tuned = LENSES

    def share(kind: str, lens: str, among: Sequence[int]) -> dict[str, float]:
        place, _ = looks[kind, lens]
        return interval(torch.isin(place, torch.tensor(among)).double().mean(1))

    of, found = "of words", []
    found += [check("text, last quarter, logit lens", share(text, logit, late), of, above=0.5)]
    found += [check("text, last quarter, tuned lens", share(text, tuned, late), of, below=0.5)]
    for lens in LENSES:
        row = share(copied, lens, early)
        found += [check(f"second copies, layers 1 and 2, {lens}", row, of, above=0.5)]
    for kind in (text, first):
        for lens in LENSES:
            row = share(kind, lens, early)
            what = "text" if kind == text else "first copies"
            says = f"{what}, layers 1 and 2, {lens} (evenly spread: {even:.2f})"
            found += [check(says, row, of, below=even, control=True)]
    return tuple(found)


def of_text(model: HookedGPT2, tokens: Tensor) -> Prompts:
    """Text whose words are looked at from a few tokens on."""
    at = torch.zeros_like(tokens, dtype=torch.bool)
    at[:, SKIPPED:] = True
    texts = tuple(model.to_string(row[1:]) for row in tokens)
    return scored(model, tokens, at, "own text", texts)


def of_copies(model: HookedGPT2, n: int, seed: int) -> tuple[Prompts, Prompts]:
    """Random tokens, twice: the second copy's words, and those of the first."""
    made = make("repeated", model, n, seed)
    begin = int(made.roles["SECOND"][0])
    second = made.targets != UNSCORED
    first = torch.zeros_like(second)
    first[:, 1 : begin - 1] = True
    return tuple(
        scored(model, made.tokens, at, name, made.texts)
        for at, name in ((second, KINDS[1]), (first, KINDS[2]))
    )


def scored(
    model: HookedGPT2, tokens: Tensor, at: Tensor, task: str, texts: tuple[str, ...]
) -> Prompts:
    """Prompts that ask, where `at` [b p] says so, for the model's own likeliest word."""
    with torch.inference_mode():
        parts = tokens.split(TOGETHER)
        final = torch.cat([model(p, attention_mask=all_real(p)).argmax(-1) for p in parts])
    return Prompts(
        task=task,
        texts=texts,
        tokens=tokens,
        mask=torch.ones_like(at),
        targets=torch.where(at, final, UNSCORED),
        roles={"END": torch.full_like(tokens[:, 0], tokens.shape[1] - 1)},
        metric="loss",
        prepend_bos=True,
    )


def look(model: HookedGPT2, prompts: Prompts, lens: TunedLens) -> tuple[Tensor, Tensor]:
    """At which stage does each word take over [b n], and KL(final || stage) of each [s b n]?"""
    listed, places, distances = stages(model), [], []
    for rows, targets in zip(
        prompts.tokens.split(TOGETHER), prompts.targets.split(TOGETHER), strict=True
    ):
        with torch.inference_mode():
            sites = [stage.site for stage in listed]
            options = {"attention_mask": all_real(rows), "return_type": None}
            _, cache = model.run_with_cache(rows, names_filter=sites, **options)
            at = targets != UNSCORED
            shape = (len(rows), -1)
            final = lens_logits(model, cache[sites[-1]][at]).log_softmax(-1)
            behind, kls = [], []
            for site in sites:
                said = lens_logits(model, lens(site, cache[site][at])).log_softmax(-1)
                behind.append((said.argmax(-1) != targets[at]).view(shape))
                kls.append((final.exp() * (final - said)).sum(-1).view(shape))
            behind[-1] = torch.zeros_like(behind[-1])  # the last stage is the final word's own
            number = torch.arange(1, len(sites) + 1)[:, None, None]
            places.append((torch.stack(behind).cpu() * number).amax(0))
            distances.append(torch.stack(kls).cpu())
    return torch.cat(places), torch.cat(distances, 1)


def settling(model: HookedGPT2, where: tuple[str, str], place: Tensor) -> pd.DataFrame:
    """The share of words that have taken over by each stage; intervals over texts."""
    return pd.DataFrame(
        {
            "kind": where[0],
            "lens": where[1],
            "stage": stage.name,
            **interval((place <= i).double().mean(1)),
        }
        for i, stage in enumerate(stages(model))
    )


def distances(model: HookedGPT2, where: tuple[str, str], kl: Tensor) -> pd.DataFrame:
    """The mean divergence of each stage; intervals over texts."""
    return pd.DataFrame(
        {
            "kind": where[0],
            "lens": where[1],
            "stage": stage.name,
            **interval(of.clamp_min(0).double().mean(1)),
        }
        for stage, of in zip(stages(model), kl, strict=True)
    )


def pushes(model: HookedGPT2, asked: Mapping[str, Prompts]) -> Result:
    """Which layers push the final word, by kind of text?"""
    found = {kind: attribute(model, what="layers", task=one) for kind, one in asked.items()}
    frame = pd.concat(one.frame.assign(kind=kind) for kind, one in found.items())
    return replace(
        found[KINDS[0]],
        frame=frame[["kind", "component", *AVERAGED, "share", "total"]],
        title="Which layers push the final word, against the mean of all?",
        axes=("kind", "component"),
        view="curves",
    )


def story(model: HookedGPT2, lens: TunedLens) -> dict[str, Result]:
    """The questions and answers: all that the stages say at the end, and which parts say it."""
    known = ["position", "after", "stage", "token", "probability", "takes_over"]
    grids = {}
    for name, one in (("story", None), ("story_tuned", lens)):
        found = logit_lens(model, STORY, positions="all", top=1, lens=one)
        frame = found.frame[found.frame["position"] > found.frame["position"].max() - LAST]
        grids[name] = replace(found, frame=frame[known])
    words = [word for word in FOLLOWED if is_one_token(model, word)]
    followed = logit_lens(model, STORY, top=1, token=words)
    kept = ["target", "stage", "value", "target_rank", "target_logit"]
    return {
        **grids,
        "followed": replace(followed, frame=followed.frame[kept]),
        "story_pushes": attribute(
            model, what="layers", prompt=STORY, answer=words[-1], distractor=words[1]
        ),
    }


def is_one_token(model: HookedGPT2, word: str) -> bool:
    return model.to_tokens(word, prepend_bos=False).shape[1] == 1


if __name__ == "__main__":
    as_command(__file__)
