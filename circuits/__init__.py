"""Find out which parts of a GPT-2 do what.

>>> import circuits
>>> model = circuits.load()
>>> tokens = model.to_tokens("Once upon a time")
>>> _, cache = model.run_with_cache(tokens)
>>> cache["pattern", 5].shape == (1, model.cfg.n_heads, *2 * tokens.shape[1:])
True

The names below are imported when they are first used: `import circuits` alone is quick, and does
not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from circuits.adapter import adapt
    from circuits.cache import Cache
    from circuits.checkpoints import bundled_models, checksum, load, save
    from circuits.components import Component
    from circuits.config import GPT2_SIZES, ModelConfig
    from circuits.errors import CheckpointError, CircuitsError, SiteError, TokenError
    from circuits.factored import FactoredMatrix
    from circuits.hooks import get_act_name
    from circuits.linear import packed
    from circuits.model import HookedGPT2
    from circuits.result import Provenance, Result
    from circuits.tokenizer import Tokenizer

__version__ = "0.1.0"

__all__ = [
    "GPT2_SIZES",
    "Cache",
    "CheckpointError",
    "CircuitsError",
    "Component",
    "FactoredMatrix",
    "HookedGPT2",
    "ModelConfig",
    "Provenance",
    "Result",
    "SiteError",
    "TokenError",
    "Tokenizer",
    "adapt",
    "bundled_models",
    "checksum",
    "get_act_name",
    "load",
    "packed",
    "save",
]

# The module of every public name. Editors and mypy read the block above; a test compares the two.
_HOME = {
    "adapter": ["adapt"],
    "cache": ["Cache"],
    "checkpoints": ["bundled_models", "checksum", "load", "save"],
    "components": ["Component"],
    "config": ["GPT2_SIZES", "ModelConfig"],
    "errors": ["CheckpointError", "CircuitsError", "SiteError", "TokenError"],
    "factored": ["FactoredMatrix"],
    "hooks": ["get_act_name"],
    "linear": ["packed"],
    "model": ["HookedGPT2"],
    "result": ["Provenance", "Result"],
    "tokenizer": ["Tokenizer"],
}


def __getattr__(name: str) -> object:
    for module, names in _HOME.items():
        if name in names:
            value: object = getattr(import_module(f"circuits.{module}"), name)
            globals()[name] = value  # found without this function the next time
            return value
    from circuits.errors import nearest

    raise AttributeError(f"circuits has no {name!r}{nearest(name, __all__)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
