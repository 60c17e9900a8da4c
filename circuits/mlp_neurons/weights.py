"""What a neuron's weights say: the tokens that its value promotes, and those that match its key.

Geva et al. 2021 (arXiv 2012.14913): row i of W_out is the neuron's value, column i of W_in its key.
"""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from circuits import decompose
from circuits.components import Component
from circuits.errors import CircuitsError
from circuits.model import HookedModel
from circuits.precision import wide

ROWS = 4096  # tokens of the vocabulary at a time


def value_logits(model: HookedModel, neuron: Component) -> Tensor:
    """What one unit of the neuron's activation adds to each logit, over the final scale: [v]

    (W_out[i] - its mean) ln_final.w W_U, less its mean over the vocabulary: a shift of all logits
    changes no probability.

    Raises:
        CircuitsError: for a neuron that writes nothing, or whose MLP's output is normalized.
    """
    if model.cfg.post_norms:
        raise CircuitsError(
            f"{model.cfg.model_name} normalizes what an MLP writes before it is added, so one "
            "neuron has no direct effect of its own; give a text file and ask for contexts"
        )
    layer, index = _place(neuron)
    with torch.no_grad():
        value = model.blocks[layer].mlp.W_out[index]
        if not bool(value.any()):
            raise CircuitsError(
                f"{neuron} writes nothing: its row of W_out is 0; choose another neuron"
            )
        through = decompose.center(model, value[None])[0] * model.ln_final.w
        logits = (through @ wide(model.W_U)).double()
    return logits - logits.mean()


def values(model: HookedModel, neuron: Component, top: int) -> pd.DataFrame:
    """The tokens that the neuron raises most and lowers most."""
    logits = value_logits(model, neuron)
    rows = []
    for side, sign in (("promoted", 1), ("suppressed", -1)):
        best = (sign * logits).topk(top)
        rows += _ranked(model, neuron, best.indices, logits, {"side": side})
    frame: pd.DataFrame = pd.DataFrame(rows)
    return frame


def triggers(model: HookedModel, neuron: Component, top: int) -> pd.DataFrame:
    """The tokens that match the neuron's key best, by themselves.

    The match is W_in[:, i] . ln2(x) + b_in[i], where x is the token's embedding and, after layer 0,
    what the first MLP makes of it (the effective embedding; attention and positions left out).

    Raises:
        CircuitsError: for a neuron with a gate, or a key that is 0.
    """
    if model.cfg.gated_mlp:
        raise CircuitsError(
            f"{model.cfg.model_name} has gated MLPs: a neuron's activation is a product of two "
            "matches, so there is no one key; give a text file and ask for contexts"
        )
    layer, index = _place(neuron)
    block, first = model.blocks[layer], model.blocks[0]
    key = block.mlp.W_in[:, index]
    if not bool(key.any()):
        raise CircuitsError(
            f"{neuron} reads nothing: its column of W_in is 0; choose another neuron"
        )
    effective: list[Tensor] = []
    alone: list[Tensor] = []
    with torch.no_grad():
        for at in range(0, model.cfg.d_vocab, ROWS):
            x = model.W_E[at : at + ROWS]
            with_mlp = x + first.mlp.plain(first.ln2.plain(x)) if layer else x
            for matches, stream in ((effective, with_mlp), (alone, x)):
                match = wide(block.ln2.plain(stream)) @ wide(key) + block.mlp.b_in[index]
                matches.append(match.double())
    every, plain = torch.cat(effective), torch.cat(alone)
    rows = _ranked(model, neuron, every.topk(top).indices, every, {})
    frame: pd.DataFrame = pd.DataFrame(rows)
    frame["alone"] = [float(plain[token]) for token in every.topk(top).indices]
    return frame


def _ranked(
    model: HookedModel, neuron: Component, ids: Tensor, numbers: Tensor, about: dict[str, str]
) -> list[dict[str, str | int | float]]:
    words = model.require_tokenizer().token_strings(ids.tolist())
    return [
        {"component": str(neuron), **about, "rank": rank, "token": word, "value": float(numbers[i])}
        for rank, (i, word) in enumerate(zip(ids.tolist(), words, strict=True), start=1)
    ]


def _place(neuron: Component) -> tuple[int, int]:
    assert neuron.layer is not None
    assert neuron.neuron is not None
    return neuron.layer, neuron.neuron
