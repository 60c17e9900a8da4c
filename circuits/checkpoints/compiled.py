"""A GPT-2 whose circuits are known exactly, because its weights are written by hand.

Every detector, patch and circuit search can be checked against it, because the right answer is
known. Two circuits are in one model, everything else is zero:

* induction: previous-token head 0.0, then induction head 1.0 (K-composition);
* a small indirect-object circuit: duplicate-token head 0.1, S-inhibition head 1.1, name mover 2.0.

Three ideas carry the construction, and each is one short function below.

1. *The residual stream is a table of named features* (`Features`): which token stands here (TOK),
   where (POS), which token stood before (PREV), is it a repetition (DUP), which name to avoid
   (INH), and what to predict (OUT).
2. *LayerNorm is made the identity.* Two constants, +C and -C, dominate the variance; every +1
   written to a feature is paired with -1 in the balance direction BAL, so the mean stays 0.
3. *A head is two lookups.* Query and key each put a feature on a channel of the head; equal
   channels match with a score of `beta`. A head that finds no match rests on BOS, with half that
   score. Value and output copy a feature of the attended token to another feature.

A `Recipe` says how large the model is, which heads the five are, and how sharply they attend: with
m matching keys and u others, each match gets e^beta / (m e^beta + e^(beta/2) + u). At beta 30 that
is 1/m to 6 digits, and of the second circuit's edges exactly six matter (`Recipe.effects`). At
beta 4 a match among ten tokens gets three quarters and the other keys the rest, so that every head
says a little of everything, gradients flow, and many edges matter a little.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from circuits.architectures import HookedGPT2
from circuits.checkpoints.recipe import ALPHABET, BOS, BUNDLED, END, LOGIT_GAIN, NAMES, Recipe
from circuits.components import Component
from circuits.config import ModelConfig
from circuits.tokenizer import CHARACTERS, END_OF_TEXT, Tokenizer

__all__ = [
    "BOS",
    "BUNDLED",
    "CONSTANT",
    "END",
    "LOGIT_GAIN",
    "NAMES",
    "Features",
    "Head",
    "Recipe",
    "build",
    "character_tokenizer",
    "make_layer_norms_identity",
    "write_duplicate_token",
    "write_embeddings",
    "write_induction",
    "write_name_mover",
    "write_previous_token",
    "write_s_inhibition",
]

CONSTANT = 1000.0  # C: the two LayerNorm constants, far larger than the features


class Features:
    """The directions of the residual stream, by what they mean.

    Attributes are index tensors (one direction per token or position) or single indices, in the
    order of the layout TOK[v] POS[p] PREV[v] DUP[1] INH[v] OUT[v] CP CN BAL.

    >>> f = Features(d_vocab=27, n_ctx=32)
    >>> int(f.tok[3]), int(f.pos[3]), f.dup, f.bal, f.n_used
    (3, 30, 86, 143, 144)
    """

    def __init__(self, d_vocab: int, n_ctx: int) -> None:
        self.d_vocab, self.n_ctx = d_vocab, n_ctx
        sizes = [d_vocab, n_ctx, d_vocab, 1, d_vocab, d_vocab, 1, 1, 1]
        groups = torch.arange(sum(sizes)).split(sizes)
        self.tok, self.pos, self.prev, _, self.inh, self.out, *_ = groups
        self.dup, self.cp, self.cn, self.bal = (int(groups[i]) for i in (3, 6, 7, 8))
        self.n_used = sum(sizes)
        self.words = torch.arange(1, d_vocab)  # every token but BOS: what a head may copy
        self.names = torch.tensor(NAMES)


@dataclass(frozen=True)
class Head:
    """One head's weights, as views to write into, and `match`, a query's weight for score beta."""

    W_Q: Tensor  # [d e]
    W_K: Tensor  # [d e]
    W_V: Tensor  # [d e]
    W_O: Tensor  # [e d]
    match: float  # S = beta * sqrt(d_head)


def build(recipe: Recipe = BUNDLED, **changes: Any) -> HookedGPT2:
    """A GPT-2 whose circuits are known exactly.

    Token 0 is BOS, 1 the sentence's end ``.``, 2 to 9 the names A to H, the rest fillers. On a
    repeated random sequence head 0.0 attends to the previous token and head 1.0 to the token after
    the earlier copy, so the second copy is predicted. On ``BOS f A f B f f f B f f .`` head 0.1
    finds the repeated name B, head 1.1 tells the end to avoid it, and name mover 2.0 predicts A:

    >>> model = build(n_layers=3)
    >>> tokens = torch.tensor([model.tokenizer.encode("<|endoftext|>aAbBcdeBfg.")])
    >>> model.tokenizer.decode([int(model(tokens)[0, -1].argmax())])
    'A'

    MLPs, all other heads and all layers from 3 on are zero: exact no-ops.

    Args:
        recipe: sizes, sharpness, and which heads these are; the bundled model's by default.
        changes: fields of `Recipe` that are other than in this one.

    Returns:
        An untied model in float32 on the CPU, with one readable character per token.

    Raises:
        CircuitsError: for what no recipe can be.
    """
    recipe = replace(recipe, **changes)
    cfg = ModelConfig(
        n_layers=recipe.n_layers,
        n_heads=recipe.n_heads,
        d_model=recipe.n_heads * recipe.d_head,
        n_ctx=recipe.n_ctx,
        d_vocab=recipe.d_vocab,
        tied=False,
        model_name="compiled",
    )
    model = HookedGPT2(cfg, tokenizer=character_tokenizer(recipe.d_vocab))
    features = Features(recipe.d_vocab, recipe.n_ctx)
    writers = {
        recipe.previous_token: write_previous_token,
        recipe.duplicate_token: write_duplicate_token,
        recipe.induction: write_induction,
        recipe.s_inhibition: write_s_inhibition,
        recipe.name_mover: write_name_mover,
    }
    with torch.no_grad():
        _zero(model)
        make_layer_norms_identity(model)
        write_embeddings(model, features)
        for place, write in writers.items():
            write(_head(model, place, recipe.beta), features)
    return model


def character_tokenizer(d_vocab: int) -> Tokenizer:
    """The tokenizer of the compiled model: one printable character for each token.

    >>> character_tokenizer(27).encode("<|endoftext|>.ABHabc")
    [0, 1, 2, 3, 9, 10, 11, 12]
    """
    ranks = {char.encode(): i for i, char in enumerate(ALPHABET[: d_vocab - 1], start=END)}
    return Tokenizer(ranks, {END_OF_TEXT: BOS}, name="compiled", pattern=CHARACTERS)


def make_layer_norms_identity(model: HookedGPT2) -> None:
    """Set LayerNorm's weights so that it leaves the features as they are.

    The two constants make the variance 2 C^2 / d_model and leave the mean 0, so the square root of
    that as weight undoes the division: LN(x) = x / sqrt(1 + |features|^2 / 2 C^2), to 1e-5 of x.
    """
    weight = math.sqrt(2 * CONSTANT**2 / model.cfg.d_model)
    norms = [norm for block in model.blocks for norm in (block.ln1, block.ln2)]
    for norm in (*norms, model.ln_final):
        norm.w.fill_(weight)


def write_embeddings(model: HookedGPT2, f: Features) -> None:
    """Write W_E and W_pos, which enter the residual stream, and W_U, which reads logits from it."""
    model.W_E[torch.arange(f.d_vocab), f.tok] = 1
    model.W_E[:, f.bal] = -1
    model.W_pos[torch.arange(f.n_ctx), f.pos] = 1
    model.W_pos[:, f.bal] = -1
    model.W_pos[:, f.cp] = CONSTANT
    model.W_pos[:, f.cn] = -CONSTANT
    model.unembed.W_U_untied[f.out, torch.arange(f.d_vocab)] = LOGIT_GAIN


def write_previous_token(head: Head, f: Features) -> None:
    """Head 0.0: position i looks for position i-1, and notes its token as PREV."""
    channel = torch.arange(1, f.n_ctx)
    head.W_Q[f.pos[1:], channel] = head.match
    head.W_K[f.pos[:-1], channel] = 1
    _copy_token(head, f, torch.arange(f.d_vocab), to=f.prev)


def write_duplicate_token(head: Head, f: Features) -> None:
    """Head 0.1: a token looks for its earlier copy, not itself, and marks DUP if there is one."""
    head.W_Q[f.tok[f.words], f.words] = head.match
    head.W_K[f.tok[f.words], f.words] = 1
    _rest_on_bos(head, f, channel=f.d_vocab)
    own_position = f.d_vocab + 1 + torch.arange(f.n_ctx)
    head.W_Q[f.pos, own_position] = -2 * head.match
    head.W_K[f.pos, own_position] = 1
    head.W_V[f.cp, 0] = 1 / CONSTANT  # 1 at every position ...
    head.W_V[f.tok[BOS], 0] = -1  # ... but at BOS, the resting place, 0
    head.W_O[0, f.dup] = 1
    head.W_O[0, f.bal] = -1


def write_induction(head: Head, f: Features) -> None:
    """Head 1.0: a token looks for the position whose PREV it is, and predicts the token there."""
    head.W_Q[f.tok[f.words], f.words] = head.match
    head.W_K[f.prev[f.words], f.words] = 1
    _rest_on_bos(head, f, channel=0)
    _copy_token(head, f, f.words, to=f.out)


def write_s_inhibition(head: Head, f: Features) -> None:
    """Head 1.1: the sentence's end looks for a repeated token, and notes it as INH."""
    head.W_Q[f.tok[END], 0] = head.match
    head.W_K[f.dup, 0] = 1
    _rest_on_bos(head, f, channel=1)
    _copy_token(head, f, f.words, to=f.inh)


def write_name_mover(head: Head, f: Features) -> None:
    """Head 2.0: the sentence's end looks for names, but not the inhibited one, and predicts it."""
    head.W_Q[f.tok[END], 0] = head.match
    head.W_K[f.tok[f.names], 0] = 1
    head.W_Q[f.inh[f.names], 1 + f.names] = -2 * head.match
    head.W_K[f.tok[f.names], 1 + f.names] = 1
    _rest_on_bos(head, f, channel=1)
    _copy_token(head, f, f.words, to=f.out)


def _copy_token(head: Head, f: Features, tokens: Tensor, *, to: Tensor) -> None:
    """Write feature `to` of the attended token, balanced so that the mean stays 0."""
    head.W_V[f.tok[tokens], tokens] = 1
    head.W_O[tokens, to[tokens]] = 1
    head.W_O[tokens, f.bal] = -1


def _rest_on_bos(head: Head, f: Features, *, channel: int) -> None:
    """Give key BOS half the score of a match, whatever the query: each has the constant CP."""
    head.W_Q[f.cp, channel] = head.match / (2 * CONSTANT)
    head.W_K[f.tok[BOS], channel] = 1


def _zero(model: HookedGPT2) -> None:
    for parameter in model.parameters():
        parameter.zero_()


def _head(model: HookedGPT2, place: Component, beta: float) -> Head:
    layer, head = int(place.layer or 0), int(place.head or 0)
    attn = model.blocks[layer].attn
    match = beta * math.sqrt(model.cfg.d_head)
    return Head(attn.W_Q[head], attn.W_K[head], attn.W_V[head], attn.W_O[head], match)
