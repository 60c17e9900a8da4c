"""The places and classes of tokens that are kept of neurons' activations on a text."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from circuits.mlp_neurons import Contexts, class_of, on_text


@hypothesis_settings(max_examples=30)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(0, 9))
def test_the_places_do_not_depend_on_the_batches(sizes: list[int], seed: int) -> None:
    n = sum(sizes)
    acts = np.random.default_rng(seed).normal(size=(n, 5)).astype(np.float32)
    tokens = torch.arange(6 * n).view(n, 6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(on_text, "SAMPLED", 7)
        once, parts = (Contexts(3, np.random.default_rng(seed)) for _ in range(2))
        once.add(tokens, acts, 1)
        for start, size in zip(np.cumsum([0, *sizes]), sizes, strict=False):
            parts.add(tokens[start : start + size], acts[start : start + size], 1)
    assert once.best == parts.best
    assert once.drawn == parts.drawn
    assert (once.n_tokens, once.n_windows) == (parts.n_tokens, parts.n_windows) == (5 * n, n)
    assert len(once.drawn) == min(7, 5 * n)


@pytest.mark.parametrize(
    ("token", "kind"),
    [
        (" Mary", "word"),
        ("ary", "inside"),
        ("é", "inside"),
        (" שלום", "word"),
        ("17", "digits"),
        (" 17", "digits"),
        (",", "marks"),
        (" (", "marks"),
        ("😀", "marks"),
        ("\n\n", "space"),
        ("", "space"),
        ("\ufffd", "part"),
    ],
)
def test_classes_of_tokens(token: str, kind: str) -> None:
    assert class_of(token) == kind
