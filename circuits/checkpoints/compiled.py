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
"""

from __future__ import annotations

import math
import string
from dataclasses import dataclass

import torch
from torch import Tensor

from circuits.config import ModelConfig
from circuits.errors import CircuitsError
from circuits.model import HookedGPT2
from circuits.tokenizer import CHARACTERS, END_OF_TEXT, Tokenizer

BOS, END = 0, 1
NAMES = tuple(range(2, 10))
CONSTANT = 1000.0  # C: the two LayerNorm constants, far larger than the features
LOGIT_GAIN = 10.0  # G: the logit of a token whose OUT feature is 1

_FILLERS = (
    string.ascii_lowercase
    + string.ascii_uppercase[len(NAMES) :]
    + string.digits
    + string.punctuation.replace(".", "")
    + "".join(chr(code) for code in range(0xC0, 0x250) if chr(code).isalpha())
)
_ALPHABET = "." + string.ascii_uppercase[: len(NAMES)] + _FILLERS  # the ids from END on


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


def build(
    *,
    d_vocab: int = 27,
    n_ctx: int = 32,
    d_head: int = 64,
    n_heads: int = 4,
    n_layers: int = 6,
    beta: float = 30.0,
) -> HookedGPT2:
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
        d_vocab: number of tokens, at least 11.
        n_ctx: number of positions.
        d_head: at least d_vocab + 1 + n_ctx; d_model is n_heads * d_head.
        n_heads: at least 2.
        n_layers: at least 3.
        beta: the score gap between a match and no match. At 30 attention is exact and its gradient
            vanishes; about 4 gives a soft variant for methods that follow gradients.

    Returns:
        An untied model in float32 on the CPU, with one readable character per token.

    Raises:
        CircuitsError: when the sizes are too small to hold the features.
    """
    _check_sizes(d_vocab, n_ctx, d_head, n_heads, n_layers)
    cfg = ModelConfig(
        n_layers=n_layers,
        n_heads=n_heads,
        d_model=n_heads * d_head,
        n_ctx=n_ctx,
        d_vocab=d_vocab,
        tied=False,
        model_name="compiled",
    )
    model = HookedGPT2(cfg, tokenizer=character_tokenizer(d_vocab))
    features = Features(d_vocab, n_ctx)
    with torch.no_grad():
        _zero(model)
        make_layer_norms_identity(model)
        write_embeddings(model, features)
        write_previous_token(_head(model, 0, 0, beta), features)
        write_duplicate_token(_head(model, 0, 1, beta), features)
        write_induction(_head(model, 1, 0, beta), features)
        write_s_inhibition(_head(model, 1, 1, beta), features)
        write_name_mover(_head(model, 2, 0, beta), features)
    return model


def character_tokenizer(d_vocab: int) -> Tokenizer:
    """The tokenizer of the compiled model: one printable character for each token.

    >>> character_tokenizer(27).encode("<|endoftext|>.ABHabc")
    [0, 1, 2, 3, 9, 10, 11, 12]
    """
    ranks = {char.encode(): i for i, char in enumerate(_ALPHABET[: d_vocab - 1], start=END)}
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


def _head(model: HookedGPT2, layer: int, head: int, beta: float) -> Head:
    attn = model.blocks[layer].attn
    match = beta * math.sqrt(model.cfg.d_head)
    return Head(attn.W_Q[head], attn.W_K[head], attn.W_V[head], attn.W_O[head], match)


def _check_sizes(d_vocab: int, n_ctx: int, d_head: int, n_heads: int, n_layers: int) -> None:
    least = {
        "n_layers": (n_layers, 3, "the name mover is in layer 2"),
        "n_heads": (n_heads, 2, "layers 0 and 1 hold two heads each"),
        "d_vocab": (d_vocab, 11, "BOS, END, eight names and a filler"),
        "n_ctx": (n_ctx, 2, "a token and its previous one"),
        "d_head": (d_head, d_vocab + 1 + n_ctx, "d_vocab + 1 + n_ctx channels of head 0.1"),
        "d_model": (n_heads * d_head, 4 * d_vocab + n_ctx + 4, "4 * d_vocab + n_ctx + 4 features"),
    }
    for name, (given, minimum, why) in least.items():
        if given < minimum:
            raise CircuitsError(
                f"{name}={given} is too small to compile the circuits: at least {minimum} "
                f"({why}); d_model is n_heads * d_head"
            )
    if d_vocab > len(_ALPHABET) + 1:
        raise CircuitsError(
            f"d_vocab={d_vocab}: every token is one printable character, which suffices for "
            f"at most {len(_ALPHABET) + 1} tokens"
        )
