"""The notebooks, executed: `python tests/notebooks.py [NN ...]` writes their outputs into them.

A notebook is committed with its outputs, so that it can be read where nothing can be run. What
differs from run to run (times, counters of the kernel) is left out.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nbformat
from house import ROOT
from nbclient import NotebookClient

FOLDER = ROOT / "notebooks"
PATIENCE = 300  # seconds for one cell


def paths() -> list[Path]:
    """All notebooks, in the order in which they are read."""
    return sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def execute(path: Path) -> Any:
    """The notebook with the outputs of a fresh kernel, run in its own folder."""
    notebook = read(path)
    client = NotebookClient(
        notebook,
        timeout=PATIENCE,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
    )
    client.execute()
    return notebook


def cleaned(notebook: Any) -> Any:
    """The notebook without what differs from run to run, or from machine to machine."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    count = 0
    for i, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{i + 1}", nbformat.NotebookNode()
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = count
                if "metadata" in output:
                    output.metadata = nbformat.NotebookNode()
    return notebook


def main() -> None:
    wanted = tuple(sys.argv[1:])
    for path in paths():
        if not wanted or path.name.startswith(wanted):
            nbformat.write(cleaned(execute(path)), path)
            sys.stdout.write(f"{path.name}: {path.stat().st_size / 1000:.0f} kB\n")


if __name__ == "__main__":
    main()
