"""The tests of a circuit as bars: what is a share of the whole effect, with its verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from circuits.figures import charts
from circuits.figures.views.base import view
from circuits.figures.views.reading import interval

if TYPE_CHECKING:
    from circuits.result import Result

# Tests whose values are shares of the whole effect; the others have units of their own.
_SHARES = ("faithfulness", "completeness", "sufficiency", "necessity", "curve", "part")
_NOT = "prompts on which it beats the model"
_MOST = 40  # bars of a figure; the parts of a circuit may be more


@view
def tests(result: Result) -> Figure:
    """A bar for each test whose value is a share of the effect, then for the parts that fit.

    The axes are those that label a row; the column ``test`` says which test it is of.
    """
    frame = result.frame
    shown = frame[frame["test"].isin(_SHARES) & (frame["what"] != _NOT)]
    shown = shown[shown["value"].notna()].head(_MOST)
    labels = [
        " ".join([*_said(str(row["verdict"])), *(str(row[axis]) for axis in result.axes)])
        for _, row in shown.iterrows()
    ]
    values = shown["value"].to_numpy(float)
    title = result.title.replace("? (", "?\n(")  # beside long labels there is little room
    return charts.bars(labels, values, interval=interval(shown), title=title, unit=result.unit)


def _said(verdict: str) -> list[str]:
    return [f"{verdict}:"] if verdict in ("yes", "no") else []
