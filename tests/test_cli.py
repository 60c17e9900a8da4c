"""What a user sees: exit codes, what goes to which stream, and every odd input."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from quick import only
from rich.console import Console
from typer.testing import CliRunner
from word_model import TOKENS, word_model

import circuits
from circuits import checkpoints
from circuits.cli import app, commands, terminal
from circuits.cli.terminal import bar, visible, with_exit_codes
from circuits.errors import CircuitsError
from circuits.registry import analyses
from circuits.result import Result

IOI = ["--prompt", "aAbBcdeBfg.", "--answer", "A", "--distractor", "B"]
PAIR = [*IOI, "--corrupted", "aAbBcdeCfg."]
NAMES = [*analyses(), "generate", "models", "pull", "info"]
ODD = {
    "empty": "",
    "emoji": "a 😀 smile",
    "family": "👨‍👩‍👧",
    "right to left": "مرحبا بالعالم",
    "newline": "one\ntwo\r\n",
    "control": "\x1b[31mred\x00",
    "markup": "[bold]a[/bold] [x] {y} %s",
    "start token": "<|endoftext|>",
    "quotes": 'it\'s "quoted" \\n',
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a small random model that takes any text."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    # Every token but a byte is a pair of shorter ones, as the vocabulary's file demands.
    tokens = dict.fromkeys(word[:n] for word in TOKENS for n in range(2, len(word) + 1))
    checkpoints.save(word_model(list(tokens)), folder)
    return str(folder)


def run(*args: str, **options: Any) -> Any:
    return CliRunner().invoke(app, list(args), prog_name="circuits", **options)


def in_shell(*args: str, **options: Any) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "circuits", *args]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(words, **pipes, **options)


@pytest.mark.parametrize("name", NAMES)
def test_help_comes_with_what_is_asked_and_examples(name: str) -> None:
    done = run(name, "--help")
    assert done.exit_code == 0
    if name in analyses():
        assert analyses()[name].question in done.stdout
    if name in [*analyses(), "generate"]:
        assert f"$ circuits {name}" in done.stdout


def test_the_list_of_commands() -> None:
    done = run("--help")
    assert done.exit_code == 0
    assert all(name in done.stdout for name in NAMES)


EXAMPLES = [line for recipe in analyses().values() for line in recipe.examples]
EXAMPLES += commands.generation().examples


@pytest.mark.parametrize("line", EXAMPLES)
@pytest.mark.slow
def test_examples_are_commands(line: str) -> None:
    _, name, *args = shlex.split(line)
    group: Any = typer.main.get_command(app)
    context = group.commands[name].make_context(name, args)
    assert "model" in context.params


def test_version_and_module() -> None:
    assert run("--version").stdout == f"circuits {circuits.__version__}\n"
    with in_shell("--version") as process:
        assert process.communicate() == (f"circuits {circuits.__version__}\n", "")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["ablate", "--layer", "99", "--head", "3"], "there is no layer 99: compiled has layers"),
        (["ablate", "--layer", "0", "--head", "0", "--task", "io"], "there is no task 'io'"),
        (["ablate"], "nothing to ablate"),
        (["ablate", "--all-heads", "--json", "--csv"], "--json and --csv both want the output"),
        (["patch", *IOI], "have no corrupted twins"),
        (["patch", *IOI, "--corrupted", "aAb"], "compared token by token"),
        (["patch", *PAIR, "--component", "a99.h0"], "there is no layer 99"),
        (["patch", *PAIR, "--component", "a0->m1"], "is an edge"),
        (["patch", *PAIR, "--resume"], "give the folder as parts"),
        (["patch", *PAIR, "--memory", "lots"], "memory='lots' is no amount of memory"),
        (["patch", *PAIR, "--engine", "cloud"], "there is no engine 'cloud'"),
        (["paths", *PAIR], "nothing to trace"),
        (["paths", *PAIR, "--from", "a2.h0", "--to", "a1.h1<q>"], "does not come after a2.h0"),
        (["paths", *PAIR, "--to", "a1.h1<x>"], "names no component"),
        (["approximate", *PAIR, "--metric", "accuracy"], "moves in steps"),
        (["logit-lens", "ABC", "--positions", "9"], "there is no position 9"),
        (["logit-lens", "ABC" * 20], "reads at most 32"),
        (["logit-lens", "A", "--model", "minni"], "did you mean 'mini'"),
        (["logit-lens", "A", "--device", "abacus"], "abacus"),
        (["logit-lens", "A", "--dtype", "float3"], "float3"),
        (["logit-lens", "A\udcff"], "is not UTF-8 text"),
        (["generate", "A", "-n", "0"], "max_new_tokens=0"),
        (["generate", "A", "-n", "40"], "32"),
        (["generate", "A", "--temperature", "-1"], "temperature"),
        (["info", "/no/such/folder"], "no model and no file"),
        (["pull", "not a model"], "'not a model' is no model of the hub"),
    ],
    ids=lambda value: (
        " ".join(value)[:40].encode("ascii", "replace").decode() if isinstance(value, list) else ""
    ),
)
def test_wrong_input_is_one_sentence_and_exit_2(args: list[str], message: str) -> None:
    done = run(*args, env={"CIRCUITS_MODEL": "compiled"})
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "args",
    [
        ["frobnicate"],
        ["ablate", "--layr", "5"],
        ["ablate", "--layer", "five"],
        ["ablate", "--layer"],
        ["patch", "--what", "heads"],
        ["patch", "--direction", "sideways"],
        ["approximate", "--what", "q"],
        ["logit-lens"],
        ["logit-lens", "a", "b"],
        ["logit-lens", "a", "--positions", "frist"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_2(args: list[str]) -> None:
    done = run(*args)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_positions_are_words_or_numbers() -> None:
    assert "'frist' is not one of: last, all" in " ".join(
        run("logit-lens", "a", "--positions", "frist").stderr.replace("│", "").split()
    )
    asked = ["logit-lens", "ABC", "--model", "compiled", "--csv", "--positions"]
    assert run(*asked, "-1").stdout == run(*asked, "last").stdout == run(*asked, "3").stdout


def test_json_is_alone_on_standard_output_and_stable() -> None:
    args = ["ablate", "--layer", "2", "--head", "0", *IOI, "--model", "compiled", "--json"]
    first, second = run(*args), run(*args)
    assert first.exit_code == 0
    assert first.stderr == ""
    assert first.stdout_bytes == second.stdout_bytes
    content = json.loads(first.stdout)
    assert content["rows"][0]["ablated"] == pytest.approx(0, abs=1e-3)
    assert content["provenance"]["model"] == "compiled"
    again = run(*shlex.split(content["provenance"]["command"])[1:], "--json")
    assert again.stdout_bytes == first.stdout_bytes


def test_csv_is_a_table() -> None:
    done = run("ablate", "--all-heads", *IOI, "--model", "compiled", "--csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["component"] for row in rows[:5]] == ["a0.h0", "a0.h1", "a0.h2", "a0.h3", "a1.h0"]
    assert done.stderr == ""


@pytest.mark.slow
def test_results_and_figures_are_written(tmp_path: Path) -> None:
    folder, figure = tmp_path / "result", tmp_path / "lens.svg"
    args = ["logit-lens", "aAbBcdeBfg.", "--model", "compiled", "--positions", "all"]
    done = run(*args, "--save", str(folder), "--figure", str(figure))
    assert done.exit_code == 0
    assert done.stderr == f"wrote {folder}\nwrote {figure}\n"
    assert Result.load(folder).provenance.analysis == "logit_lens"
    assert figure.read_text(encoding="utf-8").startswith("<?xml")
    assert run(*args, "--save", str(folder), "--quiet").stderr == ""


@pytest.mark.parametrize("target", ["--save", "--figure"])
def test_what_cannot_be_written_is_one_error_after_the_answer(
    tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("circuits.cli.building.require_writable", lambda *given, **options: None)
    blocked = tmp_path / "file"
    blocked.write_text("")
    done = run("logit-lens", "A", "--model", "compiled", target, str(blocked / "x.png"))
    assert done.exit_code == 2
    assert "cannot be written" in done.stderr
    assert "takes over" in done.stdout
    assert list(tmp_path.iterdir()) == [blocked]


def test_another_kind_of_figure_is_an_error(tmp_path: Path) -> None:
    done = run("logit-lens", "A", "--model", "compiled", "--figure", str(tmp_path / "x.gif"))
    assert done.exit_code == 2
    assert ".png, .svg, .pdf" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("kind", only(("emoji", "markup", "newline"), ODD))
def test_any_text_is_a_prompt(tiny: str, kind: str) -> None:
    for positions in ("last", "all"):
        args = ["--model", tiny, "--positions", positions]
        done = run("logit-lens", *args, "--", ODD[kind], env={"COLUMNS": "80"})
        assert done.exit_code == 0, done.stderr
        assert "\x1b" not in done.stdout
        assert "\x00" not in done.stdout
    written = run("generate", ODD[kind], "--model", tiny, "-n", "3", "--seed", "0", "--json")
    assert json.loads(written.stdout)["prompt"] == ODD[kind]
    without = run("ablate", "--component", "m0", "--model", tiny, "--prompt", ODD[kind] + "a")
    assert without.exit_code == 0, without.stderr


def test_a_prompt_that_begins_with_a_dash(tiny: str) -> None:
    assert run("logit-lens", "--model", tiny, "--", "-5 degrees").exit_code == 0
    assert run("logit-lens", "--model", tiny, "-5 degrees").exit_code == 2


@pytest.mark.slow
@pytest.mark.parametrize("width", [80, 200])
def test_tables_fit_the_terminal(tiny: str, width: int) -> None:
    asked = [
        ["ablate", "--layer", "0", "--head", "1", "-n", "2"],
        ["ablate", "--all-heads", "-n", "2"],
        ["ablate", "--component", "a0.h1", "--component", "m0", "--prompt", "When Mary gave"],
        ["ablate", "--all-heads", "-n", "2", "--plan"],
        ["patch", "-n", "2"],
        ["patch", "--what", "head", "--positions", "roles", "-n", "2"],
        ["paths", "--to", "a1.h0<q>", "--to", "a1.h1<k>", "--to", "logits", "-n", "2"],
        ["paths", "--from", "a0.h0", "--from", "embed", "-n", "2"],
        ["approximate", "--what", "head", "-n", "2", "--check", "3"],
        ["logit-lens", "When Mary gave", "--top", "8"],
        ["logit-lens", "When Mary gave", "--positions", "all"],
    ]
    for args in asked:
        done = run(*args, "--model", tiny, env={"COLUMNS": str(width)})
        assert done.exit_code == 0, done.stderr
        assert max(map(len, done.stdout.splitlines())) <= width
        assert "model tiny, weights " in done.stdout


def test_ablation_says_what_was_measured(tiny: str) -> None:
    out = run("ablate", "--layer", "0", "--head", "1", "-n", "2", "--model", tiny).stdout
    assert "What breaks without a0.h1? (zero ablation, tiny)" in out
    assert "--rank says its place among all heads" in " ".join(out.split())
    out = run("ablate", "--layer", "0", "--head", "1", "-n", "2", "--rank", "--model", tiny).stdout
    assert "of 4" in out
    assert "loss in nats per token; logit_diff in logits" in out


def test_the_lens_names_where_the_answer_takes_over() -> None:
    out = run("logit-lens", "aAbBcdeBfg.", "--model", "compiled").stdout
    assert "A takes over after a2 and stays on top; the model gives it 99.9%" in out


def test_generate_streams_what_json_tells(tiny: str) -> None:
    args = ["generate", "When Mary", "-n", "12", "--seed", "4", "--model", tiny]
    args += ["--temperature", "0.8", "--top-k", "40", "--top-p", "0.95"]
    plain, told = run(*args), json.loads(run(*args, "--json").stdout)
    assert plain.stdout == told["text"] + "\n"
    assert plain.stderr.startswith("model tiny, weights ")
    assert told["text"].startswith("When Mary")
    assert len(told["tokens"]) == len(told["logprobs"]) == 12
    assert run(*args, "--quiet").stderr == ""
    stop = told["token_strings"][3]
    stopped = json.loads(run(*args, "--json", "--stop", stop).stdout)
    assert stopped["tokens"] == told["tokens"][: len(stopped["tokens"])]
    assert len(stopped["tokens"]) <= 4


@pytest.mark.parametrize(
    "option", ["--figure=no/x.png", "--html=no/x.html", "--save=ends/no", f"--save={'x' * 300}"]
)
def test_a_place_that_cannot_be_written_is_known_before_the_work(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ends").touch()  # a file, where a folder would have to be
    done = run("attention", "aAbB.", "--model", "compiled", option)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "cannot be written" in done.stderr


@pytest.mark.parametrize("seed", [-1, 2**63])
@pytest.mark.parametrize("command", ["ablate --all-heads", "icl", "interchange"])
def test_a_seed_nobody_can_draw_with(command: str, seed: int) -> None:
    done = run(*command.split(), f"--seed={seed}", "--model", "compiled")
    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: seed={seed}: choose a whole number")


def test_ctrl_c_is_exit_130(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(typer.Exit) as stopped:
        with_exit_codes(interrupted)()
    assert stopped.value.exit_code == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="a signal of Unix")
def test_an_interrupted_process_says_so(tiny: str, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    os.mkfifo(prompts)
    heeding: dict[str, Any] = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    command = in_shell("ablate", "--all-heads", "--file", prompts, "--model", tiny, **heeding)
    with command as process, prompts.open("w"):  # opened by both; it waits for what never comes
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (err, process.returncode) == ("interrupted\n", 130)


@pytest.mark.slow
def test_a_closed_pipe_is_silent() -> None:
    for args in (["info", "compiled"], ["info", "compiled", "--json"]):
        with in_shell(*args) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            assert process.stderr.read() == ""
        assert process.returncode == 141


def test_errors_keep_their_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    def failing() -> None:
        raise CircuitsError("give tokens [b p],\n   not [red]")

    with pytest.raises(typer.Exit):
        with_exit_codes(failing)()
    assert capsys.readouterr().err == "error: give tokens [b p], not [red]\n"


def _bar(monkeypatch: pytest.MonkeyPatch, *, quiet: bool, is_terminal: bool) -> str:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=is_terminal, width=80)
    monkeypatch.setattr(terminal, "err", lambda: console)
    with bar("ablate", quiet=quiet) as step:
        for done in range(1, 4):
            step(1000 * done, 4000)
    return screen.getvalue()


def test_long_work_has_a_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _bar(monkeypatch, quiet=False, is_terminal=True) == ""
    monkeypatch.setattr(terminal, "PATIENCE", -1.0)
    shown = _bar(monkeypatch, quiet=False, is_terminal=True)
    assert "ablate" in shown
    assert "25%" in shown or "75%" in shown
    assert _bar(monkeypatch, quiet=True, is_terminal=True) == ""
    assert _bar(monkeypatch, quiet=False, is_terminal=False) == ""


@pytest.mark.parametrize(
    ("token", "shown"),
    [(" a", "·a"), ("\n", "\\n"), ("\u202e", "\\u202e"), ("é😀", "é😀"), ("", "∅")],
)
def test_tokens_cannot_act_on_the_terminal(token: str, shown: str) -> None:
    assert visible(token) == shown
