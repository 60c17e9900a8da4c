"""The residual stream as a sum of parts: labels, shapes, slices and attributions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from random_models import TINY, random_tokens, randomized
from torch import Tensor

from circuits import decompose
from circuits.architectures import HookedGPT2
from circuits.cache import Cache
from circuits.config import GPT2_SIZES, ModelConfig
from circuits.errors import CircuitsError, SiteError, TokenError
from circuits.tokenizer import Tokenizer

TOKENS = random_tokens(TINY, batch=3, pos=7)
N_LAYERS, N_HEADS, D_MLP = TINY.n_layers, TINY.n_heads, TINY.d_mlp


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)


@pytest.fixture(scope="module")
def model() -> HookedGPT2:
    return randomized()


@pytest.fixture(scope="module")
def cache(model: HookedGPT2) -> Cache:
    with torch.no_grad():
        return model.run_with_cache(TOKENS)[1]


@pytest.fixture(autouse=True)
def no_grad() -> Any:
    with torch.no_grad():
        yield


def parts_of(cache: Cache, kind: str, layer: int | None, **options: Any) -> tuple[Tensor, Any]:
    return getattr(cache, kind)(layer, return_labels=True, **options)


# --- labels and sums ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "mlp_input"), [(0, False), (0, True), (1, False), (1, True), (2, False)]
)
def test_the_parts_sum_to_the_stream(cache: Cache, layer: int, mlp_input: bool) -> None:
    end = cache["resid_post", -1] if layer == N_LAYERS else cache["resid_pre", layer]
    stream = cache["resid_mid", layer] if mlp_input else end
    n_heads, n_neurons = (layer + mlp_input) * N_HEADS, layer * D_MLP
    by_layer, labels = parts_of(cache, "decompose_resid", layer, mlp_input=mlp_input)
    assert_close(by_layer.sum(0), stream)
    assert len(labels) == len(by_layer) == 2 + 2 * layer + mlp_input
    for expand in (True, False):
        full, labels = parts_of(
            cache,
            "get_full_resid_decomposition",
            layer,
            mlp_input=mlp_input,
            expand_neurons=expand,
        )
        assert_close(full.sum(0), stream)
        n_mlp = n_neurons if expand else layer
        assert len(labels) == len(full) == n_heads + n_mlp + 3
        assert labels[-3:] == ["embed", "pos_embed", "bias"]
    whole, labels = parts_of(cache, "accumulated_resid", layer, mlp_input=mlp_input)
    assert_close(whole[-1], stream)
    assert len(labels) == len(whole) == layer + 1 + mlp_input


def test_labels(cache: Cache) -> None:
    assert parts_of(cache, "decompose_resid", None)[1] == [
        *("embed", "pos_embed", "0_attn_out", "0_mlp_out", "1_attn_out", "1_mlp_out")
    ]
    assert parts_of(cache, "decompose_resid", -1, mode="mlp", incl_embeds=False)[1] == [
        *("0_mlp_out", "1_mlp_out")
    ]
    assert parts_of(cache, "decompose_resid", 1, mode="attn", mlp_input=True)[1] == [
        *("embed", "pos_embed", "0_attn_out", "1_attn_out")
    ]
    assert parts_of(cache, "accumulated_resid", None, incl_mid=True)[1] == [
        *("0_pre", "0_mid", "1_pre", "1_mid", "final_post")
    ]
    assert parts_of(cache, "stack_head_results", None, incl_remainder=True)[1] == [
        *("L0H0", "L0H1", "L0H2", "L0H3", "L1H0", "L1H1", "L1H2", "L1H3", "remainder")
    ]
    neurons = parts_of(cache, "stack_neuron_results", None)[1]
    assert (neurons[0], neurons[D_MLP], neurons[-1]) == ("L0N0", "L1N0", f"L1N{D_MLP - 1}")


def test_each_part_is_what_its_component_wrote(model: HookedGPT2, cache: Cache) -> None:
    _, full = model.run_with_cache(TOKENS, names_filter=["result0", "result1", "post1"])
    heads = cache.stack_head_results()
    for layer in range(N_LAYERS):
        for head in range(N_HEADS):
            result = full["result", layer][:, :, head]
            assert_close(heads[layer * N_HEADS + head], result)
    neurons = cache.stack_neuron_results()
    values = model.blocks[1].mlp.W_out[5]
    assert_close(neurons[D_MLP + 5], full["post", 1][..., 5, None] * values)
    heads, labels = parts_of(cache, "stack_head_results", 1, incl_remainder=True)
    assert labels[-1] == "remainder"
    assert_close(heads.sum(0), cache["resid_pre", 1])


@pytest.mark.parametrize("kind", ["stack_head_results", "stack_neuron_results"])
def test_nothing_before_the_first_layer(cache: Cache, kind: str) -> None:
    stack, labels = parts_of(cache, kind, 0)
    assert (tuple(stack.shape), labels) == ((0, 3, 7, 16), [])


KINDS: dict[str, dict[str, Any]] = {
    "decompose_resid": {},
    "accumulated_resid": {"incl_mid": True},
    "stack_head_results": {"incl_remainder": True},
    "stack_neuron_results": {},
    "get_full_resid_decomposition": {},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pos_slice", [-1, 2, slice(1, 4), [0, 3]])
def test_slices_of_positions(cache: Cache, kind: str, pos_slice: Any) -> None:
    # Neurons are normalized by the full decomposition.
    for normalized in [{}] if kind == "stack_neuron_results" else [{}, {"apply_ln": True}]:
        options = KINDS[kind] | normalized
        whole = getattr(cache, kind)(None, **options)
        some = getattr(cache, kind)(None, pos_slice=pos_slice, **options)
        assert_close(some, whole[:, :, pos_slice])


def test_a_cache_without_batch_axis(cache: Cache) -> None:
    bare = cache.apply_slice_to_batch_dim(1)
    for kind, options in KINDS.items():
        whole, some = (getattr(c, kind)(None, **options) for c in (cache, bare))
        assert_close(some, whole[:, 1])
    assert_close(
        bare.logit_attrs(bare.decompose_resid(), 3),
        cache.logit_attrs(cache.decompose_resid(), 3)[:, 1],
    )


# --- LayerNorm and logits -----------------------------------------------------------------------


@pytest.mark.parametrize(("layer", "mlp_input"), [(0, False), (1, False), (1, True), (2, False)])
def test_layer_norm_of_the_parts(
    model: HookedGPT2, cache: Cache, layer: int, mlp_input: bool
) -> None:
    """They sum to the LayerNorm's output without its bias, which the next layer reads."""
    block = model.blocks[min(layer, 1)]
    norm = model.ln_final if layer == 2 else block.ln2 if mlp_input else block.ln1
    stream = cache["resid_post", 1] if layer == 2 else cache["resid_pre", layer]
    stream = cache["resid_mid", layer] if mlp_input else stream
    full = cache.get_full_resid_decomposition(layer, mlp_input=mlp_input, apply_ln=True)
    assert_close(full.sum(0) + norm.b, norm.plain(stream))
    by_layer = cache.decompose_resid(layer, mlp_input=mlp_input)
    normed = cache.apply_ln_to_stack(by_layer, layer, mlp_input=mlp_input)
    assert_close(normed.sum(0) + norm.b, norm.plain(stream))


def test_the_lens_normalizes_each_state_by_itself(model: HookedGPT2, cache: Cache) -> None:
    states = cache.accumulated_resid(apply_ln=True)
    assert_close(states[-1] @ model.W_U, model(TOKENS))
    for state, raw in zip(states, cache.accumulated_resid(), strict=True):
        assert_close(state, model.ln_final.plain(raw))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("expand", [True, False])
def test_attributions_sum_to_the_logits(tied: bool, expand: bool) -> None:
    cfg = ModelConfig(n_layers=2, n_heads=2, d_model=8, n_ctx=9, d_vocab=11, tied=tied)
    model = randomized(cfg)
    logits, cache = model.run_with_cache([[1, 2, 3, 4], [5, 6]], padding_side="left")
    stack = cache.get_full_resid_decomposition(expand_neurons=expand)
    for right, wrong in ((3, None), (3, 7), (torch.tensor([3, 4]), torch.tensor([7, 1]))):
        attributed = cache.logit_attrs(stack, right, wrong).sum(0)
        attributed = attributed + decompose.logit_bias(model, right, wrong).reshape(-1, 1)
        assert_close(attributed, picked(logits, right) - (picked(logits, wrong)))


def picked(logits: Tensor, tokens: int | Tensor | None) -> Tensor:
    if tokens is None:
        return torch.zeros_like(logits[..., 0])
    rows = torch.as_tensor(tokens).expand(len(logits))
    return logits.gather(-1, rows[:, None, None].expand(-1, logits.shape[1], 1))[..., 0]


def test_attributions_of_some_positions_and_prompts(cache: Cache) -> None:
    whole = cache.logit_attrs(cache.decompose_resid(), 3, 5)
    last = cache.logit_attrs(cache.decompose_resid(pos_slice=-1), 3, 5, pos_slice=-1)
    assert_close(last, whole[..., -1])
    answers, others = torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6])
    each = cache.logit_attrs(cache.decompose_resid(pos_slice=-1), answers, others, pos_slice=-1)
    for row in range(3):
        alone = cache.logit_attrs(cache.decompose_resid(), int(answers[row]), int(others[row]))
        assert_close(each[:, row], alone[:, row, -1])
    one = cache.logit_attrs(cache.decompose_resid(), 3, 5, batch_slice=slice(1, 2))
    assert_close(one, whole[:, 1:2])


def test_projecting_is_decomposing_and_projecting(model: HookedGPT2, cache: Cache) -> None:
    directions = model.W_U[:, :3]
    for apply_ln in (False, True):
        for expand in (False, True):
            how = {"apply_ln": apply_ln, "expand_neurons": expand}
            full = cache.get_full_resid_decomposition(**how)
            several = cache.get_full_resid_decomposition(project_output_onto=directions, **how)
            assert_close(several, full @ directions)
            single = cache.get_full_resid_decomposition(project_output_onto=directions[:, 1], **how)
            assert_close(single, several[..., 1])
    neurons = cache.stack_neuron_results(project_output_onto=directions)
    assert_close(neurons, cache.stack_neuron_results() @ directions)


def test_the_bias_row_is_the_sum_of_output_biases(model: HookedGPT2, cache: Cache) -> None:
    attn = sum(block.attn.b_O for block in model.blocks)
    mlp = sum(block.mlp.b_out for block in model.blocks)
    assert_close(cache.get_full_resid_decomposition()[-1], (attn + mlp).expand(3, 7, -1))
    by_layer = cache.get_full_resid_decomposition(expand_neurons=False)
    assert_close(by_layer[-1], attn.expand(3, 7, -1))  # an MLP's row holds its own bias
    assert_close(
        decompose.accumulated_bias(model, 1, mlp_input=True),
        attn + model.blocks[0].mlp.b_out,
    )


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS, "apply_ln_to_stack"])
@pytest.mark.parametrize("layer", [3, -2])
def test_layers_that_do_not_exist(cache: Cache, kind: str, layer: int) -> None:
    args = [torch.zeros(1, 3, 7, 16)] if kind == "apply_ln_to_stack" else []
    with pytest.raises(CircuitsError, match=f"layer={layer}: .* exist for 0 to 2"):
        getattr(cache, kind)(*args, layer)


@pytest.mark.parametrize(
    "kind", ["decompose_resid", "accumulated_resid", "get_full_resid_decomposition"]
)
@pytest.mark.parametrize("layer", [None, -1, 2])
def test_no_mlp_after_the_last_layer(cache: Cache, kind: str, layer: int | None) -> None:
    with pytest.raises(CircuitsError, match="mlp_input=True asks .*; choose layer 0 to 1"):
        getattr(cache, kind)(layer, mlp_input=True)


def test_other_refusals(model: HookedGPT2, cache: Cache) -> None:
    stack = cache.decompose_resid()
    with pytest.raises(CircuitsError, match="mode='heads'; choose 'all', 'mlp' or 'attn'"):
        cache.decompose_resid(mode="heads")
    with pytest.raises(CircuitsError, match="a token equals its incorrect token"):
        cache.logit_attrs(stack, 3, 3)
    with pytest.raises(CircuitsError, match=r"tokens have shape \(2,\), incorrect_tokens \(\)"):
        cache.logit_attrs(stack, torch.tensor([1, 2]), 3)
    with pytest.raises(TokenError, match="has no tokenizer"):
        cache.logit_attrs(stack, " Mary")
    _, partly = model.run_with_cache(TOKENS, names_filter=["embed", "pos_embed", "attn_out0"])
    with pytest.raises(SiteError, match="'blocks.0.hook_mlp_out' was not cached"):
        partly.decompose_resid()


def test_tokens_may_be_text() -> None:
    letters = Tokenizer.characters("ABC")
    cfg = ModelConfig(n_layers=1, n_heads=1, d_model=4, n_ctx=5, d_vocab=3)
    model = randomized(cfg, tokenizer=letters)
    logits, cache = model.run_with_cache("ABCA", prepend_bos=False)
    attributed = cache.logit_attrs(cache.decompose_resid(), "B", "C").sum(0)
    difference = logits[..., 1] - logits[..., 2]
    assert_close(attributed + decompose.logit_bias(model, "B", "C"), difference)


# --- sizes --------------------------------------------------------------------------------------


def test_gpt2_small_has_37011_parts() -> None:
    """144 heads, 36,864 neurons, embeddings, positions, biases: counted without computing."""
    cfg = GPT2_SIZES["gpt2"]
    with torch.device("meta"):
        model = HookedGPT2(cfg)
        stream = torch.empty(1, 1, cfg.d_model)
        values = {"hook_embed": stream, "hook_pos_embed": stream, "blocks.0.hook_resid_pre": stream}
        for layer in range(cfg.n_layers):
            values[f"blocks.{layer}.attn.hook_z"] = torch.empty(1, 1, cfg.n_heads, cfg.d_head)
            values[f"blocks.{layer}.mlp.hook_post"] = torch.empty(1, 1, cfg.d_mlp)
            values[f"blocks.{layer}.hook_resid_post"] = stream
        cache = Cache(values, model)
        full, labels = parts_of(cache, "get_full_resid_decomposition", None)
    assert full.shape == (37_011, 1, 1, 768)
    assert len(set(labels)) == 37_011
    assert sum("H" in label for label in labels) == 144
    assert sum("N" in label for label in labels) == 36_864
