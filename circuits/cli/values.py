"""What was typed, as values, without pydantic: importing it takes longer than help itself.

typer converts by it. What is plainly a value of its type is read here, the same to the last bit;
anything else, and with it every error, is typer's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import typer

NUMBERS = {int: re.compile(r"-?[0-9]{1,15}"), float: re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?")}


def lightly(params: list[Any]) -> list[Any]:
    """The same options and arguments of a command, which convert plain values by themselves."""
    for param in params:
        usual = getattr(param, "get_runtime_param", None)  # which some versions of typer lack
        if usual is not None and not isinstance(usual, _Reader):
            param.get_runtime_param = _Reader(usual)
    return params


@dataclass(frozen=True)
class _Reader:
    """In the place of an option's method that makes what converts its values; `usual` is that."""

    usual: Callable[[], Any]

    def __call__(self) -> _Reader:
        return self

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value, as typer would convert it."""
        try:
            return _plainly(value, param)
        except (ValueError, typer.BadParameter):
            return self.usual().coerce(value, param=param, ctx=ctx)


def _plainly(value: Any, param: Any) -> Any:
    """What is plainly a value of the parameter's type.

    Raises:
        ValueError: for anything else; or what the parameter's parser raises.
    """
    if value is None:
        return () if param.multiple or param.nargs == -1 else None
    kind, parser = param.type_descriptor.annotation, param.type_descriptor.parameter_info.parser
    if parser is not None:
        return parser(value)
    if param.type_descriptor.is_ranged:
        raise ValueError("typer knows the range")
    if kind in (bool, int, float, str) and type(value) is kind:
        return value
    if kind in NUMBERS and isinstance(value, str) and NUMBERS[kind].fullmatch(value):
        return kind(value)
    if kind == list[str] and isinstance(value, list | tuple) and {*map(type, value)} <= {str}:
        return list(value)
    raise ValueError("typer knows what it is")
