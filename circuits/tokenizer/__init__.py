"""Text to token ids and back, and which tokens start, end and fill up a text.

`Tokenizer` is the vocabulary; `AddedToken` a text that is one token as it stands; `Roles` the
tokens that stand for no text; `LibraryTokenizer` a vocabulary of any other kind than GPT-2's. The
rest are names of files.
"""

from circuits.tokenizer.added import AddedToken
from circuits.tokenizer.byte_pairs import CHARACTERS, GPT2_PATTERN, UNUSED
from circuits.tokenizer.fitted import FittedTokenizer, ModelRoles, no_tokenizer
from circuits.tokenizer.library import LibraryTokenizer, library_tokenizer
from circuits.tokenizer.reading import (
    JSON_FILE,
    MERGES_FILES,
    TIKTOKEN_FILES,
    VOCAB_FILES,
    complete,
    tiktoken_cache,
)
from circuits.tokenizer.roles import END_OF_TEXT, Roles
from circuits.tokenizer.settings import SETTINGS_FILES, Settings, model_roles
from circuits.tokenizer.vocabulary import Tokenizer
from circuits.tokenizer.writing import WRITTEN

__all__ = [
    "CHARACTERS",
    "END_OF_TEXT",
    "GPT2_PATTERN",
    "JSON_FILE",
    "MERGES_FILES",
    "SETTINGS_FILES",
    "TIKTOKEN_FILES",
    "UNUSED",
    "VOCAB_FILES",
    "WRITTEN",
    "AddedToken",
    "FittedTokenizer",
    "LibraryTokenizer",
    "ModelRoles",
    "Roles",
    "Settings",
    "Tokenizer",
    "complete",
    "library_tokenizer",
    "model_roles",
    "no_tokenizer",
    "tiktoken_cache",
]
