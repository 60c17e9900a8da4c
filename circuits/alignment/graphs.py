"""Causal graphs: hypotheses about how an answer is computed from a prompt, as plain Python.

Causal abstraction (Geiger et al. 2021, arXiv 2106.02997; 2301.04709).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from circuits.errors import CircuitsError, nearest


@dataclass(frozen=True)
class Text:
    """One prompt as a graph reads it: its token ids, and at which index each role stands."""

    tokens: tuple[int, ...]
    roles: Mapping[str, int]

    def at(self, role: str) -> int:
        """The token at this role.

        >>> Text((5, 6, 7), {"END": 2}).at("END")
        7

        Raises:
            CircuitsError: when the prompt has no such role.
        """
        if role not in self.roles:
            raise CircuitsError(
                f"the causal graph asks for the position {role!r}, and the prompts have "
                f"{', '.join(self.roles)}; give prompts with this role, or another graph"
            )
        return self.tokens[self.roles[role]]


# A variable from the prompt and the variables before it; None where it has no value.
Rule = Callable[[Text, Mapping[str, Any]], Any]
# Tokens of a source prompt for a base prompt, made with another one; None where there is none.
Rewrite = Callable[[Text, Text, np.random.Generator], "Sequence[int] | None"]


def another(base: Text, other: Text, rng: np.random.Generator) -> Sequence[int] | None:
    """The other prompt itself as source, if every role stands where it stands in the base."""
    return other.tokens if other.roles == base.roles else None


@dataclass(frozen=True)
class CausalGraph:
    """Which variables lie between a prompt and its answer, and what follows from what?

    Attributes:
        task: the task whose prompts it is about.
        variables: names and rules, in the order of computation. A rule reads the prompt and the
            variables before it. The last variable is the answer: a token id.
        source: makes a source prompt for a base prompt, of the same length and roles, from another
            prompt at random; by default that other prompt itself.
        candidates: the tokens of a prompt that may be its answer. The model answers with the
            likeliest of all prompts' candidates; None for the likeliest of the whole vocabulary.

    >>> longest = CausalGraph("toy", {"first": lambda text, _: text.tokens[0],
    ...                               "answer": lambda text, known: known["first"] + 1})
    >>> text = Text((5, 6), {"END": 1})
    >>> longest.says(text), longest.says(text, {"first": 7})
    (6, 8)

    Raises:
        CircuitsError: when it has no variables.
    """

    task: str
    variables: Mapping[str, Rule]
    source: Rewrite = another
    candidates: Callable[[Text], Iterable[int]] | None = None

    def __post_init__(self) -> None:
        if not self.variables:
            raise CircuitsError("a causal graph needs at least one variable, the answer")

    def run(self, text: Text, swapped: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
        """The variables' values, where `swapped` ones have the values given."""
        values: dict[str, Any] = {}
        for name, rule in self.variables.items():
            values[name] = swapped[name] if name in swapped else rule(text, values)
        return values

    def says(self, text: Text, swapped: Mapping[str, Any] = MappingProxyType({})) -> int | None:
        """The token that is the answer; None if the graph says nothing."""
        answer = list(self.run(text, swapped).values())[-1]
        return None if answer is None else int(answer)

    def require(self, variable: str) -> str:
        """This variable's name, if there is one of this name.

        Raises:
            CircuitsError: with the names that there are.
        """
        if variable not in self.variables:
            raise CircuitsError(
                f"the causal graph of {self.task!r} has no variable {variable!r}; it has "
                f"{', '.join(self.variables)}{nearest(variable, self.variables)}"
            )
        return variable


def graph_of(task: str) -> CausalGraph:
    """Which causal graph is known for this task?

    >>> list(graph_of("ioi").variables)
    ['s', 'position', 'io']

    Raises:
        CircuitsError: when there is none.
    """
    if task not in GRAPHS:
        raise CircuitsError(
            f"no causal graph is known for {task!r}; there is one for {', '.join(GRAPHS)}, and "
            f"from Python you can give your own (graph=CausalGraph(...)){nearest(task, GRAPHS)}"
        )
    return GRAPHS[task]


def _name_places(text: Text) -> list[int]:
    """The indices of the two names, in the order of the text."""
    text.at("IO"), text.at("S1")
    return sorted((text.roles["IO"], text.roles["S1"]))


def _names(text: Text) -> list[int]:
    return [text.tokens[place] for place in _name_places(text)]


def _position(text: Text, known: Mapping[str, Any]) -> int | None:
    """0 if the repeated name is the first of the two, 1 if it is the second."""
    names = _names(text)
    return names.index(known["s"]) if known["s"] in names else None


def _io(text: Text, known: Mapping[str, Any]) -> int | None:
    return None if known["position"] is None else _names(text)[1 - known["position"]]


def _other_names(base: Text, other: Text, rng: np.random.Generator) -> Sequence[int] | None:
    """The same sentence with its names as they are, exchanged, or new; either one is repeated."""
    a, b = _names(base)
    fresh = [name for name in _names(other) if name not in (a, b)]
    options = [(a, b), (b, a)]
    if len(fresh) == 2:
        c, d = fresh
        options += [(c, d), (a, d), (c, b), (c, a), (b, d)]
    pair = options[rng.integers(len(options))]
    tokens = list(base.tokens)
    for place, name in zip(_name_places(base), pair, strict=True):
        tokens[place] = name
    base.at("S2")
    tokens[base.roles["S2"]] = pair[rng.integers(2)]
    return tokens


_A, _B, _C = range(3)  # the whole vocabulary of the task 'sorting'
_N_LETTERS = 6


def _letters(text: Text) -> list[int]:
    text.at("OUTPUT")
    output = text.roles["OUTPUT"]
    return list(text.tokens[output + 1 - _N_LETTERS : output + 1])


def _written(text: Text) -> int:
    """How many letters are in order already."""
    return text.roles["END"] - text.roles["OUTPUT"]


def _letter(text: Text, known: Mapping[str, Any]) -> int:
    k = _written(text)
    return _A if k < known["a"] else _B if k < known["a"] + known["b"] else _C


def _other_letters(base: Text, other: Text, rng: np.random.Generator) -> Sequence[int]:
    """Other letters, and as many of them in order as in the base."""
    letters, output = rng.integers(_C + 1, size=_N_LETTERS).tolist(), base.roles["OUTPUT"]
    start = base.tokens[: output + 1 - _N_LETTERS]
    return [*start, *letters, *sorted(letters)[: _written(base)]]


def _previous(text: Text, known: Mapping[str, Any]) -> tuple[int, ...]:
    """The token before each position, from position 1 to where the second copy begins."""
    text.at("SECOND")
    return text.tokens[: text.roles["SECOND"]]


def _copied(text: Text, known: Mapping[str, Any]) -> int | None:
    """The token at the only position whose previous token is the current one."""
    places = [i for i, token in enumerate(known["previous"], 1) if token == known["current"]]
    return text.tokens[places[0]] if len(places) == 1 else None


def _other_copies(base: Text, other: Text, rng: np.random.Generator) -> Sequence[int] | None:
    """The first copy rotated, another last token, other tokens, or others after the first."""
    second, end = base.roles["SECOND"], base.roles["END"]
    m = end + 1 - second
    start, copy = list(base.tokens[: second - m]), list(base.tokens[second : end + 1])
    match int(rng.integers(4)):
        case 0:
            k = int(rng.integers(1, m))
            return [*start, *copy[k:], *copy[:k], *copy]
        case 1:
            return [*base.tokens[:-1], copy[rng.integers(m - 1)]]
        case 2:
            return another(base, other, rng)
    if other.roles != base.roles:
        return None
    rest = list(other.tokens[second + 1 : end + 1])
    return [*start, copy[0], *rest, copy[0], *rest]


# What is believed about the tasks. ioi: Wang et al. 2022, section 3: find the repeated name, as a
# token or by its position, and answer with the other one. repeated: Olsson et al. 2022.
GRAPHS: Mapping[str, CausalGraph] = {
    graph.task: graph
    for graph in (
        CausalGraph(
            "ioi",
            {"s": lambda text, known: text.at("S2"), "position": _position, "io": _io},
            _other_names,
            _names,
        ),
        CausalGraph(
            "repeated",
            {
                "current": lambda text, known: text.at("END"),
                "previous": _previous,
                "copied": _copied,
            },
            _other_copies,
        ),
        CausalGraph(
            "sorting",
            {
                "a": lambda text, known: _letters(text).count(_A),
                "b": lambda text, known: _letters(text).count(_B),
                "letter": _letter,
            },
            _other_letters,
        ),
    )
}
