"""Are MLP layers key-value memories, lexical at the bottom and semantic at the top?

A neuron's column of W_in is a key that contexts match, its row of W_out a value that is added where
they do (Geva et al. 2021, arXiv 2012.14913: triggers of low layers share words, those of high
layers meanings, and values of high layers predict what follows their triggers). Here the model
reads text that it wrote itself, and each neuron's triggers are the places where it is most active,
one in a text:

- lexical: how often two triggers end in the same token; which share of a neuron's variance the last
  token explains (one-way analysis of variance, without the bias of few draws); and how much of the
  activation is left when the model reads only the last few tokens;
- semantic, by its one trace without a corpus, similar successors: how much the predictions after
  two triggers that end in different tokens overlap, and which share of the variance the model's
  prediction explains;
- values: is what follows a trigger among the hundredth of the vocabulary that the value promotes;
- composition: is what an MLP promotes what its strongest memory does, and what the model then says?
Intervals are over a layer's neurons (over texts where places are counted), on one text. Geva et al.
found fewer shared words further up; here there are more, and the claim says so.

    circuits run memories
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from circuits import decompose
from circuits.architectures import HookedGPT2
from circuits.cli.experiments import as_command
from circuits.components import Component
from circuits.errors import CircuitsError
from circuits.experiment import Check, Finding, check, interval, own_text, table
from circuits.padding import all_real
from circuits.result import Result

CLAIM = (
    "The first MLP's activations go with the last token, the last one's more with the prediction; "
    "its values agree more with what follows, and its triggers share a token more, not less, often."
)
MODEL = "mini"
TEXTS, QUICK_TEXTS, TRIGGERS = 128, 24, 10  # texts of 128 tokens; of a neuron, each in another
WINDOWS = (1, 2, 4, 8, 16)  # of the last tokens, read alone
SAMPLED = 64  # neurons of a layer whose triggers are read again without what came before
COUNTED = 16  # texts at whose every place outputs are compared with their memories
SHARE, SLIGHT = 0.01, 0.05  # of the vocabulary: promoted; of the variance
MOST = 0.75  # of the activation: what else was read adds a quarter at most
EXAMPLES = 3  # neurons shown of each layer
NAME = "memories"
SITES = ("mlp.hook_post", "hook_mlp_out", "ln_final.hook_scale")
ABOUT = {  # unit and title
    "explained": ("share of variance", "What a neuron's activation goes with"),
    "triggers": ("share", f"What two of a neuron's {TRIGGERS} triggers have in common"),
    "context": ("share of activation", "Activation left when only the last tokens are read"),
    "values": ("share of triggers", f"What follows is in the {SHARE:.0%} that a value promotes"),
    "outputs": ("share of places", "The token that an MLP promotes most is that of"),
    "effects": ("logits", "Direct effect of each MLP on the logit of a token"),
}
MEANINGS = {
    "layer": "of the MLP",
    "by": "which token tells the groups apart; shuffled is the control",
    "pair": "what two triggers share; overlap: where they end in different tokens",
    "read": "after the start token",
    "control": "the same of random places; in context, of other neurons at the same tokens",
    "promoted by": "the neuron's own value, or that of another: the control",
    "same top token": "strongest: activation times the length of the value",
    "on": "against the vocabulary's mean",
}


class Text(NamedTuple):
    """What was read, which places count, and what the model says there."""

    tokens: Tensor  # [b p]
    counts: Tensor  # [b p]: neither at a document's end nor before it, and WINDOWS' last tokens in
    probabilities: Tensor  # [b p v]
    predicted: Tensor  # [b p]


class Places(NamedTuple):
    """Places [k m] in the text: k of each of m neurons."""

    row: Tensor
    column: Tensor

    def of(self, values: Tensor, ahead: int = 0) -> Tensor:
        """What stands there, or so many tokens ahead: [b p ...] -> [k m ...]"""
        return values[self.row, self.column + ahead]


def run(model: HookedGPT2, *, seed: int = 0, quick: bool = False) -> Finding:
    """Measure triggers, values and their composition, layer by layer."""
    draw = torch.Generator().manual_seed(seed)
    rows: dict[str, list[dict[str, Any]]] = {}
    with torch.inference_mode():
        tokens = own_text(model, QUICK_TEXTS if quick else TEXTS, seed)
        text = read(model, tokens)
        for layer, acts in enumerate(activations(model, text.tokens)):
            for name, found in of_layer(model, layer, acts, text, draw).items():
                rows.setdefault(name, []).extend({"layer": layer, **row} for row in found)
        rows |= composition(model, text)
    frames = {name: pd.DataFrame(found) for name, found in rows.items()}
    return Finding(verdict(frames, model.cfg.n_layers - 1), tables(model, frames))


def verdict(frames: Mapping[str, pd.DataFrame], last: int) -> tuple[Check, ...]:
    """What the claim stands or falls with."""
    rows = {
        (name, str(row[frame.columns[1]]), int(row["layer"])): row.to_dict()
        for name, frame in frames.items()
        if name != "examples"
        for _, row in frame.iterrows()
    }
    gap, two, follows = "last token minus prediction", "2 tokens", "what follows is promoted by"
    first, final = rows["context", two, 0], rows["context", two, last]
    low, high = (rows["triggers", "overlap of predictions", i] for i in (0, last))
    few, many = (rows["triggers", "same last token", i] for i in (0, last))
    bottom, own = (rows["values", "their value", i] for i in (0, last))
    other, shuffled = rows["values", "another value", last], rows["explained", "shuffled", 0]
    return (
        check(f"m0: explained variance, {gap}", rows["explained", gap, 0], above=0),
        check(f"m{last}: explained variance, {gap}", rows["explained", gap, last], below=0),
        check("m0: activation left with two tokens", first, above=MOST),
        check(f"m{last}: activation left with two tokens", final, below=first["ci_low"]),
        check(f"m{last}: {follows} the value", own, above=bottom["ci_high"]),
        check(f"m{last}: overlap of predictions", high, above=low["ci_high"]),
        check(f"m{last}: triggers with the same last token", many, above=few["ci_high"]),
        check("m0: shuffled tokens explain", shuffled, above=-SLIGHT, below=SLIGHT, control=True),
        Check("m0: other neurons at the two", first["control"], below=1 - MOST, control=True),
        check(f"m{last}: {follows} another's", other, below=own["value"] / 2, control=True),
        Check("overlap at random places", high["control"], below=low["ci_low"], control=True),
        Check("same token at random places", many["control"], below=few["ci_low"], control=True),
    )


def read(model: HookedGPT2, tokens: Tensor) -> Text:
    """What does the model say after each token of the text?"""
    ends = tokens == model.require_tokenizer().bos_id
    counts = ~ends & ~ends.roll(-1, 1)
    counts[:, : max(WINDOWS)] = counts[:, -1] = False
    some = counts.any(1)
    if some.sum() < TRIGGERS:
        raise CircuitsError(
            f"{model.cfg.model_name} writes texts of less than {max(WINDOWS)} tokens"
        )
    tokens = tokens[some]
    parts = tokens.split(16)
    said = torch.cat([model(p, attention_mask=all_real(p)).softmax(-1) for p in parts])
    return Text(tokens, counts[some], said, said.argmax(-1))


def activations(model: HookedGPT2, tokens: Tensor) -> Iterator[Tensor]:
    """The activations [b p m] of each layer's neurons, layer by layer."""
    stream: Tensor = model(tokens, attention_mask=all_real(tokens), stop_at_layer=0)
    for layer in range(model.cfg.n_layers):
        site = f"blocks.{layer}.mlp.hook_post"
        stream, cache = model.run_with_cache(
            stream, names_filter=site, start_at_layer=layer, stop_at_layer=layer + 1
        )
        yield cache[site]


def of_layer(
    model: HookedGPT2, layer: int, acts: Tensor, text: Text, draw: torch.Generator
) -> dict[str, list[dict[str, Any]]]:
    """All that is measured of one layer's neurons."""
    places = strongest(acts, text)
    promoted = value_logits(model, layer)
    flat = acts[text.counts]
    return {
        "explained": explained(flat, text, draw),
        "triggers": pairs(places, drawn(places, text, draw), text),
        "context": shortened(model, layer, acts, places, text),
        "values": agreement(promoted, places.of(text.tokens, 1)),
        "examples": examples(model, layer, promoted, places, text),
    }


def strongest(acts: Tensor, text: Text) -> Places:
    """Where each neuron is most active: the best place of each of the best texts."""
    by_text = acts.masked_fill(~text.counts[..., None], -torch.inf).max(1)  # [b m]
    row = by_text.values.topk(TRIGGERS, dim=0).indices
    return Places(row, by_text.indices.gather(0, row))


def drawn(places: Places, text: Text, draw: torch.Generator) -> Places:
    """As many places at random, each of a neuron's in another text."""
    shape = (places.row.shape[1], len(text.tokens))
    row = torch.rand(shape, generator=draw).topk(TRIGGERS).indices.T
    column = torch.multinomial(text.counts.float()[row.flatten()], 1, generator=draw)
    return Places(row, column.view_as(row))


def explained(flat: Tensor, text: Text, draw: torch.Generator) -> list[dict[str, Any]]:
    """Which share of each neuron's variance is between places with the same token? [n m]"""
    last, predicted = text.tokens[text.counts], text.predicted[text.counts]
    before = text.tokens.roll(1, 1)[text.counts]
    groups = {"last token": last, "token before": before, "prediction": predicted}
    groups["shuffled"] = last[torch.randperm(len(last), generator=draw)]
    found = {name: between(flat, tokens) for name, tokens in groups.items()}
    found["last token minus prediction"] = found["last token"] - found["prediction"]
    return [{"by": name, **interval(values)} for name, values in found.items()]


def between(values: Tensor, groups: Tensor) -> Tensor:
    """1 - variance within groups / variance, of values [n m]; groups of one say nothing."""
    _, member, size = groups.unique(return_inverse=True, return_counts=True)
    several = size[member] > 1
    values = values[several]
    _, member, size = groups[several].unique(return_inverse=True, return_counts=True)
    sums = values.new_zeros(len(size), values.shape[1]).index_add_(0, member, values)
    means = sums / size[:, None]
    within = (values - means[member]).square().sum(0) / (len(values) - len(size))
    return 1 - within / values.var(0)


def pairs(places: Places, random: Places, text: Text) -> list[dict[str, Any]]:
    """What do two triggers of a neuron have in common, and what do two places at random?"""

    def found(these: Places) -> dict[str, Tensor]:
        return {
            "same last token": shared(these.of(text.tokens)),
            "same token before": shared(these.of(text.tokens, -1)),
            "overlap of predictions": overlaps(these, text),
        }

    control = found(random)
    return [
        {"pair": name, **interval(values), "control": float(control[name].mean())}
        for name, values in found(places).items()
    ]


def overlaps(places: Places, text: Text) -> Tensor:
    """How much of two predictions is the same, where the last tokens differ?

    The sum over the vocabulary of the smaller probability, mean over a neuron's pairs; neurons
    whose places all end in one token have none.
    """
    last, first, second = places.of(text.tokens), *torch.triu_indices(TRIGGERS, TRIGGERS, 1)
    found = []
    for i in range(last.shape[1]):
        said = text.probabilities[places.row[:, i], places.column[:, i]].float()  # [k v]
        differ = last[first, i] != last[second, i]
        if bool(differ.any()):
            both = torch.minimum(said[first[differ]], said[second[differ]])
            found.append(both.sum(-1).mean())
    return torch.stack(found)


def shared(tokens: Tensor) -> Tensor:
    """In which share of the pairs of a column are both the same? [k m] -> [m]"""
    k = len(tokens)
    equal = (tokens[:, None] == tokens).sum((0, 1)) - k
    return equal / (k * (k - 1))


def shortened(
    model: HookedGPT2, layer: int, acts: Tensor, places: Places, text: Text
) -> list[dict[str, Any]]:
    """How much of triggers' activation, above the mean, is left without what came before?

    Of some neurons, evenly spaced; and of each the activation in the next one's windows.
    """
    n_neurons = acts.shape[-1]
    some = torch.arange(0, n_neurons, max(1, n_neurons // SAMPLED))[:SAMPLED]
    row, column = places.row[:, some], places.column[:, some]  # [k s]
    mean, full = acts[text.counts][:, some].mean(0), acts[row, column, some]
    site, rows = f"blocks.{layer}.mlp.hook_post", []
    start = text.tokens[0, :1].expand(row.numel(), 1)
    for width in WINDOWS:
        reach = column.flatten()[:, None] + torch.arange(1 - width, 1)
        tokens = torch.cat([start, text.tokens[row.flatten()[:, None], reach]], 1)
        options = {"attention_mask": all_real(tokens), "stop_at_layer": layer + 1}
        _, cache = model.run_with_cache(tokens, names_filter=site, **options)
        read_again = cache[site][:, -1].view(*row.shape, n_neurons)
        own = read_again[:, torch.arange(len(some)), some]
        other = read_again[:, torch.arange(len(some)), some.roll(1)]
        above, scale = (own - mean).sum(0), (full - mean).sum(0)
        left = (other - mean.roll(1)).sum(0) / scale.roll(1)
        label = "1 token" if width == 1 else f"{width} tokens"
        rows.append({"read": label, **interval(above / scale), "control": float(left.mean())})
    return rows


def value_logits(model: HookedGPT2, layer: int) -> Tensor:
    """What each neuron's value adds to the logits, over the final scale [m v]."""
    return decompose.center(model, model.W_out[layer]) * model.ln_final.w @ model.W_U


def agreement(promoted: Tensor, following: Tensor) -> list[dict[str, Any]]:
    """How often is what follows a trigger [k m] among the tokens that the value promotes?"""
    sets = {"their value": following, "another value": following.roll(1, 1)}
    return [
        {"promoted by": name, **interval(are_promoted(promoted, ids).float().mean(1))}
        for name, ids in sets.items()
    ]


def are_promoted(promoted: Tensor, following: Tensor) -> Tensor:
    """Are these tokens [k m] among the SHARE of tokens that each value raises most? [m k]"""
    n_best = max(1, round(SHARE * promoted.shape[1]))
    return promoted.gather(1, following.T) >= promoted.topk(n_best).values[:, -1:]


def examples(
    model: HookedGPT2, layer: int, promoted: Tensor, places: Places, text: Text
) -> list[dict[str, Any]]:
    """Neurons whose value promotes the most different tokens that follow their triggers."""
    following = places.of(text.tokens, 1)
    each = zip(following.T, are_promoted(promoted, following), strict=True)
    agreed = torch.tensor([len(ids[yes].unique()) for ids, yes in each])
    texts = model.require_tokenizer().token_strings

    def words(ids: Tensor) -> str:
        return " | ".join(texts(ids.tolist()))

    return [
        {
            "component": str(Component("neuron", layer, neuron=i)),
            "value": int(agreed[i]),
            "triggers": words(places.of(text.tokens)[:, i]),
            "followed by": words(following[:, i]),
            "promoted": words(promoted[i].topk(TRIGGERS).indices),
        }
        for i in agreed.topk(EXAMPLES).indices.tolist()
    ]


def composition(model: HookedGPT2, text: Text) -> dict[str, list[dict[str, Any]]]:
    """Is what an MLP promotes what its strongest memory does, and what the model then says?"""
    n = min(COUNTED, len(text.tokens))
    tokens, counts, said = text.tokens[:n], text.counts[:n], text.predicted[:n]
    _, cache = model.run_with_cache(
        tokens,
        attention_mask=all_real(tokens),
        names_filter=lambda name: name.endswith(SITES),
    )
    rows: dict[str, list[dict[str, Any]]] = {"outputs": [], "effects": []}
    for layer in range(model.cfg.n_layers):
        memories = value_logits(model, layer).argmax(-1)  # [m]
        weights = cache["post", layer] * model.W_out[layer].norm(dim=-1)
        largest = weights.topk(TRIGGERS).indices  # [b p k]
        added = decompose.center(model, cache["mlp_out", layer]) * model.ln_final.w @ model.W_U
        top = added.argmax(-1)  # [b p]
        equal = memories[largest] == top[..., None]
        outcomes = {
            "strongest memory": equal[..., 0],
            f"one of the {TRIGGERS} strongest": equal.any(-1),
            "the prediction": top == said,
            "the prediction in another text": top == said.roll(1, 0),
        }
        rows["outputs"] += [
            {"layer": layer, "same top token": name, **interval(mean_of(hit, counts))}
            for name, hit in outcomes.items()
        ]
        effects = (added - added.mean(-1, keepdim=True)) / cache["ln_final.hook_scale"]
        for name, ids in (("the prediction", said), ("another text's", said.roll(1, 0))):
            raised = effects.gather(-1, ids[..., None])[..., 0]
            found = interval(mean_of(raised, counts))
            rows["effects"].append({"layer": layer, "on": name, **found})
    return rows


def mean_of(values: Tensor, counts: Tensor) -> Tensor:
    """Mean over each text's places that count: [b p] -> [b]; a text without any is left out."""
    some = counts.any(1)
    return (values * counts)[some].sum(1) / counts[some].sum(1)


def tables(model: HookedGPT2, frames: Mapping[str, pd.DataFrame]) -> dict[str, Result]:
    """Every measure by layer, and examples."""
    found = {}
    for name, (unit, title) in ABOUT.items():
        axes = (str(frames[name].columns[1]), "layer")
        about: dict[str, Any] = {"axes": axes, "view": "curves"}
        about["meanings"] = {key: MEANINGS[key] for key in frames[name] if key in MEANINGS}
        found[name] = table(model, NAME, frames[name], unit, title, **about)
    found["examples"] = table(
        model,
        NAME,
        frames["examples"],
        "tokens",
        "How many different tokens that follow its triggers does a neuron promote?",
        axes=("component",),
        meanings={
            "triggers": f"the tokens at the {TRIGGERS} places",
            "followed by": "the tokens after them",
            "promoted": "the tokens that the value raises most",
        },
    )
    return found


if __name__ == "__main__":
    as_command(__file__)
