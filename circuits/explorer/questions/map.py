"""The map: one number for every head and MLP, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from circuits.attribution import Split, decomposed
from circuits.components import Component
from circuits.effects import Patching, pair
from circuits.errors import CircuitsError
from circuits.explorer.pieces import Note, Options, Piece, Take, question
from circuits.explorer.questions.attention import patterns
from circuits.explorer.questions.cards import card_lines, layer_card
from circuits.explorer.questions.edited_rows import Replaced, replaced
from circuits.explorer.questions.predictions import numbers
from circuits.explorer.subject import Subject, words
from circuits.explorer.takes import Taking, Words
from circuits.explorer.tray import Tray
from circuits.metrics import get_metric
from circuits.sweep import Cell, Executor, Source, Sweep, Task, cell, plan

if TYPE_CHECKING:
    from circuits.explorer.desk import Desk, Followed
    from circuits.explorer.view import View


@dataclass(frozen=True, eq=False)
class Whole(Piece):
    """What the numbers of a map are.

    Attributes:
        whole: the logit difference of answer and distractor in the prompt; None where the map is
            not about it.
        contrast: the same in the contrast, where parts are patched into its run.
        unit: of the map's numbers.
        meaning: what they say, in a sentence.
    """

    kind: ClassVar[str] = "whole"
    whole: float | None
    contrast: float | None
    unit: str
    meaning: str


@dataclass(frozen=True, eq=False)
class Layer(Piece):
    """One layer of the map.

    Attributes:
        layer: which one.
        heads: a number each.
        mlp: that of the MLP; None where it has none.
        texts: what else a head's number is about: the key it looks at, or its kind.
    """

    kind: ClassVar[str] = "layer"
    layer: int
    heads: list[float | None]
    mlp: float | None
    texts: list[str] | None = None


WHAT = ("ablate", "direct", "patch", "looks", "kind")
METHODS = ("zero", "mean", "resample")
INSTEAD = {
    "zero": "nothing",
    "mean": "its mean over these tokens",
    "resample": "what it writes in the contrast",
}


@question
def map(desk: Desk, view: View, options: Options) -> Iterator[Piece]:
    """What does every head and MLP do here?

    Options: `what`, one of ``ablate``, ``direct``, ``patch``, ``looks`` and ``kind``; of
    ``ablate``, `method`: ``zero``, ``mean`` or ``resample``.

    Pieces: `whole`; a `layer` a layer, the top one first, for nothing above it has to be computed
    anew; `take`.
    """
    options.only("what", "method")
    what = options.read("what", "ablate", allowed=WHAT)
    method = options.read("method", "zero", allowed=METHODS)
    about = desk.subject(view)
    if what == "looks":
        return _looks(desk, about)
    if what == "kind":
        return _kinds(desk, about)
    if what == "direct":
        return _direct(desk, about)
    return _effects(desk, about, what, method, options)


def _effects(
    desk: Desk, about: Subject, what: str, method: str, options: Options
) -> Iterator[Piece]:
    """What ablating or patching each part does."""
    tray, followed = desk.tray(about), desk.followed(about)
    paired = what == "patch" or method == "resample"
    if paired:
        about.require_twin()
    clean = _difference(desk, about, tray, followed, about.cut)
    if what == "patch":
        twin = _difference(desk, about, tray, followed, about.require_twin())
        text = (
            "By how much patching the part from the prompt into the contrast raises the logit "
            f"difference there: from {twin:.2f}, all of the prompt would make it {clean:.2f}."
        )
        yield Whole(clean, twin, "logits", text)
    else:
        text = (
            f"By how much the logit difference, {clean:.2f}, changes when the part writes "
            f"{INSTEAD[method]}: below 0 it breaks something."
        )
        yield Whole(clean, None, "logits", text)
    if tray:
        layers = _edited(desk, about, tray, followed, _replaced(about, what, method))
    else:
        layers = _swept(desk, _sweep(desk, about, followed, what, method))
    effective: list[int] = []  # layers whose MLP has an effect; commands refuse what has none
    for layer in layers:
        effective += [layer.layer] if layer.mlp else []
        yield layer
    yield _take_effects(desk, about, followed, _Asked(what, method, options, sorted(effective)))


def _edited(
    desk: Desk, about: Subject, tray: Tray, followed: Followed, how: Replaced
) -> Iterator[Layer]:
    """The layers of an edited model, the top one first."""
    base = _difference(desk, about, tray, followed, how.ids)
    for layer in reversed(range(desk.model.cfg.n_layers)):
        effects = replaced(desk, about, tray, followed, how, layer) - base
        yield _layer(desk, layer, effects.tolist())


def _replaced(about: Subject, what: str, method: str) -> Replaced:
    if what == "patch":
        return Replaced(about.require_twin(), "copy", about.cut)
    if method == "resample":
        return Replaced(about.cut, "copy", about.require_twin())
    return Replaced(about.cut, method)


def _difference(
    desk: Desk, about: Subject, tray: Tray, followed: Followed, ids: Sequence[int]
) -> float:
    """The two logits' difference after the position that is looked at, in the run of `ids`."""
    logits = desk.logits(desk.run(about, tray, ids).final[-1:])[0]
    return float(logits[followed.answer] - logits[followed.distractor])


def _sweep(desk: Desk, about: Subject, followed: Followed, what: str, method: str) -> Sweep:
    """All cells: the run itself, then every layer's heads and MLP."""
    cfg = desk.model.cfg
    parts = [part for layer in range(cfg.n_layers) for part in _parts(desk, layer)]
    cells: tuple[Cell, ...] = (cell(), *(cell(part) for part in parts))
    paired = what == "patch" or method == "resample"
    prompts = about.prompts(followed.answer, followed.distractor, paired=paired)
    if paired:
        sweep = pair(prompts, cells, Patching("denoise" if what == "patch" else "noise"))
        assert isinstance(sweep, Sweep)
        return sweep
    tokens, mask = prompts.tokens, prompts.mask
    source = Source(method, tokens, mask)
    return Sweep(prompts, get_metric("logit_diff"), cells, source)


def _parts(desk: Desk, layer: int) -> list[Component]:
    cfg = desk.model.cfg
    heads = [Component("head", layer, head) for head in range(cfg.n_heads)]
    return heads if cfg.attn_only else [*heads, Component("mlp", layer)]


def _swept(desk: Desk, sweep: Sweep) -> Iterator[Layer]:
    """The layers of a sweep, the top one first, as its executor keeps the run itself."""
    planned = plan(desk.model, sweep)
    executor = Executor(desk.model, planned)
    base = float(executor(Task(0, 1, (0,), 0)).values[0, 0])
    wide = len(_parts(desk, 0))
    for layer in reversed(range(desk.model.cfg.n_layers)):
        cells = range(1 + layer * wide, 1 + (layer + 1) * wide)
        effects: dict[int, float] = {}
        for task in planned.tasks:  # whose size the memory bounds
            some = tuple(i for i in task.cells if i in cells)
            if some:
                values = executor(Task(0, 1, some, 0)).values[:, 0] - base
                effects |= dict(zip(some, values.tolist(), strict=True))
        yield _layer(desk, layer, [effects[i] for i in cells])


def _layer(desk: Desk, layer: int, values: Sequence[float]) -> Layer:
    n = desk.model.cfg.n_heads
    return Layer(layer, list(values[:n]), None if len(values) == n else values[n])


@dataclass(frozen=True)
class _Asked:
    """What was asked of effects, and in which layers the MLP has one."""

    what: str
    method: str
    options: Options
    mlps: list[int]


def _take_effects(desk: Desk, about: Subject, followed: Followed, asked: _Asked) -> Take:
    """Commands and lines for the heads and for the MLPs that have an effect."""
    what, method = asked.what, asked.method
    paired = what == "patch" or method == "resample"
    taking = Taking(desk, about, followed, paired)
    again = taking.again("map", asked.options)
    commands: list[Words]
    if paired:
        direction = "denoise" if what == "patch" else "noise"
        commands = [["patch", "--what", "head", "--direction", direction]]
        of = (
            f"circuits.patch(model, what={{!r}}, positions='all', direction={direction!r}, **asked)"
        )
        lines = [f"heads = {of.format('head')}"]
        if asked.mlps:
            more = ["--positions", "all", "--direction", direction]
            commands.append(["patch", "--what", "mlp", *more])
            lines.append(f"mlps = {of.format('mlp')}")
        return taking.take(commands, lines, edited=again)
    commands = [["ablate", "--all-heads", "--method", method]]
    commands += [["ablate", "--component", f"m{i}", "--method", method] for i in asked.mlps]
    lines = [f"heads = circuits.ablate(model, all_heads=True, method={method!r}, **asked)"]
    if asked.mlps:
        lines.append(
            f"mlps = [circuits.ablate(model, component=f'm{{i}}', method={method!r}, **asked) "
            f"for i in {asked.mlps}]"
        )
    return taking.take(commands, lines, edited=again)


def _direct(desk: Desk, about: Subject) -> Iterator[Piece]:
    """What each part itself adds to the difference."""
    tray, followed = desk.tray(about), desk.followed(about)
    prompts = about.prompts(followed.answer, followed.distractor)
    if desk.model.cfg.post_norms:
        raise CircuitsError(
            f"{desk.model.cfg.model_name} normalizes what a part writes before it is added, so no "
            "part has a direct effect of its own; look at what breaks without it"
        )
    with desk.under(tray):
        terms = next(decomposed(desk.model, prompts, Split("heads")))
    pushes = {term.component: float(numbers(values)[0, 0]) for term, values in terms.items()}
    text = (
        f"What the part itself adds to the logit difference, {pushes['total']:.2f}, straight to "
        "the logits: all parts, the embeddings and the biases sum to it."
    )
    yield Whole(pushes["total"], None, "logits", text)
    for layer in reversed(range(desk.model.cfg.n_layers)):
        yield _layer(desk, layer, [pushes[str(part)] for part in _parts(desk, layer)])
    lines = ["found = circuits.attribute(model, **asked)"]
    yield Taking(desk, about, followed).take([["attribute"]], lines)


def _looks(desk: Desk, about: Subject) -> Iterator[Piece]:
    """The key that each head looks at most from here, and how much."""
    tray = desk.tray(about)
    yield Whole(
        None, None, "share of attention", "How much of its attention the head pays, from the token "
        "that is looked at, to the one it looks at most."
    )  # fmt: skip
    for layer in reversed(range(desk.model.cfg.n_layers)):
        weights, keys = patterns(desk, about, tray, layer)[:, about.at].max(-1)
        texts = words(desk.model, [about.ids[key] for key in keys.tolist()])
        named = [f"{text} ({key})" for text, key in zip(texts, keys.tolist(), strict=True)]
        yield Layer(layer, numbers(weights).tolist(), None, named)
    line = "found = circuits.attention(model, text, top=1)"
    yield Taking(desk, about).of_text([["attention", "--top", 1]], [line])


def _kinds(desk: Desk, about: Subject) -> Iterator[Piece]:
    """What kind of head each is, and the score of that kind."""
    text = "What each head does on random tokens and test prompts, whatever the prompt: its kind."
    yield Whole(None, None, "score of its kind", text)
    if about.view.edits:
        yield Note("kind", "The report card is of the model without the edits of the tray.")
    for layer in reversed(range(desk.model.cfg.n_layers)):
        frame = layer_card(desk, layer)
        rows = {
            (part, kind): value
            for part, kind, value in zip(
                frame["component"], frame["kind"], frame["value"], strict=True
            )
        }
        heads = list(dict.fromkeys(frame["component"]))
        names = dict(zip(frame["component"], frame["name"], strict=True))
        kinds = [names[head] for head in heads]
        values = [rows.get((head, kind)) for head, kind in zip(heads, kinds, strict=True)]
        yield Layer(layer, values, None, ["" if kind == "none" else kind for kind in kinds])
    yield Taking(desk, about).of_model(*card_lines())
