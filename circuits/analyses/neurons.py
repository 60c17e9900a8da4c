"""What does this neuron do?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd
import torch

from circuits import components, decompose
from circuits.batch import pad_rows
from circuits.components import Component
from circuits.errors import CircuitsError, nearest
from circuits.files import named_path
from circuits.mlp_neurons import (
    Context,
    Contexts,
    by_class,
    contexts,
    overview,
    triggers,
    value_logits,
    values,
)
from circuits.model import HookedModel
from circuits.prompts.prompts import start_tokens
from circuits.registry import MeanOptions, Progress, analysis
from circuits.result import Result, provenance
from circuits.text_windows import BATCH, TextFile, read_from

Show = Literal["contexts", "values", "triggers", "classes", "overview"]
Order = Literal["peaked", "contrast", "active"]
BEFORE, AFTER = 12, 5  # tokens of a context that are shown
QUANTILES = (0.99, 0.9, 0.5, 0.1)
Row = dict[str, str | int | float]
MEANINGS = {
    "component": "the neuron",
    "layer": "of the neuron",
    "neuron": "its number in the layer",
    "side": "whether the neuron raises or lowers the token's logit",
    "rank": "place in its group",
    "token": "of the vocabulary; in contexts, the one at which the neuron is this active; in the "
    "overview, the one at which it was most active",
    "alone": "the match of the token's embedding by itself, without the first MLP",
    "group": "top: most active, one place a window; random: places drawn evenly, the control; "
    "quantile: of such places the one at this share",
    "share_below": "of 1000 places drawn evenly from the text, the share with a lower activation",
    "window": "number of the window in the file, from 0",
    "position": "in that window (the start token is 0)",
    "before": "the text up to the token",
    "after": "the text that follows it",
    "context": "all three in short, the token in brackets",
    "next_token": "the token that follows in the text",
    "effect_next": "logits by which the neuron raises it here, against the vocabulary's mean; "
    "empty where an MLP's output is normalized before it is added",
    "value_token": "the token that the neuron raises most, anywhere",
    "effect_value": "logits by which it raises that one here, against the vocabulary's mean",
    "class": "of tokens: word (begins with a space and a letter), inside (letters without a space "
    "before), digits, marks (of punctuation, and other signs), space, part (of a character), "
    "special; in the overview, the one on which the neuron stands out",
    "active": "share of tokens with an activation above 0",
    "tokens": "how many tokens of the class were read",
    "n": "number of windows (of a class: of those that have it)",
    "mean": "activation, mean over all tokens",
    "std": "its standard deviation over tokens",
    "maximum": "the largest activation in the text",
    "peaked": "excess kurtosis over tokens: 0 for a normal distribution, large for a neuron that "
    "is silent but for a few tokens",
    "contrast": "mean activation on the class minus that on all others, in standard deviations",
}
OF_VALUE = {
    "values": "logits per unit of activation, times the final LayerNorm's scale; against the "
    "vocabulary's mean",
    "triggers": "match with the neuron's key, which its activation function then takes: W_in . "
    "ln2(x) + b_in, with x the token's embedding and, after layer 0, what the first MLP adds to it",
    "contexts": "activation",
    "classes": "activation, mean over n windows of the mean in each",
    "overview": "share of tokens with an activation above 0, mean over n windows",
}
UNITS = {
    "values": "logits x scale",
    "triggers": "match",
    "contexts": "activation",
    "classes": "activation",
    "overview": "share active",
}


@analysis
def neurons(
    model: HookedModel,
    neuron: str | Component | None = None,
    *,
    show: Show | None = None,
    layer: int | None = None,
    file: str | Path | None = None,
    context: int | None = None,
    n: int | None = None,
    top: int = 10,
    order: Order | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    means: MeanOptions,
) -> Result:
    """What does this neuron do?

    From its weights: the tokens that its value (its row of W_out) raises and lowers, with the final
    LayerNorm's weight, and the tokens that match its key (its column of W_in) by themselves. On a
    text of your own, read window by window: where it is most active, beside random places, and
    what it then does to the logits directly; and on which class of tokens. Without a neuron, the
    text shows which neurons of a layer, or of all layers, are selective.

    $ circuits neurons m5.n290
    $ circuits neurons m5.n290 --show triggers --top 20
    $ circuits neurons m5.n290 --file story.txt
    $ circuits neurons m5.n290 --file story.txt --show classes --figure classes.png
    $ circuits neurons --layer 5 --file story.txt --order contrast
    $ circuits neurons --file story.txt --show classes --figure layers.png

    Args:
        neuron: The neuron's name: m5.n12 is number 12 of layer 5. Without it, all neurons of the
            layer, or of the model.
        show: values or triggers (of the weights), contexts or classes (of a text); without a
            neuron, overview or classes. Without it: contexts of a text, else values.
        layer: Only this layer, where no neuron is named.
        file: A text file (UTF-8) of any size, read as windows of the context's length.
        context: Length of these windows in tokens, with the start token. Without it, the model's
            whole context.
        n: How many windows to read. Without it, all of the file.
        top: How many tokens, places or neurons to list (of each group).
        order: Which neurons come first in the overview: the most peaked (without it), those with
            the highest contrast between classes of tokens, or the most often active.
        seed: The same seed draws the same random places.

    Raises:
        CircuitsError: for what is no neuron of the model, a view that lacks its text or neuron, a
            neuron that writes or reads nothing, and a file that cannot be read.

    >>> from circuits.checkpoints import load
    >>> found = neurons(load("mini"), "m5.n290", top=6)
    >>> found.frame.loc[found.frame["side"] == "promoted", "token"].tolist()
    [' evening', ' while', ' minute', ' night', ' hour', ' week']
    """
    part = None if neuron is None else _neuron(model, neuron)
    shown = _shown(part, layer, show, order, _named(file=file, context=context, n=n))
    look = _Look(part, layer, shown, order, top, seed, means.draws)
    _require_rows(model, look)
    text = None if file is None else TextFile(model, named_path(file), context, n)
    return _seen(model, look, text, progress)


@dataclass(frozen=True)
class _Look:
    """Which neurons, all of them or all of a layer where none is named; and what is shown.

    With `draws`, each row has the numbers that its mean is of, too.
    """

    neuron: Component | None
    layer: int | None
    show: Show
    order: Order | None
    top: int
    seed: int
    draws: bool


def _seen(
    model: HookedModel, look: _Look, text: TextFile | None, progress: Progress | None
) -> Result:
    """What the weights say, or the neurons do on the text."""
    source, neuron, show = provenance(model, "neurons"), look.neuron, look.show
    if text is not None:
        frame = _on_text(model, text, look, progress)
        source = read_from(source, text)
    else:
        assert neuron is not None  # all others need a text
        frame = (values if show == "values" else triggers)(model, neuron, look.top)
    what = f"does {neuron}" if neuron is not None else "do all neurons"
    what += f" of layer {look.layer}" if look.layer is not None else ""
    return Result(
        frame,
        unit=UNITS[show],
        title=f"What {what} do? ({show}, {source.model})",
        provenance=source,
        axes=_axes(look),
        view="heatmap" if show == "classes" and neuron is None else "bars",
        meanings=MEANINGS | {"value": OF_VALUE[show]},
    )


def _axes(look: _Look) -> tuple[str, ...]:
    if look.show == "classes":
        return ("class",) if look.neuron is not None else ("layer", "class")
    return ({"contexts": "context", "overview": "component"}.get(look.show, "token"),)


def _named(**options: object) -> list[str]:
    """The names of those that were given."""
    return [name for name, value in options.items() if value is not None]


def _neuron(model: HookedModel, name: str | Component) -> Component:
    part = components.parse(name) if isinstance(name, str) else name
    if part.kind != "neuron" or part.position is not None:
        hint = f"m{part.layer}.n0" if part.kind == "mlp" else "m5.n12"
        raise CircuitsError(
            f"{part} is no neuron; name one such as {hint}, or none and a layer for an overview"
        )
    return components.check(part, model.cfg)


def _shown(
    neuron: Component | None,
    layer: int | None,
    show: Show | None,
    order: Order | None,
    of_text: Sequence[str],
) -> Show:
    """What to show: what was asked for, if there is what it needs.

    `of_text` are the options given that only a text has a use for.

    Raises:
        CircuitsError: when there is not.
    """
    has_text = "file" in of_text
    choices = ("overview", "classes") if neuron is None else get_args(Show)[:4]
    if show is None:
        show = "overview" if neuron is None else "contexts" if has_text else "values"
    if order is not None and show != "overview":
        raise CircuitsError(f"order={order!r} is of the overview of all neurons; leave it out")
    orders = (*get_args(Order), None)
    for what, value, known in (("show", show, choices), ("order", order, orders)):
        if value not in known:
            of = " without a neuron" if what == "show" and neuron is None else ""
            raise CircuitsError(
                f"{what}={value!r}: choose {', '.join(filter(None, known))}{of}"
                f"{nearest(str(value), filter(None, known))}"
            )
    of_weights = show in ("values", "triggers")
    if not of_weights and not has_text:
        raise CircuitsError(
            f"{show} needs a text on which neurons can be watched: give a text file (file=, --file)"
            + ("" if neuron is None else "; values and triggers need none")
        )
    if of_weights and of_text:
        raise CircuitsError(f"{show} are read from the weights; leave out {', '.join(of_text)}")
    if neuron is not None and layer is not None:
        raise CircuitsError(f"{neuron} says its layer; leave out layer={layer}")
    return show


def _require_rows(model: HookedModel, look: _Look) -> None:
    most = model.cfg.d_vocab if look.show in ("values", "triggers") else None
    if look.top < 1 or (most is not None and look.top > most):
        raise CircuitsError(f"top={look.top}: list 1 to {most or 'any number of'} rows")


def _on_text(
    model: HookedModel, text: TextFile, look: _Look, progress: Progress | None
) -> pd.DataFrame:
    """What the neuron, or each layer's neurons, do on the text."""
    neuron, layers = look.neuron, list(range(model.cfg.n_layers))
    if neuron is not None:
        assert neuron.layer is not None
        layers = [neuron.layer]
    elif look.layer is not None:
        layers = [components.check(Component("mlp", look.layer), model.cfg).layer or 0]
    if look.show == "classes":
        number = None if neuron is None else neuron.neuron
        classes = by_class(text, layers, number, progress, draws=look.draws)
        rows = [{"layer": i, **row} for i, of in zip(layers, classes, strict=True) for row in of]
        by_kind: pd.DataFrame = pd.DataFrame(rows)
        return by_kind
    if neuron is None:
        return _overview(look, text, layers, progress)
    places = contexts(text, neuron, look.top, look.seed, progress)
    return _contexts(model, neuron, places, look.top)


def _overview(
    look: _Look, text: TextFile, layers: Sequence[int], progress: Progress | None
) -> pd.DataFrame:
    """A row for each of the neurons that come first in the order that was asked for."""
    frames, model = [], text.model
    every = overview(text, layers, progress, draws=look.draws)
    for layer, columns in zip(layers, every, strict=True):
        names = [f"m{layer}.n{i}" for i in range(model.cfg.d_mlp)]
        place = {"component": names, "layer": layer, "neuron": range(model.cfg.d_mlp)}
        frames.append(pd.DataFrame(place | columns))
    frame: pd.DataFrame = pd.concat(frames, ignore_index=True)
    by = "value" if look.order == "active" else look.order or "peaked"
    first = frame[by].sort_values(ascending=False, kind="stable").index[: look.top]
    frame = frame.loc[first].reset_index(drop=True)
    frame["token"] = model.require_tokenizer().token_strings(frame["token"].tolist())
    frame.insert(3, "rank", range(1, len(frame) + 1))
    return frame


def _contexts(model: HookedModel, neuron: Component, places: Contexts, top: int) -> pd.DataFrame:
    """A row for each place: its text, and what the neuron does to the logits there."""
    sample = sorted(places.drawn, key=lambda place: place.activation)
    levels = np.array([place.activation for place in sample])
    chosen = [("top", place) for place in places.best]
    chosen += [
        ("quantile", sample[min(int(share * len(sample)), len(sample) - 1)]) for share in QUANTILES
    ]
    chosen += [("random", place) for place in places.drawn[:top]]
    effects = _effects(model, neuron, [place for _, place in chosen])
    rows, ranks = [], {"top": 0, "quantile": 0, "random": 0}
    for (group, place), effect in zip(chosen, effects, strict=True):
        ranks[group] += 1
        below = float(np.searchsorted(levels, place.activation)) / len(levels)
        row = {"component": str(neuron), "group": group, "rank": ranks[group]}
        row |= {"value": place.activation, "share_below": below}
        rows.append(row | _words(model, place) | effect)
    frame: pd.DataFrame = pd.DataFrame(rows)
    return frame


def _words(model: HookedModel, place: Context) -> Row:
    tokenizer, at, ids = model.require_tokenizer(), place.position, place.tokens
    n_start = len(start_tokens(model, None))
    before = tokenizer.decode(ids[max(n_start, at - BEFORE) : at])
    after = tokenizer.decode(ids[at + 1 : at + 1 + AFTER])
    token, *following = tokenizer.token_strings(ids[at : at + 2])
    return {
        "window": place.window,
        "position": at,
        "before": before,
        "token": token,
        "after": after,
        "context": " ".join(f"{before[-16:]}[{token}]{after[:4]}".split()),
        "next_token": following[0] if following else "",
    }


def _effects(model: HookedModel, neuron: Component, places: Sequence[Context]) -> list[Row]:
    """What the neuron does to two logits at each place, with the final LayerNorm's scale there."""
    if model.cfg.post_norms:  # what a neuron writes is normalized together with all others'
        unknown: Row = {
            "effect_next": float("nan"),
            "value_token": "",
            "effect_value": float("nan"),
        }
        return [unknown for _ in places]
    logits = value_logits(model, neuron)
    best = int(logits.argmax())
    name = model.require_tokenizer().token_strings([best])[0]
    rows: list[Row] = []
    for place, scale in zip(places, _final_scales(model, places), strict=True):
        factor = place.activation / scale
        after = place.tokens[place.position + 1 : place.position + 2]
        rows.append(
            {
                "effect_next": factor * float(logits[after[0]]) if after else float("nan"),
                "value_token": name,
                "effect_value": factor * float(logits[best]),
            }
        )
    return rows


def _final_scales(model: HookedModel, places: Sequence[Context]) -> list[float]:
    """By what the final LayerNorm divides at each place."""
    together = max(1, BATCH // max(len(place.tokens) for place in places))
    scales: list[float] = []
    for at in range(0, len(places), together):
        some = places[at : at + together]
        ends = torch.tensor([place.position for place in some])
        with torch.inference_mode():
            # What follows a place does not change it.
            rows, mask = pad_rows([place.tokens[: place.position + 1] for place in some], 0)
            stream = model(rows, attention_mask=mask, stop_at_layer=model.cfg.n_layers)
            last = stream[torch.arange(len(some)), ends].double()
            squares = decompose.center(model, last).pow(2).mean(-1)
        scales += (squares + model.cfg.eps).sqrt().tolist()
    return scales
