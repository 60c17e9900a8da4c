"""What one looks at: a prompt, where in it, what is followed, and what is edited meanwhile."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from circuits.errors import CircuitsError, brief, nearest

JSON = None | bool | int | float | str | Sequence["JSON"] | Mapping[str, "JSON"]
How = Literal["zero", "mean", "patch", "freeze", "scale", "steer"]
Token = str | int  # its text, or its id
HOW: tuple[How, ...] = get_args(How)
MOST_CHARACTERS = 20_000  # of a prompt
MOST_OF_A_NAME = 200  # characters of a token or of a part's name
MOST_EDITS = 50
LARGEST = 1e6  # factor or strength of an edit
_KINDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


@dataclass(frozen=True)
class Edit:
    """One intervention that stays on while one looks.

    Attributes:
        part: where, in the grammar of `circuits.components`: a5.h3, m7, a5, resid_pre.6@4.
        how: ``zero`` and ``mean`` (over the prompt's tokens) replace what the part writes;
            ``patch`` by what it writes in the contrasting prompt; ``freeze`` holds the attention
            patterns of a head or layer as they are without any edit; ``scale`` multiplies;
            ``steer`` adds a token's unembedding direction.
        amount: the factor of ``scale``; of ``steer`` the length of what is added, as a share of
            the length of what passes there.
        token: the token of ``steer``.
        on: whether it is on.

    >>> Edit.read({"part": "a5.h3", "how": "zero"})
    Edit(part='a5.h3', how='zero', amount=1.0, token=None, on=True)
    """

    part: str
    how: How
    amount: float = 1.0
    token: Token | None = None
    on: bool = True

    def __post_init__(self) -> None:
        if self.how not in HOW:
            raise CircuitsError(
                f"there is no edit {brief(self.how)}; choose {', '.join(HOW)}"
                f"{nearest(str(self.how), HOW)}"
            )
        if not math.isfinite(self.amount) or abs(self.amount) > LARGEST:
            raise CircuitsError(
                f"amount={self.amount}: give a number from -{LARGEST:g} to {LARGEST:g}"
            )
        if (self.how == "steer") != (self.token is not None):
            raise CircuitsError(
                f"{self.how} {self.part}: a token belongs to steer, and to no other edit; "
                f"{'name one' if self.token is None else 'leave it out'}"
            )

    @classmethod
    def read(cls, given: JSON) -> Edit:
        """The edit that this says.

        Raises:
            CircuitsError: for anything else than `json` writes.
        """
        said = _object(given, "an edit", cls)
        return cls(
            part=_text(_value(said, "part", str, "an edit"), "part", MOST_OF_A_NAME),
            how=_value(said, "how", str, "an edit"),
            amount=float(_value(said, "amount", (int, float), "an edit", 1.0)),
            token=_token(said, "token"),
            on=_value(said, "on", bool, "an edit", True),
        )

    def json(self) -> dict[str, JSON]:
        """Its fields by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class View:
    """What every question is asked about.

    Attributes:
        prompt: the text; token ids, separated by spaces, for a model without a tokenizer.
        contrast: a second prompt, which differs from it where it matters; or None.
        at: the position after which is predicted, counted from the prompt's first token, the start
            token included; negative ones from the end.
        answer: the token that is followed, as text or id; None for the likeliest.
        distractor: the token it is compared with; None for the likeliest other one.
        tray: edits that stay on.

    >>> View.read({"prompt": "Once upon a", "at": 2}).at
    2
    """

    prompt: str
    contrast: str | None = None
    at: int = -1
    answer: Token | None = None
    distractor: Token | None = None
    tray: tuple[Edit, ...] = ()

    def __post_init__(self) -> None:
        if len(self.tray) > MOST_EDITS:
            raise CircuitsError(
                f"{len(self.tray)} edits are in the tray; take some out, at most {MOST_EDITS} "
                "can stay"
            )

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The edits that are on."""
        return tuple(edit for edit in self.tray if edit.on)

    @classmethod
    def read(cls, given: JSON) -> View:
        """The view that this says, as it comes from a page.

        Raises:
            CircuitsError: for a type or size that no view has.
        """
        said = _object(given, "a view", cls)
        contrast = said.get("contrast")
        tray = said.get("tray", [])
        if not isinstance(tray, list | tuple):
            raise CircuitsError(f"tray is {brief(tray)}; give a list of edits")
        if len(tray) > MOST_EDITS:  # before any is read
            raise CircuitsError(f"{len(tray)} edits are in the tray; at most {MOST_EDITS} can stay")
        return cls(
            prompt=_text(_value(said, "prompt", str, "a view"), "prompt", MOST_CHARACTERS),
            contrast=None if contrast is None else _text(contrast, "contrast", MOST_CHARACTERS),
            at=_value(said, "at", int, "a view", -1),
            answer=_token(said, "answer"),
            distractor=_token(said, "distractor"),
            tray=tuple(Edit.read(each) for each in tray),
        )

    def json(self) -> dict[str, JSON]:
        """Its fields by name, in types of JSON."""
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**said, "tray": [edit.json() for edit in self.tray]}


def _object(given: JSON, what: str, cls: type[Any]) -> Mapping[str, Any]:
    """The object, of which every name is a field."""
    if not isinstance(given, Mapping):
        raise CircuitsError(f"{brief(given)} is not {what}; give an object with its fields")
    known = [field.name for field in fields(cls)]
    for name in given:
        if name not in known:
            raise CircuitsError(
                f"{what} has no {brief(name)}; its fields are {', '.join(known)}"
                f"{nearest(str(name), known)}"
            )
    return given


def _value(
    said: Mapping[str, Any], name: str, kind: type[Any] | tuple[type[Any], ...], what: str,
    default: Any = None,
) -> Any:  # fmt: skip
    """The field of this name; Python calls True a number, which JSON does not."""
    value = said.get(name, default)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        raise CircuitsError(f"{name} of {what} is {brief(value)}; give {_KINDS[kinds[-1]]}")
    return value


def _text(value: JSON, name: str, most: int) -> str:
    if not isinstance(value, str):
        raise CircuitsError(f"{name} is {brief(value)}; give a text")
    if len(value) > most:
        raise CircuitsError(f"{name} has {len(value)} characters; give at most {most}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise CircuitsError(f"{name} has half a character (a lone surrogate); leave it out") from (
            error
        )
    return value


def _token(said: Mapping[str, Any], name: str) -> Token | None:
    """A token as text or id, or none."""
    value = said.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return None if value is None else _text(value, name, MOST_OF_A_NAME)
