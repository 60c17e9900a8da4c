"""Options of an analysis, given as words: all_heads=true, task=ioi."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from circuits.errors import CircuitsError, nearest
from circuits.registry import Recipe, members

_SWITCH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def parsed(recipe: Recipe, words: Sequence[str], *, without: Sequence[str] = ()) -> dict[str, Any]:
    """What do these words mean to this analysis? Named and typed as its signature says.

    A list is given by repeating its name. `without` are parameters that cannot be given.

    Raises:
        CircuitsError: for words without =, options that the analysis lacks, and values that do not
            fit.

    >>> from circuits.registry import find
    >>> parsed(find("ablate"), ["all_heads=true", "n=5", "component=m0", "component=m1"])
    {'all_heads': True, 'n': 5, 'component': ['m0', 'm1']}
    """
    found: dict[str, Any] = {}
    for word in words:
        name, is_set, text = word.partition("=")
        name = name.strip().lstrip("-").replace("-", "_")
        if not is_set:
            raise CircuitsError(f"{word!r}: write an option of {recipe.name} as name=value")
        parameter = _parameter(recipe, name, without)
        value = _value(recipe, parameter, text.strip())
        if _is_list(parameter.annotation):
            found.setdefault(parameter.name, []).append(value)
        elif parameter.name in found:
            raise CircuitsError(f"{name} was given twice; {recipe.name} takes it once")
        else:
            found[parameter.name] = value
    return found


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


def required(recipe: Recipe, given: Mapping[str, Any]) -> None:
    """Is everything given that the analysis cannot do without?

    Raises:
        CircuitsError: naming what is missing.
    """
    missing = [
        name
        for name, parameter in recipe.signature.parameters.items()
        if parameter.default is inspect.Parameter.empty and name not in given
    ]
    if missing:
        raise CircuitsError(f"{recipe.name} needs {', '.join(missing)}; set {missing[0]}=...")


def _is_list(annotation: Any) -> bool:
    return any(get_origin(member) not in (None, Literal) for member in members(annotation))


def _value(recipe: Recipe, parameter: inspect.Parameter, text: str) -> Any:
    """The text as the first of the parameter's types that takes it."""
    types = members(parameter.annotation)
    words = [w for m in types if get_origin(m) is Literal for w in get_args(m)]
    if text in words:
        return text
    for member in types:
        if member is bool and text.lower() in _SWITCH:
            return _SWITCH[text.lower()]
        if member in (int, float):
            try:
                return member(text)
            except ValueError:
                continue
    if {str, Path} & {*types} or _is_list(parameter.annotation):
        return text
    kinds = {bool: "true or false", int: "a whole number", float: "a number"}
    allowed = [*words, *(kinds[member] for member in types if member in kinds)]
    raise CircuitsError(
        f"{parameter.name}={text!r}: {recipe.name} takes {', '.join(allowed)}{nearest(text, words)}"
    )
