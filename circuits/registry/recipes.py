"""What a function asks for, read from its file's syntax tree, without importing the file."""

from __future__ import annotations

import ast
import inspect
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import GenericAlias
from typing import Any, Literal, Protocol, TypeVar, Union, get_args, get_origin

from circuits.catalog import filled
from circuits.errors import CircuitsError, nearest
from circuits.registry.options import ORDER

PACKAGE = Path(__file__).parent.parent
_SCALARS: dict[str, Any] = {t.__name__: t for t in (bool, float, int, str, Path)}
# Types of arguments that Python can give and a command line cannot.
_OBJECTS = {
    "AnyMask",
    "CausalGraph",
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
ARGS = re.compile(r"^Args:\n((?:[ ]+.*(?:\n|$))+)", re.M)  # the section in Google's style


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
    when no model is named, if that is another than usual: the file's constant DEFAULT_MODEL.
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

    >>> "ablate" in analyses()
    True
    """
    names = sorted(file.stem for file in (PACKAGE / "analyses").glob("[!_]*.py"))
    recipes = [read(f"circuits.analyses.{name}") for name in names]
    return types.MappingProxyType({recipe.name: recipe for recipe in recipes})


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
    if analysis not in {recipe.function for recipe in analyses().values()}:
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
    constants = _constants(tree)
    text = sections(ast.get_docstring(node) or "")
    options = _options(node)
    signature = inspect.Signature(_in_words(options, constants))
    return Recipe(
        module,
        node.name,
        signature,
        question=text.question,
        about=text.about,
        helps={**shared_helps(), **{name: filled(says) for name, says in text.helps.items()}},
        examples=text.examples,
        reports_progress="progress" in {option.name for option in options},
        default_model=ast.literal_eval(constants.get("DEFAULT_MODEL", ast.Constant(None))),
    )


def _parsed(module: str, function: str | None) -> tuple[ast.Module, ast.FunctionDef]:
    path = PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    fitting = [f for f in functions if (f.name == function if function else _is_analysis(f))]
    if len(fitting) != 1:
        wanted = f"{function!r}" if function else "marked @analysis"
        raise TypeError(f"{module} has {len(fitting)} functions {wanted}, and should have one")
    return tree, fitting[0]


def parameters(module: str, function: str | None = None) -> list[Option]:
    """All parameters of a flat call, also those that only Python can give; aliases are spelled."""
    tree, node = _parsed(module, function)
    spelled = _Spelled(_constants(tree))
    return [
        replace(option, annotation=option.annotation and spelled.visit(deepcopy(option.annotation)))
        for option in _options(node)
    ]


class _Spelled(ast.NodeTransformer):
    """Puts what a file's names stand for in the place of these."""

    def __init__(self, constants: Mapping[str, ast.expr]) -> None:
        self.constants = constants

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """The name itself, or what it stands for."""
        if node.id not in self.constants:
            return node
        value: ast.expr = self.visit(deepcopy(self.constants[node.id]))
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


def _constants(tree: ast.Module) -> dict[str, ast.expr]:
    """The file's names for values and types, also those that analyses share."""
    constants: dict[str, ast.expr] = {}
    for statement in tree.body:
        match statement:
            case ast.Assign(targets, value):
                constants |= {
                    target.id: value for target in targets if isinstance(target, ast.Name)
                }
            case ast.ImportFrom(str(module), names) if module.startswith("circuits.analyses._"):
                text = (
                    PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py").read_text("utf-8")
                )
                theirs = _constants(ast.parse(text))
                constants |= {n.name: theirs[n.name] for n in names if n.name in theirs}
    return constants


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
            groups_by_name[node.name] = (*inherited, *_fields(node))
    return groups_by_name


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


def _in_words(
    options: Iterable[Option], constants: Mapping[str, ast.expr]
) -> list[inspect.Parameter]:
    """What can be asked for in words: parameters that take objects are left out."""
    parameters = []
    for option in options:
        given = _type(option.annotation, constants)
        if given is not _OBJECT:
            empty = inspect.Parameter.empty
            value = empty if option.default is None else _value(option.default, constants)
            kind = (
                inspect.Parameter.KEYWORD_ONLY
                if option.keyword_only
                else inspect.Parameter.POSITIONAL_OR_KEYWORD
            )
            parameters.append(inspect.Parameter(option.name, kind, default=value, annotation=given))
    return parameters


def _value(node: ast.expr, constants: Mapping[str, ast.expr]) -> Any:
    if isinstance(node, ast.Name) and node.id in constants:
        node = constants[node.id]
    return ast.literal_eval(node)


def _type(node: ast.expr | None, constants: Mapping[str, ast.expr]) -> Any:
    """The type that an annotation means, as far as words can express it."""
    match node:
        case ast.Name(id) if id in constants:
            return _type(constants[id], constants)
        case ast.Name(id) if id in _SCALARS:
            return _SCALARS[id]
        case ast.Name(id) if id in _OBJECTS:
            return _OBJECT
        case ast.Constant(None):
            return None
        case ast.BinOp(left, ast.BitOr(), right):
            sides = [_type(side, constants) for side in (left, right)]
            in_words = [side for side in sides if side is not _OBJECT]
            if not in_words or in_words == [None]:
                return _OBJECT
            return in_words[0] if len(in_words) == 1 else in_words[0] | in_words[1]
        case ast.Subscript(ast.Name("Sequence"), item):
            inner = _type(item, constants)
            return inner if inner is _OBJECT else GenericAlias(Sequence, (inner,))
        case ast.Subscript(ast.Name("Literal"), choices):
            return Literal[ast.literal_eval(choices)]
    raise TypeError(
        f"a command line cannot take {'no type' if node is None else ast.unparse(node)}: use "
        f"{', '.join(_SCALARS)}, Literal, Sequence, |, or one of the objects {sorted(_OBJECTS)}"
    )


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
