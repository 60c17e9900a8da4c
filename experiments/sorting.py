"""How does `sort-abc` sort six letters: does it count them, or cross off what is written already?

Three parts of a possible answer are tested on all 729 words, at each of the six places where the
model writes a letter:

- *Counting.* From there the heads of layer 0 look almost evenly at all letters so far, so that what
  they write is nearly a linear function of how often each letter occurs. It is fitted on words with
  some counts, and tested on words with others. An untrained model counts so, too, for even
  attention is an average: the fit only says what is there, the next tests say what is used.
- *From counts to letters.* The model gets what the fit says in place of what the first attention
  layer writes, and all later attention gets its mean over all words: are the letters right? Do they
  become those of another word, when the fit is asked for that word's counts?
- *By place, or crossing off?* Letters that are written already are replaced by wrong ones: does the
  model answer by counts and place, or with the least letter that is left?

Against the claim would speak: counts that cannot be read at words with new counts, letters that
break without the later attention, or answers that follow what is left. Beside it stands what
each head looks at and writes, and what breaks without it (sorting_heads.py).

    circuits run sorting
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import Any

import pandas as pd
import torch
from sorting_heads import head_tables
from torch import Tensor

from circuits.alignment import share_interval
from circuits.analyses.ablate import ablate
from circuits.analyses.interchange import interchange
from circuits.architectures import HookedGPT2
from circuits.cache import Cache
from circuits.cli.experiments import as_command
from circuits.experiment import Check, Finding, check, interval, table
from circuits.hooks import HookFn, HookPoint
from circuits.prompts import make
from circuits.result import Result

CLAIM = (
    "sort-abc counts the word's letters with the attention of its first layer, and its MLPs turn "
    "counts and place into the next letter, almost without attention in later layers."
)
MODEL = "sort-abc"
LETTERS, LENGTH, N, QUICK_N = "ABC", 6, 300, 60  # prompts of the ablations and swaps
FOLDS = 7  # of the 28 different counts: four at a time are held out
RIDGE = 1e-3  # of the words fitted on: keeps directions out that hardly vary
HARM = 0.1  # of the clean logit difference: what costs less is hardly needed
HEADS, SHUFFLED, GUESS = "heads of layer 0", "heads, other words", "best guess"
BOTH, WRONG = "both", "other words' counts"
ASKED, ASKED_WRONG = "asked for a new word", "asked, other words' counts"
NAME, FIRST = "sorting", "blocks.0.hook_attn_out"


def run(model: HookedGPT2, *, seed: int = 0, quick: bool = False) -> Finding:
    """Look, read, replace, swap."""
    n = QUICK_N if quick else N
    make("sorting", model, 1)  # says so if the model has other letters
    data = Words(model, seed)
    with torch.inference_mode():
        letters = replaced(data, seed)
        frames = {
            "attention": attention_table(data),
            "counts": count_table(data, seed),
            "letters": letter_table(letters),
            "prefixes": prefix_table(data, seed),
        }
    tables = {name: shown(model, name, frame) for name, frame in frames.items()}
    tables |= {"ablations": ablations(model, n, seed), "swaps": swap_table(model, n, seed)}
    tables |= head_tables(data, NAME, n, seed)  # no check: the claim is about layers
    return Finding(verdict(data, letters, tables), tables)


# What each table shows: unit, title, axes, view.
SHOWN = {
    "attention": (
        "times even attention",
        "How much the newest letter looks at one letter of the word (layer 0)",
        ("letter", "written"),
        "curves",
    ),
    "counts": (
        "R²",
        "Counts of A, B and C, read linearly at the newest letter (words with new counts)",
        ("from", "written"),
        "curves",
    ),
    "letters": (
        "share of words",
        "Right letters while parts are replaced",
        ("model", "written"),
        "heatmap",
    ),
    "prefixes": (
        "share of words",
        "After wrong letters: what does the model go by?",
        ("goes by", "written"),
        "curves",
    ),
}
MEANINGS = {
    "written": "how many sorted letters are there already",
    "letter": "at which the heads look",
    "from": "what the counts are read from",
    "model": "what was replaced",
    "goes by": "which rule predicts the letter",
}


def shown(model: HookedGPT2, name: str, frame: pd.DataFrame) -> Result:
    unit, title, axes, view = SHOWN[name]
    return table(model, NAME, frame, unit, title, axes=axes, view=view, meanings=MEANINGS)


class Words:
    """All words with their sorted letters, and one clean run of the model over them.

    Attributes:
        tokens: [729 11], the word and the first five letters of the answer.
        answers: [729 6], the sorted letters.
        counts: [729 3], how many A, B and C.
        groups: [729], which of the 28 counts.
        folds: [729], in which fold a word is held out, with all others of its counts.
    """

    def __init__(self, model: HookedGPT2, seed: int) -> None:
        words = torch.tensor(list(product(range(len(LETTERS)), repeat=LENGTH)))
        self.model, self.words, self.answers = model, words, words.sort(-1).values
        self.tokens = torch.cat([words, self.answers], 1)[:, : 2 * LENGTH - 1]
        self.counts = torch.stack([(words == i).sum(1) for i in range(len(LETTERS))], 1).double()
        self.groups = self.counts.unique(dim=0, return_inverse=True)[1]
        n = int(self.groups.max()) + 1
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        self.folds = (order % FOLDS)[self.groups]
        with torch.inference_mode():
            _, self.cache = model.run_with_cache(self.tokens)

    def fitted(self, x: Tensor, y: Tensor) -> Tensor:
        """y [b e] as a linear function of x [b d], for each word fitted on other counts."""
        found = torch.zeros_like(y)
        x = (x - x.mean(0)) / x.std(0).clamp_min(1e-6)
        x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
        for fold in range(FOLDS):
            seen = self.folds != fold
            gram = x[seen].T @ x[seen] + RIDGE * int(seen.sum()) * torch.eye(x.shape[1])
            found[~seen] = x[~seen] @ torch.linalg.solve(gram, x[seen].T @ y[seen])
        return found

    def stand_in(self, k: int, draw: torch.Generator | None = None) -> Tensor:
        """What counts say of the first attention's output after k letters [729 d].

        With `draw` they are those of other words: a control.
        """
        wrote = self.cache["attn_out", 0][:, LENGTH - 1 + k].double()
        of = self.counts if draw is None else self.shuffled(draw)
        return self.fitted(of[:, :2], wrote)  # the third is 6 less these two

    def shuffled(self, draw: torch.Generator) -> Tensor:
        """The counts of other words [729 3]."""
        return self.counts[torch.randperm(len(self.counts), generator=draw)]

    def said(self, k: int, *hooks: tuple[str, HookFn]) -> Tensor:
        """Which letter does the model write after k letters? [729]"""
        tokens = self.tokens[:, : LENGTH + k]
        said: Tensor = self.model.run_with_hooks(tokens, fwd_hooks=hooks)[:, -1].argmax(-1)
        return said


def attention_table(data: Words) -> pd.DataFrame:
    """How much does END look at one A, B, C of the word, next to an even look? Mean over heads."""
    rows = []
    pattern = data.cache["pattern", 0].double().mean(1)
    for k, letter in product(range(LENGTH), range(len(LETTERS))):
        is_there = data.words == letter
        has = is_there.any(1)
        looks = (pattern[:, LENGTH - 1 + k, :LENGTH] * is_there).sum(1)[has]
        each = looks / is_there.sum(1)[has] * (LENGTH + k)
        rows.append({"letter": LETTERS[letter], "written": k, **interval(each)})
    return pd.DataFrame(rows)


def count_table(data: Words, seed: int) -> pd.DataFrame:
    """How well can the counts be read, of words with counts that were not fitted?"""
    draw = torch.Generator().manual_seed(seed)
    untrained = HookedGPT2.random(data.model.cfg, seed=seed)
    _, cache = untrained.run_with_cache(data.tokens)
    rows = []
    for k in range(LENGTH):
        at = LENGTH - 1 + k
        heads = mixed(data.cache, at)
        sources = {
            "heads of layer 0": (heads, data.counts),
            "the newest letter": (data.cache["resid_pre", 0][:, at].double(), data.counts),
            "heads, untrained": (mixed(cache, at), data.counts),
            "heads, other words": (heads, data.shuffled(draw)),
        }
        for name, (x, y) in sources.items():
            missed = (data.fitted(x, y) - y).square().sum(1)
            spread = (y - y.mean(0)).square().sum(1)
            r2 = [
                float(1 - missed[data.folds == i].sum() / spread[data.folds == i].sum())
                for i in range(FOLDS)
            ]
            rows.append({"from": name, "written": k, **interval(torch.tensor(r2))})
    return pd.DataFrame(rows)


def mixed(cache: Cache, at: int) -> Tensor:
    """What all heads of layer 0 mixed for this position: [b heads*d_head]."""
    return cache["z", 0][:, at].flatten(1).double()


def replaced(data: Words, seed: int) -> dict[str, Tensor]:
    """Are the letters right while the first attention says counts, and later attention nothing?

    For each variant [729 6], 1 or 0; NaN where it was not asked.
    """
    draw = torch.Generator().manual_seed(seed)
    later = [
        (f"blocks.{layer}.attn.hook_z", constant) for layer in range(1, data.model.cfg.n_layers)
    ]
    found: dict[str, list[Tensor]] = {}
    for k in range(LENGTH):
        answer, fit, wrong = data.answers[:, k], data.stand_in(k), data.stand_in(k, draw)
        partners = others(data, k, draw)
        asked, wanted = partners >= 0, answer[partners]
        said = {
            "as it is": data.said(k),
            "counts for layer 0": data.said(k, writes(FIRST, fit)),
            "no later attention": data.said(k, *later),
            BOTH: data.said(k, writes(FIRST, fit), *later),
            WRONG: data.said(k, writes(FIRST, wrong)),
            GUESS: best_guess(data, k),
        }
        for name, letters in said.items():
            found.setdefault(name, []).append((letters == answer).double())
        for name, new in {ASKED: fit, ASKED_WRONG: wrong}.items():
            right = (data.said(k, writes(FIRST, new[partners])) == wanted).double()
            found.setdefault(name, []).append(right.where(asked, torch.nan))
    return {name: torch.stack(columns, 1) for name, columns in found.items()}


def letter_table(letters: Mapping[str, Tensor]) -> pd.DataFrame:
    """The share of right letters of each variant at each place."""
    return pd.DataFrame(
        {"model": name, "written": k, **share(column[~column.isnan()])}
        for name, right in letters.items()
        for k, column in enumerate(right.T)
    )


def others(data: Words, k: int, draw: torch.Generator) -> Tensor:
    """For each word another one [729] whose counts it shall get, or -1 if there is none.

    It has the same last written letter (which the model sees, too), and another next one.
    """
    now, before = data.answers[:, k], data.tokens[:, LENGTH - 1 + k]
    fitting = now[:, None] != now
    if k:
        fitting &= before[:, None] == before
    drawn = torch.rand(fitting.shape, generator=draw) * fitting
    return drawn.argmax(1).where(fitting.any(1), -1)


def best_guess(data: Words, k: int) -> Tensor:
    """What can be said without the word: the usual letter at this place after this one [729]."""
    last = data.answers[:, k - 1] if k else torch.zeros_like(data.answers[:, 0])
    often = torch.zeros(len(LETTERS), len(LETTERS))
    often.index_put_((last, data.answers[:, k]), torch.ones(len(last)), accumulate=True)
    return often.argmax(1)[last]


def writes(site: str, new: Tensor) -> tuple[str, HookFn]:
    """A hook that writes new values [b d] at the last position."""

    def write(value: Tensor, hook: HookPoint) -> Tensor:
        value = value.clone()
        value[:, -1] = new.to(value)
        return value

    return site, write


def constant(value: Tensor, hook: HookPoint) -> Tensor:
    """At each position the mean over all words."""
    return value.mean(0, keepdim=True).expand_as(value)


def prefix_table(data: Words, seed: int) -> pd.DataFrame:
    """Random letters of the word stand where the sorted ones should: what comes next?

    Only words are counted where the two rules differ.
    """
    draw, rows = torch.Generator().manual_seed(seed), []
    for k in range(1, LENGTH):
        order = torch.rand(data.words.shape, generator=draw).argsort(1)[:, :k]
        written = data.words.gather(1, order)
        said = data.model(torch.cat([data.words, written], 1))[:, -1].argmax(-1)
        left = data.counts.clone()
        left.scatter_add_(1, written, -torch.ones_like(written, dtype=left.dtype))
        least = (left > 0).int().argmax(1)
        differ = data.answers[:, k] != least
        for name, rule in {"counts and place": data.answers[:, k], "what is left": least}.items():
            rows.append({"goes by": name, "written": k, **share((said == rule)[differ])})
    return pd.DataFrame(rows)


def ablations(model: HookedGPT2, n: int, seed: int) -> Result:
    """What breaks when attention layers and MLPs write what they write in another prompt?"""
    later = [f"a{layer}" for layer in range(1, model.cfg.n_layers)]
    parts = [["a0"], later, *([f"m{layer}"] for layer in range(model.cfg.n_layers))]
    found = [
        ablate(model, component=part, method="resample", task="sorting", n=n, seed=seed)
        for part in parts
    ]
    frame = pd.concat([one.frame for one in found], ignore_index=True)
    title = "What breaks with the values of another prompt?"
    return replace(found[0], frame=frame, title=title, axes=("component",), view="bars")


def swap_table(model: HookedGPT2, n: int, seed: int) -> Result:
    """Where do the graph's variables live? Swaps of the whole stream at the newest letter."""
    asked: dict[str, Any] = {"task": "sorting", "n": n, "seed": seed}
    start, found = (interchange(model, what=what, **asked) for what in ("resid_pre", "resid_mid"))
    frame = pd.concat([start.frame[start.frame["layer"] == 0], found.frame], ignore_index=True)
    frame = frame[frame["position"] == "END"]
    return replace(found, frame=frame, axes=("variable", "component"))


def verdict(
    data: Words, letters: Mapping[str, Tensor], tables: Mapping[str, Result]
) -> tuple[Check, ...]:
    """What the claim stands or falls with."""
    guess = by_counts(data, letters[GUESS])["value"]
    half = (1 + guess) / 2  # half of the way from guessing to no mistake
    counts = tables["counts"].frame.sort_values("value").set_index("from").loc
    broken = tables["ablations"].frame.set_index("component")
    clean = float(broken["clean"].iloc[0])
    first, later = broken.loc["a0"], broken.loc[next(name for name in broken.index if "+" in name)]
    swaps = tables["swaps"].frame.set_index(["variable", "component"]).loc["letter"]
    rules = tables["prefixes"].frame.sort_values("value").set_index("goes by")
    return (
        check("R² of the counts at the worst place", counts[HEADS].iloc[0], above=0.9),
        check(
            f"right with counts for layer 0's attention, none later (best guess {guess:.2f})",
            by_counts(data, letters[BOTH]),
            above=half,
        ),
        check(
            "given another word's counts: its letter", by_counts(data, letters[ASKED]), above=0.5
        ),
        check("later attention replaced: logits", later, above=-HARM * clean),
        check("swapped at resid_mid.0@END: letter", swaps.loc["resid_mid.0@END"], above=0.5),
        check(
            "after wrong letters, at the worst place: by counts and place",
            rules.loc["counts and place"].iloc[0],
            above=0.5,
        ),
        check("R² of shuffled counts", counts[SHUFFLED].iloc[-1], below=0.1, control=True),
        check(
            "right with shuffled counts", by_counts(data, letters[WRONG]), below=half, control=True
        ),
        check("the same, shuffled", by_counts(data, letters[ASKED_WRONG]), below=0.5, control=True),
        check("first attention replaced: logits", first, below=-HARM * clean, control=True),
        check(
            "swapped at resid_pre.0@END: letter",
            swaps.loc["resid_pre.0@END"],
            below=0.5,
            control=True,
        ),
        check(
            "after wrong letters: what is left",
            rules.loc["what is left"].iloc[-1],
            below=0.1,
            control=True,
        ),
    )


def by_counts(data: Words, right: Tensor) -> dict[str, float]:
    """The share of right letters [729 6], each of the 28 counts once: words of one are alike."""
    return interval(torch.stack([right[data.groups == i].nanmean() for i in data.groups.unique()]))


def share(right: Tensor) -> dict[str, float]:
    return share_interval(right.double().numpy())


if __name__ == "__main__":
    as_command(__file__)
