"""Which causal graph does a model compute, and how would one notice that it is another?

A causal graph names what is computed between a prompt and its answer. Its variables are swapped
between two prompts at one site of the model; if the variable lives there, the answer becomes what
the graph says (interchange interventions; Geiger et al. 2021, 2106.02997). Here

- in `compiled`, whose weights were written by hand, so that the right places are known;
- in `sort-abc`, with two graphs that both give the right answer for every word: A as long as there
  are A's left, then as many B's, then C (variables a and b); or the same from both ends, A in the
  first places, C in the last ones, B between (a and c). One direction of what the first attention
  layer writes is swapped, found by gradient descent (Geiger et al. 2023, 2303.02536). Source words
  are such that the letters already written agree with the swapped counts, too;
- with the control for an illusion (Makelov et al. 2023, 2311.17030): among the many neurons of an
  MLP, a subspace may be found whose swap works, and which works less without its part that nobody
  reads. In the direction of a count there is no such part.

At one place, a swap does not tell a count from the one bit that matters there (is it more than the
place?). That the first attention writes counts, at every place, is what `sorting` shows.

Against the claim would speak: variables of `compiled` that are missed, or found at other heads (s
shows at the head of io, too, and io at that of s: one follows from the other); a direction for b
that works as well as those for a and c; a direction that needs a part that nobody reads.

    circuits run causal_graph
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from circuits.alignment import CausalGraph, Text, graph_of
from circuits.analyses.interchange import interchange
from circuits.architectures import HookedGPT2
from circuits.checkpoints import load
from circuits.checkpoints.compiled import BOS, END, NAMES
from circuits.cli.experiments import as_command
from circuits.experiment import Check, Finding, check
from circuits.prompts import Example, Prompts, assemble, make
from circuits.result import Result

CLAIM = (
    "Interchange finds the variables of compiled at the heads that hold them and nowhere off their "
    "path, and in sort-abc a direction each for the counts of A and C, but none as good for B's."
)
MODEL = "sort-abc"
N, QUICK_N = 600, 200  # words; half of them to learn a direction from
GIFTS, COPIES = 60, 30  # prompts for `compiled`
QUICK_GIFTS, QUICK_COPIES = 30, 16
PLACES = {"s": "a1.h1@END", "io": "a2.h0@END", "previous": "a0.h0", "copied": "a1.h0"}
ON_THE_WAY = ("a1.h1@END", "a2.h0@END")  # from s to io: a swap at one of them shows at the other
HALF = 0.5  # of the pairs: half of the way from no effect to the graph's answer in all
FIRST, BEFORE = "a0@END", "resid_pre.0@END"
NEURONS, RANK = "m1@END", 2
LETTERS = 6
A, B, C = range(3)


def run(model: HookedGPT2, *, seed: int = 0, quick: bool = False) -> Finding:
    """Align `compiled`, then this model."""
    made = compiled_tables(seed, quick)
    prompts = make("sorting", model, QUICK_N if quick else N, seed)
    counts = count_table(model, prompts, seed)
    neurons = interchange(
        model,
        task=prompts,
        component=NEURONS,
        variable="letter",
        rank=RANK,
        neurons=True,
        seed=seed,
    )
    title = f"Swapping the letter among the neurons of {NEURONS}"
    neurons = replace(neurons, title=title, axes=("subspace",))
    shown = {name: at_the_end(result) for name, result in made.items()}
    tables = {**shown, "counts": counts, "neurons": neurons}
    return Finding((*compiled_verdict(made), *verdict(counts, neurons)), tables)


def compiled_tables(seed: int, quick: bool) -> dict[str, Result]:
    """Each variable of both circuits of `compiled`, swapped at each head."""
    model = load("compiled")
    prompts = gifts(model, QUICK_GIFTS if quick else GIFTS, seed)
    n = QUICK_COPIES if quick else COPIES
    asked: dict[str, Any] = {"what": "head", "seed": seed}
    ioi = interchange(model, task=prompts, positions="roles", **asked)
    repeated = interchange(model, task="repeated", n=n, **asked)
    return {"ioi": ioi, "repeated": repeated}


def at_the_end(result: Result) -> Result:
    """What there is to show: layers 3 to 5 are empty, and no swap at another role does anything."""
    frame = result.frame
    place = frame["position"].isna() | (frame["position"] == "END")
    axes = ("variable", "layer", "head")
    return replace(result, frame=frame[place & (frame["layer"] < 3)], axes=axes)


def gifts(model: HookedGPT2, n: int, seed: int) -> Prompts:
    """Sentences BOS f A f B f f f B f f END of `compiled`: names A and B, all fillers different."""
    rng, examples = np.random.default_rng(seed), []
    roles = {"IO": 2, "S1": 4, "S2": 8, "END": 11}
    for _ in range(n):
        io, s = rng.choice(NAMES, 2, replace=False).tolist()
        others = set(range(model.cfg.d_vocab)) - {BOS, END, *NAMES}
        f = iter(rng.choice(sorted(others), 7, replace=False).tolist())
        row = [BOS, *(next(f), io, next(f), s), *(next(f), next(f), next(f), s)]
        row += [next(f), next(f), END]
        examples.append(Example(model.to_string(row[1:]), row, io, s, roles=roles))
    return assemble(model, examples, task="ioi", metric="logit_diff", prepend_bos=True)


def letters(text: Text) -> Sequence[int]:
    """The letters of the word."""
    return text.tokens[text.roles["OUTPUT"] + 1 - LETTERS : text.roles["OUTPUT"] + 1]


def written(text: Text) -> Sequence[int]:
    """The sorted letters so far."""
    return text.tokens[text.roles["OUTPUT"] + 1 :]


def from_the_start(place: int, known: Mapping[str, int]) -> int:
    """The sorted letter at this place, by the counts of A and B."""
    return A if place < known["a"] else B if place < known["a"] + known["b"] else C


def from_both_ends(place: int, known: Mapping[str, int]) -> int:
    """The sorted letter at this place, by the counts of A and C."""
    return A if place < known["a"] else C if place >= LETTERS - known["c"] else B


RULES = {"a": (A, from_both_ends), "c": (C, from_both_ends), "b": (B, from_the_start)}


def graph(variable: str) -> CausalGraph:
    """The graph with this count, and sources with which the letters so far stay right."""
    _, rule = RULES[variable]
    counted = {"a": A, "c": C} if rule is from_both_ends else {"a": A, "b": B}
    variables: dict[str, Any] = {
        name: lambda text, known, letter=letter: list(letters(text)).count(letter)
        for name, letter in counted.items()
    }
    variables["letter"] = lambda text, known: rule(len(written(text)), known)
    usual = graph_of("sorting").source

    def source(base: Text, other: Text, rng: np.random.Generator) -> Sequence[int] | None:
        tokens = usual(base, other, rng)
        assert tokens is not None
        known = {name: variables[name](base, {}) for name in counted}
        known[variable] = variables[variable](Text(tuple(tokens), base.roles), {})
        agrees = [rule(i, known) for i in range(len(written(base)))] == list(written(base))
        return tokens if agrees and sum(known.values()) <= LETTERS else None

    return CausalGraph("sorting", variables, source)


def count_table(model: HookedGPT2, prompts: Prompts, seed: int) -> Result:
    """One direction for each count, after the first attention; for the control, before it."""
    asked: dict[str, Any] = {"task": prompts, "rank": 1, "seed": seed}
    found = [
        interchange(model, component=site, variable=name, graph=graph(name), **asked)
        for site, names in {FIRST: RULES, BEFORE: ("a", "c")}.items()
        for name in names
    ]
    frame = pd.concat([one.frame for one in found], ignore_index=True)
    title = f"Swapping one direction for each count ({model.cfg.model_name})"
    axes = ("component", "variable", "subspace")
    return replace(found[0], frame=frame, title=title, axes=axes, view="heatmap")


def compiled_verdict(made: Mapping[str, Result]) -> tuple[Check, ...]:
    """Is each variable at its head, and no variable of the two circuits at any other?"""
    heads = pd.concat([made["ioi"].frame, made["repeated"].frame])
    found = heads[heads["variable"].isin(PLACES)]
    right = found["component"] == found["variable"].map(PLACES)
    way = found["variable"].isin(("s", "io")) & found["component"].isin(ON_THE_WAY)
    other = found[~right & ~way]
    at = found[right].set_index("variable")
    evidence = [
        check(f"compiled: {name} at {place}", at.loc[name], "of the pairs", above=HALF)
        for name, place in PLACES.items()
    ]
    return (
        *evidence,
        check(
            f"compiled: the best of {len(other)} other swaps",
            other.iloc[other["value"].argmax()],
            below=HALF,
            control=True,
        ),
    )


def verdict(counts: Result, neurons: Result) -> tuple[Check, ...]:
    """Has each of the counts of A and C a direction, that of B none, and is none an illusion?"""
    at = counts.frame.set_index(["component", "variable", "subspace"]).sort_index().loc
    by = neurons.frame.set_index("subspace").loc
    c = at[FIRST, "c", "learned"]
    before = counts.frame[
        (counts.frame["component"] == BEFORE) & (counts.frame["subspace"] == "learned")
    ]
    return (
        check(f"a: one direction at {FIRST}", at[FIRST, "a", "learned"], above=HALF),
        Check(
            "the same where a must change nothing", at[FIRST, "a", "learned"]["kept"], above=HALF
        ),
        check(f"c: one direction at {FIRST}", c, above=HALF),
        Check("the same where c must change nothing", c["kept"], above=HALF),
        check("a: without what nobody reads", at[FIRST, "a", "read"], above=HALF),
        check("c: without what nobody reads", at[FIRST, "c", "read"], above=HALF),
        check(
            "b: one direction, less than c's",
            at[FIRST, "b", "learned"],
            below=c["ci_low"],
            control=True,
        ),
        check("c: a random direction", at[FIRST, "c", "random"], below=0.1, control=True),
        check(
            "a or c: one direction before attention",
            before.iloc[before["value"].argmax()],
            below=HALF,
            control=True,
        ),
        check(
            f"illusion, neurons of {NEURONS}: learned more than all of them",
            by["learned"],
            above=by["whole"]["ci_high"],
            control=True,
        ),
        check(
            "illusion: less without what nobody reads",
            by["read"],
            below=by["learned"]["ci_low"],
            control=True,
        ),
    )


if __name__ == "__main__":
    as_command(__file__)
