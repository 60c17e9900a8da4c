"""What random tokens say about heads: where they look, and whether they copy what they see.

Shapes: l layer, h head, b prompt, q query, k key, d d_model, e d_head, u tokens of the prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from einops import einsum, rearrange
from numpy.typing import NDArray
from torch import Tensor

from circuits.decompose import through_ln
from circuits.detectors import DETECTORS, attention_to
from circuits.errors import CircuitsError
from circuits.head_kinds.kinds import KINDS
from circuits.hooks import HookPoint
from circuits.model import HookedModel
from circuits.padding import all_real
from circuits.precision import wide
from circuits.prompts import Prompts, make
from circuits.prompts.repeated import ordinary_tokens
from circuits.qk_ov import ROUNDING, centered

POSITIONAL = ("previous-token", "current-token", "first-token")
REPEATING = ("duplicate-token", "induction")
COPIES = 4  # of Olsson et al.'s random tokens
USUAL_LENGTH = 25
EIGENVALUE_CONTROLS = 3
TURNED = 99  # times that what heads read is turned at random
# Most of the work on a report card is to run the model without each head on random tokens. Such a
# prompt is read at 25 tokens, one of names at 1: 5 of 20 tell a cost in `mini` to 0.001 nats.
SHARE_ABLATED, LEAST_ABLATED = 4, 5
NO_OUTPUT = 1e-9  # eigenvalues below this share of the matrices' norms are rounding


@dataclass(frozen=True, eq=False)
class Scores:
    """One kind's score and control of every head, [l h n]: n independent draws, or 1.

    Attributes:
        also: [l h n], what has to be above 0 as well, for a head to be of this kind.
        null: [l h], what heads reach by chance, for a score that is not an average over draws.
    """

    value: NDArray[np.float64]
    control: NDArray[np.float64]
    also: NDArray[np.float64] | None = None
    null: NDArray[np.float64] | None = None


@dataclass(frozen=True, eq=False)
class RandomTokens:
    """What the model reads: [n p] each, the second a control without any repetition.

    `copies` is None where vocabulary or context is too small for repetitions; `lacking` says which.
    """

    copies: Tensor | None
    unrepeated: Tensor
    lacking: str = ""


def draw_tokens(model: HookedModel, n: int, seed: int) -> RandomTokens:
    """BOS + r + r and BOS + 2n unrepeated tokens, or whatever fits into a small model."""
    try:
        prompts = make("repeated", model, n, seed)
    except CircuitsError as error:
        start, rng = start_tokens(model), np.random.default_rng(seed)
        width = min(2 * USUAL_LENGTH, model.cfg.n_ctx - len(start))
        drawn = rng.integers(0, model.cfg.d_vocab, (n, width)).tolist()
        tokens = torch.tensor([[*start, *row] for row in drawn], device=model.W_E.device)
        return RandomTokens(None, tokens, str(error))
    assert prompts.corrupted is not None
    return RandomTokens(prompts.tokens, prompts.corrupted)


def start_tokens(model: HookedModel) -> list[int]:
    """What the model is used to before a text: the start token, or nothing."""
    bos = model.tokenizer.bos_id if model.tokenizer is not None else None
    return [bos] if bos is not None and model.cfg.default_prepend_bos else []


def ablated_on(behavior: str, prompts: Prompts) -> Prompts:
    """The prompts of a behavior on which each head is ablated: of random tokens, the first few."""
    if behavior != "repeated":
        return prompts
    return prompts.subset(slice(max(LEAST_ABLATED, len(prompts) // SHARE_ABLATED)))


def attention_scores(model: HookedModel, tokens: RandomTokens) -> dict[str, Scores]:
    """Previous-token, current-token, first-token, duplicate-token and induction scores.

    The control of a place (the previous token, say) is what a visible token gets on average; that
    of a repetition is the same place in tokens that do not repeat.
    """
    read = tokens.unrepeated if tokens.copies is None else tokens.copies
    targets = {name: DETECTORS[name](read) for name in POSITIONAL}
    if tokens.copies is not None:
        targets |= {name: DETECTORS[name](read) for name in REPEATING}
    attention = _attention(model, read, targets)
    base = {}
    if tokens.copies is not None:
        repeats = {name: targets[name] for name in REPEATING}
        base = _attention(model, tokens.unrepeated, repeats)
    for name in POSITIONAL:
        rows = torch.arange(1, read.shape[1], dtype=torch.float64)
        base[name] = np.full_like(attention[name], float((1 / (rows + 1)).mean()))
    return {name: Scores(attention[name], base[name]) for name in attention}


def prefix_matching(model: HookedModel, n: int, seed: int) -> Scores | str:
    """How much attention goes to what followed earlier copies, on BOS and 4 copies of 25 tokens.

    After Olsson et al. 2022, with two differences. They take the mean over all entries of the
    pattern between a token and what followed its earlier copies; here a query's entries are summed,
    so that a head that divides its attention among them scores 1, too. They leave out the most and
    the least common tokens, without saying which; here all ordinary tokens are drawn from. Returns
    what is too small, where four copies do not fit.
    """
    vocabulary, start = ordinary_tokens(model), start_tokens(model)
    room = {
        f"the context of {model.cfg.n_ctx} positions": (model.cfg.n_ctx - len(start)) // COPIES,
        f"the vocabulary of {len(vocabulary)} tokens": len(vocabulary) // COPIES,
    }
    length = min(USUAL_LENGTH, *room.values())
    if length < 2:
        small = min(room, key=lambda where: room[where])
        return (
            f"{COPIES} copies of 2 different tokens, and as many tokens without a repetition, do "
            f"not fit into {small}"
        )
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(vocabulary, COPIES * length, replace=False) for _ in range(n)]
    copies = [[*start, *np.tile(row[:length], COPIES).tolist()] for row in drawn]
    unrepeated = [[*start, *row.tolist()] for row in drawn]
    device = model.W_E.device
    tokens = torch.tensor(copies, device=device)
    targets = {"prefix-matching": DETECTORS["induction"](tokens)}
    attention = [
        _attention(model, read, targets)["prefix-matching"]
        for read in (tokens, torch.tensor(unrepeated, device=device))
    ]
    return Scores(*attention)


def _attention(
    model: HookedModel, tokens: Tensor, targets: Mapping[str, Tensor]
) -> dict[str, NDArray[np.float64]]:
    """How much of each head's attention goes to these targets: [l h b]. One run."""
    by_target: dict[str, list[Tensor]] = {name: [] for name in targets}

    def read(pattern: Tensor, hook: HookPoint) -> None:
        for name, where in targets.items():
            by_target[name].append(attention_to(pattern, where))

    model.run_with_hooks(tokens, fwd_hooks=[(_is_pattern, read)], return_type=None)
    return {name: numbers(rearrange(each, "l b h -> l h b")) for name, each in by_target.items()}


def _is_pattern(name: str) -> bool:
    return name.endswith("attn.hook_pattern")


def copying(model: HookedModel, tokens: Tensor) -> Scores:
    """How far the direct path raises the attended token's logit rather than those of the others.

    Olsson et al. 2022, "Head activation evaluators": on 25 random tokens, what a head writes goes
    through the unembedding; the mean of all logits is subtracted, and what is below is dropped.
    With a, by how much the attended token's logit is raised, and t, the sum of that over all tokens
    of the prompt, the ratio a / (a + t) is from 0 to 0.5, and scaled to -1 (only others are raised,
    or nothing) to 1 (only the attended token). What they leave open: here a and t are taken of what
    is moved from each token alone, and summed with attention as weight. A start token, or whatever
    comes first, where heads rest, is left out. Control: another token of the prompt.
    """
    tokens = tokens[:, : 1 + USUAL_LENGTH]
    sites = ("hook_pattern", "hook_v")
    _, cache = model.run_with_cache(
        tokens,
        attention_mask=all_real(tokens),
        names_filter=lambda name: name.endswith(sites),
        return_type=None,
    )
    unembed = rearrange(to_logits(model)[:, tokens[:, 1:]], "d b u -> b d u")
    values: list[Tensor] = []
    controls: list[Tensor] = []
    for layer, block in enumerate(model.blocks):
        weight = wide(cache["pattern", layer]).sum(2)[..., 1:]  # [b h k]
        v, W_O = wide(cache["v", layer][:, 1:]), wide(block.attn.W_O)
        wrote = einsum(v, W_O, "b k h e, h e d -> b h k d")
        rise = einsum(wrote, unembed, "b h k d, b d u -> b h k u")
        size = wrote.norm(dim=-1, keepdim=True) * unembed.norm(dim=1)[:, None, None]
        rise = torch.where(rise > ROUNDING * size, rise, 0.0)
        total = (rise.sum(-1) * weight).sum(-1)
        for out, rises in ((values, rise), (controls, rise.roll(1, -1))):
            attended = (rises.diagonal(dim1=-2, dim2=-1) * weight).sum(-1)
            out.append(4 * attended / (attended + total).clamp(min=1e-30) - 1)
    return Scores(*(numbers(rearrange(x, "l b h -> l h b")) for x in (values, controls)))


def eigenvalue_copying(model: HookedModel, seed: int) -> Scores:
    """How alike what is written and what is read are: sum of eigenvalues over sum of their moduli.

    The matrix W_E W_V W_O W_U (Elhage et al. 2021), through the weights of both LayerNorms, is
    vocabulary by vocabulary, but its eigenvalues but for zeros are those of the d_head by d_head
    matrix W_O (W_U W_E) W_V. Control: tokens that are embedded as other, random tokens.

    Few eigenvalues are often of one sign by chance, a single one always, and so are those of a
    matrix that one singular value rules. So a score also has to exceed what heads reach, of the
    same singular values, that read in random directions (Westfall and Young 1993, max T): it has to
    be more standard deviations above its head's mean than any head is in 99 draws. Of models in
    which no head copies, one in 100 has a head that does so. Where no head's score is high enough
    to count anyhow, nothing is drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    embed, unembed = centered(model, model.W_E.double()), to_logits(model).double()
    orders = [torch.arange(len(embed))]
    orders += [torch.randperm(len(embed), generator=generator) for _ in range(EIGENVALUE_CONTROLS)]
    read = torch.stack([_reading(model, layer) for layer in range(model.cfg.n_layers)])
    written = torch.stack([block.attn.W_O.double() for block in model.blocks])
    between = [unembed @ embed[order.to(embed.device)] for order in orders]
    shares = []
    for each in between:
        inner = each @ read  # [l h d e]
        size = written.flatten(2).norm(dim=2) * inner.flatten(2).norm(dim=2)
        shares.append(_positivity(numbers(written @ inner), NO_OUTPUT * numbers(size)))
    scores = np.stack(shares)
    score, control, kind = scores[0], scores[1:].mean(0), KINDS["ov-copying"]
    if (score - control.clip(min=kind.floor) <= kind.margin).all():
        return Scores(score[..., None], control[..., None])
    drawn = _by_chance(numbers(written @ between[0]), numbers(read), seed)
    every = np.concatenate([scores[:1], drawn])  # of no head that is like them does one stand apart
    mean, deviation = every.mean(0), every.std(0)
    highest = ((drawn - mean) / deviation.clip(min=1e-30)).max()
    null = mean + highest * deviation
    return Scores(score[..., None], control[..., None], null=null)


def _reading(model: HookedModel, layer: int) -> Tensor:
    """What each head of a layer reads from the stream into its values: [h d e]."""
    W_V = rearrange(model.blocks[layer].attn.W_V, "h d e -> d (h e)")
    read = through_ln(model, W_V, layer).double()
    return rearrange(read, "d (h e) -> h d e", h=model.cfg.n_heads)


def _by_chance(
    written: NDArray[np.float64], read: NDArray[np.float64], seed: int
) -> NDArray[np.float64]:
    """The scores [draw l h] of heads that read in random directions, but as strongly as these do.

    `written` is W_O (W_U W_E) [l h e d], `read` is W_V [l h d e].

    Random orthonormal directions are G R^-1, with G of normal numbers [d e] and R^T R = G^T G. Of G
    only e rows, in the space that `written` reads, count by themselves; of the other d - e only
    their products with each other do, and these are B B^T with a small triangular B, whose diagonal
    is chi-distributed (Bartlett 1933).
    """
    strength = np.linalg.qr(read).R  # what is left of W_V but for directions
    reached = np.linalg.qr(written.swapaxes(-2, -1)).R.swapaxes(-2, -1)  # and of W_O (W_U W_E)
    rows, d_model = strength.shape[-2], read.shape[-2]
    rest = np.arange(d_model - rows, max(d_model - 2 * rows, 0), -1)  # degrees of freedom

    def draw(source: np.random.SeedSequence) -> NDArray[np.float64]:
        rng = np.random.default_rng(source)
        inside = rng.standard_normal((*strength.shape[:-1], rows))
        outside = np.tril(rng.standard_normal((*strength.shape[:-1], len(rest))), -1)
        np.einsum("...ii->...i", outside[..., : len(rest), :])[...] = np.sqrt(
            rng.chisquare(rest, (*strength.shape[:-2], len(rest)))
        )
        gram = inside.swapaxes(-2, -1) @ inside + outside @ outside.swapaxes(-2, -1)
        root = np.linalg.cholesky(gram).swapaxes(-2, -1)
        matrix = reached @ inside @ np.linalg.solve(root, strength)
        return _positivity(matrix, NO_OUTPUT * np.linalg.norm(matrix, axis=(-2, -1)))

    # NumPy's algebra is that of one thread, and leaves Python to others while it runs.
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return np.stack([*pool.map(draw, np.random.SeedSequence(seed).spawn(TURNED))])


def _positivity(matrix: NDArray[np.float64], least: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of eigenvalues over that of moduli, 0 where these are below `least`: [l h e e], [l h]."""
    values = np.linalg.eigvals(matrix)
    moduli = np.abs(values).sum(-1)
    share = values.real.sum(-1) / moduli.clip(min=1e-30)
    return np.where(moduli > least.clip(min=1e-30), share, 0.0)


def to_logits(model: HookedModel) -> Tensor:
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
