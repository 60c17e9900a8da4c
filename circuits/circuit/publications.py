"""The circuits that come with the package: from publications, and of its own models.

Each is a file in `published`, in this package's own format, with its source: `<task>` of a
publication, `<model>-<task>` of a bundled model (what `circuits discover --save` writes).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from circuits.errors import CircuitsError, nearest

if TYPE_CHECKING:
    from circuits.circuit.circuit import Circuit

FOLDER = Path(__file__).with_name("published")


def published() -> list[str]:
    """Which circuits come with the package?

    >>> {"greater-than", "ioi"} <= {*published()}
    True
    """
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def read_circuit(given: str | Path | Circuit) -> Circuit:
    """The circuit in this file, or the published one of this name; a circuit is itself.

    A name of a published circuit is never a file: ``./ioi`` is one.

    Raises:
        CircuitsError: for what is neither, with the names that there are.

    >>> len(read_circuit("ioi").heads)
    26
    """
    from circuits.circuit.circuit import Circuit

    if isinstance(given, Circuit):
        return given
    names = published()
    if isinstance(given, str) and given in names:
        return read_published(given)
    if not Path(given).is_file():
        raise CircuitsError(
            f"{given} is no file, and no published circuit; there are {', '.join(names)}"
            f"{nearest(str(given), names)}"
        )
    return Circuit.load(given)


def read_published(name: str) -> Circuit:
    """The circuit of this name.

    Raises:
        CircuitsError: for another name, with those that there are.
    """
    from circuits.circuit.circuit import Circuit

    names = published()
    if name not in names:
        raise CircuitsError(
            f"there is no published circuit {name!r}; there are {', '.join(names)}"
            f"{nearest(name, names)}"
        )
    return Circuit.load(FOLDER / f"{name}.json")
