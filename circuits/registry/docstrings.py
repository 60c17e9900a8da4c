"""What the docstring of an analysis says, section by section."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass

ARGS = re.compile(r"^Args:\n((?:[ ]+.*(?:\n|$))+)", re.M)  # the section in Google's style


@dataclass(frozen=True)
class Sections:
    """A docstring's first paragraph, the text after it, what Args say, and the examples."""

    question: str
    about: str
    helps: Mapping[str, str]
    examples: tuple[str, ...]


def sections(docstring: str) -> Sections:
    """What a docstring says, section by section."""
    first, _, rest = docstring.partition("\n\n")
    about = re.split(r"^(?:\w+:$|\s*\$ circuits |>>> )", rest, maxsplit=1, flags=re.M)[0]
    examples = tuple(re.findall(r"^ *\$ (circuits .*)$", docstring, flags=re.M))
    helps: dict[str, str] = {}
    block = ARGS.search(docstring)
    for line in inspect.cleandoc(block[1]).splitlines() if block else ():
        if entry := re.match(r"(\w+): *(.*)", line):
            name = entry[1]
            helps[name] = entry[2]
        elif line.strip():
            helps[name] += f" {line.strip()}"
    return Sections(" ".join(first.split()), about.strip(), helps, examples)
