"""The viewer of the curve: how much circuits of each size do, beside their edges."""

from __future__ import annotations

from circuits.pages.circuit import of_curve
from circuits.pages.viewers import Viewer

VIEWER = Viewer(
    of_curve, needs=("ranking", "size", "kept", "pruned"), view="curves", template="circuit"
)
