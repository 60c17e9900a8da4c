"""What a folder of the package offers, one file each.

It is known by its files and listed nowhere else. A metric is a file of `circuits/metrics/` with one
function marked ``@metric``; tasks, methods of ablation and views are made the same way. Names and
meanings are read from the files' syntax trees, so that help can list them without importing the
files, and with them torch.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from circuits.errors import CircuitsError, nearest

PACKAGE = Path(__file__).parent
Value = TypeVar("Value")


@dataclass(frozen=True)
class Kind:
    """A kind of things that are one file each: the folder, the mark, and what errors call it.

    Names are the functions' own; where they have `dashes`, those stand for underscores.
    """

    room: str
    mark: str
    what: str
    dashes: bool = True


METRIC = Kind("metrics", "metric", "metric", dashes=False)
TASK = Kind("prompts", "task", "task")
METHOD = Kind("interventions", "method", "ablation method")
DISCOVERY = Kind("discovery/methods", "discovery", "discovery method")
VIEW = Kind("figures/views", "view", "view")


@dataclass(frozen=True)
class Entry:
    """One of the things of a kind, as its file says: `said` is what the mark was given, in words.

    `meaning` is the first paragraph of the docstring.
    """

    name: str
    module: str
    function: str
    meaning: str
    said: Mapping[str, Any]


@cache
def entries(kind: Kind) -> Mapping[str, Entry]:
    """All things of this kind by name: those marked as usual first, then by alphabet.

    >>> list(entries(TASK))[:3], entries(METRIC)["loss"].module
    (['repeated', 'ioi', 'sorting'], 'circuits.metrics.loss')

    Raises:
        TypeError: for a file whose marked function has not the file's name.
    """
    files = sorted((PACKAGE / kind.room).glob("*.py"))
    listed = [entry for path in files if (entry := _entry(kind, path)) is not None]
    listed.sort(key=lambda entry: (entry.said.get("usual") or len(files), entry.name))
    return MappingProxyType({entry.name: entry for entry in listed})


def usual(kind: Kind) -> tuple[str, ...]:
    """The names of those that are marked as usual, in their order.

    >>> usual(TASK)
    ('repeated', 'ioi', 'sorting')
    """
    return tuple(name for name, entry in entries(kind).items() if entry.said.get("usual"))


def analysis_names() -> list[str]:
    """The questions: each is the function of its file's name in `circuits/analyses/`."""
    return sorted(path.stem for path in (PACKAGE / "analyses").glob("[!_]*.py"))


def first_paragraph(path: Path, function: str) -> str:
    """The first paragraph of the docstring of a function of this file, without a syntax tree.

    >>> first_paragraph(PACKAGE / "analyses" / "heads.py", "heads")
    'What kind of head is each?'
    """
    text = path.read_text(encoding="utf-8")
    docstring = re.search(rf'^def {function}\(.*?^    """(.*?)(?:\n\n|""")', text, re.M | re.S)
    return " ".join(docstring[1].split()) if docstring else ""


def _entry(kind: Kind, path: Path) -> Entry | None:
    """What is marked in this file; None for a file that only helps others."""
    text = path.read_text(encoding="utf-8")
    if f"\n@{kind.mark}" not in text:  # most files that only help are long
        return None
    marked = list(_marked(ast.parse(text), kind.mark))
    if not marked:
        return None
    function, mark = marked[0]
    if len(marked) > 1 or function.name != path.stem:
        raise TypeError(f"{path} should mark one function @{kind.mark}, named {path.stem}")
    said = {
        keyword.arg: keyword.value.value
        for keyword in (mark.keywords if isinstance(mark, ast.Call) else ())
        if keyword.arg and isinstance(keyword.value, ast.Constant)
    }
    meaning = " ".join((ast.get_docstring(function) or "").split("\n\n")[0].split())
    name = function.name.replace("_", "-") if kind.dashes else function.name
    module = f"{__package__}.{kind.room.replace('/', '.')}.{path.stem}"
    return Entry(name, module, function.name, meaning, MappingProxyType(said))


def _marked(tree: ast.Module, name: str) -> Iterator[tuple[ast.FunctionDef, ast.expr]]:
    """The functions that have this mark, and the mark as it is written."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            for mark in node.decorator_list:
                called = mark.func if isinstance(mark, ast.Call) else mark
                if isinstance(called, ast.Name) and called.id == name:
                    yield node, mark


class Lazy(Mapping[str, Value], Generic[Value]):
    """A mapping from these names, in their order, to values that are made when first asked for.

    >>> squares = Lazy(["2", "3"], lambda name: int(name) ** 2)
    >>> "4" in squares, squares["3"]
    (False, 9)
    """

    def __init__(self, names: Sequence[str], make: Callable[[str], Value]) -> None:
        self.names, self.make = dict.fromkeys(names), cache(make)

    def __getitem__(self, name: str) -> Value:
        if name not in self.names:
            raise KeyError(name)
        return self.make(name)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class Catalog(Mapping[str, Value], Generic[Value]):
    """All things of a kind by name; each file is imported when its thing is asked for.

    >>> from circuits.metrics import METRICS
    >>> "kl" in METRICS, METRICS["kl"].unit
    (True, 'nats')
    """

    def __init__(self, kind: Kind) -> None:
        self.kind = kind

    def __getitem__(self, name: str) -> Value:
        entry = entries(self.kind)[name]
        value: Value = getattr(import_module(entry.module), entry.function)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(entries(self.kind))

    def __len__(self) -> int:
        return len(entries(self.kind))

    def require(self, name: str) -> Value:
        """The thing of this name.

        Raises:
            CircuitsError: for an unknown name, with the nearest one.
        """
        return self[known(self.kind, name)]


def known(kind: Kind, name: str) -> str:
    """The name, if something of this kind has it; nothing is imported.

    Raises:
        CircuitsError: for an unknown name, with the nearest one.
    """
    name = name.replace("_", "-") if kind.dashes else name
    names = entries(kind)
    if name not in names:
        raise CircuitsError(
            f"there is no {kind.what} {name!r}; choose {', '.join(names)}{nearest(name, names)}"
        )
    return name


def filled(text: str) -> str:
    """A help text with the lists that it asks for by names in braces.

    These are {metrics}, {tasks}, {usual tasks}, {methods} and {discoveries}.

    >>> filled("One of {usual tasks}, by {metrics}.")[:51]
    'One of repeated, ioi and sorting, by accuracy, kl, '
    """
    return re.sub(
        r"\{(metrics|tasks|usual tasks|methods|discoveries)\}", lambda m: _list(m[1]), text
    )


def _list(name: str) -> str:
    if name == "usual tasks":
        return joined(usual(TASK), "and")
    if name in ("methods", "discoveries"):
        kind = METHOD if name == "methods" else DISCOVERY
        notes = {name: entry.said.get("note") for name, entry in entries(kind).items()}
        return joined([f"{n} ({note})" if note else n for n, note in notes.items()], "or")
    return joined([*entries({"metrics": METRIC, "tasks": TASK}[name])], "or")


def joined(words: Sequence[str], last: str = "or") -> str:
    """The words as a list in a sentence.

    >>> joined(["a", "b", "c"])
    'a, b or c'
    """
    return f"{', '.join(words[:-1])} {last} {words[-1]}"
