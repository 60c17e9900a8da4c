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

IN_FOLDER = "circuit.json"  # in the folder of a saved result
FOLDER = Path(__file__).with_name("published")


def published() -> list[str]:
    """Which circuits come with the package?

    >>> {"greater-than", "ioi"} <= {*published()}
    True
    """
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def read_circuit(given: str | Path | Circuit) -> Circuit:
    """The circuit in this file, or the published one of this name; a circuit is itself.

    The folder of a saved result has a circuit, if one was looked for. A name of a published circuit
    is never a file: ``./ioi`` is one.

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
    path = Path(given)
    path = path / IN_FOLDER if path.is_dir() else path
    if not path.is_file():
        raise CircuitsError(
            f"{given} is no file with a circuit, and no published one; there are {', '.join(names)}"
            f"{nearest(str(given), names)}"
        )
    return Circuit.load(path)


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
