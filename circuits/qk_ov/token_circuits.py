"""What the weights of heads say by themselves: token-to-token matrices, LayerNorm made explicit.

Shapes: v = d_vocab, l layer, h head, d = d_model, e = d_head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from circuits.components import Component
from circuits.errors import CircuitsError
from circuits.factored import FactoredMatrix
from circuits.model import HookedModel
from circuits.padding import all_real
from circuits.precision import wide
from circuits.qk_ov.turning import turned

CHUNK = 2**24  # entries of a token-to-token matrix that are held at a time
ROUNDING = 1e-6  # of a product's entries, in single precision, against its factors' norms
N_SAMPLES, LONGEST_SAMPLE = 4, 128  # sequences of random tokens, and their length


@dataclass(frozen=True, eq=False)
class TokenCircuit:
    """left @ inner @ right^T: a [v v] matrix for every head, never multiplied out.

    `left` is [v k], `inner` [l h k d], `right` [v d].
    """

    left: Tensor
    inner: FactoredMatrix
    right: Tensor

    def of(self, head: Component) -> FactoredMatrix:
        """One head's matrix [v v]."""
        matrix: FactoredMatrix = self.left @ self.inner[head.layer, head.head] @ self.right.T
        return matrix

    def eigenvalues(self, order: Tensor | None = None) -> Tensor:
        """Of all heads' matrices [l h e], but for zeros; `order` [v] shuffles their columns."""
        right = self.right if order is None else self.right[order]
        # A B has the eigenvalues of B A, so the tokens can be summed over first.
        return eigenvalues(FactoredMatrix(right.T @ self.left @ self.inner.A, self.inner.B))

    def spread(self) -> Tensor:
        """The root mean square of all entries [l h]."""
        left, right = (torch.linalg.qr(side, mode="r")[1] for side in (self.left, self.right))
        size: Tensor = (left @ self.inner @ right.T).norm()
        return size / len(self.left)


def ov_circuit(model: HookedModel, *, effective: bool) -> TokenCircuit:
    """What attending to a token adds to the logit of each: W_E W_V W_O W_U, norms folded in."""
    *scales, last = typical_scales(model)
    final = fixed(model.ln_final.w) / last
    inner = FactoredMatrix(
        torch.stack(
            [
                fixed(block.ln1.w / scale)[:, None] * fixed(block.attn.W_V)
                for block, scale in zip(model.blocks, scales, strict=True)
            ]
        ),
        writing(model) * final,
    )
    unembed = fixed(model.W_U).T
    return TokenCircuit(embedding(model, effective=effective), inner, unembed - unembed.mean(0))


def qk_circuit(model: HookedModel, *, effective: bool, distance: int = 0) -> TokenCircuit:
    """How well each key token matches a query token: W_E W_Q W_K^T W_E^T, norms folded in.

    Where positions turn queries and keys, the key stands `distance` positions before the query.
    """
    return _matching(model, embedding(model, effective=effective), distance)


def position_circuit(model: HookedModel) -> TokenCircuit:
    """How well each key position matches a query position: W_pos W_Q W_K^T W_pos^T.

    Raises:
        CircuitsError: for a model that adds no positions to the stream.
    """
    return _matching(model, centered(model, fixed(model.W_pos)))


def _matching(model: HookedModel, stream: Tensor, distance: int = 0) -> TokenCircuit:
    """Queries keep their bias, as a column of ones; keys are compared with their mean."""
    queries, keys = [], []
    norms = typical_scales(model)[:-1]
    layers = zip(model.blocks, norms, model.score_scales(), strict=True)
    for layer, (block, scale, divisor) in enumerate(layers):
        W_Q, norm = fixed(block.attn.W_Q), fixed(block.ln1.w / scale)[:, None]
        bias = fixed(block.ln1.b) @ W_Q + fixed(block.attn.b_Q)
        query = torch.cat([norm * W_Q, bias[:, None]], dim=1) / divisor
        queries.append(turned(model, layer, 0, query, distance))
        keys.append(turned(model, layer, 1, norm * fixed(block.attn.W_K), 0).mT)
    inner = FactoredMatrix(torch.stack(queries), torch.stack(keys))
    ones = torch.ones_like(stream[:, :1])
    return TokenCircuit(torch.cat([stream, ones], dim=1), inner, stream - stream.mean(0))


def product_scales(model: HookedModel) -> list[float] | None:
    """By what layers divide products of queries and keys, if that alone gives a score; or None.

    Rotary positions turn queries and keys, and a soft cap bends what comes of them.
    """
    if model.cfg.positional_embedding_type == "rotary" or model.cfg.scores_soft_cap:
        return None
    try:
        return model.score_scales()
    except CircuitsError:
        return None


def embedding(model: HookedModel, *, effective: bool) -> Tensor:
    """What a token alone puts into the stream [v d], as a norm sees it but for weight and scale.

    The effective embedding adds what MLP 0 makes of it: W_E + MLP0(ln2(W_E)), no attention.
    """
    embed: Tensor = model.W_E
    if effective:
        block = model.blocks[0]
        rows = embed.split(4096)  # d_mlp is wide
        embed = torch.cat([some + block.mlp.plain(block.ln2.plain(some)) for some in rows])
    return centered(model, fixed(embed))


def typical_scales(model: HookedModel) -> list[Tensor]:
    """What ln1 of each layer and ln_final divide by: the median over random tokens."""
    sites = [f"blocks.{layer}.ln1.hook_scale" for layer in range(model.cfg.n_layers)]
    return _medians(model, [*sites, "ln_final.hook_scale"])


def writing(model: HookedModel) -> Tensor:
    """W_O of all layers [l h e d], as a later norm sees what is written, but for that norm's scale.

    Where a norm follows the attention layer (Gemma 2), it is folded in, its scale at its median.
    """
    written = torch.stack([centered(model, fixed(block.attn.W_O)) for block in model.blocks])
    if not model.cfg.post_norms:
        return written
    sites = [f"blocks.{layer}.ln1_post.hook_scale" for layer in range(model.cfg.n_layers)]
    blocks = cast(list[Any], model.blocks)
    pairs = zip(blocks, _medians(model, sites), strict=True)
    weights = torch.stack([fixed(block.ln1_post.w) / scale for block, scale in pairs])
    return centered(model, written * weights[:, None, None])


def _medians(model: HookedModel, sites: list[str]) -> list[Tensor]:
    """The median at each site over random tokens (seed 0).

    The first position, which many models fill with a constant, is left out if there are others.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (N_SAMPLES, min(model.cfg.n_ctx, LONGEST_SAMPLE))
    tokens = torch.randint(model.cfg.d_vocab, shape, generator=generator).to(model.cfg.device)
    options = {"attention_mask": all_real(tokens), "return_type": None}
    _, cache = model.run_with_cache(tokens, names_filter=sites, **options)
    first = 1 if shape[1] > 1 else 0
    return [fixed(cache[site])[:, first:].median() for site in sites]


def centered(model: HookedModel, x: Tensor) -> Tensor:
    """What the model's norms see of vectors [... d]: LayerNorm subtracts their mean."""
    return x - x.mean(-1, keepdim=True) if model.cfg.normalization_type.startswith("LN") else x


def fixed(weight: Tensor) -> Tensor:
    """A weight in at least single precision, and without a gradient."""
    return wide(weight.detach())


def eigenvalues(matrix: FactoredMatrix) -> Tensor:
    """Those of a matrix [... e], where what is mere rounding is 0: A may write where B is blind."""
    values = matrix.eigenvalues
    sizes = [torch.linalg.matrix_norm(factor) for factor in matrix.pair]
    return torch.where(values.abs() > ROUNDING * (sizes[0] * sizes[1])[..., None], values, 0.0)


def trace_share(values: Tensor) -> Tensor:
    """The sum over the sum of sizes [...]: 1 when all are positive, -1 when negative; 0 for none.

    For the full OV circuit it is the copying score (Elhage et al. 2021).
    """
    size = values.abs().sum(-1)
    return torch.where(size > 0, values.real.sum(-1) / size, 0.0)


def chunks(matrix: FactoredMatrix, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """These rows of a large matrix, some at a time: their indices [c] and values [c v]."""
    for some in rows.split(max(1, CHUNK // matrix.rdim)):
        yield some, matrix.A[some] @ matrix.B


def extremes(matrix: FactoredMatrix, k: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The `k` highest entries, then the `k` lowest: values, rows and columns, farthest first."""
    best: dict[int, list[Tensor]] = {1: [], -1: []}
    for rows, values in chunks(matrix, torch.arange(matrix.ldim, device=matrix.A.device)):
        for sign, ends in ((1, values.amax(1)), (-1, -values.amin(1))):
            # The highest k entries lie in the k rows whose maxima are highest.
            top = ends.topk(min(k, len(ends))).indices
            candidates = sign * values[top]
            highest = candidates.flatten().topk(min(k, candidates.numel()))
            at = highest.indices
            new = (highest.values, rows[top[at // matrix.rdim]], at % matrix.rdim)
            old = best[sign] or [new[0][:0], new[1][:0], new[2][:0]]
            joined = [torch.cat(pair) for pair in zip(old, new, strict=True)]
            order = joined[0].argsort(descending=True, stable=True)[:k]
            best[sign] = [column[order] for column in joined]
    for sign, (sizes, rows, columns) in best.items():
        yield sign * sizes, rows, columns


def diagonal_ranks(matrix: FactoredMatrix, rows: Tensor) -> Tensor:
    """The place of each row's diagonal entry in its row; 1 is the highest, ties share theirs."""
    ranks = []
    for some, values in chunks(matrix, rows):
        diagonal = values.gather(1, some[:, None])
        # Signs sum to the number of entries ahead minus that of entries behind.
        ranks.append((values.sub_(diagonal).sign_().sum(1) + matrix.rdim + 1) / 2)
    return torch.cat(ranks)
