"""How far an input has been read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Mark:
    """The place up to which an input has been read.

    `n_prompts` prompts, which in a file are `line` lines and `offset` bytes (in Parquet both are
    records); `sha256` is of what was read, by which it is known again.
    """

    n_prompts: int = 0
    line: int = 0
    offset: int = 0
    sha256: str = hashlib.sha256().hexdigest()
