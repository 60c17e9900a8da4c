"""The figure of an answer, as the command for the same numbers draws it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from circuits.errors import CircuitsError
from circuits.explorer.pieces import Options, Piece, about_json, question

if TYPE_CHECKING:
    from circuits.explorer.desk import Desk
    from circuits.explorer.subject import Subject
    from circuits.explorer.view import View
    from circuits.result import Result

Draw = Callable[["Desk", "Subject", Options], "Result"]


@dataclass(frozen=True, eq=False)
class SvgFigure(Piece):
    """A figure as the text of an SVG file."""

    kind: ClassVar[str] = "svg"
    svg: str


@dataclass(frozen=True, eq=False)
class PngFigure(Piece):
    """A figure as the bytes of a PNG file."""

    kind: ClassVar[str] = "png"
    png: NDArray[np.uint8]


@question
def figure(desk: Desk, view: View, options: Options) -> Iterator[Piece]:
    """Which figure shows this answer?

    Options: `of`, the question; `options`, its own; `format`, svg or png.

    Pieces: an `svg` with its text, or a `png` with its bytes.
    """
    options.only("of", "options", "format")
    what = options.read("of", "", allowed=tuple(FIGURES))
    kind = options.read("format", "svg", allowed=("svg", "png"))
    about = desk.subject(view)
    with desk.under(desk.tray(about)):
        result = FIGURES[what](desk, about, about_json(options.given.get("options") or {}))
    if kind == "svg":
        yield SvgFigure(_file(result, "figure.svg").decode())
    else:
        yield PngFigure(np.frombuffer(_file(result, "figure.png"), np.uint8))


def _file(result: Result, name: str) -> bytes:
    """The bytes that ``--figure`` writes."""
    from circuits.figures import save_figure  # matplotlib takes half a second

    with tempfile.TemporaryDirectory() as folder:
        return save_figure(result.plot(), Path(folder) / name).read_bytes()


def _text(about: Subject) -> str:
    """The whole prompt, as analyses take it."""
    if about.model.tokenizer is None:
        raise CircuitsError("this figure is of a text, and the model has no tokenizer")
    return about.view.prompt


def _read(desk: Desk, about: Subject, options: Options) -> Result:
    from circuits.analyses.logit_lens import logit_lens

    return logit_lens(desk.model, _text(about), positions=about.at, lens=desk.lens)


def _lens(desk: Desk, about: Subject, options: Options) -> Result:
    from circuits.analyses.logit_lens import logit_lens

    return logit_lens(desk.model, _text(about), positions="all", lens=desk.lens)


def _attention(desk: Desk, about: Subject, options: Options) -> Result:
    from circuits.analyses.attention import attention

    return attention(desk.model, _text(about), component=options.given.get("head"))


def _map(desk: Desk, about: Subject, options: Options) -> Result:
    """Of every head, by what the map shows."""
    from circuits.analyses.ablate import ablate
    from circuits.analyses.attribute import attribute
    from circuits.analyses.patch import patch

    what = options.read("what", "ablate")
    if what not in ("ablate", "direct", "patch"):
        raise CircuitsError(
            f"of {what} there is no figure; choose ablate, direct or patch, or take its command "
            "along, which has one with --figure FILE"
        )
    pair = desk.followed(about)
    prompts = about.prompts(pair.answer, pair.distractor, paired=_is_paired(what, options))
    asked: dict[str, Any] = {"task": prompts}
    if what == "ablate":
        method = options.read("method", "zero")
        return ablate(desk.model, all_heads=True, method=method, **asked)
    if what == "direct":
        return attribute(desk.model, what="heads", **asked)
    return patch(desk.model, what="head", **asked)


def _is_paired(what: str, options: Options) -> bool:
    return what == "patch" or (what == "ablate" and options.read("method", "zero") == "resample")


FIGURES: Mapping[str, Draw] = MappingProxyType(
    {"read": _read, "map": _map, "attention": _attention, "head": _attention, "lens": _lens}
)
