"""Several texts at once on the command line: each as it would be alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fine_tuning_files import answers
from typer.testing import CliRunner

from circuits.analyses.fine_tune import fine_tune
from circuits.architectures import HookedGPT2
from circuits.cli import app
from circuits.config import ModelConfig
from circuits.tokenizer import Tokenizer


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def asked(*words: str) -> str:
    options = ["--model", "sort-abc", "--temperature", "0", "-n", "4", "--quiet"]
    done = CliRunner().invoke(app, ["generate", *words, *options])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_several_prompts_get_the_texts_of_each() -> None:
    alone = [asked(prompt) for prompt in ("CBA", "ABCAB")]
    assert asked("CBA", "ABCAB") == "".join(alone)
    Path("p.jsonl").write_text('{"prompt": "CBA"}\n{"text": "ABCAB"}\n')
    assert asked("--file", "p.jsonl") == "".join(alone)
    both = json.loads(asked("--file", "p.jsonl", "--json"))
    each = [json.loads(asked(prompt, "--json")) for prompt in ("CBA", "ABCAB")]
    for row, other in zip(both, each, strict=True):
        assert row.pop("logprobs") == pytest.approx(other.pop("logprobs"), abs=1e-4)
    assert both == each


def test_a_model_trained_with_an_end_token_ends_there() -> None:
    tokenizer = Tokenizer.characters("ABC", ["<|endoftext|>"])
    cfg = ModelConfig(n_layers=1, n_heads=2, d_model=32, n_ctx=12, d_vocab=4)
    model = HookedGPT2.random(cfg, tokenizer=tokenizer)
    fine_tune(model, "tuned", file=answers(Path("a.jsonl"), 9), steps=150, lr=0.01, held_out=0.1)
    words = [
        "generate",
        "AAAB",
        "AABA",
        "--model",
        "tuned",
        "--temperature",
        "0",
        "--json",
        "-n",
        "7",
    ]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    first, second = json.loads(done.stdout)
    assert (first["text"], second["text"]) == ("AAABBAAA", "AABAABAA")
    assert first["token_strings"][-1] == second["token_strings"][-1] == "<|endoftext|>"


@pytest.mark.parametrize("words", [[], ["A", "--file", "p.txt"], ["--file", "empty.jsonl"]])
def test_nothing_to_continue_or_twice(words: list[str]) -> None:
    Path("p.txt").write_text("A\n")
    Path("empty.jsonl").write_text("")
    done = CliRunner().invoke(app, ["generate", *words, "--model", "sort-abc"])
    assert done.exit_code == 2
    assert "error: " in done.output
