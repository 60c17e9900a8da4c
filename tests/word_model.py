"""A tiny random model whose vocabulary has bytes and the words of the tasks as single tokens."""

from __future__ import annotations

import torch
from random_models import randomized

from circuits.config import ModelConfig
from circuits.model import HookedGPT2
from circuits.prompts.ioi import NAMES, OBJECTS, PLACES
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
