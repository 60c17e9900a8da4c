"""The only list of analyses: what can be asked, with which options.

An analysis is a file of `circuits/analyses/` with one function marked ``@analysis``. The mark is
the registration. Signature and docstring are read from the file's syntax tree, so the command line
can show its help without importing the file, and with it torch.
"""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, update_wrapper
from importlib import import_module
from pathlib import Path
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from circuits.errors import CircuitsError, nearest, require_seed

if TYPE_CHECKING:
    from circuits.model import HookedGPT2

PACKAGE = Path(__file__).parent
# How much of a long computation is done: called with (steps done, steps in all).
Progress = Callable[[int, int], None]
Function = TypeVar("Function", bound=Callable[..., Any])

# What parameters mean that many analyses have. A function that documents one itself means that.
SHARED = {
    "task": "Which prompts: repeated, ioi, greater-than, docstring, pronoun, agreement or sorting. "
    "Without it, those of repeated, ioi and sorting that suit the model.",
    "prompt": "A prompt of your own instead of a task; repeat it for several.",
    "file": "Your own prompts: .txt, one a line; .csv or .jsonl with clean, corrupted, answer, "
    "distractor, template.",
    "answer": "The token that should follow your prompts.",
    "distractor": "The token that the answer is compared with.",
    "metric": "logit_diff, prob, prob_diff, accuracy, loss or kl. Without it, the task's own.",
    "n": "How many prompts to draw. Without it, the task's usual number.",
    "seed": "The same seed draws the same prompts.",
    "corrupted": "The corrupted twin of your prompt, token for token; repeat it for several.",
    "memory": "What tensors may take besides the weights: 4G, 500M. Without it, 1G on a CPU.",
    "plan": "Only say what would be computed, and what it would cost.",
    "engine": "Where to compute: local, ray (a Ray cluster, extra ray), or ray=ADDRESS.",
    "parts": "Folder that gets every prompt's numbers as Parquet, block by block.",
    "resume": "Go on with the interrupted run in the folder of parts.",
    "by": "Each template of the prompts by itself, and how much they differ (by=template).",
    "cluster": "Intervals over templates (cluster-robust), not over names and words within them.",
    "progress": "Called with the work done and the work in all.",
}
_SCALARS: dict[str, Any] = {t.__name__: t for t in (bool, float, int, str, Path)}
# Types of arguments that Python can give and a command line cannot.
_OBJECTS = {
    "AnyMask",
    "CausalGraph",
    "Component",
    "HookedGPT2",
    "Hooks",
    "ModelInput",
    "Progress",
    "Prompts",
    "Tensor",
    "TunedLens",
}
_OBJECT = object()
_ARGS = re.compile(r"^Args:\n((?:[ ]+.*(?:\n|$))+)", re.M)  # the section in Google's style


def analysis(function: Function) -> Function:
    """Make this function an analysis: a question that the command line can ask, too.

    The function takes the model first, then what has to be given; options are keyword-only. Its
    behavior stays, but that it also takes a model of transformer_lens (see `circuits.adapter`). The
    ``Args:`` of its docstring are completed from `SHARED`.

    >>> @analysis
    ... def layers(model, *, seed: int = 0):
    ...     '''How many layers has the model?
    ...
    ...     Args:
    ...         model: The model.
    ...     '''
    >>> layers.__doc__.splitlines()[-1]
    '    seed: The same seed draws the same prompts.'

    Raises:
        TypeError: when a parameter is explained nowhere, or the function cannot be asked this way.
    """
    names = list(inspect.signature(function).parameters)
    docstring = inspect.getdoc(function) or ""
    block = _ARGS.search(docstring)
    explained = _sections(docstring).helps
    unexplained = [name for name in names[1:] if name not in {*explained, *SHARED}]
    if names[:1] != ["model"] or unexplained or block is None:
        raise TypeError(
            f"{function.__name__}: an analysis takes the model first, and explains its parameters "
            f"under Args: {', '.join(unexplained)}"
        )
    shared = [f"    {name}: {SHARED[name]}\n" for name in names[1:] if name not in explained]
    parts = (docstring[: block.end()], "" if block[0].endswith("\n") else "\n", *shared)
    function.__doc__ = "".join(parts) + docstring[block.end() :]
    return _adapting(function, _adapted)


def _adapting(function: Function, adapted: Callable[[Any], Any]) -> Function:
    """The same function, which also takes a model of transformer_lens."""
    check_seed = require_seed  # a variable of this function, as `adapted`: see below

    def ask(model: Any, *given: Any, **options: Any) -> Any:
        if options.get("seed") is not None:
            check_seed(options["seed"])
        return function(adapted(model), *given, **options)

    # In the namespace of its own module, or doctest would not find its examples.
    home = cast(types.FunctionType, function).__globals__
    return cast(
        Function,
        update_wrapper(types.FunctionType(ask.__code__, home, closure=ask.__closure__), function),
    )


def _adapted(model: Any) -> Any:
    """The model in our words, if it is one of transformer_lens, which is not imported for it."""
    kinds = type(model).__mro__
    if any(kind.__module__.startswith("transformer_lens.") for kind in kinds):
        return import_module("circuits.adapter").adapt(model)
    return model


@dataclass(frozen=True)
class Recipe:
    """What does a function ask for, and what does it say about itself? Read from its source.

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
    """Which questions can be asked? Command names and recipes, in alphabetical order.

    >>> "ablate" in analyses()
    True
    """
    names = sorted(file.stem for file in (PACKAGE / "analyses").glob("[!_]*.py"))
    found = [read(f"circuits.analyses.{name}") for name in names]
    return types.MappingProxyType({recipe.name: recipe for recipe in found})


def find(name: str) -> Recipe:
    """Which analysis has this name? Dashes and underscores are the same.

    Raises:
        CircuitsError: for an unknown name, with the nearest one.
    """
    known = analyses()
    if name.replace("_", "-") not in known:
        raise CircuitsError(
            f"there is no analysis {name!r}; choose {', '.join(known)}{nearest(name, known)}"
        )
    return known[name.replace("_", "-")]


def read(module: str, function: str | None = None) -> Recipe:
    """What do signature and docstring of this function say, without importing its module?

    None stands for the module's analysis.

    >>> recipe = read("circuits.registry", "find")
    >>> str(recipe.signature), recipe.question
    ('(name: str)', 'Which analysis has this name? Dashes and underscores are the same.')

    Raises:
        TypeError: for a function that is not there, or a type that a command line cannot take.
    """
    path = PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    found = [f for f in functions if (f.name == function if function else _is_analysis(f))]
    if len(found) != 1:
        wanted = f"{function!r}" if function else "marked @analysis"
        raise TypeError(f"{module} has {len(found)} functions {wanted}, and should have one")
    node = found[0]
    constants = _constants(tree)
    text = _sections(ast.get_docstring(node) or "")
    signature = inspect.Signature(_parameters(node, constants))
    return Recipe(
        module,
        node.name,
        signature,
        question=text.question,
        about=text.about,
        helps=SHARED | dict(text.helps),
        examples=text.examples,
        reports_progress="progress" in {arg.arg for arg in node.args.kwonlyargs},
        default_model=ast.literal_eval(constants.get("DEFAULT_MODEL", ast.Constant(None))),
    )


def asked(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What was this analysis asked? Its arguments, and the command line that asks the same.

    `given` maps parameters to what was given, the model among them; the result is what
    `circuits.result.provenance` takes. Objects that words cannot express are left out.
    """
    recipe = find(name)
    arguments: dict[str, Any] = {}
    words = ["circuits", recipe.name]
    for parameter in recipe.signature.parameters.values():
        value = given[parameter.name]
        if parameter.name in ("prompt", "corrupted") and not isinstance(value, str | None):
            value = _plain_prompts(value)
            if value and not isinstance(value[0], str):
                arguments[parameter.name] = value  # of token ids a command line knows nothing
                continue
        if not _in_words(value):
            continue
        value = str(value) if isinstance(value, Path) else value
        arguments[parameter.name] = list(value) if isinstance(value, tuple | list) else value
        if value != parameter.default:
            words += _as_words(parameter, value)
    # Always said: without it the command would depend on the environment variable CIRCUITS_MODEL.
    words += ["--model", _loaded_from(given["model"])]
    return {"arguments": arguments, "command": shlex.join(words)}


def flag(parameter: str) -> str:
    """Which option of the command line gives this parameter?

    >>> flag("all_heads"), flag("n"), flag("from_")
    ('--all-heads', '-n', '--from')
    """
    name = parameter.rstrip("_").replace("_", "-")  # from is a word of Python's own
    return f"-{name}" if len(name) == 1 else f"--{name}"


def _loaded_from(model: HookedGPT2) -> str:
    path = model.source.removeprefix("nanoGPT ")
    return path if Path(path).exists() else model.cfg.model_name


def _plain_prompts(given: Any) -> list[str] | list[list[int]]:
    from circuits.inputs import texts_or_rows  # torch takes a second, and --help needs none

    return texts_or_rows(given)


def _in_words(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_in_words, value))
    return value is None or isinstance(value, str | int | float | Path)


def _as_words(parameter: inspect.Parameter, value: Any) -> list[str]:
    if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
        return [str(value)]
    if value is True:
        return [flag(parameter.name)]
    values = value if isinstance(value, tuple | list) else [value]
    return [word for one in values for word in (flag(parameter.name), str(one))]


def _constants(tree: ast.Module) -> dict[str, ast.expr]:
    """What are the file's names for values and types, also those that analyses share?"""
    found: dict[str, ast.expr] = {}
    for statement in tree.body:
        match statement:
            case ast.Assign(targets, value):
                found |= {target.id: value for target in targets if isinstance(target, ast.Name)}
            case ast.ImportFrom(str(module), names) if module.startswith("circuits.analyses._"):
                text = (
                    PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py").read_text("utf-8")
                )
                theirs = _constants(ast.parse(text))
                found |= {n.name: theirs[n.name] for n in names if n.name in theirs}
    return found


def _is_analysis(node: ast.FunctionDef) -> bool:
    return any(isinstance(mark, ast.Name) and mark.id == "analysis" for mark in node.decorator_list)


def _parameters(
    node: ast.FunctionDef, constants: Mapping[str, ast.expr]
) -> list[inspect.Parameter]:
    """What can be asked for in words: parameters that take objects are left out."""
    args = node.args
    plain = [*args.posonlyargs, *args.args]
    missing = [None] * (len(plain) - len(args.defaults))
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    rows: list[tuple[ast.arg, ast.expr | None, Any]]
    rows = [(*pair, kinds[0]) for pair in zip(plain, [*missing, *args.defaults], strict=True)]
    rows += [(*pair, kinds[1]) for pair in zip(args.kwonlyargs, args.kw_defaults, strict=True)]
    found = []
    for arg, default, kind in rows:
        given = _type(arg.annotation, constants)
        if given is not _OBJECT:
            value = inspect.Parameter.empty if default is None else _value(default, constants)
            found.append(inspect.Parameter(arg.arg, kind, default=value, annotation=given))
    return found


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
class _Sections:
    """A docstring's first paragraph, the text after it, what Args say, and the examples."""

    question: str
    about: str
    helps: Mapping[str, str]
    examples: tuple[str, ...]


def _sections(docstring: str) -> _Sections:
    first, _, rest = docstring.partition("\n\n")
    about = re.split(r"^(?:\w+:$|\s*\$ circuits |>>> )", rest, maxsplit=1, flags=re.M)[0]
    examples = tuple(re.findall(r"^ *\$ (circuits .*)$", docstring, flags=re.M))
    helps: dict[str, str] = {}
    block = _ARGS.search(docstring)
    for line in inspect.cleandoc(block[1]).splitlines() if block else ():
        if entry := re.match(r"(\w+): *(.*)", line):
            name = entry[1]
            helps[name] = entry[2]
        elif line.strip():
            helps[name] += f" {line.strip()}"
    return _Sections(" ".join(first.split()), about.strip(), helps, examples)
