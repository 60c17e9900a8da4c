"""Arguments of an analysis in words, as a command line has them: all_heads=true, task=ioi."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from circuits.errors import CircuitsError, nearest
from circuits.registry.recipes import Recipe, members

_SWITCH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def arguments(
    recipe: Recipe,
    words: Sequence[str],
    values: Mapping[str, object],
    *,
    without: Sequence[str] = (),
) -> dict[str, object]:
    """What an analysis is called with, given in `words` and, others, as Python `values`.

    `without` are parameters that cannot be given.

    Raises:
        CircuitsError: for words that `parsed` refuses, values that no option takes or that were
            given twice, and where something is missing that the analysis needs.
    """
    from_words = parsed(recipe, words, without=without)
    every = inspect.signature(recipe.load()).parameters
    known = [name for name in every if name not in {"model", "progress", *without}]
    for name in values:
        if name not in known or name in from_words:
            why = "was given twice" if name in from_words else f"is no option of {recipe.name}"
            raise CircuitsError(
                f"{name} {why}; its options are {', '.join(known)}{nearest(name, known)}"
            )
    given = from_words | dict(values)
    missing = [
        name
        for name, parameter in recipe.signature.parameters.items()
        if parameter.default is inspect.Parameter.empty and name not in given
    ]
    if missing:
        raise CircuitsError(f"{recipe.name} needs {', '.join(missing)}; set {missing[0]}=...")
    return given


def parsed(recipe: Recipe, words: Sequence[str], *, without: Sequence[str] = ()) -> dict[str, Any]:
    """What these words mean to this analysis: named and typed as its signature says.

    A list is given by repeating its name. `without` are parameters that cannot be given.

    Raises:
        CircuitsError: for words without =, options that the analysis lacks, and values that do not
            fit.

    >>> from circuits.registry import find
    >>> parsed(find("ablate"), ["all_heads=true", "n=5", "component=m0", "component=m1"])
    {'all_heads': True, 'n': 5, 'component': ['m0', 'm1']}
    """
    given: dict[str, Any] = {}
    for word in words:
        name, is_set, text = word.partition("=")
        name = name.strip().lstrip("-").replace("-", "_")
        if not is_set:
            raise CircuitsError(f"{word!r}: write an option of {recipe.name} as name=value")
        parameter = _parameter(recipe, name, without)
        value = _value(recipe, parameter, text.strip())
        if _is_list(parameter.annotation):
            given.setdefault(parameter.name, []).append(value)
        elif parameter.name in given:
            raise CircuitsError(f"{name} was given twice; {recipe.name} takes it once")
        else:
            given[parameter.name] = value
    return given


def in_words(values: Mapping[str, object]) -> list[str]:
    """Python values in words, as far as words can give them: objects are left out.

    >>> in_words({"all_heads": True, "component": ["m0", "m1"]})
    ['all_heads=true', 'component=m0', 'component=m1']
    """
    words = []
    for name, value in values.items():
        for item in value if isinstance(value, list | tuple) else [value]:
            if isinstance(item, str | int | float):
                words.append(f"{name}={str(item).lower() if isinstance(item, bool) else item}")
    return words


def _parameter(recipe: Recipe, name: str, without: Sequence[str]) -> inspect.Parameter:
    known = {
        key.rstrip("_"): parameter
        for key, parameter in recipe.signature.parameters.items()
        if key not in without
    }
    if name.rstrip("_") not in known:
        raise CircuitsError(
            f"{recipe.name} has no option {name!r}; it has {', '.join(known)}{nearest(name, known)}"
        )
    return known[name.rstrip("_")]


def _is_list(annotation: Any) -> bool:
    return any(get_origin(member) not in (None, Literal) for member in members(annotation))


def _value(recipe: Recipe, parameter: inspect.Parameter, text: str) -> Any:
    """The text as the first of the parameter's types that takes it."""
    kinds = members(parameter.annotation)
    words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    if text in words:
        return text
    for kind in kinds:
        if kind is bool and text.lower() in _SWITCH:
            return _SWITCH[text.lower()]
        if kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                continue
    if {str, Path} & {*kinds} or _is_list(parameter.annotation):
        return text
    said = {bool: "true or false", int: "a whole number", float: "a number"}
    allowed = [*words, *(said[kind] for kind in kinds if kind in said)]
    raise CircuitsError(
        f"{parameter.name}={text!r}: {recipe.name} takes {', '.join(allowed)}{nearest(text, words)}"
    )
