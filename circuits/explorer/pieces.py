"""What questions are, what they answer in pieces, and which options they take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from circuits.catalog import Catalog, Kind
from circuits.errors import CircuitsError, brief, nearest

if TYPE_CHECKING:
    from circuits.explorer.desk import Desk
    from circuits.explorer.view import JSON, View

QUESTION = Kind("explorer/questions", "question", "question")


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of an answer. `kind` is what JSON calls it; its other fields are what it says."""

    kind: ClassVar[str] = "piece"


@dataclass(frozen=True, eq=False)
class Take(Piece):
    """How the same numbers are had without the page.

    Attributes:
        command: lines for a terminal; empty where no command gives these numbers, as those of an
            edited model, or after a text that does not begin with the same tokens.
        python: lines of Python, which leave the numbers in variables.
    """

    kind: ClassVar[str] = "take"
    command: str
    python: str


@dataclass(frozen=True, eq=False)
class Note(Piece):
    """A sentence that says why something is not there."""

    kind: ClassVar[str] = "note"
    about: str
    text: str


Given = TypeVar("Given", str, int, bool)


@dataclass(frozen=True)
class Options:
    """The options of a question, read one by one; `refuse_others` when all have been."""

    given: Mapping[str, Any]

    def read(self, name: str, default: Given, *, allowed: tuple[Given, ...] = ()) -> Given:
        """The option of this name.

        Raises:
            CircuitsError: when it is of another type than its default, or not allowed.
        """
        value = self.given.get(name, default)
        if type(value) is not type(default):
            kinds = {str: "a text", int: "a whole number", bool: "true or false"}
            raise CircuitsError(f"{name} is {brief(value)}; give {kinds[type(default)]}")
        if allowed and value not in allowed:
            listed = [str(each) for each in allowed]
            raise CircuitsError(
                f"{name} is {brief(value)}; choose {', '.join(listed)}{nearest(str(value), listed)}"
            )
        return value

    def require(self, name: str, example: Given) -> Given:
        """The option of this name, which has no default.

        Raises:
            CircuitsError: when it was not given, or is of another type than the example.
        """
        if self.given.get(name) is None:
            raise CircuitsError(f"{name} is missing; give one, such as {example!r}")
        return self.read(name, example)

    def only(self, *names: str) -> None:
        """Refuse options besides these.

        Raises:
            CircuitsError: naming the one that there is not.
        """
        for name in self.given:
            if name not in names:
                takes = f"it takes {', '.join(names)}" if names else "it takes none"
                raise CircuitsError(
                    f"this question has no option {brief(name)}; {takes}{nearest(str(name), names)}"
                )


Question = Callable[["Desk", "View", Options], Iterator[Piece]]
QUESTIONS: Catalog[Question] = Catalog(QUESTION)


def question(ask: Question) -> Question:
    """Mark the function that answers the question of its name.

    Alone in a file of `circuits/explorer/questions/` that has its name, it is found there. It
    yields pieces, so that what is shown first is computed first and an answer can be given up
    between two of them. What it changes while it runs (hooks) is gone whenever it yields.
    """
    return ask


def about_json(given: JSON) -> Options:
    """The options that came as JSON.

    Raises:
        CircuitsError: for anything but an object.
    """
    if not isinstance(given, Mapping):
        raise CircuitsError(f"options are {brief(given)}; give an object")
    return Options(given)
