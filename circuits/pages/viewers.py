"""What a viewer is, and which one an analysis has.

The viewer of an analysis is the constant `VIEWER` of the file here that has the analysis' name. Of
the same name are its template, its script and its style sheet in `templates`, the ones it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from circuits.model import HookedModel
from circuits.registry import beside
from circuits.result import Result


@dataclass(frozen=True)
class Viewer:
    """What a page's script or template shows of a result, instead of a figure.

    `data` makes what they read; `needs` are the columns it takes, `hidden` those that the table
    leaves out. It stands for the figure of one `view`; a result with another one shows its figure,
    too. `of_model` adds to the data what only the model knows, for pages that are given it.
    `template` is the name of its files in `templates`, where it is not the analysis'.
    """

    data: Callable[[Result], Mapping[str, Any]]
    needs: tuple[str, ...]
    view: str
    hidden: tuple[str, ...] = ()
    template: str | None = None
    of_model: Callable[[Result, HookedModel], Mapping[str, Any]] | None = None


def viewer_of(result: Result) -> Viewer | None:
    """The viewer of the result's analysis, if it has one and the result has what that shows.

    The plan of an analysis, say, has not.
    """
    module = beside(result.provenance.analysis, "circuits.pages")
    if module is None:
        return None
    viewer: Viewer = module.VIEWER
    suits = len(result.frame) > 0 and {*viewer.needs} <= {*result.frame.columns}
    return viewer if suits else None
