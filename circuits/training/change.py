"""What is learned, and the model's weights that follow from it: full, LoRA, or adapters.

Whatever the method, a step computes the model's weights from the numbers that are learned
(`Change.weights`), and the model itself runs as always. So what is not chosen stays bit for bit,
and the trained model is a plain GPT-2, which every analysis takes.

Shapes: i rows and o columns of the chosen part of a matrix, r the rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from circuits.architectures import HookedGPT2
from circuits.checkpoints.copying import copied
from circuits.errors import CircuitsError
from circuits.model import HookedModel
from circuits.training.parts import READOUT, Slice, layers_of, neurons, slices

Method = Literal["full", "lora", "adapter"]
METHODS: tuple[Method, ...] = ("full", "lora", "adapter")
SCALE = 2.0  # by which LoRA's product is multiplied: alpha / rank, with alpha = 2 rank
_INITIAL = 0.02  # standard deviation of what an adapter's neurons read at first, as GPT-2's
_MATRICES = ("attn.W_QKV", "attn.W_O_flat", "mlp.W_in", "mlp.W_out")
_CHANGES = {
    "lora": "LoRA changes the matrices of attention and MLPs; name all, last 2 layers, attention, "
    "mlp, a5, a5.h3, m7 or m7.n12",
    "adapter": "an adapter stands beside a whole MLP; name all, mlp, last 2 layers, layers 2,5 or "
    "m7",
}
Weights = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Change:
    """What is learned of a model.

    Attributes:
        base: the model before, with room for what is added; it is never changed.
        learned: the numbers that are trained, by their names.
        weights: the model's weights that follow from them, by the names of its parameters.
        chosen: which weights, or parts of them, change.
        method: full, lora or adapter.
        size: the rank, or the width of an adapter; 0 for full.
    """

    base: HookedGPT2
    learned: Weights
    weights: Callable[[Weights], dict[str, Tensor]]
    chosen: Mapping[str, Slice]
    method: Method
    size: int = 0

    @property
    def n_learned(self) -> int:
        """How many numbers are trained."""
        return sum(tensor.numel() for tensor in self.learned.values())

    @torch.no_grad()
    def model(self, learned: Weights | None = None) -> HookedGPT2:
        """A new model with what was learned (by default, as it is now)."""
        changed = copied(self.base)
        for name, weight in self.weights(self.learned if learned is None else learned).items():
            changed.get_parameter(name).copy_(weight)
        return changed


def prepared(
    model: HookedModel, what: str | Sequence[str], method: Method, size: int, seed: int
) -> Change:
    """What is to be learned: these parts of the model, by this method, from a random start.

    `size` is the rank of LoRA (Hu et al. 2021), or the width of the adapters. Adapters are those
    that stand beside an MLP (He et al. 2022): gelu(x W_down + b) W_up is added to what it writes.
    That is what neurons do, so an adapter of width n is n new neurons of the MLP. LoRA adds
    2 A B to the matrices of attention and MLP that are named, or to their columns and rows of a
    head or neuron; biases, LayerNorms and embeddings stay. A and what an adapter reads begin
    random, B and what it writes at zero, so that training starts from the model as it is. A
    readout is trained in full by every method.

    Raises:
        CircuitsError: for an unknown method, an impossible size, and parts it cannot change.

    >>> from circuits.config import ModelConfig
    >>> cfg = ModelConfig(n_layers=2, n_heads=2, d_model=8, n_ctx=4, d_vocab=9)
    >>> change = prepared(HookedGPT2.random(cfg), "last 1", "lora", 2, seed=0)
    >>> change.n_learned, change.learned["blocks.1.attn.W_QKV.A"].shape
    (256, torch.Size([8, 2]))
    """
    if method not in METHODS:
        raise CircuitsError(f"there is no method {method!r}; choose {', '.join(METHODS)}")
    if method != "full" and size < 1:
        name = "rank" if method == "lora" else "width"
        raise CircuitsError(f"{name}={size}: it is at least 1")
    model = _require_trainable(model)
    chosen = slices(model, what)
    if method == "full":
        return _full(copied(model), chosen)
    fits = {
        "lora": any(name.endswith(_MATRICES) for name in chosen),
        "adapter": any(name.endswith("mlp.W_in") and chosen[name].index is None for name in chosen),
    }
    if not fits[method]:
        said = what if isinstance(what, str) else ", ".join(what)
        raise CircuitsError(f"what={said}: {_CHANGES[method]}, or take the method full")
    if method == "lora":
        return _lora(copied(model), chosen, size, seed)
    return _adapter(model, chosen, size, seed)


def _full(base: HookedGPT2, chosen: Mapping[str, Slice]) -> Change:
    parameters = dict(base.named_parameters())
    learned = {name: _leaf(piece.of(parameters[name])) for name, piece in chosen.items()}

    def weights(now: Weights) -> dict[str, Tensor]:
        return {name: each.into(parameters[name], now[name]) for name, each in chosen.items()}

    return Change(base, learned, weights, chosen, "full")


def _lora(base: HookedGPT2, chosen: Mapping[str, Slice], rank: int, seed: int) -> Change:
    matrices = {n: each for n, each in chosen.items() if n.endswith(_MATRICES)}
    whole = {n: each for n, each in chosen.items() if n.startswith(READOUT)}
    parameters, draw = dict(base.named_parameters()), torch.Generator().manual_seed(seed)
    learned = {n: _leaf(each.of(parameters[n])) for n, each in whole.items()}
    for name, each in matrices.items():
        n_in, n_out = each.of(parameters[name]).shape
        A = torch.empty(n_in, rank).uniform_(-1, 1, generator=draw) / math.sqrt(n_in)
        learned[f"{name}.A"] = _leaf(A.to(parameters[name]))
        learned[f"{name}.B"] = _leaf(parameters[name].new_zeros(rank, n_out))

    def weights(now: Weights) -> dict[str, Tensor]:
        changed = {name: each.into(parameters[name], now[name]) for name, each in whole.items()}
        for name, each in matrices.items():
            delta = SCALE * (now[f"{name}.A"] @ now[f"{name}.B"])
            changed[name] = each.into(parameters[name], each.of(parameters[name]) + delta)
        return changed

    return Change(base, learned, weights, {**matrices, **whole}, "lora", rank)


def _adapter(model: HookedGPT2, chosen: Mapping[str, Slice], width: int, seed: int) -> Change:
    layers = layers_of({n: each for n, each in chosen.items() if each.index is None}, "mlp.W_in")
    base, draw = copied(model, width), torch.Generator().manual_seed(seed)
    new = torch.arange(model.cfg.d_mlp, base.cfg.d_mlp)
    pieces = {each.name: each for layer in layers for each in neurons(layer, new)}
    with torch.no_grad():
        for name in pieces:
            if name.endswith("W_in"):
                reads = torch.randn(model.cfg.d_model, width, generator=draw) * _INITIAL
                base.get_parameter(name)[:, model.cfg.d_mlp :].copy_(reads)
    pieces |= {name: each for name, each in chosen.items() if name.startswith(READOUT)}
    full = _full(base, pieces)
    return replace(full, method="adapter", size=width)


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_()


def _require_trainable(model: HookedModel) -> HookedGPT2:
    if not isinstance(model, HookedGPT2):
        raise CircuitsError(
            f"{model.cfg.model_name} ({model.source}) is no GPT-2 of this package, which alone can "
            "be trained here; train it in its own library, or load a GPT-2 by circuits.load"
        )
    if model.W_E.dtype not in (torch.float32, torch.float64):
        raise CircuitsError(
            f"{model.cfg.model_name} is in {model.W_E.dtype}, whose rounding swallows small steps; "
            "load it in float32 (--dtype float32)"
        )
    return model
