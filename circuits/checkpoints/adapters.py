"""Small files beside a model: what LoRA or adapters learned of it, in PEFT's format.

A folder has ``adapter_config.json`` and ``adapter_model.safetensors``. LoRA's are those of the
library `peft`, which loads what is written here, and whose own are read here. Bottleneck adapters
PEFT has none of; they stand in the same two files, with ``"peft_type": "PARALLEL_ADAPTER"`` and,
for each layer that has one, W_down [d w], its bias [w] and W_up [w d] (He et al. 2022)::

    base_model.model.transformer.h.3.mlp.adapter_down.weight
    base_model.model.transformer.h.3.mlp.adapter_down.bias
    base_model.model.transformer.h.3.mlp.adapter_up.weight

A head for classes stands beside either, as PEFT writes one: ``base_model.model.score.weight``.
Loaded, an adapter becomes part of the weights: LoRA's products are added to them, and an adapter
is neurons, so the model stays a plain GPT-2.

Shapes: r rank, w width, d = d_model, i and o the rows and columns of a matrix.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from circuits.architectures import HookedGPT2
from circuits.checkpoints.assembling import require_finite
from circuits.checkpoints.copying import copied
from circuits.checkpoints.layout import listed, released_names
from circuits.checkpoints.weight_files import read_json
from circuits.errors import CheckpointError, nearest
from circuits.files import named_path
from circuits.model import HookedModel, Readout

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LORA, PARALLEL = "LORA", "PARALLEL_ADAPTER"
_BASE, _SCORE = "base_model.model.", "score.weight"
_KINDS = ("adapter_down.weight", "adapter_down.bias", "adapter_up.weight")
_ADAPTER = re.compile(rf"transformer\.h\.(\d+)\.mlp\.({'|'.join(map(re.escape, _KINDS))})")
# What PEFT can do that changes the numbers, and what it says where that is not done.
_PLAIN = {"use_dora": False, "bias": "none", "rank_pattern": {}, "alpha_pattern": {}}


@dataclass(frozen=True, eq=False)
class Adapter:
    """What was learned of a model.

    Attributes:
        kind: LORA or PARALLEL_ADAPTER.
        size: the rank, or the width.
        tensors: of LoRA, of each matrix by its released name (``transformer.h.0.attn.c_attn``) with
            ``.A`` [i r] and ``.B`` [r o]; of adapters, under their names in the file.
        scale: by which LoRA's products are multiplied.
        readout: a head for classes, or None.
        base: the name of the model that it is of, and the checksum of that model's weights.
    """

    kind: str
    size: int
    tensors: Mapping[str, Tensor]
    scale: float = 1.0
    readout: Readout | None = None
    base: tuple[str, str] = ("", "")

    def write(self, folder: Path) -> None:
        """Write the two files."""
        tensors: dict[str, Tensor] = {}
        for name, tensor in self.tensors.items():
            if self.kind == LORA:
                matrix, _, which = name.rpartition(".")
                tensors[f"{_BASE}{matrix}.lora_{which}.weight"] = tensor.T
            else:
                tensors[f"{_BASE}{name}"] = tensor
        about = {"format": "pt", "base": self.base[1]}
        if self.readout is not None:
            tensors[f"{_BASE}{_SCORE}"] = self.readout.W.T
            about["labels"] = json.dumps(self.readout.labels)
        plain = {name: each.detach().cpu().contiguous() for name, each in tensors.items()}
        save_file(plain, folder / WEIGHTS, about)
        content = json.dumps(self._config(), indent=2) + "\n"
        (folder / CONFIG).write_text(content, encoding="utf-8")
        (folder / WEIGHTS).chmod((folder / CONFIG).stat().st_mode)

    def _config(self) -> dict[str, Any]:
        classes = self.readout is not None
        config: dict[str, Any] = {
            "peft_type": self.kind,
            "task_type": "SEQ_CLS" if classes else "CAUSAL_LM",
            "base_model_name_or_path": self.base[0],
            "inference_mode": True,
            "modules_to_save": ["score"] if classes else None,
        }
        if self.kind == PARALLEL:
            return config | {"width": self.size}
        matrices = sorted({name.rpartition(".")[0] for name in self.tensors})
        return config | {
            "r": self.size,
            "lora_alpha": self.scale * self.size,
            "lora_dropout": 0.0,
            "fan_in_fan_out": True,  # GPT-2's matrices are [in, out]
            "target_modules": matrices,
            **_PLAIN,
        }

    @torch.no_grad()
    def onto(self, model: HookedModel, origin: str) -> HookedGPT2:
        """A new model: this one with what was learned.

        Raises:
            CheckpointError: for a model with other matrices than it was learned of.
        """
        if not isinstance(model, HookedGPT2) or model.cfg.attn_types:
            raise CheckpointError(f"{origin} is an adapter of a GPT-2, and {model.source} is none")
        width = self.size if self.kind == PARALLEL else 0
        changed = copied(model, width)
        if self.kind == LORA:
            self._add_products(changed, origin)
        else:
            self._add_neurons(changed, origin, model.cfg.d_mlp)
        if self.readout is not None:
            if self.readout.W.shape[0] != model.cfg.d_model:
                raise CheckpointError(_unfit(origin, _SCORE, self.readout.W.T, model))
            W, b = (each.detach().to(model.W_E) for each in (self.readout.W, self.readout.b))
            changed.readouts["score"] = Readout(W, b, self.readout.labels)
        return changed

    def _add_products(self, model: HookedGPT2, origin: str) -> None:
        ours = {released: name for name, released in released_names(model.cfg).items()}
        for matrix in dict.fromkeys(name.rpartition(".")[0] for name in self.tensors):
            name = ours.get(f"{matrix}.weight")
            if name is None:
                raise CheckpointError(
                    f"{origin} has LoRA of {matrix}, which {model.cfg.model_name} does not have"
                    f"{nearest(matrix, ours)}; load it with the model that it was trained on"
                )
            weight = model.get_parameter(name)
            A, B = (self.tensors[f"{matrix}.{which}"].to(weight) for which in "AB")
            if (A.shape[0], B.shape[1]) != weight.shape:
                raise CheckpointError(_unfit(origin, matrix, A @ B, model))
            weight.add_(self.scale * (A @ B))

    def _add_neurons(self, model: HookedGPT2, origin: str, first: int) -> None:
        for name, tensor in self.tensors.items():
            match = _ADAPTER.fullmatch(name)
            if match is None or int(match[1]) >= model.cfg.n_layers:
                raise CheckpointError(
                    f"{origin} has {name}, for which {model.cfg.model_name} has no place; load it "
                    "with the model that it was trained on"
                )
            mlp = model.blocks[int(match[1])].mlp
            places = (mlp.W_in[:, first:], mlp.b_in[first:], mlp.W_out[first:])
            place = dict(zip(_KINDS, places, strict=True))[match[2]]
            if place.shape != tensor.shape:
                raise CheckpointError(_unfit(origin, name, tensor, model))
            place.copy_(tensor)


def neuron_names(layer: int) -> dict[str, str]:
    """What a file calls an adapter's tensors, by the names of the model's parameters."""
    ours = (f"blocks.{layer}.mlp.{name}" for name in ("W_in", "b_in", "W_out"))
    return dict(zip(ours, (f"transformer.h.{layer}.mlp.{kind}" for kind in _KINDS), strict=True))


def read_adapter(folder: str | Path) -> Adapter:
    """The adapter in this folder: ours, or LoRA that `peft` saved.

    Raises:
        CheckpointError: when there is none, or it has what is not understood here.
    """
    place = named_path(folder).expanduser()
    missing = [name for name in (CONFIG, WEIGHTS) if not (place / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{place} is no adapter: it lacks {listed(missing)}; give the folder that fine-tune or "
            "peft wrote"
        )
    config, (tensors, about) = read_json(place / CONFIG), _tensors(place / WEIGHTS)
    kind = config.get("peft_type")
    bare = {
        re.sub(r"\.(modules_to_save|original_module)\b.*?(?=\.weight)", "", n): t
        for n, t in tensors.items()
    }
    bare = {name.removeprefix(_BASE): each for name, each in bare.items()}
    score = bare.pop(_SCORE, None)
    labels = json.loads(about.get("labels", "[]"))
    readout = None if score is None else Readout(score.T.float().clone(), labels=labels)
    base = str(config.get("base_model_name_or_path") or ""), about.get("base", "")
    if kind == PARALLEL:
        size = _positive(config, "width", place)
        return Adapter(PARALLEL, size, bare, readout=readout, base=base)
    if kind != LORA:
        raise CheckpointError(
            f"{place / CONFIG} is of the type {kind!r}; {LORA} and {PARALLEL} can be loaded"
        )
    for name, plain in _PLAIN.items():
        if config.get(name, plain) not in (plain, None):
            raise CheckpointError(
                f"{place / CONFIG} has {name}={config[name]!r}, which cannot be loaded here; merge "
                "it by peft (merge_and_unload) and load the model"
            )
    rank, alpha = _positive(config, "r", place), float(config.get("lora_alpha", 0))
    scale = alpha / rank**0.5 if config.get("use_rslora") else alpha / rank
    return Adapter(LORA, rank, _lora_pairs(bare, place), scale, readout, base)


def attach(model: HookedModel, folder: str | Path) -> HookedGPT2:
    """A new model: this one with the adapter in the folder.

    Raises:
        CheckpointError: for what is no adapter, or one of another model.
    """
    adapter = read_adapter(folder)
    changed = adapter.onto(model, str(folder))
    changed.adapter = Path(folder)
    changed.source = f"{model.source} with {folder}"
    from circuits.checkpoints.identity import checksum  # which loads models itself

    if adapter.base[1] and adapter.base[1] != checksum(model):
        warnings.warn(
            f"{folder} was trained on {adapter.base[0]} with other weights than those of "
            f"{model.source}",
            stacklevel=2,
        )
    return changed


def _lora_pairs(bare: Mapping[str, Tensor], place: Path) -> dict[str, Tensor]:
    pairs: dict[str, Tensor] = {}
    for name, tensor in bare.items():
        match = re.fullmatch(r"(.*)\.lora_([AB])\.weight", name)
        if match is None:
            raise CheckpointError(f"{place / WEIGHTS} has {name}, which is no LoRA of a matrix")
        pairs[f"{match[1]}.{match[2]}"] = tensor.T
    for name in pairs:
        matrix = name.rpartition(".")[0]
        if not {f"{matrix}.A", f"{matrix}.B"} <= pairs.keys():
            raise CheckpointError(f"{place / WEIGHTS} has only one of LoRA's two of {matrix}")
    if not pairs:
        raise CheckpointError(f"{place / WEIGHTS} has no LoRA")
    return pairs


def _tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(str(path), "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            about = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    require_finite(tensors, str(path))
    return tensors, about


def _positive(config: Mapping[str, Any], name: str, place: Path) -> int:
    value = config.get(name)
    if not isinstance(value, int) or value < 1:
        raise CheckpointError(f"{place / CONFIG} has {name}={value!r}; it is a number from 1 on")
    return value


def _unfit(origin: str, what: str, tensor: Tensor, model: HookedGPT2) -> str:
    return (
        f"{origin} changes {what} by a matrix of shape {list(tensor.shape)}, which does not fit "
        f"{model.cfg.model_name}; load it with the model that it was trained on"
    )
