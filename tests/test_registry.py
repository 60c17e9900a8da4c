"""What the registry reads from a file's syntax tree is what the file does."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pytest
from word_model import letter_model

from circuits.checkpoints import load
from circuits.components import Component
from circuits.errors import CircuitsError
from circuits.registry import (
    MeasureOptions,
    PairOptions,
    PromptOptions,
    Recipe,
    RunOptions,
    TemplateOptions,
    analyses,
    analysis,
    asking,
    find,
    groups,
    read,
    recipes,
    shared_helps,
)
from circuits.result import Result, provenance

HEADER = '"""A question."""\n\nDEFAULT = 3\nKind = str | None\n'
FUNCTION = '''

@analysis
def question(model: HookedModel, text: str, *, {parameters}):
    """What is it?

    It is this,
    in two lines.

    $ circuits question "a" --kind b

    Args:
        text: What to
            ask about.
        kind: Which one.
        extra: More.
    """
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with no analysis in it yet."""
    (tmp_path / "analyses").mkdir()
    monkeypatch.setattr(recipes, "PACKAGE", tmp_path)
    return tmp_path / "analyses"


def _read(package: Path, parameters: str) -> Recipe:
    (package / "question.py").write_text(HEADER + FUNCTION.format(parameters=parameters))
    return read("circuits.analyses.question")


def test_every_file_is_one_command_of_its_name() -> None:
    files = {path.stem for path in (recipes.PACKAGE / "analyses").glob("[!_]*.py")}
    assert {"ablate", "logit_lens"} <= files
    assert {recipe.function for recipe in analyses().values()} == files
    assert list(analyses()) == [name.replace("_", "-") for name in sorted(files)]


@pytest.mark.parametrize("name", analyses())
def test_what_is_read_is_what_runs(name: str) -> None:
    recipe = find(name)
    function = recipe.load()
    real = inspect.signature(function).parameters
    for parameter in recipe.signature.parameters.values():
        assert parameter.default == real[parameter.name].default
        assert parameter.kind == real[parameter.name].kind
    # What a command line cannot say, Python can leave out.
    for parameter in real.values():
        if parameter.name not in {*recipe.signature.parameters, "model"}:
            assert parameter.default is None or parameter.kind is parameter.VAR_KEYWORD
    assert recipe.reports_progress == ("progress" in real)
    assert function.__doc__.splitlines()[0] == recipe.question
    assert recipe.question.endswith("?")


@pytest.mark.parametrize("name", analyses())
def test_every_option_is_explained_once_and_has_examples(name: str) -> None:
    recipe = find(name)
    docstring = inspect.getdoc(recipe.load()) or ""
    for parameter in recipe.signature.parameters:
        assert recipe.helps[parameter]
        assert docstring.count(f"\n    {parameter}: ") == 1
    assert recipe.examples
    assert all(line.startswith(f"circuits {name} ") for line in recipe.examples)


def test_names_may_have_dashes_or_underscores() -> None:
    assert find("logit_lens") is find("logit-lens")


def test_unknown_analysis_names_the_nearest() -> None:
    with pytest.raises(CircuitsError, match=r"no analysis 'ablat'.*did you mean 'ablate'"):
        find("ablat")


def test_a_file_is_read_without_running_it(package: Path) -> None:
    recipe = _read(package, "kind: Kind = None, n: int = DEFAULT, extra: bool = False")
    assert recipe.question == "What is it?"
    assert recipe.about == "It is this,\nin two lines."
    assert recipe.helps["text"] == "What to ask about."
    assert recipe.helps["n"] == shared_helps()["n"]
    assert recipe.examples == ('circuits question "a" --kind b',)
    types = {p.name: (p.annotation, p.default) for p in recipe.signature.parameters.values()}
    empty = inspect.Parameter.empty
    assert types["text"] == (str, empty)
    assert types["kind"] == (str | None, None)
    assert types["n"] == (int, 3)


@pytest.mark.parametrize(
    ("annotation", "default", "kept"),
    [
        ("str | Component", "'a'", True),
        ("Component | None", "None", False),
        ("Sequence[str | Component]", "()", True),
        ("Sequence[Tensor]", "()", False),
        ("Literal['x', 'y'] | int", "'x'", True),
        ("Progress | None", "None", False),
    ],
)
def test_objects_are_left_out(package: Path, annotation: str, default: str, kept: bool) -> None:
    recipe = _read(package, f"extra: {annotation} = {default}")
    assert ("extra" in recipe.signature.parameters) is kept


def test_types_that_analyses_share_are_found(package: Path) -> None:
    room = package.parent / "room"
    room.mkdir()
    (room / "__init__.py").write_text("from circuits.room.kinds import Kind as Kind\n")
    (room / "kinds.py").write_text('Kind = Literal["x", "y"]\nOTHER = 1\n')
    imports = '"""A question."""\nfrom circuits.room import Kind\nDEFAULT = 3\n'
    body = FUNCTION.format(parameters="kind: Kind | None = None, n: int = DEFAULT, extra: int = 1")
    (package / "question.py").write_text(imports + body)
    parameters = read("circuits.analyses.question").signature.parameters
    assert parameters["kind"].annotation == Literal["x", "y"] | None
    assert parameters["n"].default == 3


@pytest.mark.parametrize("annotation", ["dict[str, int]", "np.ndarray", "list[str]", "Unknown"])
def test_types_that_no_text_can_be_are_refused(package: Path, annotation: str) -> None:
    with pytest.raises(TypeError, match=r"a command line cannot take"):
        _read(package, f"extra: {annotation} = None")


def test_a_file_has_one_analysis(package: Path) -> None:
    (package / "question.py").write_text(HEADER)
    with pytest.raises(TypeError, match="has 0 functions marked @analysis"):
        read("circuits.analyses.question")
    (package / "question.py").write_text(HEADER + 2 * FUNCTION.format(parameters="n: int = 1"))
    with pytest.raises(TypeError, match="has 2 functions marked @analysis"):
        read("circuits.analyses.question")


def test_shared_explanations_go_where_the_others_are() -> None:
    @analysis
    def question(model: Any, *, own: int = 1, seed: int = 0) -> None:
        """What is it?

        Args:
            own: Its own.

        Raises:
            CircuitsError: never.
        """

    assert (question.__doc__ or "").splitlines()[2:6] == [
        "Args:",
        "    own: Its own.",
        f"    seed: {shared_helps()['seed']}",
        "",
    ]


def test_an_unexplained_parameter_is_refused() -> None:
    def question(model: Any, *, mystery: int = 1) -> None:
        """What is it?

        Args:
            other: Something else.
        """

    with pytest.raises(TypeError, match=r"explains its parameters under Args: mystery"):
        analysis(question)


def test_an_analysis_takes_the_model_first() -> None:
    def question(text: str) -> None:
        """What is it?

        Args:
            text: Something.
        """

    with pytest.raises(TypeError, match="takes the model first"):
        analysis(question)


def test_a_question_that_is_not_about_a_model_may_take_none() -> None:
    """Its list of things stands first on the command line, one word each."""
    given: dict[str, Any]
    assert not find("compare").asks_model
    assert find("ablate").asks_model
    given = {name: p.default for name, p in find("compare").signature.parameters.items()}
    asked = asking.question(
        "compare", given | {"circuits": ["a b.json", Path("c.json")], "model": None}
    )
    assert asked.command == "circuits compare 'a b.json' c.json"
    assert asked.arguments["circuits"] == ["a b.json", "c.json"]
    model = load("compiled")
    asked = asking.question("compare", given | {"circuits": ["a"], "model": model})
    assert asked.command == "circuits compare a --model compiled"


GROUPED = "kind: Kind = None, extra: int = 1, how: RunOptions, prompts: PromptOptions"
FLAT = ["task", "prompt", "file", "answer", "distractor", "n", "seed"]
RUN = ["memory", "plan", "engine", "parts", "resume", "progress"]


@pytest.mark.parametrize(
    "group", [PromptOptions, MeasureOptions, PairOptions, TemplateOptions, RunOptions]
)
def test_options_of_a_group_have_the_classs_defaults(group: type[Any]) -> None:
    options = groups()[group.__name__]
    made = group()
    assert {option.name for option in options} == {*vars(made)} - {"question", "draws"}
    assert all(option.help == shared_helps()[option.name] for option in options)
    for option in options:
        assert option.default is not None
        assert recipes._value(option.default, {}) == getattr(made, option.name)


def test_a_command_has_the_options_of_its_groups(package: Path) -> None:
    recipe = _read(package, GROUPED)
    in_words = ["text", "kind", "extra", *FLAT, *RUN[:-1]]  # in their usual order
    assert list(recipe.signature.parameters) == in_words
    assert recipe.reports_progress
    assert recipe.signature.parameters["seed"].default == 0
    assert recipe.helps["parts"] == shared_helps()["parts"]


@pytest.mark.parametrize("name", ["ablate", "patch", "paths", "approximate", "attribute"])
def test_the_call_is_flat(name: str) -> None:
    function = find(name).load()
    parameters = inspect.signature(function).parameters
    assert not {"prompts", "templates", "how"} & {*parameters}
    assert [option for option in parameters if option in FLAT] == FLAT
    assert str(parameters["seed"]) == "seed: 'int' = 0"
    assert all(p.annotation is not p.empty for p in parameters.values())
    with pytest.raises(TypeError, match="unexpected keyword argument 'tsak'"):
        function(letter_model(), tsak="ioi")
    with pytest.raises(TypeError, match="unexpected keyword argument 'prompts'"):
        function(letter_model(), prompts=PromptOptions())


def test_groups_are_filled_and_the_answer_learns_what_was_asked(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = _read(package, GROUPED)
    monkeypatch.setattr(asking, "find", lambda name: recipe)
    seen: list[Any] = []
    said = ""

    @analysis
    def question(
        model: Any, text: str, *, kind: str | None = None, extra: int = 1,
        how: RunOptions, prompts: PromptOptions,
    ) -> Result:  # fmt: skip
        """What is it?

        Args:
            text: What to ask about.
            kind: Which one.
            extra: More.
        """
        seen.extend([prompts, how])
        source = provenance(model, "question", command=said)
        return Result(pd.DataFrame({"value": [1.0]}), "nats", "What is it?", source, ())

    flat: dict[str, Any] = {"task": "ioi", "n": 5, "memory": "1G", "file": Path("a.txt")}
    about = question(letter_model(), "a b", **flat).provenance
    prompts, how = seen
    assert prompts == PromptOptions(task="ioi", n=5, file=Path("a.txt"))
    assert (how.memory, how.engine, how.plan) == ("1G", "local", False)
    numbers = dict.fromkeys(["kind", "prompt", "answer", "distractor"])
    numbers |= {"analysis": "question", "text": "a b", "extra": 1, "task": "ioi"}
    assert how.question == numbers | {"n": 5, "seed": 0}
    command = "circuits question 'a b' --task ioi --file a.txt -n 5 --model letters"
    assert about.command == command
    assert about.arguments["file"] == "a.txt"
    assert about.arguments["memory"] is None  # it changes no number
    said = "circuits another question"
    assert question(letter_model(), "a b").provenance.command == said


def _defaults(name: str) -> dict[str, Any]:
    return {p.name: p.default for p in find(name).signature.parameters.values()}


def test_the_command_says_what_differs_from_the_defaults() -> None:
    given = _defaults("ablate")
    given |= {"model": letter_model(), "component": ["a0.h1", "m0"], "all_heads": True}
    given |= {"method": "zero", "seed": 3, "prompt": "it's", "n": 2, "file": Path("a b.txt")}
    described = asking.question("ablate", given)
    assert described.command == (
        "circuits ablate --component a0.h1 --component m0 --all-heads --prompt 'it'\"'\"'s' "
        "--file 'a b.txt' -n 2 --seed 3 --model letters"
    )
    assert described.arguments["component"] == ["a0.h1", "m0"]
    assert described.arguments["file"] == "a b.txt"


def test_objects_do_not_stand_in_the_command() -> None:
    given = _defaults("ablate")
    given |= {"model": letter_model(), "component": Component("mlp", 0)}
    described = asking.question("ablate", given)
    assert described.command == "circuits ablate --model letters"
    assert "component" not in described.arguments


def test_building_the_command_line_imports_nothing_heavy() -> None:
    code = (
        "import sys, circuits.cli\n"
        "heavy = {'torch', 'numpy', 'pandas', 'matplotlib', 'circuits.analyses.ablate'}\n"
        "sys.stdout.write(' '.join(sorted(heavy & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""


def test_no_room_has_the_name_of_a_question() -> None:
    """Importing the room would put it where the front door has the question: `circuits.neurons`."""
    package = recipes.PACKAGE
    rooms = {path.stem for path in package.iterdir() if path.suffix in ("", ".py")}
    assert not rooms & {recipe.function for recipe in analyses().values()}
