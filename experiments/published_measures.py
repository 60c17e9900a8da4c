"""How what papers say of GPT-2 small is measured: a function for each fact of `published_facts`.

Each takes a `Subject`, asks it by the package's own functions, and returns what it measured, a
number for each prompt, name, item or head where there are several.

Shapes: n prompts, p positions, h heads, d = d_model, v = d_vocab.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import published_facts as facts
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuits.architectures import HookedGPT2
from circuits.circuit import Circuit
from circuits.components import Component, parse
from circuits.errors import CircuitsError
from circuits.experiment import interval
from circuits.head_kinds import (
    Scores,
    attention_scores,
    draw_tokens,
    name_copying,
    series,
    successors,
)
from circuits.hooks import HookFn, HookPoint, get_act_name
from circuits.metrics import get_metric
from circuits.prompts import Prompts, make
from circuits.sweep import CircuitSweep, Kept, Source, Sweep, cell, plan
from circuits.sweep import run as run_sweep
from circuits.sweep.moments import moments

LOWEST = 10  # tokens that are lowered most
SAMPLED = 1000  # of the vocabulary
Measured = Mapping[str, float]  # value, ci_low, ci_high, n
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Subject:
    """The model that is asked, on `n` prompts of each kind."""

    model: HookedGPT2
    n: int
    seed: int

    @cached_property
    def ioi(self) -> Prompts:
        """The paper's sentences, without a start token as there; twins have three other names."""
        options = {"templates": facts.TEMPLATES, "prepend_bos": False}
        return make("ioi", self.model, self.n, self.seed, **options)

    @cached_property
    def years(self) -> Prompts:
        """The war lasted from 1732 to 17; twins begin in 01."""
        return make("greater-than", self.model, self.n, self.seed, prepend_bos=False)

    @cached_property
    def patterns(self) -> Mapping[str, Tensor]:
        """Where all heads look on the IOI prompts."""
        prompts = self.ioi
        with torch.inference_mode():
            _, cache = self.model.run_with_cache(
                prompts.tokens,
                attention_mask=prompts.mask,
                names_filter=lambda name: name.endswith("hook_pattern"),
                return_type=None,
            )
        return cache

    @cached_property
    def ioi_logits(self) -> Tensor:
        """What is said after END of the IOI prompts: [n v]."""
        return self.end_logits(self.ioi.tokens, self.ioi)

    @cached_property
    def ioi_circuit(self) -> tuple[Floats, Floats]:
        """The logit difference in the whole model, and in the paper's heads alone: [n] each."""
        return circuit_share(self, Circuit.published("ioi"), self.ioi)

    @cached_property
    def induction(self) -> Scores:
        """Where all heads look on repeated random tokens, and on tokens that do not repeat."""
        with torch.inference_mode():
            tokens = draw_tokens(self.model, self.n, self.seed)
            return attention_scores(self.model, tokens)["induction"]

    def end_logits(self, tokens: Tensor, prompts: Prompts) -> Tensor:
        """What is said after END: [n v]."""
        rows = torch.arange(len(prompts))
        with torch.inference_mode():
            logits = self.model(tokens, attention_mask=prompts.mask)
        return logits[rows, prompts.roles["END"]].double()


def once(value: float) -> Measured:
    """A number that is what it is, without an interval."""
    return {"value": float(value)}


def names_of(prompts: Prompts) -> tuple[Tensor, Tensor]:
    """The tokens IO and S, [n] each."""
    assert prompts.answers is not None
    assert prompts.distractors is not None
    return prompts.answers, prompts.distractors


def twins_of(prompts: Prompts) -> Tensor:
    """The tokens of the corrupted twins, [n p]."""
    assert prompts.corrupted is not None
    return prompts.corrupted


def parameters(subject: Subject) -> Measured:
    count = sum(weight.numel() for weight in subject.model.parameters())
    return once(count - facts.PARAMETERS)


def tokens(subject: Subject) -> Measured:
    encode = subject.model.require_tokenizer().encode
    return once(np.mean([tuple(encode(text)) == ids for text, ids in facts.TOKENS.items()]))


def checksum(subject: Subject, expected: str = facts.SHA256) -> Measured:
    """Of the file that the model was loaded from, or the hub's copy in the cache."""
    from circuits.checkpoints import available

    source = Path(subject.model.source)
    folders = [model.folder for model in available() if model.name == subject.model.source]
    for folder in [source, *folders]:
        if folder is not None and (file := folder / "model.safetensors").is_file():
            with file.open("rb") as opened:
                digest = hashlib.sha256()
                while chunk := opened.read(2**24):
                    digest.update(chunk)
            return once(digest.hexdigest() == expected)
    raise CircuitsError(f"{subject.model.source} is no folder with one model.safetensors")


def hello(subject: Subject) -> Measured:
    with torch.inference_mode():
        loss = float(subject.model("Hello world!", prepend_bos=True, return_type="loss"))
    return once(loss - facts.HELLO)


def ioi_difference(subject: Subject) -> Measured:
    io, s = names_of(subject.ioi)
    logits, rows = subject.ioi_logits, torch.arange(len(io))
    return interval((logits[rows, io] - logits[rows, s]).numpy())


def ioi_preferred(subject: Subject) -> Measured:
    return _preferred(subject.ioi, subject.ioi_logits)


def ioi_untold(subject: Subject) -> Measured:
    """With a third name in place of S2, who gives: no name comes again but by chance."""
    options = {"templates": facts.TEMPLATES, "prepend_bos": False, "corruption": "third"}
    prompts = make("ioi", subject.model, subject.n, subject.seed, **options)
    return _preferred(prompts, subject.end_logits(twins_of(prompts), prompts))


def _preferred(prompts: Prompts, logits: Tensor) -> Measured:
    """How often has IO a higher logit [n v] than S?"""
    (io, s), rows = names_of(prompts), torch.arange(len(prompts))
    return interval((logits[rows, io] > logits[rows, s]).double().numpy())


def ioi_probability(subject: Subject) -> Measured:
    io, _ = names_of(subject.ioi)
    probability = subject.ioi_logits.softmax(-1)
    return interval(probability[torch.arange(len(io)), io].numpy())


def looks(subject: Subject, heads: Sequence[str], start: str, to: str) -> Measured:
    """How much do these heads look from one role to another, on average over them?"""
    rows, roles = torch.arange(len(subject.ioi)), subject.ioi.roles
    seen = [
        subject.patterns["pattern", head.layer][rows, head.head, roles[start], roles[to]]
        for head in map(parse, heads)
    ]
    return interval(torch.stack(seen).double().mean(0).numpy())


def copies(subject: Subject, heads: Sequence[str], *, opposite: bool) -> Measured:
    """How often would these heads write a name that they look at, or its opposite?"""
    with torch.inference_mode():
        scores = name_copying(subject.model, subject.ioi, opposite=opposite)
    parts = [parse(head) for head in heads]
    return interval(np.mean([scores.value[part.layer, part.head] for part in parts], axis=0))


def without(subject: Subject, heads: Sequence[str]) -> Measured:
    """Which share of the logit difference is lost without these heads, at their mean?"""
    prompts = subject.ioi
    source = Source("position-mean", twins_of(prompts), prompts.mask, templates=prompts.templates)
    cells = (cell(), cell(*map(parse, heads)))
    sweep = Sweep(prompts, get_metric("logit_diff"), cells, source)
    whole, left = run_sweep(subject.model, plan(subject.model, sweep)).values
    return _share(whole, whole - left)


def _share(whole: Floats, part: Floats) -> Measured:
    """Mean of part over mean of whole, by prompt.

    Raises:
        CircuitsError: when the whole may as well be nothing, of which anything is a share.
    """
    if interval(whole)["ci_low"] <= 0:
        raise CircuitsError("no such difference to take a share of")
    ratio = moments(np.stack([0 * whole, whole, part]), np.ones(3, dtype=bool), full=1).ratio()
    return {name: float(column[2]) for name, column in ratio.items()}


def circuit_share(subject: Subject, circuit: Circuit, prompts: Prompts) -> tuple[Floats, Floats]:
    """The metric in the whole model, and in the circuit alone: [n] each."""
    mean = circuit.level == "heads"  # as each of the two papers knocks out
    source = Source(
        "position-mean" if mean else "resample",
        twins_of(prompts),
        prompts.mask,
        templates=prompts.templates if mean else None,
    )
    metric = get_metric(prompts.metric)
    cells = ((), (Kept.of(circuit),))
    sweep = CircuitSweep(prompts, metric, cells, source)
    whole, alone = run_sweep(subject.model, plan(subject.model, sweep)).values
    return whole, alone


def ioi_circuit(subject: Subject) -> Measured:
    return _share(*subject.ioi_circuit)


def greater_difference(subject: Subject) -> Measured:
    prompts = subject.years
    with torch.inference_mode():
        logits = subject.model(prompts.tokens, attention_mask=prompts.mask)
        return interval(get_metric("prob_diff")(logits, prompts).double().numpy())


def greater_circuit(subject: Subject) -> Measured:
    return _share(*circuit_share(subject, Circuit.published("greater-than"), subject.years))


def leading(subject: Subject, heads: Sequence[str]) -> Measured:
    """How many of these heads have the highest induction scores of all?"""
    value = subject.induction.value.mean(-1)
    top = {int(place) for place in value.argsort(axis=None)[-len(heads) :]}
    places = [np.ravel_multi_index((h.layer, h.head), value.shape) for h in map(parse, heads)]
    return once(np.mean([int(place) in top for place in places]))


def without_repetition(subject: Subject, heads: Sequence[str]) -> Measured:
    """The score of these heads, on average over them, where nothing repeats."""
    control = subject.induction.control
    return interval(np.mean([control[h.layer, h.head] for h in map(parse, heads)], axis=0))


def suppression(subject: Subject, heads: Sequence[str]) -> Measured:
    """How often is a token among those that the head lowers most when it looks at it?

    It looks at what the first MLP makes of the token alone, as in the paper.
    """
    model = subject.model
    generator = torch.Generator().manual_seed(subject.seed)
    drawn = torch.randperm(model.cfg.d_vocab, generator=generator)[:SAMPLED]
    first = model.blocks[0]
    hits = []
    with torch.inference_mode():
        read = first.mlp.plain(first.ln2.plain(model.W_E[drawn]))
        for part in map(parse, heads):
            block = model.blocks[part.layer]
            wrote = block.ln1.plain(read) @ block.attn.W_V[part.head] @ block.attn.W_O[part.head]
            for some, asked in zip(wrote.split(200), drawn.split(200), strict=True):
                logits = model.ln_final.plain(some) @ model.W_U
                lower = (logits < logits.gather(1, asked[:, None])).sum(1)
                hits.append((lower < LOWEST).double())
    return interval(torch.cat(hits).numpy())


def successor(subject: Subject, heads: Sequence[str]) -> Measured:
    """How often do these heads raise the next item of a series most, among the series' items?"""
    runs = series(subject.model)
    if not runs:
        raise CircuitsError("no series whose items are single tokens")
    with torch.inference_mode():
        value = successors(subject.model, runs).value
    return interval(np.mean([value[h.layer, h.head] for h in map(parse, heads)], axis=0))


def self_repair(subject: Subject, gone: Sequence[str], others: Sequence[str]) -> Measured:
    """How much more do these others push IO over S, directly, when those write as in the twins?"""
    prompts, model = subject.ioi, subject.model
    removed, pushing = [parse(head) for head in gone], [parse(head) for head in others]
    sites = [get_act_name("z", layer) for layer in sorted({head.layer for head in removed})]
    with torch.inference_mode():
        _, twin = model.run_with_cache(
            twins_of(prompts), attention_mask=prompts.mask, names_filter=sites, return_type=None
        )
        before = _pushes(subject, pushing)
        with model.hooks([_as_in(head, twin[get_act_name("z", head.layer)]) for head in removed]):
            after = _pushes(subject, pushing)
    return interval((after - before).numpy())


def _as_in(head: Component, z: Tensor) -> tuple[str, HookFn]:
    """A hook that lets this head write what it writes in another run."""

    def write(value: Tensor, hook: HookPoint) -> Tensor:
        value[:, :, head.head] = z[:, :, head.head]
        return value

    return get_act_name("z", head.layer), write


def _pushes(subject: Subject, heads: Sequence[Component]) -> Tensor:
    """What these heads add to logit IO - S at END by themselves, together: [n]."""
    model, prompts = subject.model, subject.ioi
    io, s = names_of(prompts)
    rows, end = torch.arange(len(io)), prompts.roles["END"]
    sites = {*(get_act_name("z", head.layer) for head in heads), "ln_final.hook_scale"}
    _, cache = model.run_with_cache(
        prompts.tokens, attention_mask=prompts.mask, names_filter=sorted(sites)
    )
    wrote = torch.zeros_like(model.W_E[io])
    for head in heads:
        z = cache["z", head.layer][rows, end, head.head]
        wrote += z @ model.blocks[head.layer].attn.W_O[head.head]
    normed = model.ln_final.center(wrote) / cache["ln_final.hook_scale"][rows, end]
    return (normed * model.ln_final.w * (model.W_U[:, io] - model.W_U[:, s]).T).sum(-1).double()


MEASURES: Mapping[str, Callable[[Subject], Measured]] = {
    "parameters": parameters,
    "tokens": tokens,
    "checksum": checksum,
    "hello": hello,
    "ioi_difference": ioi_difference,
    "ioi_preferred": ioi_preferred,
    "ioi_probability": ioi_probability,
    "ioi_untold": ioi_untold,
    "name_movers_look": lambda it: looks(it, facts.NAME_MOVERS, "END", "IO"),
    "name_movers_copy": lambda it: copies(it, facts.NAME_MOVERS, opposite=False),
    "negative_copy": lambda it: copies(it, facts.NEGATIVE, opposite=True),
    "without_name_movers": lambda it: without(it, facts.NAME_MOVERS),
    "self_repair": lambda it: self_repair(it, facts.NAME_MOVERS, facts.BACKUP),
    "s_inhibition_look": lambda it: looks(it, facts.S_INHIBITION, "END", "S2"),
    "duplicate_look": lambda it: looks(it, facts.DUPLICATE, "S2", "S1"),
    "previous_look": lambda it: looks(it, facts.PREVIOUS, "S1+1", "S1"),
    "induction_look": lambda it: looks(it, facts.IOI_INDUCTION, "S2", "S1+1"),
    "ioi_circuit": ioi_circuit,
    "greater_difference": greater_difference,
    "greater_circuit": greater_circuit,
    "induction_on_top": lambda it: leading(it, facts.ON_TOP),
    "induction_untold": lambda it: without_repetition(it, facts.ON_TOP),
    "suppression": lambda it: suppression(it, facts.SUPPRESSOR),
    "successor": lambda it: successor(it, facts.SUCCESSORS),
}
