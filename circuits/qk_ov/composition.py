"""How much of what one head writes another reads: scores, and what chance would give.

A head writes through W_V W_O and reads through W_Q W_K^T (queries), its transpose (keys), or
W_V W_O (values). Shapes: l layer, h head, d = d_model, e = d_head; singular directions i, j < e.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from circuits.factored import FactoredMatrix
from circuits.model import HookedModel
from circuits.qk_ov.token_circuits import centered, fixed, writing

Reads = Literal["q", "k", "v"]
SLOTS: tuple[Reads, ...] = ("q", "k", "v")
MEANINGS = {
    "edge": "who reads whom: sender->receiver<slot>",
    "slot": "through which input the receiver reads: q, k or v",
    "sender": "the head that writes",
    "receiver": "the head that reads",
    "score": "|W_A W_B| / (|W_A| |W_B|), Frobenius norms",
    "baseline": "root mean square of the score if what the sender writes were turned at random",
    "value": "score minus baseline",
    "z": "standard deviations by which the squared score exceeds that of a random turn; "
    "empty where a head is zero",
    "direction": "number of the sender's singular direction; 1 is the largest",
    "strength": "share of the sender's squared norm that lies in this direction",
    "share": "of the pair's squared score that comes through this direction",
}


@dataclass(frozen=True, eq=False)
class CompositionScores:
    """How much the heads of one layer read from each head before, through one of their inputs.

    Of pairs of heads, [l h_sender h_receiver]: `score` = |W_A W_B| / (|W_A| |W_B|), `baseline`, the
    root mean square of the score if the sender were turned at random, and `z`, by how many
    standard deviations the squared score exceeds that of a random turn. Of the sender's singular
    directions, [l h_sender i h_receiver]: the same, and `share`, how much of the pair's squared
    score is theirs; `strength` [l h_sender i] is their share of the sender's squared norm.
    """

    slot: Reads
    layer: int
    score: Tensor
    baseline: Tensor
    z: Tensor
    direction_score: Tensor
    direction_baseline: Tensor
    direction_z: Tensor
    share: Tensor
    strength: Tensor


def composition_scores(model: HookedModel) -> Iterator[CompositionScores]:
    """How much each head reads from each earlier one, by slot and by the receiver's layer.

    LayerNorm's weights belong to the head that reads, and its centering to what is written.
    """
    writers = FactoredMatrix(_folded(model, "W_V"), writing(model))
    written = writers.collapse_l()  # S V^T: the sender's own input does not matter
    for slot in SLOTS:
        read = _readers(model, slot, writers).collapse_r()
        for layer in range(1, model.cfg.n_layers):
            yield _of_layer(model, slot, layer, written[:layer], read[layer])


def _readers(model: HookedModel, slot: Reads, writers: FactoredMatrix) -> FactoredMatrix:
    if slot == "v":
        return writers
    first, second = ("W_Q", "W_K") if slot == "q" else ("W_K", "W_Q")
    return FactoredMatrix(_folded(model, first), _folded(model, second).mT)


def _folded(model: HookedModel, name: str) -> Tensor:
    """One kind of the weights that read [l h d e], multiplied by ln1's."""
    both = [(fixed(block.ln1.w), fixed(getattr(block.attn, name))) for block in model.blocks]
    return torch.stack([norm[:, None] * weight for norm, weight in both])


def _of_layer(
    model: HookedModel, slot: Reads, layer: int, written: Tensor, read: Tensor
) -> CompositionScores:
    """`written` [l h i d] are the senders' directions, `read` [h d j] the receivers' ones."""
    met = torch.einsum("lhid,gdj->lhigj", written, read).double()
    energy = met.square().sum(-1)  # [l h i g]
    power = written.double().square().sum(-1)  # [l h i], squared singular values
    seen = centered(model, read.mT.double())  # all that can be read: written is centered
    gram = seen @ seen.mT
    seen_power, seen_fourth = seen.square().sum((1, 2)), gram.square().sum((1, 2))  # [g]
    n = model.cfg.d_model - (1 if model.cfg.normalization_type.startswith("LN") else 0)

    def chance(trace: Tensor, fourth: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the energy if the sender were turned at random in n dimensions.

        For symmetric P, Q and a random rotation R, tr(P R Q R^T) has the mean tr P tr Q / n and
        the variance 2 |P'|^2 |Q'|^2 / ((n - 1) (n + 2)), where P' = P - tr P / n.
        """
        mean = trace[..., None] * seen_power / n
        product = (fourth - trace**2 / n)[..., None] * (seen_fourth - seen_power**2 / n)
        return mean, (2 * product.clamp(min=0) / ((n - 1) * (n + 2))).sqrt()

    total = power.sum(-1)
    size = read.double().square().sum((1, 2))
    mean, deviation = chance(total, power.square().sum(-1))
    ones = torch.ones_like(power)
    direction_mean, direction_deviation = chance(ones, ones)
    pair, direction = energy.sum(2), _over(energy, power[..., None])
    return CompositionScores(
        slot,
        layer,
        score=_over(pair, total[..., None] * size).sqrt(),
        baseline=_over(mean, total[..., None] * size).sqrt(),
        z=_over(pair - mean, deviation, torch.nan),
        direction_score=_over(direction, size).sqrt(),
        direction_baseline=_over(direction_mean, size).sqrt(),
        direction_z=_over(direction - direction_mean, direction_deviation, torch.nan),
        share=_over(energy, pair[:, :, None]),
        strength=_over(power, total[..., None]),
    )


def _over(a: Tensor, b: Tensor, nothing: float = 0.0) -> Tensor:
    """a / b, and `nothing` where b is 0: a head of zeros writes nothing and reads nothing."""
    return torch.where(b > 0, a / b.clamp(min=torch.finfo(b.dtype).tiny), nothing)
