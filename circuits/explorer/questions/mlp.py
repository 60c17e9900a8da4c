"""Which neurons of a layer matter here, what they write, and what wakes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from circuits.attribution.direct import neuron_pushes
from circuits.components import Component
from circuits.errors import CircuitsError
from circuits.explorer.pieces import Note, Options, Piece, question
from circuits.explorer.questions.written import passing
from circuits.explorer.takes import Taking, Words
from circuits.mlp_neurons import triggers, values

if TYPE_CHECKING:
    from circuits.explorer.desk import Desk
    from circuits.explorer.view import View

TOP = 8  # neurons
WORDS = 5  # tokens of each


@dataclass(frozen=True)
class Neuron:
    """A neuron, here.

    Attributes:
        neuron: its number in the layer.
        effect: what it pushes the answer over the distractor, in logits.
        activation: what it is at the position looked at.
        values: the tokens that its writing raises most.
        triggers: the tokens that match its key best, by themselves; none while they are counted.
    """

    neuron: int
    effect: float
    activation: float
    values: list[str]
    triggers: list[str]


@dataclass(frozen=True, eq=False)
class Neurons(Piece):
    """The neurons that push most, in either direction; a second one comes with triggers."""

    kind: ClassVar[str] = "neurons"
    neurons: list[Neuron]


@question
def mlp(desk: Desk, view: View, options: Options) -> Iterator[Piece]:
    """Which neurons of this layer matter here?

    Option: `layer`. Pieces: `neurons`, twice, the second time with triggers; `take`.
    """
    options.only("layer")
    about, cfg, model = desk.subject(view), desk.model.cfg, desk.model
    layer = options.require("layer", 0)
    if not 0 <= layer < cfg.n_layers:
        raise CircuitsError(f"there is no layer {layer}; choose 0 to {cfg.n_layers - 1}")
    if cfg.attn_only:
        raise CircuitsError(f"{cfg.model_name} has attention only, and no neurons")
    pair = desk.followed(about)
    tray = desk.tray(about)
    prompts = about.prompts(pair.answer, pair.distractor)
    with desk.under(tray):
        pushes = next(iter(neuron_pushes(model, prompts)))[layer, :, 0]
    active = passing(desk, about, tray, layer, "mlp.hook_post")[about.at]
    n_words = min(WORDS, cfg.d_vocab)
    most = pushes.abs().topk(min(TOP, len(pushes))).indices.tolist()
    shown, notes = [], []
    for i in most:
        said: list[str] = []
        try:
            raised = values(model, Component("neuron", layer, neuron=i), n_words)
            said = raised.loc[raised["side"] == "promoted", "token"].tolist()
        except CircuitsError as error:
            notes.append(str(error))
        shown.append(Neuron(i, float(pushes[i]), float(active[i]), said, []))
    yield Neurons(shown)
    for sentence in dict.fromkeys(notes):
        yield Note("values", sentence)
    woken = []
    try:
        for each in shown:
            part = Component("neuron", layer, neuron=each.neuron)
            key = ("triggers", str(part))
            wakes = desk.kept.get(key, partial(triggers, model, part, n_words))
            woken.append(replace(each, triggers=wakes["token"].tolist()))
            yield Neurons([*woken, *shown[len(woken) :]])
    except CircuitsError as error:
        yield Note("triggers", str(error))
    lines = [
        f"pushes = circuits.attribute(model, what='neurons', layer={layer}, top={len(most)}, "
        "**asked)",
        *(
            f"neuron_{i} = circuits.neurons(model, 'm{layer}.n{i}', show='values', top={n_words})"
            for i in (each.neuron for each in shown if each.values)  # others write nothing
        ),
    ]
    taking = Taking(desk, about, pair)
    command: Words = ["attribute", "--what", "neurons", "--layer", layer, "--top", len(most)]
    yield taking.take([command], lines, edited=taking.again("mlp", options))
