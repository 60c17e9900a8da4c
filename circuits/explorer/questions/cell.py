"""One cell of the stream: what it would say, and what it does when it comes from the contrast."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import Tensor

from circuits.components import Component, parse
from circuits.errors import CircuitsError, brief, nearest
from circuits.explorer.pieces import Note, Options, Piece, Take, question
from circuits.explorer.questions.lens import lens_take
from circuits.explorer.questions.predictions import predictions
from circuits.explorer.subject import Subject
from circuits.explorer.takes import Taking
from circuits.explorer.tray import Tray
from circuits.interventions import run_sites, write_hook
from circuits.tuned_lens import Stage, lens_logits, stages

if TYPE_CHECKING:
    from circuits.explorer.desk import Desk
    from circuits.explorer.view import View


@question
def cell(desk: Desk, view: View, options: Options) -> Iterator[Piece]:
    """What would this layer say after this token, and what changes if the contrast is patched in?

    Options: `stage`, as the lens names it (embed, a3, m3); `position`, from 0.

    Pieces: `predictions` of ``cell``; with a contrast those of ``patched``, after the position
    that is looked at, or a `note` that says why not; `take`.
    """
    options.only("stage", "position")
    about = desk.subject(view)
    stage = _stage(desk, options.require("stage", "m0"))
    position = options.require("position", 0)
    if not 0 <= position < len(about.ids):
        raise CircuitsError(
            f"there is no position {position}: the prompt has {len(about.ids)} tokens; choose 0 "
            f"to {len(about.ids) - 1}"
        )
    tray = desk.tray(about)
    stream = _passed(desk, tray, about.tokens, stage.site)[position]
    if desk.lens is not None:
        stream = desk.lens(stage.site, stream)
    yield predictions(desk.model, lens_logits(desk.model, stream), "cell", position)
    if about.twin is not None:
        yield _patched(desk, about, tray, stage, position)
    taking = Taking(desk, about)
    take = lens_take(taking, position)
    if about.twin is not None:  # no command says what the model says then
        patched = taking.at_desk(taking.again("cell", options))
        lines = [take.python, "", "# With this cell from the contrast:", patched.python]
        take = Take(take.command, "\n".join(lines))
    yield take


def _patched(desk: Desk, about: Subject, tray: Tray, stage: Stage, position: int) -> Piece:
    """What is said when this cell is the contrast's."""
    if about.unaligned is not None or about.twin is None:
        return Note("patched", about.unaligned or "there is no contrast")
    if position > about.at:
        return Note(
            "patched",
            "This cell comes after the token that is looked at, which sees nothing later.",
        )
    twin = about.tokens.new_tensor([list(about.twin)])
    value = _passed(desk, tray, twin, stage.site)[None]
    part = _part(stage).at(position)
    where = (about.tokens.new_tensor(range(len(about.ids))) == position)[None]
    with desk.under(tray), desk.model.hooks([write_hook(part, value, where)]):
        final = _passed(desk, Tray(), about.tokens, _last(desk))[about.at]
    return predictions(desk.model, lens_logits(desk.model, final), "patched", about.at)


def _passed(desk: Desk, tray: Tray, tokens: Tensor, site: str) -> Tensor:
    """What passes a site of the stream, [p d]."""
    with desk.under(tray):
        return run_sites(desk.model, tokens, tokens.new_ones(tokens.shape).bool(), [site])[site][0]


def _last(desk: Desk) -> str:
    return stages(desk.model)[-1].site


def _stage(desk: Desk, name: str) -> Stage:
    known = {stage.name: stage for stage in stages(desk.model)}
    if name not in known:
        raise CircuitsError(
            f"there is no stage {brief(name)}; choose {', '.join(known)}{nearest(name, known)}"
        )
    return known[name]


def _part(stage: Stage) -> Component:
    """The stream of this stage, in the grammar of components."""
    _, layer, site = stage.site.split(".")
    return parse(f"{site.removeprefix('hook_')}.{layer}")
