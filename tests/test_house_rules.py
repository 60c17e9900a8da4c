"""Every file keeps the house rules, and every rule catches a file that does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import front_door
import house
import pytest
from house import ORDER, PYTHON_RULES, ROOT, TEXT_RULES, Rule, Source, complaints

PYTHON = house.sources("circuits", "tests", "experiments")
TEXTS = [
    path
    for pattern in ("*.md", "*.toml", "*.txt", ".*.yaml", ".ci/*", "circuits/**/*.md")
    for path in sorted(ROOT.glob(pattern))
]


@pytest.mark.parametrize("source", PYTHON, ids=lambda source: source.path)
def test_python_file_keeps_the_rules(source: Source) -> None:
    said = complaints(source, (*PYTHON_RULES, *TEXT_RULES))
    assert not said, "\n".join(said)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_text_file_keeps_the_rules(path: Path) -> None:
    source = Source(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    said = complaints(source, TEXT_RULES)
    assert not said, "\n".join(said)


def test_every_room_has_its_place() -> None:
    rooms = {house._room(s.path) for s in PYTHON if s.in_package}
    assert rooms - set(house.TOP) == set(ORDER)


def test_exemptions_are_still_needed() -> None:
    files = {name.partition(":")[0] for name in house.MANY_OPTIONS}
    too_many = {
        f"{source.path}:{complaint.split()[0]}"
        for source in PYTHON
        if source.path in files
        for _, complaint in house.few_parameters(Source("elsewhere.py", source.text))
    }
    assert set(house.MANY_OPTIONS) <= too_many


def test_public_names_are_those_that_editors_see() -> None:
    assert front_door.STUB.read_text(encoding="utf-8") == front_door.stub(), (
        "run: python tests/front_door.py"
    )


FORBIDDEN: dict[str, tuple[Rule, str, str]] = {
    "a long file": (house.short_files, "circuits/model.py", "x = 1\n" * 401),
    "a long function": (
        house.short_functions,
        "tests/test_a.py",
        "def f():\n" + "    x = 1\n" * 60,
    ),
    "a long method": (
        house.short_functions,
        "circuits/model.py",
        "class A:\n    def f(self):\n" + "        x = 1\n" * 60,
    ),
    "eight parameters": (
        house.few_parameters,
        "circuits/hooks.py",
        "def f(a, b, c, d, e, *, g, h, i): ...",
    ),
    "eight positional parameters in spite of an exemption": (
        house.few_parameters,
        "circuits/model.py",
        "class HookedGPT2:\n    def forward(self, a, b, c, d, e, f, g, h): ...",
    ),
    "a private helper with an analysis' many options": (
        house.few_parameters,
        "circuits/analyses/ablate.py",
        "def _f(*, a, b, c, d, e, f, g, h): ...",
    ),
    "an import from below": (
        house.imports_from_above,
        "circuits/hooks.py",
        "from circuits.architectures import HookedGPT2",
    ),
    "a late import from below": (
        house.imports_from_above,
        "circuits/hooks.py",
        "def f():\n    import circuits.cli",
    ),
    "a relative import from below": (
        house.imports_from_above,
        "circuits/prompts/ioi.py",
        "from ..analyses import ablate",
    ),
    "an import from the package's front door": (
        house.imports_from_above,
        "circuits/cli.py",
        "from circuits import load",
    ),
    "a front door inside a room is no exception": (
        house.imports_from_above,
        "circuits/prompts/__init__.py",
        "from circuits.cli import main",
    ),
    "a room without a place": (house.imports_from_above, "circuits/attic.py", '"""Old things."""'),
    "compile": (house.no_forbidden_calls, "tests/a.py", "compile('1', 'a', 'eval')"),
    ".cuda()": (house.no_forbidden_calls, "experiments/a.py", "model.cuda()"),
    "torch.load": (house.no_forbidden_calls, "circuits/cache.py", "torch.load(path)"),
    "torch.load of everything": (
        house.no_forbidden_calls,
        "circuits/cache.py",
        "torch.load(path, weights_only=False)",
    ),
    "numpy's pickles": (
        house.no_forbidden_calls,
        "circuits/cache.py",
        "np.load(path, allow_pickle=True)",
    ),
    "a note to oneself": (house.finished, "circuits/cache.py", "# TO" + "DO: later"),
    "a stub": (house.finished, "circuits/cache.py", "raise NotImplemented" + "Error"),
    "a path of one machine": (house.about_the_package, "README.md", "see /wo" + "rk/notes"),
    "how it was written": (house.about_the_package, "circuits/cache.py", "# last se" + "ssion"),
    "a test that cannot fail": (house.tests_can_fail, "tests/test_a.py", "def test_a(): f()"),
    "a test whose helper cannot fail": (
        house.tests_can_fail,
        "tests/test_a.py",
        "def f(): ...\ndef test_a(): f()",
    ),
}

# What ruff is set to find: the rule's code, a file, and a text that breaks the rule.
BY_RUFF: dict[str, tuple[str, str, str]] = {
    "no module docstring": ("D100", "circuits/cache.py", "x = 1"),
    "no docstring of a room": ("D104", "circuits/sweep/__init__.py", "x = 1"),
    "no class docstring": ("D101", "circuits/cache.py", "class A:\n    x = 1"),
    "no method docstring": ("D102", "circuits/cache.py", "class A:\n    def f(self): ..."),
    "no function docstring": ("D103", "circuits/cache.py", "def f(): ..."),
    "print": ("T201", "circuits/cache.py", "print(1)"),
    "eval": ("S307", "tests/a.py", "eval('1')"),
    "exec": ("S102", "circuits/cache.py", "exec('1')"),
    "pickle": ("TID251", "tests/a.py", "import pickle"),
    "from pickle": ("TID251", "circuits/cache.py", "from pickle import loads"),
    "a module of another pickle": ("TID251", "circuits/cache.py", "import joblib.memory"),
    "bare except": ("E722", "tests/a.py", "try:\n    x = 1\nexcept:\n    x = 2"),
    "global": ("PLW0603", "circuits/cache.py", "def f():\n    global x\n    x = 1"),
}

ALLOWED: dict[str, tuple[str, str]] = {
    "imports for type checkers": (
        "circuits/config.py",
        '"""Doc."""\nif TYPE_CHECKING:\n    from circuits.architectures import HookedGPT2\n',
    ),
    "an import from above": (
        "circuits/cli.py",
        '"""Doc."""\nfrom circuits import __version__\nfrom circuits.errors import nearest\n'
        "from .model import HookedGPT2\n",
    ),
    "a local helper": (
        "circuits/cache.py",
        '"""Doc."""\ndef f() -> int:\n    """Doc."""\n    def g(x: int) -> int:\n'
        "        return x\n    return g(1)\n",
    ),
    "evaluation mode": ("circuits/model.py", '"""Doc."""\nmodel.eval()\nre.compile("x")\n'),
    "a safe load": ("circuits/model.py", '"""Doc."""\ntorch.load(path, weights_only=True)\n'),
    "options of an analysis": (
        "circuits/analyses/ablate.py",
        '"""Doc."""\n'
        "def ablate(m: int, *, a: int, b: int, c: int, d: int, e: int, f: int, g: int) -> int:\n"
        '    """Doc."""\n    return a\n',
    ),
    "a shared fixture": (
        "tests/test_a.py",
        '@pytest.fixture(scope="session")\ndef f(): ...\n\ndef test_f(f):\n    assert f\n',
    ),
    "a test that asserts through helpers": (
        "tests/test_a.py",
        "def test_a(): close()\ndef near(): assert x\ndef close(): near()\n"
        "same = partial(assert_close, atol=0)\ndef test_b(): same(1, 1)\n",
    ),
    "printing in a script": ("experiments/train.py", "print(1)"),
}


@pytest.mark.parametrize("case", FORBIDDEN)
def test_rule_catches(case: str) -> None:
    rule, path, text = FORBIDDEN[case]
    assert len(complaints(Source(path, text), [rule])) == 1


@pytest.mark.parametrize("case", BY_RUFF)
def test_ruff_catches(case: str) -> None:
    code, path, text = BY_RUFF[case]
    command = [sys.executable, "-m", "ruff", "check", "--stdin-filename", path, "-"]
    done = subprocess.run(
        [*command, "--output-format", "concise"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert f" {code} " in done.stdout, done


@pytest.mark.parametrize("case", ALLOWED)
def test_rules_allow(case: str) -> None:
    path, text = ALLOWED[case]
    assert complaints(Source(path, text), (*PYTHON_RULES, *TEXT_RULES)) == []


def test_every_rule_is_shown_a_violation() -> None:
    assert {rule for rule, _, _ in FORBIDDEN.values()} == {*PYTHON_RULES, *TEXT_RULES}
