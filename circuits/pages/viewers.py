"""Which analyses have a viewer of their own, and what each viewer is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from circuits.pages import attention, heads, lens, steps
from circuits.result import Result


@dataclass(frozen=True)
class Viewer:
    """A template with its script, and what they show of a result.

    `name` is the file name of the template, script and style sheet. `data` makes what the script
    reads; `needs` are the columns it takes, `hidden` those that the table leaves out. It stands for
    the figure of one `view`; a result with another one shows its figure, too.
    """

    name: str
    data: Callable[[Result], Mapping[str, Any]]
    needs: tuple[str, ...]
    view: str
    hidden: tuple[str, ...] = ()

    def suits(self, result: Result) -> bool:
        """Has the result what this viewer shows? (the plan of an analysis, say, has not)"""
        return len(result.frame) > 0 and {*self.needs} <= {*result.frame.columns}


VIEWERS: Mapping[str, Viewer] = {
    "attention": Viewer("attention", attention.data, attention.NEEDS, "patterns"),
    "heads": Viewer("heads", heads.data, heads.NEEDS, "heatmap"),
    "logit_lens": Viewer("lens", lens.data, lens.NEEDS, "lens"),
    "walkthrough": Viewer("walkthrough", steps.data, steps.NEEDS, "heatmap", ("values", "labels")),
}
