"""How far a long computation is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]  # called with (steps done, steps in all)
