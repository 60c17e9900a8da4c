"""A tiny random model whose vocabulary has bytes and the words of the tasks as single tokens."""

from __future__ import annotations

import torch
from random_models import randomized

from circuits.architectures import HookedGPT2
from circuits.config import ModelConfig
from circuits.prompts.agreement import BETWEEN
from circuits.prompts.agreement import NOUNS as PAIRS
from circuits.prompts.docstring import WORDS as CODE
from circuits.prompts.greater_than import NOUNS as EVENTS
from circuits.prompts.ioi import NAMES, OBJECTS, PLACES
from circuits.prompts.pronoun import ADJECTIVES
from circuits.prompts.pronoun import NOUNS as ROLES
from circuits.prompts.words import MEN, WOMEN
from circuits.tokenizer import END_OF_TEXT, Tokenizer

WORDS = [*NAMES[:8], *PLACES[:4], *OBJECTS[:4], "When", "and", "gave", "to", "the"]


TOKENS = [f" {word}" for word in WORDS]


def word_tokenizer(tokens: list[str] = TOKENS) -> Tokenizer:
    """256 bytes, then these tokens, then the start token."""
    ranks = {bytes([i]): i for i in range(256)}
    ranks |= {token.encode(): 256 + i for i, token in enumerate(tokens)}
    return Tokenizer(ranks, {END_OF_TEXT: len(ranks)}, name="words")


def word_model(tokens: list[str] = TOKENS, n_ctx: int = 128) -> HookedGPT2:
    tokenizer = word_tokenizer(tokens)
    cfg = ModelConfig(
        n_layers=2,
        n_heads=2,
        d_model=8,
        n_ctx=n_ctx,
        d_vocab=tokenizer.n_vocab,
        model_name="tiny",
    )
    return randomized(cfg, dtype=torch.float32, tokenizer=tokenizer)


def task_model(n_ctx: int = 200) -> HookedGPT2:
    """A model that can be asked every task but sorting."""
    listed = [*NAMES[:8], *WOMEN[:6], *MEN[:6], *PLACES[:4], *OBJECTS[:4], *CODE[:24]]
    listed += [*ADJECTIVES[:2], *ROLES[:3], *BETWEEN[:3], *EVENTS[:4], "16", "17"]
    listed += ["he", "she", "is", "are", *(word for pair in PAIRS[:5] for word in pair)]
    tokens = [f"{year:02d}" for year in range(100)] + [f" {word}" for word in listed]
    return word_model(list(dict.fromkeys(tokens)), n_ctx)


def letter_model(letters: str = "ABC", n_ctx: int = 11) -> HookedGPT2:
    """A model of a few letters and no start token, as `sort-abc` is."""
    cfg = ModelConfig(
        n_layers=1,
        n_heads=2,
        d_model=8,
        n_ctx=n_ctx,
        d_vocab=len(letters),
        model_name="letters",
        default_prepend_bos=False,
    )
    return randomized(cfg, dtype=torch.float32, tokenizer=Tokenizer.characters(letters))
