"""The viewer of a circuit that was looked for: which parts, and how much does each matter?"""

from __future__ import annotations

from circuits.pages.circuit import VIEWER

__all__ = ["VIEWER"]
