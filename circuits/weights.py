"""Rewriting the weights without changing what the model says: folding and centering.

LayerNorm and softmax leave directions that no later layer can see. These functions remove them, so
that the remaining numbers are easier to read: a query is a product of one matrix, a token's logit
is a rise above the average token's. Each returns a new model, leaves the given one as it is, and
measures what rounding did to the predictions. The definitions are those of TransformerLens'
``fold_ln``, ``center_writing_weights``, ``center_unembed`` and ``fold_value_biases``.

The rest of this package works on the raw checkpoint and needs none of this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from circuits.architectures import HookedGPT2, LayerNorm
from circuits.batch import as_batch
from circuits.errors import CircuitsError
from circuits.inputs import ModelInput
from circuits.model import HookedModel
from circuits.padding import all_real


@dataclass(frozen=True)
class Certificate:
    """How far new weights moved the predictions, measured on given tokens.

    The differences are of log-probabilities, in nats, over every position and the whole vocabulary.
    """

    max_abs_delta: float
    mean_abs_delta: float
    argmax_changes: int  # positions whose most likely next token is another one now
    n_positions: int

    def __str__(self) -> str:
        return (
            f"log-probs moved by {self.max_abs_delta:.2g} nats at most and "
            f"{self.mean_abs_delta:.2g} on average; the most likely token changed at "
            f"{self.argmax_changes} of {self.n_positions} positions"
        )


def fold_layer_norm(model: HookedModel, tokens: ModelInput) -> tuple[HookedGPT2, Certificate]:
    """What do the weights look like when every LayerNorm only centers and scales?

    Each LayerNorm's `w` and `b` move into the weights that read its output (W_Q, W_K, W_V and
    W_in, and W_U for the last one) and their biases:
    ``(n * w + b) W + c = n (w * W) + (b W + c)``. The normalized vector n sums to zero, so the mean
    of each reading column over d_model has no effect, and is removed. Afterwards w = 1, b = 0, and
    the unembedding is a matrix of its own (``cfg.tied`` is False).

    Args:
        model: left as it is.
        tokens: where the certificate is measured: text, texts, rows of ids, or a tensor [b p].

    Returns:
        The new model, and how far its log-probs are from the given one's.

    Raises:
        TokenError: for tokens that the model cannot take.
        CircuitsError: for a model of transformer_lens.

    >>> from circuits.config import ModelConfig
    >>> model = HookedGPT2.random(ModelConfig(n_layers=1, n_heads=2, d_model=8, n_ctx=4, d_vocab=9))
    >>> folded, certificate = fold_layer_norm(model, [[1, 2, 3]])
    >>> bool((folded.ln_final.w == 1).all()), folded.cfg.tied, certificate.argmax_changes
    (True, False, 0)
    """
    return _rewrite(model, tokens, [_fold_layer_norm], untie=True)


def center_writing_weights(
    model: HookedModel, tokens: ModelInput
) -> tuple[HookedGPT2, Certificate]:
    """What do the weights look like when nothing writes along the all-ones direction?

    Every LayerNorm subtracts the mean of the residual stream over d_model, so W_E, W_pos, W_O,
    b_O, W_out and b_out are replaced by their difference from it. The unembedding, which only
    reads, keeps its values and becomes a matrix of its own (``cfg.tied`` is False).

    Args, result and errors are those of `fold_layer_norm`.

    >>> from circuits.config import ModelConfig
    >>> model = HookedGPT2.random(ModelConfig(n_layers=1, n_heads=2, d_model=8, n_ctx=4, d_vocab=9))
    >>> centered, _ = center_writing_weights(model, [[1, 2, 3]])
    >>> bool(centered.W_pos.mean(-1).abs().max() < 1e-6)
    True
    """
    return _rewrite(model, tokens, [_center_writing_weights], untie=True)


def center_unembed(model: HookedModel, tokens: ModelInput) -> tuple[HookedGPT2, Certificate]:
    """What do the weights look like when the logits of every position sum to zero?

    Adding the same to all logits does not change softmax, so W_U and b_U are replaced by their
    difference from their mean over the vocabulary. Logits change, log-probs do not; the embedding
    keeps its values and the unembedding becomes a matrix of its own (``cfg.tied`` is False).

    Args, result and errors are those of `fold_layer_norm`.

    >>> from circuits.config import ModelConfig
    >>> model = HookedGPT2.random(ModelConfig(n_layers=1, n_heads=2, d_model=8, n_ctx=4, d_vocab=9))
    >>> centered, _ = center_unembed(model, [[1, 2, 3]])
    >>> bool(centered([[1, 2, 3]]).mean(-1).abs().max() < 1e-6)
    True
    """
    return _rewrite(model, tokens, [_center_unembed], untie=True)


def fold_value_biases(model: HookedModel, tokens: ModelInput) -> tuple[HookedGPT2, Certificate]:
    """What do the weights look like when no head adds a constant to its output?

    The weights of an attention pattern sum to one, so a value bias adds the same vector at every
    position: it moves to the layer's bias, ``b_O + sum over heads of b_V W_O``, and b_V is zero.

    Args, result and errors are those of `fold_layer_norm`. Tied weights stay tied.

    >>> from circuits.config import ModelConfig
    >>> model = HookedGPT2.random(ModelConfig(n_layers=1, n_heads=2, d_model=8, n_ctx=4, d_vocab=9))
    >>> folded, _ = fold_value_biases(model, [[1, 2, 3]])
    >>> bool((folded.b_V == 0).all()), folded.cfg.tied
    (True, True)
    """
    return _rewrite(model, tokens, [_fold_value_biases], untie=False)


def process(
    model: HookedModel,
    tokens: ModelInput,
    *,
    fold_ln: bool = True,
    center_writing_weights: bool = True,
    center_unembed: bool = True,
    fold_value_biases: bool = True,
) -> tuple[HookedGPT2, Certificate]:
    """What do the weights look like after all four steps, or the chosen ones?

    This is what ``HookedTransformer.from_pretrained`` does by default. One certificate covers
    the whole change.

    Args, result and errors are those of `fold_layer_norm`.

    >>> from circuits.config import ModelConfig
    >>> model = HookedGPT2.random(ModelConfig(n_layers=1, n_heads=2, d_model=8, n_ctx=4, d_vocab=9))
    >>> processed, certificate = process(model, [[1, 2, 3]])
    >>> certificate.max_abs_delta < 1e-5, certificate.n_positions
    (True, 3)
    """
    wanted = {
        _fold_layer_norm: fold_ln,
        _center_writing_weights: center_writing_weights,
        _center_unembed: center_unembed,
        _fold_value_biases: fold_value_biases,
    }
    steps = [step for step, is_wanted in wanted.items() if is_wanted]
    return _rewrite(model, tokens, steps, untie=fold_ln or center_writing_weights or center_unembed)


def _rewrite(
    model: HookedModel,
    tokens: ModelInput,
    steps: Sequence[Callable[[HookedGPT2], None]],
    *,
    untie: bool,
) -> tuple[HookedGPT2, Certificate]:
    if not isinstance(model, HookedGPT2):
        raise CircuitsError(
            f"{model.cfg.model_name} is a {type(model).__name__}, and only a HookedGPT2's weights "
            "can be rewritten here (LayerNorm is made explicit instead, in every analysis); "
            "transformer_lens can process its weights itself when it loads a model"
        )
    with torch.no_grad():
        new = _wide_copy(model, untie=untie)
        for step in steps:
            step(new)
            new.source += f", {step.__name__.strip('_')}"
        new.to(model.W_E.dtype).requires_grad_(model.W_E.requires_grad)
        return new, _certify(model, new, tokens)


def _wide_copy(model: HookedGPT2, *, untie: bool) -> HookedGPT2:
    """A copy in at least float32, so that reduced precision is rounded once, at the end."""
    dtype = torch.promote_types(model.W_E.dtype, torch.float32)
    copy = HookedGPT2(replace(model.cfg, tied=model.cfg.tied and not untie), model.tokenizer)
    copy.source = model.source
    copy.to(model.W_E.device, dtype)
    weights: dict[str, Tensor] = dict(model.named_parameters())
    if model.cfg.tied and not copy.cfg.tied:
        weights |= {"unembed.W_U_untied": model.W_U, "unembed.b_U": model.b_U}
    for name, parameter in copy.named_parameters():
        parameter.copy_(weights[name])
    return copy


def _fold_layer_norm(model: HookedGPT2) -> None:
    for block in model.blocks:
        _fold_into(block.ln1, block.attn.W_QKV, block.attn.b_QKV)
        _fold_into(block.ln2, block.mlp.W_in, block.mlp.b_in)
    _fold_into(model.ln_final, *_unembedding(model))


def _fold_into(norm: LayerNorm, weight: Tensor, bias: Tensor) -> None:
    """Move `norm`'s w and b into `weight` [d, out] and `bias` [out], which read what it writes."""
    bias.add_(norm.b @ weight)
    weight.mul_(norm.w[:, None])
    weight.sub_(weight.mean(0))
    norm.w.fill_(1)
    norm.b.zero_()


def _center_writing_weights(model: HookedGPT2) -> None:
    writing = [model.W_E, model.W_pos]
    for block in model.blocks:
        writing += [block.attn.W_O_flat, block.attn.b_O, block.mlp.W_out, block.mlp.b_out]
    for weight in writing:
        weight.sub_(weight.mean(-1, keepdim=True))


def _center_unembed(model: HookedGPT2) -> None:
    for weight in _unembedding(model):
        weight.sub_(weight.mean(-1, keepdim=True))


def _unembedding(model: HookedGPT2) -> tuple[Tensor, Tensor]:
    """W_U and b_U of a model that has them as weights of their own."""
    bias = model.unembed.b_U
    assert bias is not None
    return model.unembed.W_U_untied, bias


def _fold_value_biases(model: HookedGPT2) -> None:
    for block in model.blocks:
        attn = block.attn
        b_V = attn.b_QKV[-len(attn.W_O_flat) :]
        attn.b_O.add_(b_V @ attn.W_O_flat)
        b_V.zero_()


def _certify(before: HookedGPT2, after: HookedGPT2, tokens: ModelInput) -> Certificate:
    batch = as_batch(before, tokens)
    real = torch.ones_like(batch.tokens, dtype=torch.bool) if batch.mask is None else batch.mask
    largest, total, flips, n_positions = [], 0.0, 0, int(real.sum())
    for row, mask in zip(batch.tokens, real, strict=True):  # logits are large: one prompt at a time
        old, new = (_log_probs(model, row[mask]) for model in (before, after))
        delta = (new - old).abs()
        largest.append(delta.max())
        total += delta.mean(-1).sum().item()
        flips += int((new.argmax(-1) != old.argmax(-1)).sum())
    # The maximum of a tensor keeps NaN, which Python's max would drop: a certificate must not.
    return Certificate(torch.stack(largest).max().item(), total / n_positions, flips, n_positions)


def _log_probs(model: HookedGPT2, tokens: Tensor) -> Tensor:
    logits: Tensor = model(tokens, attention_mask=all_real(tokens))
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
