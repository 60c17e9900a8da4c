"""Text to token ids and back, and which tokens start, end and fill up a text."""

from circuits.tokenizer.roles import END_OF_TEXT, Roles
from circuits.tokenizer.vocabulary import (
    GPT2_PATTERN,
    MERGES_FILES,
    TIKTOKEN_FILES,
    VOCAB_FILES,
    Tokenizer,
    tiktoken_cache,
)

__all__ = [
    "END_OF_TEXT",
    "GPT2_PATTERN",
    "MERGES_FILES",
    "TIKTOKEN_FILES",
    "VOCAB_FILES",
    "Roles",
    "Tokenizer",
    "tiktoken_cache",
]
