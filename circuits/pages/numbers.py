"""Numbers in few characters, for the scripts of pages to read."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray


def packed_array(values: NDArray[Any], dtype: str) -> str:
    """The array's bytes as base64 text, little-endian, as `unpack` of the pages reads them.

    >>> packed_array(np.array([1, 2]), "u2")
    'AQACAA=='
    """
    return base64.b64encode(np.ascontiguousarray(values, dtype="<" + dtype).tobytes()).decode()


def rounded(values: NDArray[Any], digits: int = 4) -> list[float | None]:
    """Numbers with so many significant digits; None for what is not finite.

    >>> rounded(np.array([1.23456, np.nan]))
    [1.235, None]
    """
    return [
        float(f"{value:.{digits}g}") if np.isfinite(value) else None
        for value in np.asarray(values, dtype=float)
    ]
