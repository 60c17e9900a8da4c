"""What random tokens say about heads: where they look, and whether they copy what they see.

Shapes: l layer, h head, b prompt, q query, k key, d d_model, e d_head, u tokens of the prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from einops import einsum, rearrange
from numpy.typing import NDArray
from torch import Tensor

from circuits.decompose import through_ln
from circuits.detectors import DETECTORS, attention_to
from circuits.errors import CircuitsError
from circuits.hooks import HookPoint
from circuits.model import HookedGPT2
from circuits.padding import all_real
from circuits.precision import wide
from circuits.prompts import make

POSITIONAL = ("previous-token", "current-token", "first-token")
REPEATING = ("duplicate-token", "induction")
COPIES = 4  # of Olsson et al.'s random tokens
USUAL_LENGTH = 25
EIGENVALUE_CONTROLS = 3
NO_OUTPUT = 1e-9  # eigenvalues below this share of the matrices' norms are rounding


@dataclass(frozen=True, eq=False)
class Scores:
    """One kind's score and control of every head, [l h n]: n independent draws, or 1."""

    value: NDArray[np.float64]
    control: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RandomTokens:
    """What the model reads: [n p] each, the second a control without any repetition.

    `copies` is None where vocabulary or context is too small for repetitions.
    """

    copies: Tensor | None
    unrepeated: Tensor


def random_tokens(model: HookedGPT2, n: int, seed: int) -> RandomTokens:
    """BOS + r + r and BOS + 2n unrepeated tokens, or whatever fits into a small model."""
    try:
        prompts = make("repeated", model, n, seed)
    except CircuitsError:
        start, rng = start_tokens(model), np.random.default_rng(seed)
        width = min(2 * USUAL_LENGTH, model.cfg.n_ctx - len(start))
        drawn = rng.integers(0, model.cfg.d_vocab, (n, width)).tolist()
        tokens = torch.tensor([[*start, *row] for row in drawn], device=model.W_E.device)
        return RandomTokens(None, tokens)
    assert prompts.corrupted is not None
    return RandomTokens(prompts.tokens, prompts.corrupted)


def start_tokens(model: HookedGPT2) -> list[int]:
    """What the model is used to before a text: the start token, or nothing."""
    bos = model.tokenizer.bos_id if model.tokenizer is not None else None
    return [bos] if bos is not None and model.cfg.default_prepend_bos else []


def attention_scores(model: HookedGPT2, tokens: RandomTokens) -> dict[str, Scores]:
    """Previous-token, current-token, first-token, duplicate-token and induction scores.

    The control of a place (the previous token, say) is what a visible token gets on average; that
    of a repetition is the same place in tokens that do not repeat.
    """
    read = tokens.unrepeated if tokens.copies is None else tokens.copies
    targets = {name: DETECTORS[name](read) for name in POSITIONAL}
    if tokens.copies is not None:
        targets |= {name: DETECTORS[name](read) for name in REPEATING}
    found = _attention(model, read, targets)
    base = {}
    if tokens.copies is not None:
        repeats = {name: targets[name] for name in REPEATING}
        base = _attention(model, tokens.unrepeated, repeats)
    for name in POSITIONAL:
        rows = torch.arange(1, read.shape[1], dtype=torch.float64)
        base[name] = np.full_like(found[name], float((1 / (rows + 1)).mean()))
    return {name: Scores(found[name], base[name]) for name in found}


def prefix_matching(model: HookedGPT2, n: int, seed: int) -> Scores | None:
    """Olsson et al.'s score on BOS and 4 copies of random tokens; None where these do not fit."""
    if model.tokenizer is None:
        return None
    vocabulary, start = np.array(sorted(model.tokenizer.ranks.values())), start_tokens(model)
    room = ((model.cfg.n_ctx - len(start)) // COPIES, len(vocabulary) // COPIES)
    length = min(USUAL_LENGTH, *room)
    if length < 2:
        return None
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(vocabulary, COPIES * length, replace=False) for _ in range(n)]
    copies = [[*start, *np.tile(row[:length], COPIES).tolist()] for row in drawn]
    unrepeated = [[*start, *row.tolist()] for row in drawn]
    device = model.W_E.device
    tokens = torch.tensor(copies, device=device)
    targets = {"prefix-matching": DETECTORS["induction"](tokens)}
    found = [
        _attention(model, read, targets)["prefix-matching"]
        for read in (tokens, torch.tensor(unrepeated, device=device))
    ]
    return Scores(*found)


def _attention(
    model: HookedGPT2, tokens: Tensor, targets: Mapping[str, Tensor]
) -> dict[str, NDArray[np.float64]]:
    """How much of each head's attention goes to these targets: [l h b]. One run."""
    found: dict[str, list[Tensor]] = {name: [] for name in targets}

    def read(pattern: Tensor, hook: HookPoint) -> None:
        for name, where in targets.items():
            found[name].append(attention_to(pattern, where))

    model.run_with_hooks(tokens, fwd_hooks=[(_is_pattern, read)], return_type=None)
    return {name: numbers(rearrange(each, "l b h -> l h b")) for name, each in found.items()}


def _is_pattern(name: str) -> bool:
    return name.endswith("attn.hook_pattern")


def copying(model: HookedGPT2, tokens: Tensor) -> Scores:
    """Does the direct path raise the attended token's logit, against the prompt's other tokens?

    What a head writes when it looks at token j goes through the unembedding; the rise of j's own
    logit over the mean of the prompt's tokens, as a share of the largest rise or fall among them,
    is averaged over all that the head looks at (its first token left out), weighted by attention.
    1: j itself is raised most; -1: it is lowered most. Control: another token of the prompt.
    """
    kept = ("hook_pattern", "hook_v")
    _, cache = model.run_with_cache(
        tokens,
        attention_mask=all_real(tokens),
        names_filter=lambda name: name.endswith(kept),
        return_type=None,
    )
    unembed = rearrange(to_logits(model)[:, tokens], "d b u -> b d u")
    values: list[Tensor] = []
    controls: list[Tensor] = []
    for layer, block in enumerate(model.blocks):
        weight = wide(cache["pattern", layer]).sum(2)[..., 1:]  # [b h k]
        v, W_O = wide(cache["v", layer]), wide(block.attn.W_O)
        wrote = einsum(v, W_O, "b k h e, h e d -> b h k d")
        rise = einsum(wrote[:, :, 1:], unembed[..., 1:], "b h k d, b d u -> b h k u")
        rise = rise - rise.mean(-1, keepdim=True)
        share = rise / rise.abs().amax(-1, keepdim=True).clamp(min=1e-30)
        for out, one in ((values, share), (controls, share.roll(1, -1))):
            own = one.diagonal(dim1=-2, dim2=-1)
            out.append((own * weight).sum(-1) / weight.sum(-1).clamp(min=1e-30))
    return Scores(*(numbers(rearrange(x, "l b h -> l h b")) for x in (values, controls)))


def eigenvalue_copying(model: HookedGPT2, seed: int) -> Scores:
    """Is what is written like what is read? Sum of eigenvalues over sum of their moduli.

    The matrix W_E W_V W_O W_U (Elhage et al. 2021), through the weights of both LayerNorms, is
    vocabulary by vocabulary, but its eigenvalues but for zeros are those of the d_head by d_head
    matrix W_O (W_U W_E) W_V. Control: tokens that are embedded as other, random tokens.
    """
    generator = torch.Generator().manual_seed(seed)
    embed, unembed = model.W_E.double(), to_logits(model).double()
    orders = [torch.arange(len(embed))]
    orders += [torch.randperm(len(embed), generator=generator) for _ in range(EIGENVALUE_CONTROLS)]
    found = []
    for order in orders:
        through = unembed @ embed[order.to(embed.device)]  # [d d]
        found.append([_positivity(model, layer, through) for layer in range(model.cfg.n_layers)])
    scores = numbers([torch.stack(each) for each in found])
    return Scores(scores[0][..., None], scores[1:].mean(0)[..., None])


def _positivity(model: HookedGPT2, layer: int, through: Tensor) -> Tensor:
    """Sum of eigenvalues over sum of moduli, of each head of a layer [h]."""
    attn = model.blocks[layer].attn
    reading = through_ln(model, rearrange(attn.W_V, "h d e -> d (h e)"), layer).double()
    inner = rearrange(through @ reading, "d (h e) -> h d e", h=model.cfg.n_heads)
    matrix = attn.W_O.double() @ inner  # [h e e]
    values = torch.linalg.eigvals(matrix)
    moduli = values.abs().sum(-1)
    size = attn.W_O.double().flatten(1).norm(dim=1) * inner.flatten(1).norm(dim=1)
    least = NO_OUTPUT * size.clamp(min=1e-30)
    return torch.where(moduli > least, values.real.sum(-1) / moduli.clamp(min=1e-30), 0.0)


def to_logits(model: HookedGPT2) -> Tensor:
    """From the final stream to logits less their mean, but for LayerNorm's scale and biases: [d v].

    What all logits have in common changes no prediction.
    """
    unembed = through_ln(model, wide(model.W_U))
    return unembed - unembed.mean(1, keepdim=True)


def numbers(stack: list[Tensor] | Tensor) -> NDArray[np.float64]:
    """For pandas: on the CPU, in float64."""
    stacked = stack if isinstance(stack, Tensor) else torch.stack(stack)
    numbers: NDArray[np.float64] = stacked.detach().double().cpu().numpy()
    return numbers
