"""What a function asks for, read from its file's syntax tree, without importing the file."""

from __future__ import annotations

import ast
import inspect
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import GenericAlias
from typing import Any, Literal, Protocol, TypeVar, Union, get_args, get_origin

from circuits.catalog import Lazy, analysis_names, filled
from circuits.errors import CircuitsError, nearest
from circuits.registry.docstrings import sections
from circuits.registry.options import ORDER

PACKAGE = Path(__file__).parent.parent
_SCALARS: dict[str, Any] = {t.__name__: t for t in (bool, float, int, str, Path)}
# Types of arguments that Python can give and a command line cannot.
_OBJECTS = {
    "AnyMask",
    "CausalGraph",
    "Circuit",
    "Component",
    "HookedGPT2",
    "HookedModel",
    "Hooks",
    "Metric",
    "ModelInput",
    "Progress",
    "Prompts",
    "Tensor",
    "TunedLens",
}
_OBJECT = object()
Meaning = Callable[[str], ast.expr | None]  # what a file's name for a value or type stands for


class _Named(Protocol):
    @property
    def name(self) -> str: ...


Named = TypeVar("Named", bound=_Named)


@dataclass(frozen=True)
class Recipe:
    """What a function asks for and says about itself, read from its source.

    `signature` has the parameters that words can express; its annotations are types. `helps` maps
    parameters to what they mean; `examples` are the docstring's lines ``$ circuits ...``;
    `reports_progress` is whether it takes a ``progress``; `default_model` is what the command loads
    when no model is named, if that is another than usual: the file's constant DEFAULT_MODEL;
    `asks_model` is whether the question is about a model, which then comes first.
    """

    module: str
    function: str
    signature: inspect.Signature
    question: str
    about: str
    helps: Mapping[str, str]
    examples: tuple[str, ...]
    reports_progress: bool
    default_model: str | None = None
    asks_model: bool = True

    @property
    def name(self) -> str:
        """The command's name.

        >>> find("logit-lens").name
        'logit-lens'
        """
        return self.function.replace("_", "-")

    def load(self) -> Callable[..., Any]:
        """The function itself. This imports its file, and torch."""
        function: Callable[..., Any] = getattr(import_module(self.module), self.function)
        return function


@cache
def analyses() -> Mapping[str, Recipe]:
    """The questions that can be asked: command names and recipes, in alphabetical order.

    Each file is read when its recipe is asked for.

    >>> "ablate" in analyses()
    True
    """
    names = [name.replace("_", "-") for name in analysis_names()]
    return Lazy(names, lambda name: read(f"circuits.analyses.{name.replace('-', '_')}"))


def find(name: str) -> Recipe:
    """The analysis of this name; dashes and underscores are the same.

    Raises:
        CircuitsError: for an unknown name, with the nearest one.
    """
    known = analyses()
    if name.replace("_", "-") not in known:
        raise CircuitsError(
            f"there is no analysis {name!r}; choose {', '.join(known)}{nearest(name, known)}"
        )
    return known[name.replace("_", "-")]


def beside(analysis: str, package: str) -> types.ModuleType | None:
    """What `package` has for this analysis: its module of the same name, if it has one.

    >>> beside("logit_lens", "circuits.analyses").__name__, beside("unknown", "circuits.analyses")
    ('circuits.analyses.logit_lens', None)
    """
    if analysis not in analysis_names():
        return None
    name = f"{package}.{analysis}"
    return import_module(name) if find_spec(name) else None


def read(module: str, function: str | None = None) -> Recipe:
    """What signature and docstring of this function say, without importing its module.

    None stands for the module's analysis.

    >>> recipe = read("circuits.registry.recipes", "find")
    >>> str(recipe.signature), recipe.question
    ('(name: str)', 'The analysis of this name; dashes and underscores are the same.')

    Raises:
        TypeError: for a function that is not there, or a type that a command line cannot take.
    """
    tree, node = _parsed(module, function)
    meaning = partial(_constant, tree)
    text = sections(ast.get_docstring(node) or "")
    options = _options(node)
    signature = inspect.Signature(_in_words(options, meaning))
    return Recipe(
        module,
        node.name,
        signature,
        question=text.question,
        about=text.about,
        helps={**shared_helps(), **{name: filled(says) for name, says in text.helps.items()}},
        examples=text.examples,
        reports_progress="progress" in {option.name for option in options},
        default_model=ast.literal_eval(meaning("DEFAULT_MODEL") or ast.Constant(None)),
        asks_model=bool(options) and options[0].name == "model",
    )


def _parsed(module: str, function: str | None) -> tuple[ast.Module, ast.FunctionDef]:
    tree = _tree(module)
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    fitting = [f for f in functions if (f.name == function if function else _is_analysis(f))]
    if len(fitting) != 1:
        wanted = f"{function!r}" if function else "marked @analysis"
        raise TypeError(f"{module} has {len(fitting)} functions {wanted}, and should have one")
    return tree, fitting[0]


def parameters(module: str, function: str | None = None) -> list[Option]:
    """All parameters of a flat call, also those that only Python can give; aliases are spelled."""
    tree, node = _parsed(module, function)
    spelled = _Spelled(partial(_constant, tree))
    return [
        replace(option, annotation=option.annotation and spelled.visit(deepcopy(option.annotation)))
        for option in _options(node)
    ]


class _Spelled(ast.NodeTransformer):
    """Puts what a file's names stand for in the place of these."""

    def __init__(self, meaning: Meaning) -> None:
        self.meaning = meaning

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """The name itself, or what it stands for."""
        meaning = None if node.id in _OBJECTS else self.meaning(node.id)
        if meaning is None:
            return node
        value: ast.expr = self.visit(deepcopy(meaning))
        return value


def members(annotation: Any) -> list[Any]:
    """The types that a type is one of.

    >>> members(int | str | None)
    [<class 'int'>, <class 'str'>, <class 'NoneType'>]
    """
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for part in get_args(annotation) for member in members(part)]
    return [annotation]


def flag(parameter: str) -> str:
    """The option of the command line that gives this parameter.

    >>> flag("all_heads"), flag("n"), flag("from_")
    ('--all-heads', '-n', '--from')
    """
    name = parameter.rstrip("_").replace("_", "-")  # from is a word of Python's own
    return f"-{name}" if len(name) == 1 else f"--{name}"


def _constant(tree: ast.Module, name: str) -> ast.expr | None:
    """What a file's name for a value or type stands for, its own or one that it imports; or None.

    Imports are followed through all files of the package, none of which is run.
    """
    for statement in reversed(tree.body):
        match statement:
            case ast.Assign(targets, value) if name in map(ast.unparse, targets):
                return value
            case ast.ImportFrom(str(module), names) if module.split(".")[0] == "circuits":
                for alias in names:
                    if name == (alias.asname or alias.name):
                        return _constant(_tree(module), alias.name)
    return None


def _tree(module: str) -> ast.Module:
    """The syntax tree of a module of the package, also of a folder."""
    path = PACKAGE.joinpath(*module.split(".")[1:])
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return _parsed_text(file.read_text(encoding="utf-8"))


@cache
def _parsed_text(text: str) -> ast.Module:
    return ast.parse(text)


def _is_analysis(node: ast.FunctionDef) -> bool:
    return any(isinstance(mark, ast.Name) and mark.id == "analysis" for mark in node.decorator_list)


@dataclass(frozen=True)
class Option:
    """One parameter as it stands in the source; `help` is what a group says it means."""

    name: str
    annotation: ast.expr | None
    default: ast.expr | None
    keyword_only: bool = True
    help: str = ""


@cache
def groups() -> Mapping[str, tuple[Option, ...]]:
    """The options of each class of `circuits.registry.options`, its bases' included.

    >>> [option.name for option in groups()["MemoryOptions"]]
    ['memory', 'progress']
    """
    text = Path(__file__).with_name("options.py").read_text(encoding="utf-8")
    groups_by_name: dict[str, tuple[Option, ...]] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef):
            inherited = [
                o for base in node.bases for o in groups_by_name.get(ast.unparse(base), ())
            ]
            known = [_overridden(option, node) for option in inherited]
            groups_by_name[node.name] = (*known, *_fields(node))
    return groups_by_name


def _overridden(option: Option, node: ast.ClassDef) -> Option:
    """The option of a base as this class has it: with another type and default, if it says so."""
    for field in node.body:
        match field:
            case ast.AnnAssign(ast.Name(option.name), annotation, default):
                return replace(option, annotation=annotation, default=default)
    return option


def _fields(node: ast.ClassDef) -> Iterator[Option]:
    """The fields of a group that have a string below them, which says what they mean."""
    for field, below in pairwise(node.body):
        match field, below:
            case (
                ast.AnnAssign(ast.Name(name), annotation, default),
                ast.Expr(ast.Constant(str(text))),
            ):
                yield Option(name, annotation, default, help=filled(" ".join(text.split())))


@cache
def shared_helps() -> Mapping[str, str]:
    """What the options mean that several analyses have."""
    return {option.name: option.help for group in groups().values() for option in group}


def flat(
    parameters: Iterable[Named], fields: Callable[[Named], Sequence[Named] | None]
) -> list[Named]:
    """The parameters of a call, those that stand for a group of options replaced by its `fields`.

    Fields come last, in the `ORDER` of all options.
    """
    alone: list[Named] = []
    shared: list[Named] = []
    for parameter in parameters:
        group = fields(parameter)
        if group is None:
            alone.append(parameter)
        else:
            shared += group
    return [*alone, *sorted(shared, key=lambda option: ORDER.index(option.name))]


def _options(node: ast.FunctionDef) -> list[Option]:
    """The parameters in their order, the fields of groups in place of these."""
    args = node.args
    plain = [*args.posonlyargs, *args.args]
    defaults = [*[None] * (len(plain) - len(args.defaults)), *args.defaults]
    rows = [(*pair, False) for pair in zip(plain, defaults, strict=True)]
    rows += [(*pair, True) for pair in zip(args.kwonlyargs, args.kw_defaults, strict=True)]

    def fields(option: Option) -> Sequence[Option] | None:
        match option.annotation:
            case ast.Name(name):
                return groups().get(name)
        return None

    return flat([Option(a.arg, a.annotation, default, k) for a, default, k in rows], fields)


def _in_words(options: Iterable[Option], meaning: Meaning) -> list[inspect.Parameter]:
    """What can be asked for in words: parameters that take objects are left out."""
    parameters = []
    for option in options:
        given = _type(option.annotation, meaning)
        if given is not _OBJECT:
            empty = inspect.Parameter.empty
            value = empty if option.default is None else _value(option.default, meaning)
            kind = (
                inspect.Parameter.KEYWORD_ONLY
                if option.keyword_only
                else inspect.Parameter.POSITIONAL_OR_KEYWORD
            )
            parameters.append(inspect.Parameter(option.name, kind, default=value, annotation=given))
    return parameters


def _value(node: ast.expr, meaning: Meaning) -> Any:
    if isinstance(node, ast.Name):
        node = meaning(node.id) or node
    return ast.literal_eval(node)


def _type(node: ast.expr | None, meaning: Meaning) -> Any:
    """The type that an annotation means, as far as words can express it."""
    match node:
        case ast.Name(id) if id in _SCALARS:
            return _SCALARS[id]
        case ast.Name(id) if id in _OBJECTS:
            return _OBJECT
        case ast.Name(id) if stands_for := meaning(id):
            return _type(stands_for, meaning)
        case ast.Constant(None):
            return None
        case ast.BinOp(left, ast.BitOr(), right):
            sides = [_type(side, meaning) for side in (left, right)]
            in_words = [side for side in sides if side is not _OBJECT]
            if not in_words or in_words == [None]:
                return _OBJECT
            return in_words[0] if len(in_words) == 1 else in_words[0] | in_words[1]
        case ast.Subscript(ast.Name("Sequence"), item):
            inner = _type(item, meaning)
            return inner if inner is _OBJECT else GenericAlias(Sequence, (inner,))
        case ast.Subscript(ast.Name("Literal"), choices):
            return Literal[ast.literal_eval(choices)]
    raise TypeError(
        f"a command line cannot take {'no type' if node is None else ast.unparse(node)}: use "
        f"{', '.join(_SCALARS)}, Literal, Sequence, |, or one of the objects {sorted(_OBJECTS)}"
    )
