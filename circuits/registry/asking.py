"""Ask an analysis: from the options of a call to its parameters, and what was asked to its answer.

The public call is flat, ``ablate(model, layer=5, head=3, task="ioi", n=50)``; the function behind
it has a parameter for each group of options (`circuits.registry.options`).
"""

from __future__ import annotations

import dataclasses
import inspect
import shlex
import types
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from circuits.catalog import filled
from circuits.errors import require_seed
from circuits.registry import options
from circuits.registry.docstrings import ARGS, sections
from circuits.registry.options import CHANGE_NOTHING
from circuits.registry.recipes import find, flag, flat, groups, shared_helps

if TYPE_CHECKING:
    from circuits.result import Result

Function = TypeVar("Function", bound=Callable[..., Any])


def analysis(function: Function) -> Function:
    """Make this function an analysis: a question that the command line can ask, too.

    The function takes the model first, then what has to be given; a question that is not about a
    model may take one by keyword, None by default. Options are keyword-only, and a parameter whose
    type is a group of options stands for the group's fields. It returns a `Result`,
    which learns here what was asked. The function also takes a model of transformer_lens (see
    `circuits.adapt`). The ``Args:`` of its docstring are completed by what groups say.

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
    call = Call.of(function)
    names = list(call.signature.parameters)
    docstring = inspect.getdoc(function) or ""
    block, helps = ARGS.search(docstring), shared_helps()
    explained = sections(docstring).helps
    unexplained = [n for n in names if n != "model" and n not in {*explained, *helps}]
    model = call.signature.parameters.get("model")
    is_first_or_none = names[:1] == ["model"] or (model is not None and model.default is None)
    if not is_first_or_none or unexplained or block is None:
        raise TypeError(
            f"{function.__name__}: an analysis takes the model first, and explains its parameters "
            f"under Args: {', '.join(unexplained)}"
        )
    rest = [name for name in names if name not in {"model", *explained}]
    shared = [f"    {name}: {helps[name]}\n" for name in rest]
    ask = _asked(function, call)
    pieces = (filled(docstring[: block.end()]), "" if block[0].endswith("\n") else "\n", *shared)
    ask.__doc__ = "".join(pieces) + docstring[block.end() :]
    return ask


@dataclass(frozen=True, eq=False)
class Call:
    """A call of a function whose parameters may be groups of options.

    `signature` is the flat one. `groups` maps a parameter to the class that it is an object of.
    """

    function: Callable[..., Any]
    signature: inspect.Signature
    groups: Mapping[str, type[Any]]

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Call:
        """Read from the function's own signature."""
        signature, classes = inspect.signature(function), {}
        rest: list[inspect.Parameter] = []
        named: list[inspect.Parameter] = []
        for parameter in signature.parameters.values():
            is_rest = parameter.kind is inspect.Parameter.VAR_KEYWORD
            (rest if is_rest else named).append(parameter)
            if parameter.annotation in groups():
                classes[parameter.name] = getattr(options, parameter.annotation)
        parameters = flat(named, lambda p: _fields(classes[p.name]) if p.name in classes else None)
        return cls(function, signature.replace(parameters=[*parameters, *rest]), classes)

    def answer(self, given: tuple[Any, ...], named: Mapping[str, Any], *, draws: bool) -> Any:
        """The answer, whose provenance says what was asked; with or without `Result.draws`."""
        bound = self.signature.bind(*given, **named)
        bound.apply_defaults()
        values = dict(bound.arguments)
        if values.get("seed") is not None:
            require_seed(values["seed"])
        values["model"] = _adapted(values["model"])
        asked = question(self.function.__name__, values)
        extra = [p.name for p in self.signature.parameters.values() if p.kind is p.VAR_KEYWORD]
        more = {key: value for name in extra for key, value in values.pop(name).items()}
        taken = values | _of_model(values)
        grouped = {name: self._group(cls, taken, asked, draws) for name, cls in self.groups.items()}
        fields = {field for group in grouped.values() for field in vars(group)}
        alone = {name: value for name, value in taken.items() if name not in fields}
        with _within(values["model"], values.get("memory")):
            result = self.function(**alone, **grouped, **more)
        about = result.provenance
        if about.command:  # it has said so itself
            return result
        if about.arguments:  # some of which read otherwise than they were given
            asked = question(self.function.__name__, values | dict(about.arguments))
        about = replace(
            about, analysis=asked.analysis, arguments=asked.arguments, command=asked.command
        )
        circuit = None if result.circuit is None else result.circuit.found_by(about.command)
        return replace(result, provenance=about, circuit=circuit)

    def _group(
        self, cls: type[Any], values: Mapping[str, Any], asked: Question, draws: bool
    ) -> Any:
        """An object of a group of options, with what is no option besides."""
        given = {option.name: values[option.name] for option in groups()[cls.__name__]}
        if issubclass(cls, options.MeanOptions):
            given["draws"] = draws
        if cls is options.RunOptions:
            given["question"] = asked.of_the_numbers()
        return cls(**given)


def _fields(group: type[Any]) -> list[inspect.Parameter]:
    """The options of a group, as parameters of a flat call."""
    types_of = {field.name: field.type for field in dataclasses.fields(group)}
    return [
        inspect.Parameter(
            option.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=getattr(group, option.name),
            annotation=types_of[option.name],
        )
        for option in groups()[group.__name__]
    ]


@dataclass(frozen=True)
class Question:
    """What was asked: the analysis, its arguments in words, and the command that asks the same."""

    analysis: str
    arguments: Mapping[str, Any]
    command: str

    def of_the_numbers(self) -> dict[str, Any]:
        """Only what each prompt's numbers depend on; a file's content is checked by itself."""
        # Whatever is said of templates, what stands in the parts is of single prompts.
        without = {*CHANGE_NOTHING, "file", "plan", "by", "cluster"}
        given = {name: value for name, value in self.arguments.items() if name not in without}
        return {"analysis": self.analysis, **given}


def question(name: str, given: Mapping[str, Any]) -> Question:
    """What this analysis was asked.

    `given` maps parameters to what was given, the model among them. Objects that words cannot
    express are left out; what changes no number is as if it had not been given.
    """
    recipe = find(name)
    arguments: dict[str, Any] = {}
    words = ["circuits", recipe.name]
    for parameter in recipe.signature.parameters.values():
        name = parameter.name
        value = parameter.default if name in CHANGE_NOTHING else given[name]
        if name in ("prompt", "corrupted") and not isinstance(value, str | None):
            value = _plain_prompts(value)
            if value and not isinstance(value[0], str):
                arguments[name] = value  # of token ids a command line knows nothing
                continue
        if not _in_words(value):
            continue
        value = _plain(value)
        arguments[name] = value
        if value != parameter.default:
            words += _as_words(parameter, value)
    # Always said: without it the command would depend on the environment variable CIRCUITS_MODEL.
    if given["model"] is not None:
        from circuits.checkpoints import loading_options  # and with it torch

        words += loading_options(given["model"])
    return Question(recipe.function, arguments, shlex.join(words))


def with_draws(analysis: Callable[..., Result]) -> Callable[..., Result]:
    """The same analysis, whose answer has the numbers behind each row's mean: `Result.draws`.

    >>> import circuits
    >>> asked = {"component": "a2.h0", "task": "repeated", "n": 3}
    >>> with_draws(circuits.ablate)(circuits.load("compiled"), **asked).draws[0].values.shape
    (3,)
    """
    call = Call.of(inspect.unwrap(analysis))
    return lambda *given, **named: call.answer(given, named, draws=True)


def _asked(function: Function, call: Call) -> Function:
    """The same function by way of `call`, in its own module, where doctest finds its examples."""

    def ask(*given: Any, **named: Any) -> Any:
        return call.answer(given, named, draws=False)

    home = cast(types.FunctionType, function).__globals__
    asked = types.FunctionType(ask.__code__, home, closure=ask.__closure__)
    for name in ("__module__", "__name__", "__qualname__"):
        setattr(asked, name, getattr(function, name))
    asked.__signature__ = call.signature  # type: ignore[attr-defined]
    asked.__wrapped__ = function  # type: ignore[attr-defined]
    return cast(Function, asked)


def _adapted(model: Any) -> Any:
    """The model in our words, if it is one of transformer_lens, which is not imported for it."""
    kinds = type(model).__mro__
    if any(kind.__module__.startswith("transformer_lens.") for kind in kinds):
        from circuits.adapter import adapt  # and with it torch

        return adapt(model)
    return model


def _within(model: Any, memory: str | None) -> AbstractContextManager[None]:
    """What keeps to this bound whatever an analysis does; without one, nothing."""
    if memory is None:
        return nullcontext()
    from circuits.memory import within  # and with it torch

    return within(model, memory)


def _of_model(values: Mapping[str, Any]) -> dict[str, Any]:
    """The metric, where a readout of the model is one: its name alone says too little."""
    metric = values.get("metric")
    if not isinstance(metric, str):
        return {}
    from circuits.metrics import is_readout, readout_metric  # and with them torch

    if not is_readout(metric):
        return {}
    return {"metric": readout_metric(values["model"], metric.partition(":")[2])}


def _plain_prompts(given: Any) -> list[str] | list[list[int]]:
    from circuits.inputs import texts_or_rows  # torch takes a second, and --help needs none

    return texts_or_rows(given)


def _plain(value: Any) -> Any:
    """The value in types of JSON."""
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _in_words(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_in_words, value))
    return value is None or isinstance(value, str | int | float | Path)


def _as_words(parameter: inspect.Parameter, value: Any) -> list[str]:
    values = value if isinstance(value, tuple | list) else [value]
    if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
        return [str(item) for item in values]
    if value is True:
        return [flag(parameter.name)]
    return [word for item in values for word in (flag(parameter.name), str(item))]
