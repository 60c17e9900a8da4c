"""The kinds of heads: how each is scored and on what behavior checked, and when it counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from circuits.errors import CircuitsError, nearest
from circuits.intervals import REAL, RIGHT_OR_WRONG, SHARE, Scale

ATTENTION, COPYING = "share of attention", "copying score"
# What one prompt's score can be: a name or an item is answered right or not.
_SCALES = {
    ATTENTION: SHARE,
    "share of items": RIGHT_OR_WRONG,
    "share of names": RIGHT_OR_WRONG,
}


@dataclass(frozen=True)
class Kind:
    """A kind of head.

    Attributes:
        name: of the kind.
        unit: of its score.
        behavior: the prompts on which ablating such a head is expected to cost something.
        margin: by how much the lower end of the score's interval has to exceed the control, and
            the floor, `floor`, for a head to be of this kind.
        group: a head of several kinds is called by one of the first group among them: what it does
            with any text (0), with names or series (1), with all names alike (2), where else it
            looks (3), what it would write (4).
        floor: what the control counts as at least: 0, unless chance is below 0.
    """

    name: str
    unit: str
    behavior: str
    margin: float
    group: int
    floor: float = 0.0

    @property
    def scale(self) -> Scale:
        """The numbers that a prompt's score can be."""
        return _SCALES.get(self.unit, REAL)


# A quarter of all attention, or of a logit; half of it for what many heads have a little of.
KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("induction", ATTENTION, "repeated", 0.25, 0),
        Kind("duplicate-token", ATTENTION, "repeated", 0.25, 0),
        Kind("previous-token", ATTENTION, "repeated", 0.25, 0),
        Kind("name-mover", "logits", "ioi", 0.25, 1),
        Kind("name-copier", "logits", "ioi", 0.25, 2),
        Kind("s-inhibition", "attention score", "ioi", 0.25, 1),
        Kind("negative", "logits", "ioi", 0.25, 1),
        Kind("successor", "share of items", "successor", 0.25, 1),
        Kind("prefix-matching", ATTENTION, "repeated", 0.25, 3),
        Kind("current-token", ATTENTION, "repeated", 0.25, 3),
        Kind("first-token", ATTENTION, "repeated", 0.5, 3),
        Kind("copying", COPYING, "repeated", 0.5, 4, floor=-1.0),
        Kind("ov-copying", COPYING, "repeated", 0.5, 4),
        Kind("name-copying", "share of names", "ioi", 0.5, 4),
    )
}
# Those scored on ioi; the last by weights and the names alone.
NAMES = ("name-mover", "name-copier", "s-inhibition", "negative", "name-copying")
WRITING = (*NAMES, "copying", "ov-copying", "successor")  # those scored by what a head writes
NONE = "none"


def chosen_kinds(kind: str | Sequence[str] | None) -> list[Kind]:
    """The kinds that are asked for, in their order; all of them without a wish.

    Raises:
        CircuitsError: for an unknown one.
    """
    named = [kind] if isinstance(kind, str) else list(kind or KINDS)
    for name in named:
        if name not in KINDS:
            raise CircuitsError(
                f"there is no kind of head {name!r}; choose {', '.join(KINDS)}"
                f"{nearest(name, KINDS)}"
            )
    return [each for name, each in KINDS.items() if name in named]


def name_of(excess: Mapping[str, float]) -> str:
    """The name of a head that exceeds the controls of these kinds by so much.

    >>> name_of({"copying": 0.9, "induction": 0.6, "name-mover": 2.0}), name_of({"negative": 0.1})
    ('induction', 'none')
    """
    clear = [KINDS[name] for name, value in excess.items() if value > KINDS[name].margin]
    clear.sort(key=lambda kind: (kind.group, -excess[kind.name] / kind.margin))
    return clear[0].name if clear else NONE
