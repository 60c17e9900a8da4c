"""The parts of README.md that are generated: `python tests/readme.py` brings them up to date."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import typer
from house import ORDER, ROOT

from circuits.catalog import filled

README = ROOT / "README.md"


def command_table(app: typer.Typer) -> str:
    """Every command, with the question that its help answers first."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    rows = [f"| `circuits {name}` | {_first_sentence(c.help)} |" for name, c in commands.items()]
    return "\n".join(["| command | what it answers |", "| --- | --- |", *rows])


def house_map(root: Path = ROOT) -> str:
    """The rooms of the package in reading order, each with what it says it is."""
    lines = [("circuits/", "")]
    rooms = {path.stem: path for path in _visible(root / "circuits") if path.stem != "models"}
    for room in sorted(rooms, key=lambda room: ORDER.index(room) if room in ORDER else len(ORDER)):
        path = rooms[room]
        door = path if path.suffix == ".py" else path / "__init__.py"
        lines.append((f"  {path.name}{'' if path.suffix else '/'}", _docstring(door)))
    lines.append(("  models/", "The bundled checkpoints, each with its MODEL_CARD.md."))
    lines.append(("experiments/", "One script a claim."))
    lines.append(("notebooks/", "What was found, explained from the beginning."))
    lines.append(("tests/", "What every room promises; an oracle, parity, house rules."))
    width = max(len(name) for name, _ in lines) + 2
    text = "\n".join(f"{name:{width}}{line}".rstrip() for name, line in lines)
    return f"```text\n{text}\n```"


def rendered(text: str, app: typer.Typer, architectures: str | None = None) -> str:
    """README's text with its generated parts as they should be.

    The table of `architectures` takes a while, and stays as it is where it is not given.
    """
    parts = {} if architectures is None else {"architectures": f"\n{architectures}\n"}
    parts |= {
        "commands": f"\n{command_table(app)}\n",
        "map": f"\n{house_map()}\n",
        "tasks": filled("{tasks}"),  # amid a sentence
    }
    for part, body in parts.items():
        pattern = rf"(<!-- {part}:begin -->).*?(<!-- {part}:end -->)"
        text, n = re.subn(pattern, lambda m, b=body: f"{m[1]}{b}{m[2]}", text, flags=re.S)
        if n != 1:
            raise ValueError(f"README.md needs one pair of <!-- {part}:begin/end --> markers")
    return text


def blocks(text: str, language: str) -> list[str]:
    """The fenced code blocks of this language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.M | re.S)


def commands(text: str) -> list[str]:
    """The command lines that `.ci/run` takes from the file."""
    return re.findall(r"^<!-- ci -->\n```bash\n(.*?)\n```$", text, flags=re.M | re.S)


def _visible(folder: Path) -> list[Path]:
    """Files and folders of Python code, without the doors and what tools leave behind."""
    return sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith(("__", ".")) and (path.is_dir() or path.suffix == ".py")
    )


def _docstring(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else ast.Module([], [])
    return _first_sentence(ast.get_docstring(tree))


def _first_sentence(text: str | None) -> str:
    first = " ".join((text or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.?!])(?<!et al\.) ", first)[0]


def main() -> None:
    """Rewrite README.md."""
    from architecture_table import table

    from circuits.cli import app

    old = README.read_text(encoding="utf-8")
    new = rendered(old, app, table())
    README.write_text(new, encoding="utf-8")
    sys.stdout.write("README.md was current\n" if new == old else "README.md is now current\n")


if __name__ == "__main__":
    main()
