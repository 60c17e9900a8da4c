"""Which question can be asked of which architecture? All of them, asked of a tiny model of each."""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from decoder_models import SHAPES, decoder
from every_analysis import OF_A_GPT2, OF_A_MODEL, answer, write_files
from word_model import word_model, word_tokenizer

from circuits.architectures import HookedGPT2
from circuits.checkpoints import load
from circuits.errors import CircuitsError
from circuits.model import Transformer
from circuits.sweep.engine import runner_of
from circuits.sweep.flow_runner import FlowRunner

# By the names of README's columns: GPT-2, and what `decoder_models` calls the others.
COLUMNS = {"GPT-2": "", "Pythia": "pythia", "Llama": "llama", "Mistral": "mistral"}
COLUMNS |= {"Qwen 2": "qwen2", "Qwen 3": "qwen3", "Gemma": "gemma", "Gemma 2": "gemma2"}
COLUMNS |= {"attn-only": "attn-only", "gelu": "gelu-2l", "Shortformer": "shortformer"}
MARKS = "¹²³⁴⁵⁶⁷⁸⁹"


def table() -> str:
    """The table in Markdown, with the reasons of what is refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pairs = {column: _pair(shape) for column, shape in COLUMNS.items()}
        refusals = {
            (name, column): _refusal(name, *pair)
            for name in OF_A_MODEL
            for column, pair in pairs.items()
        }
    reasons = list(dict.fromkeys(reason for reason in refusals.values() if reason))
    rows = [f"| | {' | '.join(COLUMNS)} |", "| --- |" + " --- |" * len(COLUMNS)]
    fast = (runner_of(first) is FlowRunner for first, _ in pairs.values())
    rows.append(f"| engine | {' | '.join('fast' if each else 'plain' for each in fast)} |")
    for name in OF_A_MODEL:
        cells = []
        for column in COLUMNS:
            reason = refusals[name, column]
            cells.append(f"no {MARKS[reasons.index(reason)]}" if reason else "yes")
        rows.append(f"| `{name}` | {' | '.join(cells)} |")
    notes = [f"{MARKS[i]} “{reason}”" for i, reason in enumerate(reasons)]
    return "\n".join(rows) + "\n\n" + "  \n".join(notes)


def _pair(shape: str) -> tuple[Transformer, Transformer]:
    """A model of this shape, and another to compare it with."""
    if not shape:
        return word_model(), word_model()
    tokenizer, dtype = word_tokenizer(), torch.float32
    first, second = (decoder(shape, dtype=dtype, tokenizer=tokenizer, seed=seed) for seed in (0, 1))
    return first, second


def _refusal(name: str, model: Transformer, other: Transformer) -> str | None:
    """What the analysis says where it does not answer: the first clause of its message."""
    if name in OF_A_GPT2 and isinstance(model, HookedGPT2):
        model = load("mini")  # whose vocabulary can be written
    with _elsewhere():
        try:
            answer(name, model, other)
        except CircuitsError as error:
            said = re.sub(r" \(.*?\)", "", str(error)).replace(model.cfg.model_name, "this model")
            return re.split(r"; |, (?:so|which) ", said, maxsplit=1)[0]
    return None


@contextmanager
def _elsewhere() -> Iterator[None]:
    """In a folder with the files that questions name."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            write_files()
            yield
        finally:
            os.chdir(before)


assert {*COLUMNS.values()} - {""} == {*SHAPES}
