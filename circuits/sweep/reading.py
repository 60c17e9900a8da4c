"""From final streams to the logits that a metric reads, the norm's scale anew or held.

Shapes: n rows (positions that are read), t tokens that are read there, d = d_model, v = d_vocab.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from einops import einsum
from torch import Tensor

from circuits.adapter import AdaptedModel
from circuits.decompose import center
from circuits.precision import wide

if TYPE_CHECKING:
    from circuits.model import HookedGPT2


def norm_scale(model: HookedGPT2, final: Tensor) -> Tensor:
    """What does the final norm divide these streams [n d] by? [n 1], in float32 at least."""
    centered = center(model, wide(final))
    return (centered.square().mean(-1, keepdim=True) + model.cfg.eps).sqrt()


def read_logits(
    model: HookedGPT2, final: Tensor, tokens: Tensor | None, scale: Tensor | None = None
) -> Tensor:
    """What does the model say of these tokens, in float32 at least?

    `final` [n d] is of the last stream, `tokens` [n t] may differ from row to row; None means the
    whole vocabulary. `scale` [n 1] is what the final norm divides by; None: the stream's own.
    Returns [n t] or [n v].
    """
    at = model.ln_final.plain(final) if scale is None else _normed(model, final, scale)
    if isinstance(model, AdaptedModel):  # whose logits may be capped
        logits: Tensor = model.unembed(at)
        logits = logits if tokens is None else logits.gather(-1, tokens)
    elif tokens is None:
        logits = model.unembed(at[None])[0]
    else:
        logits = einsum(at, model.unembed.W_U.T[tokens], "n d, n t d -> n t") + model.b_U[tokens]
    return wide(logits)


def _normed(model: HookedGPT2, final: Tensor, scale: Tensor) -> Tensor:
    """What the final norm writes if it divides by this."""
    centered = center(model, wide(final)) / scale
    return (centered * model.ln_final.w + model.ln_final.b).to(final.dtype)
