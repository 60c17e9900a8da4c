"""What ran and did nothing is refused: exchanged views, other libraries' names, other norms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from random_models import TINY, random_tokens, randomized

from circuits.architectures import HookedGPT2
from circuits.errors import CircuitsError

NAMES = ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V")


@pytest.mark.parametrize("name", NAMES)
def test_a_view_is_written_to_and_not_exchanged(name: str) -> None:
    model = randomized()
    tokens = random_tokens(TINY, batch=1, pos=4)
    before = model(tokens)
    weight = getattr(model.blocks[0].attn, name)
    with pytest.raises(CircuitsError, match="write"):
        weight.data = torch.zeros_like(weight)
    assert torch.equal(model(tokens), before)
    weight.data[0] += 1.0
    with torch.no_grad():
        getattr(model.blocks[0].attn, name)[1].mul_(2)
    torch.testing.assert_close(getattr(model.blocks[0].attn, name), weight)
    if name != "b_K":  # the same for all keys: softmax does not see it
        assert not torch.allclose(model(tokens), before)


def test_the_unembedding_is_a_view_as_well() -> None:
    model = randomized()
    with pytest.raises(CircuitsError, match="view"):
        model.unembed.W_U.data = torch.zeros_like(model.W_U)
    assert type(model.W_U @ torch.ones(TINY.d_vocab, 1, dtype=model.W_U.dtype)) is torch.Tensor


def test_other_names_are_not_loaded_in_silence() -> None:
    model = randomized()
    with pytest.raises(CircuitsError, match="TransformerLens"):
        model.load_state_dict({"embed.W_E": model.W_E}, strict=False)
    with pytest.warns(UserWarning, match="were not given"):
        model.load_state_dict({"W_pos": model.W_pos.detach()}, strict=False)
    model.load_state_dict(model.state_dict())


def test_a_new_model_is_zero_and_not_what_memory_held() -> None:
    logits = HookedGPT2(TINY)(random_tokens(TINY, batch=1, pos=4))
    assert bool((logits == 0).all())


@pytest.mark.parametrize("kind", [None, "RMS"])
def test_another_norm_is_refused(kind: str | None) -> None:
    with pytest.raises(CircuitsError, match="LayerNorm"):
        HookedGPT2(replace(TINY, normalization_type=kind))
