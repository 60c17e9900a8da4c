"""The house rules: what a file of this project may look like, read from its syntax tree.

A rule is a generator that takes a `Source` and yields (line, complaint). `test_house_rules.py` runs
every rule on every file, and shows every rule a snippet that breaks it. What ruff or mypy can say
(docstrings, types, print, pickles, bare excepts, globals) is their part: see pyproject.toml.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent

# The rooms of the package in reading order: a file imports only from rooms above its own.
ORDER = (
    "errors",
    "catalog",
    "files",
    "progress",
    "arrays",
    "precision",
    "config",
    "tokenizer",
    "components",
    "sites",
    "steps",
    "hooks",
    "inputs",
    "padding",
    "batch",
    "backend",
    "factored",
    "decompose",
    "cache",
    "kv_cache",
    "sampling",
    "generation",
    "model",
    "architectures",
    "checkpoints",
    "adapter",
    "weights",
    "memory",
    "interventions",
    "intervals",
    "agreement",
    "metrics",
    "prompts",
    "detectors",
    "figures",
    "circuit",
    "result",
    "training",
    "transformer_lens",
    "tuned_lens",
    "experiment",
    "attribution",
    "qk_ov",
    "head_kinds",
    "sweep",
    "discovery",
    "registry",
    "comparison",
    "effects",
    "evaluation",
    "alignment",
    "text_windows",
    "mlp_neurons",
    "pages",
    "analyses",
    "explorer",
    "cli",
)
TOP = ("__init__", "__main__")  # the front doors see every room

MAX_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS = 400, 60, 7

# Functions whose keyword-only options are not counted: each is one question with many variations.
MANY_OPTIONS = (
    "circuits/model/hooked.py:HookedModel.forward",
    "circuits/cache.py:run_with_cache",
    "circuits/generation.py:stream",
    "circuits/generation.py:generate",
    "circuits/detectors.py:detect_head",
)
MANY_OPTIONS_ROOMS = ("circuits/analyses/", "circuits/cli/")  # options of the command line
FOREIGN_SIGNATURES = "circuits/transformer_lens/"  # whose public functions take what theirs take

# Character classes keep these patterns from finding themselves.
ONE_MACHINE = re.compile(r"[/]work/|[/]root/|[/]home/\w|(?<!scope=\")\bs[e]ssions?\b", re.I)
UNFINISHED = re.compile(r"\b(TO[D]O|FIX[M]E|X[X]X|NotImplementedErro[r])\b")

Function = ast.FunctionDef | ast.AsyncFunctionDef
Complaint = tuple[int, str]


@dataclass(frozen=True)
class Source:
    """One file: its path from the repository's root, and its text."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def in_package(self) -> bool:
        return self.path.startswith("circuits/")

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @cached_property
    def functions(self) -> dict[str, Function]:
        """Every function by its dotted name, nested ones too."""
        return {name: node for name, node in _named(self.tree) if isinstance(node, Function)}

    @cached_property
    def public(self) -> dict[str, Function | ast.ClassDef]:
        """What a user can reach: no leading underscore anywhere, not local to a function."""
        return {
            name: node
            for name, node in _named(self.tree)
            if not any(part.startswith("_") for part in name.split("."))
            and not any(f"{outer}." in f"{name}." and outer != name for outer in self.functions)
        }


Rule = Callable[[Source], Iterator[Complaint]]


def _named(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function | ast.ClassDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef):
            yield prefix + child.name, child
            yield from _named(child, f"{prefix}{child.name}.")
        else:
            yield from _named(child, prefix)


def sources(*folders: str) -> list[Source]:
    """All Python files below these folders of the repository."""
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return [Source(p.relative_to(ROOT).as_posix(), p.read_text(encoding="utf-8")) for p in paths]


def short_files(source: Source) -> Iterator[Complaint]:
    """A file is at most 400 lines long."""
    n = len(source.text.splitlines())
    if n > MAX_LINES:
        yield n, f"{n} lines; at most {MAX_LINES}: split it along a concept of the field"


def short_functions(source: Source) -> Iterator[Complaint]:
    """A function is at most 60 lines long."""
    for name, node in source.functions.items():
        n = (node.end_lineno or node.lineno) - node.lineno + 1
        if n > MAX_FUNCTION_LINES:
            yield node.lineno, f"{name} has {n} lines; at most {MAX_FUNCTION_LINES}"


def few_parameters(source: Source) -> Iterator[Complaint]:
    """A function takes at most 7 parameters, itself not counted."""
    for name, node in source.functions.items():
        args = node.args
        names = [a.arg for a in [*args.posonlyargs, *args.args] if a.arg not in ("self", "cls")]
        exempt = f"{source.path}:{name}" in MANY_OPTIONS or (
            name in source.public and source.path.startswith(MANY_OPTIONS_ROOMS)
        )
        seen = name.removesuffix(".__init__") in source.public
        if seen and source.path.startswith(FOREIGN_SIGNATURES):
            continue
        n = len(names) + (0 if exempt else len(args.kwonlyargs))
        if n > MAX_PARAMETERS:
            yield node.lineno, f"{name} has {n} parameters; at most {MAX_PARAMETERS}"


def imports_from_above(source: Source) -> Iterator[Complaint]:
    """A file imports only from rooms above its own, and says so at the room's name."""
    if not source.in_package or (source.path.count("/") == 1 and _room(source.path) in TOP):
        return
    here = _room(source.path)
    if here not in ORDER:
        yield 1, f"{here!r} has no place in ORDER (tests/house.py)"
        return
    free = {id(n) for block in source.nodes if _is_type_checking(block) for n in ast.walk(block)}
    for node in source.nodes:
        if id(node) in free or not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        for module in _imported(node, source.path):
            parts = module.split(".")
            if parts[0] != "circuits" or module == "circuits.__version__":
                continue
            room = parts[1] if len(parts) > 1 else ""
            if room not in ORDER:
                yield node.lineno, f"import from the room itself, not from {module!r}"
            elif ORDER.index(room) > ORDER.index(here):
                yield node.lineno, f"{here} comes before {room}, and imports from it"


def _room(path: str) -> str:
    return PurePosixPath(path).parts[1].removesuffix(".py")


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in (
        "TYPE_CHECKING",
        "typing.TYPE_CHECKING",
    )


def _imported(node: ast.Import | ast.ImportFrom, path: str) -> list[str]:
    """The modules that a statement imports, absolute."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if node.level:
        package = PurePosixPath(path).parts[: -node.level]
        base = ".".join([*package, *([node.module] if node.module else [])])
    else:
        base = node.module or ""
    if base != "circuits":
        return [base]
    return [f"circuits.{alias.name}" for alias in node.names]


def no_forbidden_calls(source: Source) -> Iterator[Complaint]:
    """No `.cuda()`, no call that runs a text or a file as code; ruff finds eval and exec."""
    for node in source.nodes:
        if not isinstance(node, ast.Call):
            continue
        func, keywords = node.func, {k.arg: ast.unparse(k.value) for k in node.keywords}
        if isinstance(func, ast.Name):
            if func.id in ("compile", "__import__"):
                yield node.lineno, f"{func.id}() runs text as code"
        elif isinstance(func, ast.Attribute):
            called = ast.unparse(func)
            if func.attr == "cuda":
                yield node.lineno, ".cuda(): use .to(device)"
            if called == "torch.load" and keywords.get("weights_only") != "True":
                yield node.lineno, "torch.load without weights_only=True runs a file's code"
            if keywords.get("allow_pickle") == "True":
                yield node.lineno, "allow_pickle=True runs a file's code"


def finished(source: Source) -> Iterator[Complaint]:
    """No stubs and no notes to oneself."""
    yield from _matches(UNFINISHED, source, "finish it, or leave it out")


def about_the_package(source: Source) -> Iterator[Complaint]:
    """The text is about the package, not about the machine or the day it was written on."""
    yield from _matches(ONE_MACHINE, source, "means nothing to a reader elsewhere")


def _matches(pattern: re.Pattern[str], source: Source, complaint: str) -> Iterator[Complaint]:
    for number, line in enumerate(source.text.splitlines(), 1):
        if match := pattern.search(line):
            yield number, f"{match.group()!r} {complaint}"


def tests_can_fail(source: Source) -> Iterator[Complaint]:
    """Every test asserts something, itself or through a helper of its file."""
    if not PurePosixPath(source.path).name.startswith("test_"):
        return
    asserting = {  # close = partial(assert_close, ...)
        target.id
        for node in source.tree.body
        if isinstance(node, ast.Assign) and "assert" in ast.unparse(node.value)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    known = -1
    while known < (known := len(asserting)):
        asserting |= {
            name.split(".")[-1]
            for name, node in source.functions.items()
            if any(_asserts(inner, asserting) for inner in ast.walk(node))
        }
    for name, node in source.functions.items():
        last = name.split(".")[-1]
        if last.startswith("test_") and last not in asserting:
            yield node.lineno, f"{name} asserts nothing"


def _asserts(node: ast.AST, helpers: set[str]) -> bool:
    if isinstance(node, ast.Call):
        name = ast.unparse(node.func).split(".")[-1]
        return name in helpers or name.startswith(("assert", "check", "raises", "warns", "fail"))
    return isinstance(node, ast.Assert)


PYTHON_RULES: tuple[Rule, ...] = (
    short_files,
    short_functions,
    few_parameters,
    imports_from_above,
    no_forbidden_calls,
    tests_can_fail,
)
TEXT_RULES: tuple[Rule, ...] = (finished, about_the_package)


def complaints(source: Source, rules: Iterable[Rule]) -> list[str]:
    """What is wrong with this file: one line a complaint, as an editor can follow it."""
    return [f"{source.path}:{line}: {text}" for rule in rules for line, text in rule(source)]
