"""Texts and files from the hub; texts need the library ``datasets`` to be installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from circuits.errors import CircuitsError, nearest

NAMES = {
    "openwebtext": "stas/openwebtext-10k",
    "owt": "stas/openwebtext-10k",
    "pile": "NeelNanda/pile-10k",
    "c4": "NeelNanda/c4-10k",
    "code": "NeelNanda/code-10k",
    "python": "NeelNanda/code-10k",
    "c4_code": "NeelNanda/c4-code-20k",
    "wiki": "NeelNanda/wiki-10k",
}


def get_dataset(dataset_name: str, **options: Any) -> Any:
    """A sample of texts by a short name, from the Hugging Face hub.

    Raises:
        CircuitsError: for an unknown name, and where ``datasets`` is not installed.
    """
    if dataset_name not in NAMES:
        known = ", ".join(map(repr, NAMES))
        raise CircuitsError(
            f"there is no sample {dataset_name!r}{nearest(dataset_name, NAMES)}; choose {known}"
        )
    try:
        from datasets import load_dataset  # type: ignore[import-untyped]
    except ImportError:
        raise CircuitsError("texts need the library datasets: pip install datasets") from None
    return load_dataset(NAMES[dataset_name], split="train", **options)


def keep_single_column(dataset: Any, col_name: str) -> Any:
    """The dataset with this column alone."""
    names = dataset.features if dataset.features is not None else next(iter(dataset))
    return dataset.remove_columns([name for name in names if name != col_name])


def tokenize_and_concatenate(
    dataset: Any,
    tokenizer: Any,
    streaming: bool = False,
    max_length: int = 1024,
    column_name: str = "text",
    add_bos_token: bool = True,
    num_proc: int | None = None,
    set_format: bool = True,
) -> Any:
    """Texts as one stream of tokens in rows of `max_length`, in a column ``tokens``.

    An end token stands between texts, a start token before each row if `add_bos_token`. What does
    not fill a row is left out; a single row that is too short is filled up.
    """
    width = max_length - 1 if add_bos_token else max_length

    def rows(examples: dict[str, Any]) -> dict[str, NDArray[np.int64]]:
        texts = examples[column_name]
        ids: list[int] = []
        encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
        for i, row in enumerate(encoded):
            ids += ([tokenizer.eos_token_id] if i else []) + list(row)
        if ids and len(ids) < width:
            fill = getattr(tokenizer, "pad_token_id", None)
            ids += [tokenizer.eos_token_id if fill is None else fill] * (width - len(ids))
        stream = np.array(ids[: len(ids) // width * width], dtype=np.int64).reshape(-1, width)
        if add_bos_token:
            start = np.full((len(stream), 1), tokenizer.bos_token_id)
            stream = np.concatenate([start, stream], axis=1)
        return {"tokens": stream}

    texts = keep_single_column(dataset, column_name)
    more = {} if streaming else {"num_proc": num_proc}
    tokens = texts.map(rows, batched=True, remove_columns=[column_name], **more)
    if set_format:
        tokens.set_format(type="torch", columns=["tokens"])
    return tokens


def download_file_from_hf(
    repo_name: str,
    file_name: str,
    subfolder: str = ".",
    cache_dir: Any = None,
    force_is_torch: bool = False,
    **options: Any,
) -> Any:
    """A file of a repository on the hub: tensors of a ``.pth``, data of a ``.json``, else its path.

    Only tensors and plain data are read from a ``.pth``; code in it is refused by torch.
    """
    from huggingface_hub import hf_hub_download

    path = Path(
        hf_hub_download(
            repo_name,
            file_name,
            subfolder=None if subfolder == "." else subfolder,
            cache_dir=cache_dir,
            **options,
        )
    )
    if path.suffix == ".pth" or force_is_torch:
        return torch.load(path, map_location="cpu", weights_only=True)
    return json.loads(path.read_text(encoding="utf-8")) if path.suffix == ".json" else str(path)
