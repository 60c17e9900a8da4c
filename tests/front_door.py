"""What editors and mypy read of the package's front door: `python tests/front_door.py` writes it.

The names of `circuits` are imported when they are first used, and a question's options stand in
groups, so that no editor could see either. ``circuits/__init__.pyi`` spells out both.
"""

from __future__ import annotations

import ast
import builtins
import sys
import typing
from pathlib import Path

from house import ROOT

import circuits
from circuits.registry import analyses, parameters, shared_helps

STUB = ROOT / "circuits/__init__.pyi"
OPTIONS = "circuits.registry.options"
HEAD = '''"""The front door, as editors and type checkers see it. Written by tests/front_door.py."""

'''


def stub() -> str:
    """The text of ``circuits/__init__.pyi``."""
    imports = {
        (f"circuits.{module}", name) for module, names in circuits._HOME.items() for name in names
    }
    functions = []
    for recipe in analyses().values():
        signature = []
        keyword_only = False
        for option in parameters(recipe.module):
            is_shared = option.name in shared_helps() and option.help
            home = OPTIONS if is_shared else recipe.module
            if option.keyword_only and not keyword_only:
                signature.append("*")
                keyword_only = True
            imports |= {(where(name, home), name) for name in _names(option.annotation)}
            default = "" if option.default is None else " = ..."
            kind = ast.unparse(option.annotation) if option.annotation else "object"
            signature.append(f"{option.name}: {kind}{default}")
        if recipe.function == "diff":  # whose options are also those of the analysis it asks
            signature.append("**options: object")
        body = "".join(f"    {each},\n" for each in signature)
        functions.append(
            f'def {recipe.function}(\n{body}) -> Result:\n    """{recipe.question}"""\n'
        )
    lines = sorted(f"from {home} import {name} as {name}" for home, name in imports)
    return f"{HEAD}" + "\n".join(lines) + "\n\n__version__: str\n\n" + "\n".join(functions)


def where(name: str, module: str) -> str:
    """The module from which a name comes that is used in this one; its own if it is made there."""
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}:
            return str(node.module)
    return "typing" if hasattr(typing, name) else module  # of an alias that another file spells


def _names(annotation: ast.expr | None) -> set[str]:
    nodes = [] if annotation is None else list(ast.walk(annotation))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    return {name for name in names if not hasattr(builtins, name)}


def main() -> None:
    """Write it."""
    new = stub()
    is_current = STUB.is_file() and STUB.read_text(encoding="utf-8") == new
    Path(STUB).write_text(new, encoding="utf-8")
    sys.stdout.write(f"{STUB.name} {'was' if is_current else 'is now'} current\n")


if __name__ == "__main__":
    main()
