"""What would a head write about the token it attends to? Its full OV circuit."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from circuits.components import Component
from circuits.model import HookedModel
from circuits.qk_ov import Kind, Show, answer, ov_circuit, view_of
from circuits.registry import analysis
from circuits.result import Result

KIND = Kind("ov", "What would {} write?", "source", "destination", "logits", "copying")


@analysis
def ov(
    model: HookedModel,
    head: str | Component | None = None,
    *,
    show: Show | None = None,
    effective: bool = False,
    tokens: str | Sequence[str] | None = None,
    top: int = 10,
) -> Result:
    """What would a head write?

    Attending to a source token, a head adds to the logit of each destination token an entry of
    W_E W_V W_O W_U, a matrix of all tokens by all tokens that the weights alone decide (Elhage et
    al. 2021, "OV circuit"). Copying heads write the source itself: it is on top of its row, and the
    eigenvalues are positive. Without a head, all heads are compared by their copying score.

    LayerNorm is explicit. Its centering and weights (ln1's of the head's layer, ln_final's) are
    part of the matrix; its scales depend on the context, and are held at their medians over random
    tokens. What biases add is the same for every source, and is left out. Logits are relative to
    the mean of their row, to which softmax is blind.

    $ circuits ov --figure copying.png
    $ circuits ov a1.h0
    $ circuits ov a1.h0 --show diagonal --effective
    $ circuits ov a1.h0 --tokens " king" --tokens " queen" --top 5
    $ circuits ov a1.h0 --show directions --figure directions.png

    Args:
        head: Which head, such as a1.h0. Without it, the copying score of every head: the sum of its
            matrix' eigenvalues over the sum of their sizes, from -1 to 1.
        show: The highest and lowest entries (pairs, the default); how often a token's own entry is
            among the highest of its row (diagonal); the eigenvalues; or the largest singular
            directions, read as tokens.
        effective: Use the effective embedding: what block 0's MLP makes of a token is added to it,
            W_E + MLP0(ln2(W_E)), with no attention between. For heads from layer 1 on.
        tokens: Only these sources, each a single token; repeat it for several. Every one gets pairs
            of its own.
        top: How many pairs at each end, or directions, to list.

    Raises:
        CircuitsError: for a head that is not there, a text that is not one token, and options that
            do not belong together.

    >>> from circuits.checkpoints import load
    >>> frame = ov(load("compiled"), "a1.h0", tokens="C", top=1).frame
    >>> frame[["source", "destination", "value"]].round(2).values.tolist()[0]
    ['C', 'C', 9.63]
    """
    view = view_of(model, head, show, effective=effective, tokens=tokens, top=top)
    with torch.inference_mode():
        return answer(model, KIND, ov_circuit(model, effective=effective), view)
