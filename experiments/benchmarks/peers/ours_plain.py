"""This package with `torch.addmm` alone, as on a machine where oneDNN is no faster."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from circuits import HookedGPT2
from experiments.benchmarks.peers import ours


def _plainly(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def asked(model: HookedGPT2, *given: Any) -> Any:
        with model.backend.using(onednn=False):
            return function(model, *given)

    return asked


load = ours.load
forward = _plainly(ours.forward)
last_logits = _plainly(ours.last_logits)
full_cache = _plainly(ours.full_cache)
ablate_heads = _plainly(ours.ablate_heads)
patch_residual = _plainly(ours.patch_residual)
patch_heads = _plainly(ours.patch_heads)
attribution = _plainly(ours.attribution)
logit_lens = _plainly(ours.logit_lens)
generate = _plainly(ours.generate)
edges_eap = _plainly(ours.edges_eap)
edges_eap_ig = _plainly(ours.edges_eap_ig)
circuit_alone = _plainly(ours.circuit_alone)
circuit_curve = _plainly(ours.circuit_curve)
edges_exact = _plainly(ours.edges_exact)
