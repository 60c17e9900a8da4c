"""Text, padding, generation and names at the door against TransformerLens' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lens_door import TEXTS, TOKENS, assert_close, their_model, twin
from lens_twin import IGNORE_DEPRECATION

import circuits
from circuits.errors import TokenError
from circuits.transformer_lens import (
    HookedTransformer,
    HookedTransformerKeyValueCache,
)

transformer_lens = pytest.importorskip("transformer_lens")
pytestmark = pytest.mark.filterwarnings(IGNORE_DEPRECATION)


@pytest.fixture(scope="module")
def theirs() -> Any:
    return their_model()


@pytest.fixture
def ours(theirs: Any) -> HookedTransformer:
    return twin(theirs)


def test_padded_texts_are_theirs_at_real_tokens(ours: HookedTransformer, theirs: Any) -> None:
    for side in ("left", "right"):
        assert ours.to_tokens(TEXTS, padding_side=side).equal(
            theirs.to_tokens(TEXTS, padding_side=side)
        )
    tokens = ours.to_tokens(TEXTS, padding_side="left")
    for model in (ours, theirs):
        model.tokenizer.padding_side = "left"
    mask = transformer_lens.utilities.get_attention_mask(theirs.tokenizer, tokens, True).bool()
    mine, other = ours(tokens), theirs(tokens)
    masked = ours(tokens, attention_mask=mask), theirs(tokens, attention_mask=mask)
    loss = [model(TEXTS, return_type="loss") for model in (ours, theirs)]
    theirs.tokenizer.padding_side = "right"
    assert_close(mine[mask], other[mask])
    assert_close(masked[0][mask], masked[1][mask])
    assert_close(*loss)


def test_a_key_value_cache_continues(ours: HookedTransformer) -> None:
    past = HookedTransformerKeyValueCache.init_cache(ours.cfg, "cpu", 2)
    assert past[0].past_keys.shape == (2, 0, 4, 6)
    ours(TOKENS[:, :4], past_kv_cache=past)
    past.freeze()
    for _ in range(2):
        assert_close(ours(TOKENS[:, 4:], past_kv_cache=past), ours(TOKENS)[:, 4:])
    assert past[1].past_values.shape[1] == 4


@pytest.mark.parametrize("cached", [True, False])
def test_generation_draws_their_tokens(cached: bool, ours: HookedTransformer, theirs: Any) -> None:
    for given, options in (
        (TOKENS, {"temperature": 0.7, "top_k": 5}),
        (TEXTS, {"do_sample": False}),
        (TEXTS[0], {"top_p": 0.8, "freq_penalty": 0.5}),
    ):
        answers = []
        for model in (ours, theirs):
            torch.manual_seed(0)
            answers.append(
                model.generate(
                    given,
                    max_new_tokens=6,
                    use_past_kv_cache=cached,
                    verbose=False,
                    return_type="tokens",
                    **options,
                ).tolist()
            )
        assert answers[0] == answers[1]


@pytest.mark.parametrize("most", [1, 2, 7, 9, 25])
def test_pieces_of_a_stream_are_as_long_as_theirs(
    ours: HookedTransformer, theirs: Any, most: int
) -> None:
    options: dict[str, Any] = {"max_new_tokens": 6, "max_tokens_per_yield": most}
    options |= {"do_sample": False, "stop_at_eos": False, "verbose": False}
    mine, wanted = (list(m.generate_stream(TOKENS, **options)) for m in (ours, theirs))
    assert [piece.tolist() for piece in mine] == [piece.tolist() for piece in wanted]


def test_text_is_theirs(ours: HookedTransformer, theirs: Any) -> None:
    for call in (
        lambda m: m.to_tokens(TEXTS[0]).tolist(),
        lambda m: m.to_tokens(TEXTS[0] * 30, truncate=True).shape,
        lambda m: m.to_str_tokens(TEXTS[0]),
        lambda m: m.to_str_tokens(TEXTS, prepend_bos=False),
        lambda m: m.to_string(TOKENS),
        lambda m: m.to_string(TOKENS[0]),
        lambda m: m.to_single_token("the"),
        lambda m: m.get_token_position("went", TEXTS[0]),
        lambda m: m.get_token_position(4, TOKENS[1], mode="last"),
        lambda m: m.tokenizer(TEXTS, padding=True, return_tensors="pt").input_ids.tolist(),
        lambda m: m.tokenizer.encode("went to"),
        lambda m: m.tokenizer.decode(TOKENS[0]),
        lambda m: m.tokenizer.batch_decode(TOKENS),
        lambda m: m.tokenizer.tokenize("went to"),
        lambda m: [m.tokenizer.bos_token_id, m.tokenizer.eos_token_id, m.tokenizer.pad_token_id],
        lambda m: [m.tokenizer.bos_token, m.tokenizer.pad_token, m.tokenizer.padding_side],
        lambda m: m.tokenizer.get_vocab(),
        lambda m: m.tokenizer.vocab["went"],
    ):
        assert call(ours) == call(theirs)


@pytest.mark.parametrize(
    ("name", "theirs_is"),
    [
        ("HookedTransformer", transformer_lens.HookedTransformer),
        ("ActivationCache", transformer_lens.ActivationCache),
        ("HookPoint", transformer_lens.hook_points.HookPoint),
        ("FactoredMatrix", transformer_lens.FactoredMatrix),
        (
            "HookedRootModule",
            transformer_lens.HookedRootModule.HookedRootModule
            if hasattr(transformer_lens.HookedRootModule, "HookedRootModule")
            else transformer_lens.HookedRootModule,
        ),
    ],
)
def test_no_public_name_is_missing_but_these(name: str, theirs_is: type) -> None:
    import circuits.transformer_lens as door

    wanted = {n for n in dir(theirs_is) if not n.startswith("_")}
    missing = wanted - {*dir(getattr(door, name))}
    assert missing <= MISSING[name], f"new gaps: {sorted(missing - MISSING[name])}"
    assert MISSING[name] <= missing, f"no longer missing: {sorted(MISSING[name] - missing)}"


# What the classes there have and the door does not. It may shrink, and must not grow.
MISSING: dict[str, set[str]] = {
    "HookedTransformer": set(),
    "ActivationCache": {"compute_ssm_effective_attention", "compute_ssm_state", "ssm_layers"},
    "HookPoint": {"enable_reshape"},
    "FactoredMatrix": set(),
    "HookedRootModule": set(),
}


@pytest.mark.filterwarnings("ignore:The 'utils' module:DeprecationWarning")
def test_utils_have_their_names() -> None:
    from transformer_lens import utils as originals

    from circuits.transformer_lens import utils

    missing = {*originals.__all__} - {*dir(utils)}
    assert missing == {"clear_huggingface_cache"}


def test_numbers_that_are_no_tokens_are_refused(ours: HookedTransformer) -> None:
    for given in (torch.tensor([[1.7, 2.9]]), torch.tensor([[True, False]])):
        with pytest.raises(TokenError, match="tokens are whole numbers"):
            ours(given)


@pytest.mark.slow
def test_a_tokenizer_of_gpt2_adds_a_start_token_there_and_none_here() -> None:
    folder = Path(circuits.__file__).parent / "models" / "mini"
    given = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(folder)
    sizes = {"d_model": 8, "d_head": 4, "n_layers": 1, "n_ctx": 16, "d_vocab": 8192}
    config = transformer_lens.HookedTransformerConfig(**sizes, act_fn="gelu_new", device="cpu")
    theirs = transformer_lens.HookedTransformer(config, given)
    ours = HookedTransformer.from_pretrained("mini")
    text = "the cat sat"
    assert theirs.tokenizer(text)["input_ids"] == [8191, *ours.tokenizer(text)["input_ids"]]
    assert ours.tokenizer(text)["input_ids"] == given(text)["input_ids"]
    for prepend_bos in (None, True, False):
        tokens = (m.to_tokens(text, prepend_bos=prepend_bos) for m in (ours, theirs))
        assert torch.equal(*tokens)
    assert ours.to_str_tokens(text) == theirs.to_str_tokens(text)
