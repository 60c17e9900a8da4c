"""A misspelled option, or a value that none can take, is one error that says what can be given."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from circuits.errors import CircuitsError
from circuits.transformer_lens import (
    HookedTransformer,
    HookedTransformerConfig,
    HookPoint,
    utils,
)

TOKENS = torch.tensor([[1, 2, 3]])


@pytest.fixture(scope="module")
def model() -> HookedTransformer:
    cfg = HookedTransformerConfig(d_model=8, d_head=4, n_layers=1, n_ctx=16, d_vocab=9, seed=0)
    return HookedTransformer(cfg)


TYPOS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "from_pretrained": (
        lambda m: HookedTransformer.from_pretrained("mini", fold_lnn=True),
        "from_pretrained has no option 'fold_lnn'; did you mean 'fold_ln'?",
    ),
    "a misspelled option that is off": (
        lambda m: HookedTransformer.from_pretrained("mini", center_unembedd=False),
        "did you mean 'center_unembed'",
    ),
    "from_pretrained_no_processing": (
        lambda m: HookedTransformer.from_pretrained_no_processing("mini", devise="cpu"),
        "has no option 'devise'; did you mean 'device'",
    ),
    "forward": (
        lambda m: m(TOKENS, return_typ="loss"),
        "forward has no option 'return_typ'; did you mean 'return_type'?",
    ),
    "run_with_cache, its own": (
        lambda m: m.run_with_cache(TOKENS, names_filtr=None),
        "run_with_cache has no option 'names_filtr'; did you mean 'names_filter'",
    ),
    "run_with_cache, forward's": (
        lambda m: m.run_with_cache(TOKENS, stop_at_layr=1),
        "did you mean 'stop_at_layer'",
    ),
    "run_with_hooks": (
        lambda m: m.run_with_hooks(TOKENS, fwd_hook=[]),
        "did you mean 'fwd_hooks'",
    ),
    "generate": (
        lambda m: m.generate(TOKENS, max_new_token=2),
        "generate has no option 'max_new_token'; did you mean 'max_new_tokens'",
    ),
    "generate_stream": (
        lambda m: m.generate_stream(TOKENS, temprature=0.0),
        "did you mean 'temperature'",
    ),
    "an option like no other": (
        lambda m: m.generate(TOKENS, zebra=1),
        "has no option 'zebra'; it has input, max_new_tokens",
    ),
    "a flag": (
        lambda m: setattr(m.cfg, "use_attn_resultt", True),
        "no flag 'use_attn_resultt'; did you mean 'use_attn_result'",
    ),
    "a setting": (
        lambda m: HookedTransformerConfig(8, 4, 1, 16, d_vocab=9, use_attn_reslt=True),
        "did you mean 'use_attn_result'",
    ),
}


@pytest.mark.parametrize("case", TYPOS)
def test_a_misspelled_option_is_named_with_the_nearest(model: HookedTransformer, case: str) -> None:
    act, message = TYPOS[case]
    with pytest.raises(CircuitsError) as error:
        act(model)
    assert message in str(error.value)


VALUES: dict[str, tuple[dict[str, Any], str]] = {
    "top_k": ({"top_k": 0}, "top_k=0: choose at least 1, or None for all tokens"),
    "top_p": ({"top_p": 1.5}, "top_p=1.5: choose more than 0 and at most 1"),
    "temperature": ({"temperature": -1.0}, "temperature=-1.0: choose 0"),
    "repetition_penalty": ({"repetition_penalty": 0.0}, "repetition_penalty=0.0: choose more"),
    "max_new_tokens": ({"max_new_tokens": -1}, "max_new_tokens=-1: choose a whole number"),
    "half a token": ({"max_new_tokens": 1.5}, "max_new_tokens=1.5: choose a whole number"),
    "a piece of none": ({"max_tokens_per_yield": 0}, "max_tokens_per_yield=0: choose a whole"),
}


@pytest.mark.parametrize("case", VALUES)
def test_a_value_that_nothing_can_be_drawn_with_is_refused_at_once(
    model: HookedTransformer, case: str
) -> None:
    options, message = VALUES[case]
    name = next(iter(options))
    calls: list[Callable[..., Any]] = []
    if name != "max_tokens_per_yield":
        calls.append(lambda **given: model.generate(TOKENS, stop_at_eos=False, **given))
    if name != "repetition_penalty":  # there, too, streams have none
        calls.append(lambda **given: model.generate_stream(TOKENS, stop_at_eos=False, **given))
    if not name.startswith("max"):
        calls.append(lambda **given: utils.sample_logits(torch.zeros(1, 9), **given))
    for call in calls:
        with pytest.raises(CircuitsError) as error:
            call(**options)
        assert message in str(error.value)


def test_no_new_token_leaves_the_prompt(model: HookedTransformer) -> None:
    assert torch.equal(model.generate(TOKENS, max_new_tokens=0, stop_at_eos=False), TOKENS)


def test_what_transformers_takes_besides_is_taken_where_it_changes_nothing() -> None:
    given = {"low_cpu_mem_usage": True, "local_files_only": True, "torch_dtype": torch.float64}
    model = HookedTransformer.from_pretrained_no_processing("mini", **given)
    assert model.W_E.dtype == torch.float64


def test_a_forward_of_a_subclass_may_have_options_of_its_own() -> None:
    class Louder(HookedTransformer):
        def forward(self, input: Any, loudness: float = 1.0, **options: Any) -> Any:
            return super().forward(input, **options) * loudness

    cfg = HookedTransformerConfig(d_model=8, d_head=4, n_layers=1, n_ctx=16, d_vocab=9, seed=0)
    louder = Louder(cfg)
    logits, _ = louder.run_with_cache(TOKENS, loudness=2.0)
    torch.testing.assert_close(logits, louder(TOKENS) * 2)


def plain(value: Tensor, hook: Any) -> Tensor:
    return value


def test_a_hook_costs_one_call_besides_its_own() -> None:
    # Discovery tools hang a hook for each edge, thousands, on the points of a model.
    n_hooks = 50
    point = HookPoint()
    for _ in range(n_hooks):
        point.add_hook(plain)
    value, calls = torch.ones(2), 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        point(value)
    finally:
        sys.setprofile(None)
    assert calls <= 2 * n_hooks + 10
