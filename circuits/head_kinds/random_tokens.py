"""What random tokens say about heads: where they look, and whether they copy what they see.

Shapes: l layer, h head, b prompt, q query, k key, d d_model, e d_head, u tokens of the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from circuits.memory import in_pieces, tensor_bytes
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
NUMBERS_AT_ONCE = 2**18  # of a vocabulary's vectors
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


def attention_scores(
    model: HookedModel, tokens: RandomTokens, memory: str | None = None
) -> dict[str, Scores]:
    """Previous-token, current-token, first-token, duplicate-token and induction scores.

    The control of a place (the previous token, say) is what a visible token gets on average; that
    of a repetition is the same place in tokens that do not repeat.
    """
    read = tokens.unrepeated if tokens.copies is None else tokens.copies
    targets = {name: DETECTORS[name](read) for name in POSITIONAL}
    if tokens.copies is not None:
        targets |= {name: DETECTORS[name](read) for name in REPEATING}
    attention = _attention(model, read, targets, memory)
    base = {}
    if tokens.copies is not None:
        repeats = {name: targets[name] for name in REPEATING}
        base = _attention(model, tokens.unrepeated, repeats, memory)
    for name in POSITIONAL:
        rows = torch.arange(1, read.shape[1], dtype=torch.float64)
        base[name] = np.full_like(attention[name], float((1 / (rows + 1)).mean()))
    return {name: Scores(attention[name], base[name]) for name in attention}


def prefix_matching(
    model: HookedModel, n: int, seed: int, memory: str | None = None
) -> Scores | str:
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
        _attention(model, read, targets, memory)["prefix-matching"]
        for read in (tokens, torch.tensor(unrepeated, device=device))
    ]
    return Scores(*attention)


def _attention(
    model: HookedModel, tokens: Tensor, targets: Mapping[str, Tensor], memory: str | None
) -> dict[str, NDArray[np.float64]]:
    """How much of each head's attention goes to these targets: [l h b]. One run."""

    def look(rows: slice) -> dict[str, Tensor]:
        by_target: dict[str, list[Tensor]] = {name: [] for name in targets}

        def read(pattern: Tensor, hook: HookPoint) -> None:
            for name, where in targets.items():
                by_target[name].append(attention_to(pattern, where[rows]))

        model.run_with_hooks(tokens[rows], fwd_hooks=[(_is_pattern, read)], return_type=None)
        return {name: torch.stack(each) for name, each in by_target.items()}

    every = [*in_pieces(memory, len(tokens), look, "the attention of one prompt takes")]
    together = {name: torch.cat([some[name] for some in every], 1) for name in targets}
    return {name: numbers(rearrange(each, "l b h -> l h b")) for name, each in together.items()}


def _is_pattern(name: str) -> bool:
    return name.endswith("attn.hook_pattern")


def copying(model: HookedModel, tokens: Tensor, memory: str | None = None) -> Scores:
    """How far the direct path raises the attended token's logit rather than those of the others.

    Olsson et al. 2022, "Head activation evaluators": on 25 random tokens, what a head writes goes
    through the unembedding; the mean of all logits is subtracted, and what is below is dropped.
    With a, by how much the attended token's logit is raised, and t, the sum of that over all tokens
    of the prompt, the ratio a / (a + t) is from 0 to 0.5, and scaled to -1 (only others are raised,
    or nothing) to 1 (only the attended token). What they leave open: here a and t are taken of what
    is moved from each token alone, and summed with attention as weight. A start token, or whatever
    comes first, where heads rest, is left out. Control: another token of the prompt.
    """
    tokens, what = tokens[:, : 1 + USUAL_LENGTH], "what heads write in one prompt takes"
    pieces = [*in_pieces(memory, len(tokens), lambda rows: _copied(model, tokens[rows]), what)]
    return Scores(*(numbers(torch.cat(each, 2)) for each in zip(*pieces, strict=True)))


def _copied(model: HookedModel, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Copying's ratio and its control in these prompts: [l h b] each."""
    sites = ("hook_pattern", "hook_v")
    _, cache = model.run_with_cache(
        tokens,
        attention_mask=all_real(tokens),
        names_filter=lambda name: name.endswith(sites),
        return_type=None,
    )
    b, u = tokens[:, 1:].shape
    unembed = rearrange(to_logits(model, tokens[:, 1:].flatten()), "d (b u) -> b d u", b=b, u=u)
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
    ratio, control = (rearrange(x, "l b h -> l h b") for x in (values, controls))
    return ratio, control


def eigenvalue_copying(model: HookedModel, seed: int, memory: str | None = None) -> Scores:
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
    n_threads = _threads(model, memory)
    generator, n = torch.Generator().manual_seed(seed), len(model.W_E)
    orders = [torch.arange(n)]
    orders += [torch.randperm(n, generator=generator) for _ in range(EIGENVALUE_CONTROLS)]
    between = [_between(model, order.to(model.W_E.device)) for order in orders]
    shares, strengths, reached = [], [], []
    for layer, block in enumerate(model.blocks):  # in float64, heads of all layers are large
        read, written = _reading(model, layer), block.attn.W_O.double()
        inner = [each @ read for each in between]  # [h d e]
        shares.append([_positivity_of(written, each) for each in inner])
        # What is left of W_V but for directions, and of W_O (W_U W_E).
        strengths.append(torch.linalg.qr(read, mode="r").R.cpu())
        reached.append(torch.linalg.qr((written @ between[0]).mT, mode="r").R.mT.cpu())
    scores = np.stack(shares, 1)  # [order l h]
    score, control, kind = scores[0], scores[1:].mean(0), KINDS["ov-copying"]
    if (score - control.clip(min=kind.floor) <= kind.margin).all():
        return Scores(score[..., None], control[..., None])
    draw = _chance(torch.stack(reached), torch.stack(strengths), model.cfg.d_model)
    # Torch uses one thread for each matrix, and leaves Python to others while it runs.
    with ThreadPoolExecutor(n_threads) as pool:
        drawn = np.stack([*pool.map(draw, np.random.SeedSequence(seed).spawn(TURNED))])
    every = np.concatenate([scores[:1], drawn])  # of no head that is like them does one stand apart
    mean, deviation = every.mean(0), every.std(0)
    highest = ((drawn - mean) / deviation.clip(min=1e-30)).max()
    null = mean + highest * deviation
    return Scores(score[..., None], control[..., None], null=null)


def _threads(model: HookedModel, memory: str | None) -> int:
    """How many draws of chance are made at once."""
    cfg, most = model.cfg, torch.get_num_threads()
    each = 12 * 8 * cfg.n_layers * cfg.n_heads * cfg.d_head**2  # numbers in float64 of a draw
    kept = 8 * 8 * cfg.d_model**2
    least, what = kept + each, "what heads copy by chance takes"
    return min(most, (tensor_bytes(memory, kept + most * each, least, what) - kept) // each)


def _between(model: HookedModel, order: Tensor) -> Tensor:
    """From logits of tokens to the embedding of those in their places, W_U W_E [d d].

    Some tokens after others: a vocabulary in float64 is large. Norms and means come last.
    """
    d_model = model.cfg.d_model
    total = model.W_E.new_zeros(d_model, d_model, dtype=torch.float64)
    at_once, common = max(1, NUMBERS_AT_ONCE // d_model), common_direction(model)
    for first, tokens in enumerate(order.split(at_once)):
        embed = centered(model, model.W_E[tokens].double())
        some = model.W_U[:, first * at_once : first * at_once + len(tokens)].double()
        total += (some - common) @ embed
    return through_ln(model, total)


def _reading(model: HookedModel, layer: int) -> Tensor:
    """What each head of a layer reads from the stream into its values: [h d e]."""
    W_V = rearrange(model.blocks[layer].attn.W_V, "h d e -> d (h e)")
    read = through_ln(model, W_V, layer).double()
    return rearrange(read, "d (h e) -> h d e", h=model.cfg.n_heads)


def _chance(
    reached: Tensor, strength: Tensor, d_model: int
) -> Callable[[np.random.SeedSequence], NDArray[np.float64]]:
    """Draws the scores [l h] of heads that read in random directions, but as strongly as these do.

    `reached` is R^T of W_O (W_U W_E) = R^T Q^T, `strength` R of W_V = Q R: [l h e e] each.

    Random orthonormal directions are G R^-1, with G of normal numbers [d e] and R^T R = G^T G. Of G
    only e rows, in the space that `written` reads, count by themselves; of the other d - e only
    their products with each other do, and these are B B^T with a small triangular B, whose diagonal
    is chi-distributed (Bartlett 1933).
    """
    rows = strength.shape[-2]
    rest = np.arange(d_model - rows, max(d_model - 2 * rows, 0), -1)  # degrees of freedom

    @torch.inference_mode()
    def draw(source: np.random.SeedSequence) -> NDArray[np.float64]:
        rng = np.random.default_rng(source)
        inside = torch.from_numpy(rng.standard_normal((*strength.shape[:-1], rows)))
        outside = torch.from_numpy(rng.standard_normal((*strength.shape[:-1], len(rest)))).tril(-1)
        diagonal = np.sqrt(rng.chisquare(rest, (*strength.shape[:-2], len(rest))))
        outside.diagonal(dim1=-2, dim2=-1).copy_(torch.from_numpy(diagonal))
        gram = inside.mT @ inside + outside @ outside.mT
        root = torch.linalg.cholesky(gram, upper=True)
        matrix = reached @ inside @ torch.linalg.solve_triangular(root, strength, upper=True)
        return _positivity(matrix, NO_OUTPUT * matrix.flatten(-2).norm(dim=-1))

    return draw


def _positivity_of(written: Tensor, inner: Tensor) -> NDArray[np.float64]:
    """That of their product, [h e d] and [h d e]: [h]."""
    size = written.flatten(1).norm(dim=1) * inner.flatten(1).norm(dim=1)
    return _positivity(written @ inner, NO_OUTPUT * size)


def _positivity(matrix: Tensor, least: Tensor) -> NDArray[np.float64]:
    """Sum of eigenvalues over that of moduli, 0 where these are below `least`: [l h e e], [l h]."""
    values = torch.linalg.eigvals(matrix)
    moduli = values.abs().sum(-1)
    share = values.real.sum(-1) / moduli.clamp(min=1e-30)
    return numbers(torch.where(moduli > least.clamp(min=1e-30), share, 0.0))


def to_logits(model: HookedModel, tokens: Tensor) -> Tensor:
    """From the final stream to these tokens' logits [d t], but for LayerNorm's scale and biases.

    The mean of all logits is subtracted: what they have in common changes no prediction.
    """
    return through_ln(model, wide(model.W_U[:, tokens]) - common_direction(model))


def common_direction(model: HookedModel) -> Tensor:
    """The mean of what the unembedding has for the tokens: [d 1]."""
    return model.W_U.mean(1, keepdim=True, dtype=wide(model.W_U[:1, :1]).dtype)


def numbers(stack: list[Tensor] | Tensor) -> NDArray[np.float64]:
    """For pandas: on the CPU, in float64."""
    stacked = stack if isinstance(stack, Tensor) else torch.stack(stack)
    numbers: NDArray[np.float64] = stacked.detach().double().cpu().numpy()
    return numbers
