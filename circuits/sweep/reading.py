"""From final streams to the logits that a metric reads, the norm's scale anew or held.

Shapes: n rows (positions that are read), t tokens that are read there, d = d_model, v = d_vocab.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from circuits.precision import wide

if TYPE_CHECKING:
    from circuits.model import HookedModel


def norm_scale(model: HookedModel, final: Tensor) -> Tensor:
    """What the final norm divides these streams [n d] by: [n 1], in float32 at least."""
    return model.ln_final.scale(final)


def read_logits(
    model: HookedModel,
    final: Tensor,
    tokens: Tensor | None,
    scale: Tensor | None = None,
    readout: str | None = None,
) -> Tensor:
    """What does the model say of these tokens, in float32 at least?

    `final` [n d] is of the last stream, `tokens` [n t] may differ from row to row; None means the
    whole vocabulary. `scale` [n 1] is what the final norm divides by; None: the stream's own.
    With `readout`, that of the model's takes the place of the vocabulary. Returns [n t] or [n v].
    """
    at = model.ln_final.plain(final) if scale is None else _normed(model, final, scale)
    if readout is not None:
        classes: Tensor = model.require_readout(readout)(at)
        return wide(classes if tokens is None else classes.gather(1, tokens))
    return wide(model.unembed.read(at, tokens))


def _normed(model: HookedModel, final: Tensor, scale: Tensor) -> Tensor:
    """What the final norm writes if it divides by this."""
    norm = model.ln_final
    return (norm.center(final) / scale * norm.w + norm.b).to(final.dtype)
