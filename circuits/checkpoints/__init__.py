"""Checkpoints: one `load` for every format, one `save`, and what tells models apart.

In reading order: `layout` (names and assembly), `settings` (what a config.json says),
`hugging_face` (a folder, or an object in memory), `hub`, `nanogpt`,
`transformer_lens`, `bundled` and `compiled` with its `recipe`, `loading`, `saving`, `identity`.
"""

from circuits.checkpoints.bundled import DEFAULT_MODEL, bundled_models
from circuits.checkpoints.hub import pull
from circuits.checkpoints.identity import (
    AvailableModel,
    ModelInfo,
    available,
    checksum,
    describe,
    loading_options,
)
from circuits.checkpoints.loading import load, model_name
from circuits.checkpoints.saving import save

__all__ = [
    "DEFAULT_MODEL",
    "AvailableModel",
    "ModelInfo",
    "available",
    "bundled_models",
    "checksum",
    "describe",
    "load",
    "loading_options",
    "model_name",
    "pull",
    "save",
]
