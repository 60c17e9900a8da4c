"""A model in which a subspace illusion is the only thing there is to find, written by hand.

One block, five letters, no attention. The token enters as +1 or -1 along `truth`, which alone the
unembedding reads. The MLP copies the sign to `rumor`, which nobody reads. So the MLP's output tells
everything about the answer and does nothing, while along `truth` it would act and is always 0: a
direction between the two moves the answer when it is swapped, and means nothing.
"""

from __future__ import annotations

import torch

from circuits.alignment import CausalGraph
from circuits.architectures import HookedGPT2
from circuits.config import ModelConfig
from circuits.prompts import Example, Prompts, assemble
from circuits.tokenizer import Tokenizer

LETTERS = "VWXYZ"
GRAPH = CausalGraph(
    "signs", {"sign": lambda text, _: text.at("END") // 2, "answer": lambda _, known: known["sign"]}
)
LOUD = 8.0  # how much louder the rumor is than the truth


def direction(index: int, d_model: int = 8) -> torch.Tensor:
    """One of the directions that keep the mean at 0, [d]."""
    found = torch.zeros(d_model)
    found[2 * index], found[2 * index + 1] = 1, -1
    return found


TRUTH, RUMOR, NUISANCE = direction(0), direction(1), direction(2)


def illusory_model(*, honest: bool = False) -> HookedGPT2:
    """Tokens V W are -1, X Y are +1; answers are V and W. `honest`: the rumor is read as well."""
    cfg = ModelConfig(
        n_layers=1,
        n_heads=1,
        d_model=8,
        n_ctx=4,
        d_vocab=len(LETTERS),
        tied=False,
        model_name="illusory",
        default_prepend_bos=False,
    )
    model = HookedGPT2(cfg, tokenizer=Tokenizer.characters(LETTERS))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0 if name.endswith(".w") else 0.0)
        for token in range(4):
            model.W_E[token] = (-1 if token < 2 else 1) * TRUTH + (token % 2 - 0.5) * NUISANCE
        mlp = model.blocks[0].mlp
        for neuron, sign in enumerate((1, -1)):
            mlp.W_in[:, neuron] = 3 * sign * TRUTH
            mlp.W_out[neuron] = LOUD * sign * RUMOR
        model.unembed.W_U_untied[:, 0] = -TRUTH - RUMOR * honest
        model.unembed.W_U_untied[:, 1] = TRUTH + RUMOR * honest
    return model


def letters(model: HookedGPT2, n: int = 24) -> Prompts:
    """One letter each: its sign is asked for."""
    examples = [Example(LETTERS[i % 4], [i % 4], answer=i % 4 // 2) for i in range(n)]
    return assemble(model, examples, task="signs", metric="prob", prepend_bos=False)
