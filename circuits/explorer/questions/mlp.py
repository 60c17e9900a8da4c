"""One MLP: the neurons that matter here, what they write, and what wakes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from circuits.attribution import neuron_pushes
from circuits.components import Component
from circuits.errors import CircuitsError
from circuits.explorer.pieces import Note, Options, Piece, Take, question
from circuits.explorer.subject import Subject, words
from circuits.explorer.takes import Taking, joined
from circuits.explorer.tray import Tray
from circuits.interventions import run_sites
from circuits.mlp_neurons import value_logits
from circuits.precision import wide

if TYPE_CHECKING:
    from circuits.explorer.desk import Desk, Followed
    from circuits.explorer.view import View
    from circuits.model import HookedModel

NEURONS = 10
TOKENS = 6  # that a neuron writes, or wakes to
_ROWS = 2048  # tokens of the vocabulary at a time


@dataclass(frozen=True)
class Neuron:
    """A neuron after the position that is looked at.

    Attributes:
        neuron: its index in the layer.
        effect: what it adds to the logit difference, with the final norm's scale as it is.
        activation: how active it is.
        values: the tokens whose logits it raises most where it is active.
        triggers: the tokens that match its key best by themselves; None for neurons with a gate.
    """

    neuron: int
    effect: float
    activation: float
    values: list[str]
    triggers: list[str] | None


@dataclass(frozen=True, eq=False)
class Neurons(Piece):
    """The neurons of a layer that matter most here, the largest effect, up or down, first."""

    kind: ClassVar[str] = "neurons"
    layer: int
    neurons: list[Neuron]


@dataclass(frozen=True, eq=False)
class Reading(Piece):
    """How far it is: so many of the vocabulary's tokens have been shown to the neurons."""

    kind: ClassVar[str] = "reading"
    done: int
    whole: int


@question
def mlp(desk: Desk, view: View, options: Options) -> Iterator[Piece]:
    """Which neurons of this MLP matter here?

    Options: `layer`.

    Pieces: `reading`, while the vocabulary is gone through; `neurons`, or a `note` that says why
    there are none; `take`.
    """
    options.only("layer")
    layer = options.require("layer", 0)
    cfg = desk.model.cfg
    if cfg.attn_only or not 0 <= layer < cfg.n_layers:
        has = "attention layers only" if cfg.attn_only else f"layers 0 to {cfg.n_layers - 1}"
        raise CircuitsError(f"there is no MLP m{layer}: {cfg.model_name} has {has}")
    if cfg.post_norms:
        yield Note("neurons", "A norm stands between MLP and stream: no neuron writes by itself.")
        return
    about = desk.subject(view)
    tray, pair = desk.tray(about), desk.followed(about)
    pushes = _pushes(desk, about, tray, pair)[layer]
    best = pushes.abs().topk(min(NEURONS, len(pushes))).indices.tolist()
    awake = _activations(desk, about, tray, layer)
    triggers: list[list[str] | None] = [None] * len(best)
    if not cfg.gated_mlp:
        matches: list[Tensor] = []
        for first in range(0, cfg.d_vocab, _ROWS):
            matches.append(_matches(desk.model, layer, best, first))
            yield Reading(min(first + _ROWS, cfg.d_vocab), cfg.d_vocab)
        top = torch.cat(matches).topk(TOKENS if cfg.d_vocab > TOKENS else 1, dim=0).indices
        triggers = [words(desk.model, ids) for ids in top.T.tolist()]
    yield Neurons(
        layer,
        [
            Neuron(i, float(pushes[i]), float(awake[i]), _values(desk.model, layer, i), wakes)
            for i, wakes in zip(best, triggers, strict=True)
        ],
    )
    yield _take(desk, about, pair, layer, best)


def _pushes(desk: Desk, about: Subject, tray: Tray, pair: Followed) -> Tensor:
    """What every neuron adds to the difference: [layer neuron]"""

    def made() -> Tensor:
        with desk.under(tray):
            (pushes,) = neuron_pushes(desk.model, about.prompts(pair.answer, pair.distractor))
        return pushes[..., 0]

    return desk.kept.get(("pushes", about.cut, pair, tray or None), made)


def _activations(desk: Desk, about: Subject, tray: Tray, layer: int) -> Tensor:
    """How active each neuron is where one looks: [neuron]"""
    site, tokens = f"blocks.{layer}.mlp.hook_post", about.tokens
    with desk.under(tray):
        return run_sites(desk.model, tokens, torch.ones_like(tokens).bool(), [site])[site][
            0, about.at
        ]


def _matches(model: HookedModel, layer: int, neurons: Sequence[int], first: int) -> Tensor:
    """How well some tokens by themselves match the neurons' keys, as `triggers` has it: [v n]"""
    block, x = model.blocks[layer], model.W_E[first : first + _ROWS]
    if layer:
        x = x + model.blocks[0].mlp.plain(model.blocks[0].ln2.plain(x))
    keys = wide(block.mlp.W_in[:, list(neurons)])
    return (wide(block.ln2.plain(x)) @ keys + block.mlp.b_in[list(neurons)]).double()


def _values(model: HookedModel, layer: int, neuron: int) -> list[str]:
    """The tokens that it raises most."""
    try:
        logits = value_logits(model, Component("neuron", layer, neuron=neuron))
    except CircuitsError:  # it writes nothing
        return []
    return words(model, logits.topk(min(TOKENS, len(logits))).indices.tolist())


def _take(desk: Desk, about: Subject, pair: Followed, layer: int, neurons: Sequence[int]) -> Take:
    taking = Taking(desk, about, pair)
    lines = [
        "from circuits.registry import PromptOptions",
        "from circuits.registry.asked_prompts import asked_prompts",
        "from circuits.attribution import neuron_pushes",
        "prompts = asked_prompts(model, PromptOptions(**asked))[0].first",
        f"effects = next(neuron_pushes(model, prompts))[{layer}, :, 0]",
    ]
    named = [f"m{layer}.n{i}" for i in neurons]
    shown = [(name, show) for name in named for show in ("values", "triggers")]
    return joined(
        [
            taking.take([], lines),
            taking.of_model(
                [["neurons", name, "--show", show, "--top", TOKENS] for name, show in shown],
                [
                    f"{show} = [circuits.neurons(model, name, show={show!r}, top={TOKENS}) "
                    f"for name in {named!r}]"
                    for show in ("values", "triggers")
                ],
            ),
        ]
    )
