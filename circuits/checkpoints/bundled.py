"""The models that come with the package, in Hugging Face's format, and the one built in code."""

from __future__ import annotations

from pathlib import Path

import torch

from circuits.checkpoints.hugging_face import load_folder
from circuits.checkpoints.layout import CONFIG_FILE, find_dtype, resolve_device
from circuits.errors import CheckpointError
from circuits.model import Transformer

DEFAULT_MODEL = "mini"
FOLDER = Path(__file__).resolve().parents[1] / "models"
_TRAINED = (DEFAULT_MODEL, "sort-abc")
_BUILT = "compiled"


def bundled_models() -> list[str]:
    """Which models can be loaded by name without a network? The default comes first.

    >>> bundled_models()
    ['mini', 'sort-abc', 'compiled']
    """
    return [*_TRAINED, _BUILT]


def load_bundled(
    name: str,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> Transformer:
    """The bundled model of this name.

    Raises:
        CheckpointError: when the installation lacks its files.
    """
    if name == _BUILT:
        from circuits.checkpoints.compiled import build

        model = build()
        model.source = "built by circuits.checkpoints.compiled"
        return model.to(
            device=resolve_device(device),
            dtype=find_dtype(torch.float32 if dtype is None else dtype),
        )
    folder = FOLDER / name
    if not (folder / CONFIG_FILE).is_file():
        raise CheckpointError(
            f"this installation lacks the bundled model {name!r} ({folder} is missing): install "
            "the package again"
        )
    return load_folder(folder, origin=f"bundled {name}", name=name, device=device, dtype=dtype)
