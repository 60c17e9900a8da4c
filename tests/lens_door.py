"""The door's `HookedTransformer` with the weights of a TransformerLens model, for its tests."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from lens_models import lens_model
from torch import Tensor

from circuits.transformer_lens import HookedTransformer, HookedTransformerConfig

assert_close = partial(torch.testing.assert_close, atol=1e-10, rtol=1e-10)
# Theirs rounds to float32 where it folds weights.
assert_folded = partial(torch.testing.assert_close, atol=2e-5, rtol=2e-4)
TOKENS = torch.tensor([[0, 5, 9, 7, 12, 3], [0, 4, 4, 8, 2, 11]])
TEXTS = ["Then, went to", "the gave a drink"]
SITE = "blocks.1.hook_resid_pre"


def their_model() -> Any:
    """A random model of theirs that reads words."""
    model = lens_model("gpt2")
    model.cfg.tokenizer_prepends_bos = False  # what its set_tokenizer finds out
    return model


def twin(theirs: Any, **settings: Any) -> HookedTransformer:
    """The door's model with the same weights and tokenizer."""
    names = (
        "n_layers n_heads d_model d_head d_mlp n_ctx d_vocab eps dtype act_fn model_name".split()
    )
    shared = {name: getattr(theirs.cfg, name) for name in names}
    model = HookedTransformer(HookedTransformerConfig(**shared | settings), theirs.tokenizer)
    model.load_state_dict(theirs.state_dict())
    return model


def double(value: Tensor, hook: Any) -> Tensor:
    return value * 2
