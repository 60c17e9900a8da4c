"""The report cards of heads, a layer at a time. Not a question itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from circuits.analyses.heads import heads as report_card
from circuits.explorer.takes import Words
from circuits.head_kinds.kinds import KINDS

if TYPE_CHECKING:
    import pandas as pd

    from circuits.explorer.desk import Desk

DRAWS = 5  # of random tokens and prompts
# Eigenvalues and their chance take longer than all others together.
SHOWN = tuple(kind for kind in KINDS if kind != "ov-copying")


QUICK = 50_000_000  # weights up to which a layer's card takes about a second


def is_quick(desk: Desk, layer: int) -> bool:
    """Whether this layer's card is known, or takes no longer than a second or so."""
    n_weights = sum(weight.numel() for weight in desk.model.parameters())
    return ("card", layer) in desk.kept or n_weights <= QUICK


def layer_card(desk: Desk, layer: int) -> pd.DataFrame:
    """What `circuits.heads` says of a layer's heads, which knows nothing of prompt and tray."""
    heads = [f"a{layer}.h{head}" for head in range(desk.model.cfg.n_heads)]
    asked: dict[str, Any] = {"component": heads, "kind": SHOWN, "n": DRAWS}

    def made() -> pd.DataFrame:
        frame: pd.DataFrame = report_card(desk.model, **asked).frame
        return frame

    return desk.kept.get(("card", layer), made)


def card_lines(head: str | None = None) -> tuple[list[Words], list[str]]:
    """The command and the line of Python for all heads, or for this one."""
    kinds = [word for kind in SHOWN for word in ("--kind", kind)]
    of = [] if head is None else ["--component", head]
    given = "" if head is None else f", component={head!r}"
    line = f"card = circuits.heads(model, kind={list(SHOWN)!r}, n={DRAWS}{given})"
    return [["heads", "-n", DRAWS, *of, *kinds]], [line]
