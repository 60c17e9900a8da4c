"""How much memory sweeps take: `memory` bounds by how much a process grows.

Linux gives the process no more than its bound, so that a sweep that needs more fails.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from circuits.memory import parse_bytes

HERE = Path(__file__).parent
HAS_PROC = Path("/proc/self/clear_refs").exists()
BOUNDS = {
    **dict.fromkeys(("heads", "mean", "residual", "z", "paths"), "16M"),
    "attribution": "24M",
    **dict.fromkeys(("neurons", "circuits"), "32M"),
    "edges": "96M",
}


def swept(kind: str, memory: str) -> Any:
    done = subprocess.run(
        [sys.executable, str(HERE / "bounded_sweep.py"), kind, memory],
        capture_output=True,
        text=True,
        check=True,
        cwd=HERE.parent,
    )
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_PROC, reason="asks Linux how large the process was")
@pytest.mark.parametrize("kind", BOUNDS)
def test_a_process_grows_by_no_more_than_its_bound(kind: str) -> None:
    bounded, free = swept(kind, BOUNDS[kind]), swept(kind, "")
    assert bounded["grown"] <= parse_bytes(BOUNDS[kind])
    np.testing.assert_allclose(bounded["values"], free["values"], rtol=1e-3, atol=1e-3)
