"""What is trained: words such as ``last 2 layers`` or ``a5.h3``, and the weights that they mean."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from circuits.architectures import HookedGPT2
from circuits.components import Component, check, parse
from circuits.config import ModelConfig
from circuits.errors import CircuitsError, nearest

READOUT = "readouts.score"
_ATTENTION = ("ln1.w", "ln1.b", "attn.W_QKV", "attn.b_QKV", "attn.W_O_flat", "attn.b_O")
_MLP = ("ln2.w", "ln2.b", "mlp.W_in", "mlp.b_in", "mlp.W_out", "mlp.b_out")
_WORDS = ("all", "attention", "mlp", "embed", "pos", "unembed", "readout")
_GRAMMAR = (
    "all; last 2 layers; layers 2,5; attention; mlp; embed; pos; unembed; readout; a5 (an "
    "attention layer), a5.h3 (a head), m7 (an MLP) or m7.n12 (a neuron)"
)
_LAST = re.compile(r"last[ -]?(\d+)?(?:[ -]?layers?)?", re.ASCII)
_LAYERS = re.compile(r"layers?[ -]?(\d+(?:\s*[,-]\s*\d+)*)", re.ASCII)


@dataclass(frozen=True, eq=False)
class Slice:
    """Some of a weight: those at `index` along `axis`, or with None all of it."""

    name: str
    axis: int = 0
    index: Tensor | None = None

    def of(self, weight: Tensor) -> Tensor:
        """The chosen numbers, a copy."""
        return weight.clone() if self.index is None else weight.index_select(self.axis, self.index)

    def into(self, weight: Tensor, chosen: Tensor) -> Tensor:
        """The weight with these numbers at the chosen places; all others stay bit for bit."""
        return chosen if self.index is None else weight.index_copy(self.axis, self.index, chosen)


def slices(model: HookedGPT2, what: str | Sequence[str]) -> dict[str, Slice]:
    """Which weights do these words mean? By the names of the model's parameters.

    ``a5`` and ``m7`` are a layer's attention and MLP with the LayerNorm that they read; ``a5.h3``
    the queries, keys, values (with their biases) and output of a head; ``m7.n12`` what a neuron
    reads, its bias, and what it writes. ``unembed`` is the unembedding: where it is tied to the
    token embedding, as GPT-2's is, training one trains the other. ``readout`` is the head for
    classes, which ``all`` leaves out. Several words mean all that any of them means.

    Raises:
        CircuitsError: for other words, and what the model does not have.

    >>> from circuits.config import ModelConfig
    >>> cfg = ModelConfig(n_layers=2, n_heads=2, d_model=8, n_ctx=4, d_vocab=9)
    >>> model = HookedGPT2.random(cfg)
    >>> sorted(slices(model, "a1.h0"))
    ['blocks.1.attn.W_O_flat', 'blocks.1.attn.W_QKV', 'blocks.1.attn.b_QKV']
    >>> slices(model, "a1.h0")["blocks.1.attn.W_O_flat"].index
    tensor([0, 1, 2, 3])
    """
    words = [what] if isinstance(what, str) else list(what)
    if not words or not all(word.strip() for word in words):
        raise CircuitsError(f"nothing was named to be trained; name {_GRAMMAR}")
    merged: dict[str, Slice] = {}
    for word in words:
        for piece in _of_word(model, " ".join(word.split())):
            merged[piece.name] = _joined(merged.get(piece.name), piece)
    return merged


def layers_of(chosen: Mapping[str, Slice], weight: str) -> list[int]:
    """The layers of which this weight (``mlp.W_in``) is chosen."""
    found = (re.fullmatch(rf"blocks\.(\d+)\.{re.escape(weight)}", name) for name in chosen)
    return sorted(int(match[1]) for match in found if match)


def _of_word(model: HookedGPT2, word: str) -> Iterable[Slice]:
    cfg = model.cfg
    if word == "all":
        names = [name for name, _ in model.named_parameters()]
        return [Slice(name) for name in names if not name.startswith("readouts")]
    if word in ("attention", "mlp"):
        if word == "mlp" and cfg.attn_only:
            raise CircuitsError(f"{cfg.model_name} has no MLPs to train")
        return _in_layers(range(cfg.n_layers), _ATTENTION if word == "attention" else _MLP)
    if word in ("embed", "pos", "unembed"):
        tied = [Slice("W_E")] if cfg.tied else [Slice("unembed.W_U_untied"), Slice("unembed.b_U")]
        return {"embed": [Slice("W_E")], "pos": [Slice("W_pos")], "unembed": tied}[word]
    if word == "readout":
        return _readout(model)
    layers = _layers(cfg, word)
    if layers is not None:
        return _in_layers(layers, (*_ATTENTION, *_MLP))
    parts = [piece.strip() for piece in word.split(",")]
    return [piece for part in parts for piece in _of_component(cfg, part)]


def _readout(model: HookedGPT2) -> list[Slice]:
    if "score" not in model.readouts:
        raise CircuitsError(
            f"{model.cfg.model_name} has no readout to train; give examples with text and label, "
            "which make one"
        )
    return [Slice(f"{READOUT}.W")]


def _layers(cfg: ModelConfig, word: str) -> list[int] | None:
    """The layers that ``last 2 layers`` or ``layers 0,2-4`` mean; None for another word."""
    last, some = _LAST.fullmatch(word), _LAYERS.fullmatch(word)
    if last:
        n = int(last[1] or 1)
        if not 1 <= n <= cfg.n_layers:
            raise CircuitsError(f"{word!r}: {cfg.model_name} has {cfg.n_layers} layers, not {n}")
        return list(range(cfg.n_layers - n, cfg.n_layers))
    if not some:
        return None
    chosen: list[int] = []
    for piece in some[1].replace(" ", "").split(","):
        ends = [int(end) for end in piece.split("-")]
        chosen += range(ends[0], ends[-1] + 1)
        if len(ends) > 2 or ends[0] > ends[-1]:
            raise CircuitsError(f"{word!r}: write layers as 2,5 or 2-5")
    for layer in chosen:
        check(Component("attn", layer), cfg)
    return chosen


def _in_layers(layers: Iterable[int], names: Iterable[str]) -> list[Slice]:
    return [Slice(f"blocks.{layer}.{name}") for layer in layers for name in names]


def _of_component(cfg: ModelConfig, word: str) -> list[Slice]:
    try:
        part = check(parse(word), cfg)
    except CircuitsError as error:
        if re.match(r"[am]\d", word):
            raise
        hint = nearest(word, [*_WORDS, "last 2 layers", "layers 2,5"])
        raise CircuitsError(f"{word!r} names nothing to train; name {_GRAMMAR}{hint}") from error
    if part.slot is not None or part.position is not None or part.layer is None:
        raise CircuitsError(f"{word!r} has no weights of its own; name {_GRAMMAR}")
    block = f"blocks.{part.layer}"
    if part.kind in ("attn", "mlp"):
        return _in_layers([part.layer], _ATTENTION if part.kind == "attn" else _MLP)
    if part.kind == "head":
        e, inner = cfg.d_head, cfg.d_head * cfg.n_heads
        rows = torch.arange((part.head or 0) * e, ((part.head or 0) + 1) * e)
        columns = torch.cat([rows + i * inner for i in range(3)])  # of queries, keys and values
        return [
            Slice(f"{block}.attn.W_QKV", 1, columns),
            Slice(f"{block}.attn.b_QKV", 0, columns),
            Slice(f"{block}.attn.W_O_flat", 0, rows),
        ]
    if part.kind == "neuron":
        return neurons(part.layer, torch.tensor([part.neuron]))
    raise CircuitsError(f"{word!r} has no weights of its own; name {_GRAMMAR}")


def neurons(layer: int, index: Tensor) -> list[Slice]:
    """What these neurons of a layer read, their biases, and what they write."""
    block = f"blocks.{layer}.mlp"
    return [
        Slice(f"{block}.W_in", 1, index),
        Slice(f"{block}.b_in", 0, index),
        Slice(f"{block}.W_out", 0, index),
    ]


def _joined(old: Slice | None, new: Slice) -> Slice:
    """What either of two slices of one weight has."""
    if old is None or old.index is None or new.index is None:
        return new if old is None or new.index is None else old
    return Slice(new.name, new.axis, torch.cat([old.index, new.index]).unique())
