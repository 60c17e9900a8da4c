"""Decompositions against TransformerLens' `ActivationCache`: the same rows, the same labels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lens_twin import IGNORE_DEPRECATION, lens_twin
from random_models import TINY, random_tokens, randomized

from circuits.architectures import HookedGPT2

pytest.importorskip("transformer_lens")
pytestmark = pytest.mark.filterwarnings(IGNORE_DEPRECATION)

TOKENS = random_tokens(TINY, batch=3, pos=6)
LAYERS = [1, 2, None]


def plain_layer_norms() -> HookedGPT2:
    """LayerNorms without weight and bias, as TransformerLens' attributions assume."""
    model = randomized()
    with torch.no_grad():
        for norm in [model.ln_final, *(n for b in model.blocks for n in (b.ln1, b.ln2))]:
            norm.w.fill_(1.0)
            norm.b.zero_()
    return model


@pytest.fixture(scope="module")
def caches() -> tuple[Any, Any]:
    model = plain_layer_norms()
    with torch.no_grad():
        theirs = lens_twin(model).run_with_cache(TOKENS)[1]
        return model.run_with_cache(TOKENS)[1], theirs


def check(caches: tuple[Any, Any], kind: str, **options: Any) -> None:
    with torch.no_grad():
        (ours, our_labels), (theirs, their_labels) = (
            getattr(cache, kind)(return_labels=True, **options) for cache in caches
        )
    assert list(our_labels) == list(their_labels)
    # Theirs adds the biases up in float32, whatever the model's precision.
    tolerance = 1e-6 if kind == "get_full_resid_decomposition" else 1e-10
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("pos_slice", [None, -1, (1, 4)])
@pytest.mark.parametrize("apply_ln", [False, True])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("accumulated_resid", {}),
        ("accumulated_resid", {"incl_mid": True}),
        ("decompose_resid", {}),
        ("decompose_resid", {"mode": "mlp"}),
        ("decompose_resid", {"mode": "attn", "incl_embeds": False}),
        ("stack_head_results", {}),
        ("stack_head_results", {"incl_remainder": True}),
        ("get_full_resid_decomposition", {}),
        ("get_full_resid_decomposition", {"expand_neurons": False}),
    ],
)
def test_stacks(
    caches: tuple[Any, Any],
    kind: str,
    options: dict[str, Any],
    apply_ln: bool,
    pos_slice: Any,
    layer: int | None,
) -> None:
    check(caches, kind, layer=layer, pos_slice=pos_slice, apply_ln=apply_ln, **options)


@pytest.mark.parametrize("layer", LAYERS)
def test_neurons(caches: tuple[Any, Any], layer: int | None) -> None:
    check(caches, "stack_neuron_results", layer=layer)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("accumulated_resid", {"incl_mid": True}),
        ("decompose_resid", {}),
        ("get_full_resid_decomposition", {}),
    ],
)
def test_inputs_of_an_mlp(caches: tuple[Any, Any], kind: str, options: dict[str, Any]) -> None:
    for layer in (0, 1):
        check(caches, kind, layer=layer, mlp_input=True, **options)


def test_attributions(caches: tuple[Any, Any]) -> None:
    answers, others = torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6])
    with torch.no_grad():
        for right, wrong in ((3, 5), (3, None), (answers, others)):
            ours, theirs = (
                cache.logit_attrs(cache.decompose_resid(pos_slice=-1), right, wrong, pos_slice=-1)
                for cache in caches
            )
            torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)
