"""Scores and circuits alone are those of the EAP-IG package on TransformerLens, if it is here.

It is found where `eap` can be imported: installed, or a folder of its sources on PYTHONPATH.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lens_twin import IGNORE_DEPRECATION
from numpy.testing import assert_allclose
from random_models import randomized

from circuits import HookedGPT2, ModelConfig, save
from experiments.benchmarks.items import Given, Shape
from experiments.benchmarks.peers import ours

CFG = ModelConfig(n_layers=3, n_heads=3, d_model=12, n_ctx=16, d_vocab=40)
SHAPE = Shape(layers=3, heads=3, width=12, hidden=48, context=16, vocabulary=40)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings(IGNORE_DEPRECATION)]


@pytest.fixture(scope="module")
def theirs() -> Any:
    """The package, as the benchmarks use it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of names that the package imports
        for needed in ("transformer_lens.HookedTransformer", "eap.graph"):
            pytest.importorskip(needed)
        return import_module("experiments.benchmarks.peers.eap_ig")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = randomized(CFG, dtype=torch.float32)
    return save(model, tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def model(folder: Path) -> HookedGPT2:
    return ours.load(folder)


@pytest.mark.parametrize(
    "question", ["edges_eap", "edges_eap_ig", "edges_exact", "circuit_alone", "circuit_curve"]
)
def test_numbers_are_those_of_the_package(
    theirs: Any, folder: Path, model: HookedGPT2, question: str
) -> None:
    given = Given.draw(SHAPE, 3, 7)
    expected = np.asarray(getattr(theirs, question)(theirs.load(folder), given))
    values = np.asarray(getattr(ours, question)(model, given))
    assert values.shape == expected.shape
    assert expected.std() > 1e-2  # or the tolerance would hide everything
    assert_allclose(values, expected, atol=1e-4, rtol=1e-4)
