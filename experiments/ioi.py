"""Who receives the gift: which heads answer, what do they read, and is that all there is?

"When Mary and John went to the garden, John gave a letter to" -> Mary (Wang et al. 2022,
2211.00593; roles IO = Mary, S1 and S2 = John, END = the last token). The steps of that paper:

- *Knock-outs* pick the circuit: heads without which the answer's lead over the other name falls by
  a share that counts, on prompts that are not used again. What a head writes is replaced by its
  mean, at each position, over prompts with three unrelated names.
- *Attention* says what its heads do: name movers read IO from END, giver readers read S2 or the
  word after it, where a previous-token head has noted who gives.
- *Faithfulness*: all heads outside of the circuit are knocked out together (all MLPs stay, as in
  the paper). The share (m(circuit) - m(no heads)) / (m(model) - m(no heads)) is 1 if nothing is
  missing. Random heads, as many in each layer, are the control.
- *Minimality and completeness*: the circuit without one head, without one MLP, and without each
  group of heads, next to the whole model without the same.
- *Direct attribution, activation and path patching* say where the pieces act, and approximate
  patching how well gradients estimate that.

In GPT-2 duplicate-token heads note at S2 that its name came before. The same was expected here, and
not found: so all heads at S2 are knocked out together, and as a control all those one place later.
Then what is the rule? The task's prompts cannot tell "the name that comes once" from "a name that
does not give". Others can: with a third name in place of S1, the giver comes once; with one in
place of S2 and S in a sentence before, a name comes twice and does not give.

Against the claim would speak: a share far from 1, random heads that do as well, a lead that is left
without the circuit, is lost with a giver who comes once, or is over one who does not give.

    circuits run ioi
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from circuits import approximate, attribute, patch, paths
from circuits.architectures import HookedGPT2
from circuits.circuit import Circuit
from circuits.cli.experiments import as_command
from circuits.components import Component, all_heads, all_mlps, parse
from circuits.experiment import Check, Finding, check, interval, table
from circuits.metrics import get_metric
from circuits.prompts import Prompts, make
from circuits.result import AVERAGED, Result, mean_interval
from circuits.sweep import Cell, CircuitSweep, Kept, Source, Sweep, cell, plan
from circuits.sweep import run as run_sweep
from circuits.sweep.moments import Moments, moments

CLAIM = (
    "About a sixth of mini's heads find the indirect object as well as all of them, and without "
    "these nothing is left of it; but all that they find is a name that does not give, and whether "
    "the giver's, or another one, comes twice is not what counts."
)
MODEL = "mini"
N, QUICK_N = 120, 48  # prompts to pick the circuit on, and as many others to test it on
DRAWS, QUICK_DRAWS = 20, 4  # of random heads
COUNTS = 0.03  # of the lead: a head whose loss costs at least so much is in the circuit
LOOKS = 0.5  # of its attention: what a head looks at so much gives it its name
SAME = 0.25  # of the lead: less between two names is as good as none
ROLES = ("IO", "S1", "S2", "S2+1")
BEFORE = ("One day", " was tired.\n")  # a name in a sentence more
ONCE, OTHER = "S1 is a third name", "S2 is a third name"
TWICE = "S2 is a third name, S in a sentence before"
# Of the lead. If what counted were who comes twice, it would be 0 over the giver who comes once,
# and 1 over an S that comes twice and does not give.
BOUNDS: dict[tuple[str, str], dict[str, Any]] = {
    (ONCE, "the giver"): {"above": 0.9},
    (OTHER, "the giver"): {"above": 0.9},
    (TWICE, "S"): {"below": SAME},
    (ONCE, "the third"): {"above": -SAME, "below": SAME, "control": True},
    (OTHER, "S"): {"above": -SAME, "below": SAME, "control": True},
}
SHOWN = 12
NAME = "ioi"
UNIT = "logits, answer - distractor"


def run(model: HookedGPT2, *, seed: int = 0, quick: bool = False) -> Finding:
    """Pick the circuit on some prompts, and ask others about it."""
    n, draws = (QUICK_N, QUICK_DRAWS) if quick else (N, DRAWS)
    prompts = asked(model, n, seed)
    single, circuit = picked(model, asked(model, n, seed + 1))
    look = looks(model, prompts, circuit)
    trial = Trial(model, prompts, circuit, groups(look, circuit))
    curve = growth(trial, ranked(single), draws, seed)
    tested, random = trial.sets(), controls(trial, draws, seed)
    rule = renamed(model, asked(model, N, seed))  # four runs: quick, too
    made = partial(table, model, NAME)
    tables = {
        "knockouts": made(
            single,
            UNIT,
            "What one head's knock-out does (prompts that pick the circuit)",
            axes=("component",),
        ).top(2 * SHOWN),
        "circuit": made(
            look,
            "attention from END",
            "Where the circuit's heads look",
            axes=("component", "to"),
            view="heatmap",
            meanings={"group": f"by what gets more than {LOOKS} of the attention"},
        ),
        "faithfulness": made(
            curve,
            "share of the lead",
            "How much can so many heads do by themselves?",
            axes=("kept", "heads"),
            view="curves",
            meanings={"n": "prompts, or draws of random heads"},
        ),
        "sets": made(
            pd.concat([tested, random]),
            "share of the lead",
            "The circuit without its parts",
            axes=("set",),
            meanings={"set": "which heads (and MLPs) are left as they are"},
        ),
        "rule": made(rule, UNIT, "Who leads where other names come before?", axes=("lead",)),
    }
    checks = (*verdict(tested, random, circuit, model), *ruled(rule))
    return Finding(checks, tables | traced(trial))


def verdict(
    tested: pd.DataFrame, random: pd.DataFrame, circuit: Circuit, model: HookedGPT2
) -> tuple[Check, ...]:
    """What the claim stands or falls with."""
    by, control = tested.set_index("set"), random.set_index("set")
    size = len(circuit) / len(all_heads(model.cfg))
    unit = "of the lead"
    return (
        Check(f"share of the heads in the circuit ({len(circuit)})", size, above=0, below=0.25),
        check("faithfulness: the circuit alone", by.loc["circuit"], unit, above=0.9, below=1.1),
        check("the model without the circuit", by.loc["without circuit"], unit, below=0.1),
        check("the model without all heads at S2", by.loc["without heads at S2"], unit, above=0.9),
        check(
            "as many random heads of the same layers alone",
            control.loc["random heads"],
            unit,
            below=0.5,
            control=True,
        ),
        check(
            "the model without as many random heads",
            control.loc["without random heads"],
            unit,
            above=0.5,
            control=True,
        ),
        check(
            "the model without all heads at the place after S2",
            by.loc["without heads at S2+1"],
            unit,
            below=0.9,
            control=True,
        ),
    )


def ruled(rule: pd.DataFrame) -> Iterator[Check]:
    """Is the answer a name that does not give, or one that comes once?"""
    rows = rule.set_index(["prompts", "over"])
    for (prompts, over), bounds in BOUNDS.items():
        row = rows.loc[(prompts, over)]
        share = {"value": row["share"], "ci_low": row["share_low"], "ci_high": row["share_high"]}
        yield check(f"lead {row['lead']}", share | {"n": row["n"]}, "of the lead", **bounds)


def asked(model: HookedGPT2, n: int, seed: int) -> Prompts:
    """The task's prompts, with a name for the place after S2."""
    prompts = make("ioi", model, n, seed)
    return replace(prompts, roles={**prompts.roles, "S2+1": prompts.roles["S2"] + 1})


def means(prompts: Prompts) -> Source:
    """What is written instead of what is knocked out: means over the twins."""
    assert prompts.corrupted is not None
    return Source("position-mean", prompts.corrupted, prompts.mask, templates=prompts.templates)


def leads(model: HookedGPT2, prompts: Prompts, cells: Iterable[Cell]) -> np.ndarray:
    """The answer's lead [cells, prompts], each cell's parts knocked out."""
    sweep = Sweep(prompts, get_metric("logit_diff"), tuple(cells), means(prompts))
    return run_sweep(model, plan(model, sweep)).values


def alone(model: HookedGPT2, prompts: Prompts, circuits: Iterable[Circuit]) -> np.ndarray:
    """The answer's lead [circuits, prompts] in each circuit, all else knocked out."""
    cells = tuple((Kept.of(circuit),) for circuit in circuits)
    sweep = CircuitSweep(prompts, get_metric("logit_diff"), cells, means(prompts))
    return run_sweep(model, plan(model, sweep)).values


def renamed(model: HookedGPT2, prompts: Prompts) -> pd.DataFrame:
    """The answer's lead over each other name, also where other names come before."""
    assert prompts.corrupted is not None
    assert prompts.distractors is not None
    rows, io, s = torch.arange(len(prompts)), prompts.answers, prompts.distractors
    third = prompts.corrupted[rows, prompts.roles["IO"]]  # a name that its prompt has not
    first, second = prompts.tokens.clone(), prompts.tokens.clone()
    first[rows, prompts.roles["S1"]] = second[rows, prompts.roles["S2"]] = third
    encode, bos = model.require_tokenizer().encode, int(prompts.prepend_bos)
    start, end = (torch.tensor(encode(text)).expand(len(rows), -1) for text in BEFORE)
    longer = torch.cat([second[:, :bos], start, s[:, None], end, second[:, bos:]], dim=1)
    runs = {
        "as asked": (prompts.tokens, {"the giver": s}),
        ONCE: (first, {"the giver": s, "the third": third}),
        OTHER: (second, {"the giver": third, "S": s}),
        TWICE: (longer, {"the giver": third, "S": s}),
    }
    names, values = [], []
    for about, (tokens, others) in runs.items():
        more = tokens.shape[1] - prompts.tokens.shape[1]
        mask = torch.nn.functional.pad(prompts.mask, (more, 0), value=True)
        with torch.inference_mode():
            logits = model(tokens, attention_mask=mask)[rows, prompts.roles["END"] + more]
        for over, name in others.items():
            names.append({"lead": f"over {over}; {about}", "prompts": about, "over": over})
            values.append((logits[rows, io] - logits[rows, name]).double().cpu().numpy())
    whole = moments(np.stack([0 * values[0], *values]), np.ones(len(values) + 1, bool), full=1)
    ratio = {key: column[1:] for key, column in whole.ratio().items()}
    shares = {"share": "value", "share_low": "ci_low", "share_high": "ci_high"}
    found = mean_interval(np.stack(values)) | {name: ratio[key] for name, key in shares.items()}
    return pd.DataFrame(names).assign(**found)


def picked(model: HookedGPT2, prompts: Prompts) -> tuple[pd.DataFrame, Circuit]:
    """What each head's knock-out does, and the heads without which too much is lost."""
    heads = all_heads(model.cfg)
    values = leads(model, prompts, [cell(), *map(cell, heads)])
    found = mean_interval(values[1:] - values[0])
    frame = pd.DataFrame({"component": [*map(str, heads)], **found})
    frame["layer"], frame["head"] = zip(*((h.layer, h.head) for h in heads), strict=True)
    least = -COUNTS * values[0].mean()
    few = [head for head, value in zip(heads, found["value"], strict=True) if value <= least]
    return frame, Circuit.of(model, few, level="heads")


def ranked(single: pd.DataFrame) -> list[str]:
    """All heads, the one whose loss costs most first."""
    return list(single.sort_values("value", kind="stable")["component"])


def looks(model: HookedGPT2, prompts: Prompts, circuit: Circuit) -> pd.DataFrame:
    """How much do the circuit's heads look from END at each role?"""
    with torch.inference_mode():
        _, cache = model.run_with_cache(
            prompts.tokens,
            attention_mask=prompts.mask,
            names_filter=lambda name: name.endswith("hook_pattern"),
            return_type=None,
        )
    rows, end = torch.arange(len(prompts)), prompts.roles["END"]
    found = []
    for head in circuit.heads:
        pattern = cache["pattern", head.layer][:, head.head]
        seen = {to: pattern[rows, end, prompts.roles[to]].double().cpu().numpy() for to in ROLES}
        group = named({to: values.mean() for to, values in seen.items()})
        for to, values in seen.items():
            about = {"component": str(head), "group": group, "to": to}
            found.append(about | interval(values))
    return pd.DataFrame(found, columns=["component", "group", "to", *AVERAGED])


def named(seen: Mapping[str, float]) -> str:
    """What is a head called that looks there from END?"""
    if seen["IO"] > LOOKS:
        return "name movers"
    return "giver readers" if max(seen["S2"], seen["S2+1"]) > LOOKS else "others"


def groups(look: pd.DataFrame, circuit: Circuit) -> dict[str, list[Component]]:
    """The circuit's heads by what they do."""
    group = look.drop_duplicates("component").set_index("component")["group"]
    found: dict[str, list[Component]] = {}
    for head in circuit.heads:
        found.setdefault(group[str(head)], []).append(head)
    return found


class Trial(NamedTuple):
    """A circuit, and the prompts it is tested on."""

    model: HookedGPT2
    prompts: Prompts
    circuit: Circuit
    groups: Mapping[str, Sequence[Component]]

    def of(self, heads: Iterable[Component]) -> Circuit:
        """These heads and all MLPs."""
        return replace(self.circuit, parts=frozenset(heads))

    def shares(self, asked: Iterable[Circuit | Cell]) -> Moments:
        """The lead of circuits and knock-outs, to be compared with no heads' (0) and all's (1)."""
        asked = [self.of(()), cell(), *asked]
        kept = iter(alone(self.model, self.prompts, [x for x in asked if isinstance(x, Circuit)]))
        gone = iter(leads(self.model, self.prompts, [x for x in asked if isinstance(x, tuple)]))
        values = np.stack([next(kept if isinstance(each, Circuit) else gone) for each in asked])
        return moments(values, np.ones(len(values), dtype=bool), full=1)

    def sets(self) -> pd.DataFrame:
        """The share of the circuit and the model, whole and without parts (a ratio estimator's)."""
        circuit, heads, mlps = self.circuit, all_heads(self.model.cfg), all_mlps(self.model.cfg)
        gone = cell(*circuit.heads)
        sets: dict[str, Circuit | Cell] = {"circuit": circuit, "without circuit": gone}
        for group, some in self.groups.items():
            sets |= {f"without {group}": cell(*some), f"circuit - {group}": circuit.without(*some)}
        for role in ROLES:
            sets[f"without heads at {role}"] = cell(*(head.at(role) for head in heads))
        sets |= {f"circuit - {head}": circuit.without(head) for head in circuit.heads}
        nodes = replace(circuit, parts=circuit.parts | {*mlps}, level="nodes")
        sets |= {f"circuit - {mlp}": nodes.without(mlp) for mlp in mlps}
        ratio = self.shares(sets.values()).ratio()
        return pd.DataFrame({"set": [*sets], **{k: column[2:] for k, column in ratio.items()}})


def controls(trial: Trial, draws: int, seed: int) -> pd.DataFrame:
    """Random heads in place of the circuit's, as many in each layer; intervals over draws."""
    rng, cfg = np.random.default_rng(seed), trial.model.cfg
    counts = [sum(head.layer == i for head in trial.circuit.heads) for i in range(cfg.n_layers)]
    drawn = [
        [
            Component("head", layer, int(head))
            for layer, count in enumerate(counts)
            for head in rng.choice(cfg.n_heads, count, replace=False)
        ]
        for _ in range(draws)
    ]
    tried = [*map(trial.of, drawn), *(cell(*heads) for heads in drawn)]
    share = trial.shares(tried).ratio()["value"][2:].reshape(2, draws)
    return pd.DataFrame({"set": ["random heads", "without random heads"], **mean_interval(share)})


def growth(trial: Trial, order: Sequence[str], draws: int, seed: int) -> pd.DataFrame:
    """Faithfulness of the first heads by rank, and of as many random ones."""
    rng, circuit = np.random.default_rng(seed), len(trial.circuit)
    few = [1, 2, 4, circuit // 2, circuit, 3 * circuit // 2, 2 * circuit, 3 * circuit, len(order)]
    sizes = sorted({size for size in few if 0 < size <= len(order)})
    draws = max(draws // 4, 3)
    chosen = [order[:size] for size in sizes]
    for size in sizes:
        chosen += [rng.choice(order, size, replace=False).tolist() for _ in range(draws)]
    shares = trial.shares(trial.of(map(parse, names)) for names in chosen)
    ratio = {k: column[2:] for k, column in shares.ratio().items()}
    picked = {k: column[: len(sizes)] for k, column in ratio.items()}
    drawn = mean_interval(ratio["value"][len(sizes) :].reshape(len(sizes), draws))
    curves = {"by knock-out": picked, "at random": drawn}
    return pd.concat(
        pd.DataFrame({"kept": kept, "heads": sizes, **columns}) for kept, columns in curves.items()
    )


def traced(trial: Trial) -> dict[str, Result]:
    """Where the pieces act: the analyses of this package."""
    ask: dict[str, Any] = {"task": trial.prompts}
    direct = attribute(trial.model, **ask).top(SHOWN)
    estimated = approximate(trial.model, what="head", direction="noise", check="all", **ask)
    moved = patch(trial.model, positions="roles", **ask)
    return {
        "direct": columns(direct, "component", "share", "recomputed", "error"),
        "patching": columns(moved, "layer", "position", "share", "share_low", "share_high"),
        "estimates": columns(estimated, "component", "exact", "pearson", "spearman"),
        "edges": edges(trial),
    }


def edges(trial: Trial) -> Result:
    """Who sends the logits, the giver readers and the name movers what they read?"""
    receivers = {"logits": ["logits"], "m0": ["m0"]}
    for group, slots in {"giver readers": "kv", "name movers": "qkv"}.items():
        for slot in slots if group in trial.groups else "":
            receivers[f"{group} <{slot}>"] = [f"{head}<{slot}>" for head in trial.groups[group]]
    found = {name: paths(trial.model, to=to, task=trial.prompts) for name, to in receivers.items()}
    frame = pd.concat(one.frame.assign(to=name) for name, one in found.items())
    size = frame["value"].abs().groupby(frame["sender"], sort=False).max()
    senders = size.sort_values(ascending=False, kind="stable").index[:SHOWN]
    return replace(
        columns(found["logits"], "sender"),
        frame=frame.loc[frame["sender"].isin(senders), ["sender", "to", "share", *AVERAGED]],
        title="Path patching: what the circuit reads",
        axes=("sender", "to"),
        meanings={"to": "which readers, through which of their inputs, all of them together"},
    )


def columns(result: Result, *names: str) -> Result:
    """The result with fewer columns: these, and the averaged ones."""
    axes = [axis for axis in result.axes if axis not in {*names, *AVERAGED}]
    return replace(result, frame=result.frame[[*axes, *names, *AVERAGED]])


if __name__ == "__main__":
    as_command(__file__)
