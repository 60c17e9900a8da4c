"""Numbers as bars."""

from __future__ import annotations

from rich.text import Text

WIDE = 20  # cells of the longest bar


def bar(value: float, largest: float) -> Text:
    """As long as the number is large; blue above 0, orange below."""
    n = round(WIDE * abs(value) / largest) if largest else 0
    return Text("━" * n, style="blue" if value > 0 else "dark_orange3")
