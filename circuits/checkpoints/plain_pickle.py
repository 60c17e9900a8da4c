"""Pickled dictionaries, lists, texts and numbers, read without the machine that runs pickles.

A pickle is a program. Here its instructions are looked at one by one: those that put plain values
together are followed, and any other, which could call something, is an error.
"""

from __future__ import annotations

import pickletools
from pathlib import Path
from typing import Any, cast

from circuits.errors import CheckpointError

_IGNORED = {"PROTO", "FRAME"}
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
# Instructions whose argument is the value itself: texts, bytes and numbers.
_TEXTS = ("UNICODE", "BINUNICODE", "STRING", "BINSTRING", "BINBYTES")
_VALUES = (*_TEXTS, "INT", "LONG", "FLOAT", "BININT", "BINFLOAT")
_STORES, _LOADS = ("PUT", "BINPUT", "LONG_BINPUT"), ("GET", "BINGET", "LONG_BINGET")
_MARK = object()


def read_plain(path: Path) -> Any:
    """The value in a pickle of dictionaries, lists, texts and numbers.

    Raises:
        CheckpointError: when it is damaged, or does anything but build such a value.
    """
    try:
        return _followed(path.read_bytes(), path)
    except CheckpointError:
        raise
    except Exception as error:  # what damaged bytes make of the reader's own stack
        raise CheckpointError(f"{path} is no pickle, or damaged: copy it again") from error


def _followed(content: bytes, path: Path) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for step, given, _ in pickletools.genops(content):
        name, argument = step.name, cast(Any, given)
        if name == "STOP":
            (value,) = stack
            return value
        if name in _IGNORED:
            continue
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _STORES:
            memo[int(argument)] = stack[-1]
        elif name in _LOADS:
            stack.append(memo[int(argument)])
        elif name.removeprefix("SHORT_").startswith(_VALUES):
            stack.append(argument)
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        else:
            _build(name, stack, path)
    raise ValueError("no end")


def _build(name: str, stack: list[Any], path: Path) -> None:
    """Put what lies on the stack into a container."""
    if name in ("SETITEM", "APPEND"):
        items = [stack.pop() for _ in range(2 if name == "SETITEM" else 1)][::-1]
    elif name in ("SETITEMS", "APPENDS", "DICT", "LIST", "TUPLE"):
        items = _above_mark(stack)
    elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
        items = [stack.pop() for _ in range(int(name[-1]))][::-1]
    else:
        raise CheckpointError(
            f"{path} does more than hold dictionaries, lists, texts and numbers ({name}), which "
            "may run code; it is not read"
        )
    if name.startswith("TUPLE"):
        stack.append(tuple(items))
    elif name == "LIST":
        stack.append(items)
    elif name == "DICT":
        stack.append(dict(zip(items[::2], items[1::2], strict=True)))
    elif name.startswith("SETITEM"):
        stack[-1].update(zip(items[::2], items[1::2], strict=True))
    else:
        stack[-1].extend(items)


def _above_mark(stack: list[Any]) -> list[Any]:
    items: list[Any] = []
    while (top := stack.pop()) is not _MARK:
        items.append(top)
    return items[::-1]
