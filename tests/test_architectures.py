"""Every architecture against transformers, a NumPy oracle, and its own plain ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_llama
import torch
from decoder_models import SHAPES, decoder, tokens_of
from decoder_twin import twin
from torch.testing import assert_close

import circuits
from circuits.architectures import DECODERS, Decoder
from circuits.errors import CheckpointError, CircuitsError
from circuits.weights import fold_layer_norm

transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
GROUPED = SIZES | {"num_key_value_heads": 2}
ROPE = {"rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = ROPE | {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
PARTIAL = {"rope_type": "default", "rope_theta": 5e3, "partial_rotary_factor": 0.5}
WINDOW = {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}
# The name of a class of configurations, and its settings.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "pythia": ("GPTNeoX", SIZES),
    "neox-one-after-the-other": ("GPTNeoX", SIZES | {"use_parallel_residual": False}),
    "neox-half-turned": ("GPTNeoX", SIZES | {"rope_parameters": PARTIAL}),
    "llama": ("Llama", GROUPED),
    "llama-linear": ("Llama", SIZES | {"rope_parameters": ROPE | {"rope_type": "linear"}}),
    "llama-dynamic": ("Llama", SIZES | {"rope_parameters": ROPE | {"rope_type": "dynamic"}}),
    "llama-llama3": ("Llama", GROUPED | {"rope_parameters": LLAMA3}),
    "llama-yarn": ("Llama", GROUPED | {"rope_parameters": ROPE | {"rope_type": "yarn"}}),
    "mistral": ("Mistral", GROUPED | {"sliding_window": 8}),
    "qwen2": ("Qwen2", GROUPED | {"tie_word_embeddings": True}),
    "qwen2-windows": ("Qwen2", GROUPED | WINDOW),
    "qwen3": ("Qwen3", GROUPED | {"head_dim": 16}),
    "gemma": ("Gemma", SIZES | {"num_key_value_heads": 1, "head_dim": 16}),
    "gemma2": (
        "Gemma2",
        GROUPED | {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 20},
    ),
}


def hugging_face(case: str) -> Any:
    """A model of transformers in which every parameter is random."""
    name, settings = CASES[case]
    config = getattr(transformers, f"{name}Config")(**settings)
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for weight in theirs.parameters():
            if weight.ndim == 1:
                weight += 0.3 * torch.randn_like(weight)
    return theirs.eval()


@pytest.fixture(autouse=True)
def quiet() -> None:
    transformers.utils.logging.disable_progress_bar()


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(case: str, tmp_path: Path) -> None:
    theirs = hugging_face(case)
    theirs.save_pretrained(tmp_path / "model")
    ours = circuits.load(tmp_path / "model")
    tokens = torch.randint(99, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, logits = theirs(tokens).logits, ours(tokens)
        again = circuits.load(theirs)(tokens)
        watched, _ = ours.run_with_cache(tokens, names_filter=list(ours.hook_dict))
    assert expected.abs().max() > 1
    assert_close(logits, expected, atol=1e-4, rtol=0)
    assert_close(watched, logits, atol=1e-4, rtol=0)
    assert_close(again, logits, atol=0, rtol=0)
    assert ours.cfg.n_params == sum(weight.numel() for weight in theirs.parameters())
    assert circuits.checksum(ours) == circuits.checksum(circuits.load(theirs))


def test_a_llama_is_what_numpy_computes() -> None:
    model, tokens = decoder("llama"), [3, 1, 4, 1, 5, 9, 2, 6]
    logits = model([tokens])[0].detach().numpy()
    expected = reference_llama.logits(model, tokens)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_watching_changes_nothing_and_text_goes_on_from_its_keys(shape: str) -> None:
    model = decoder(shape)
    tokens = tokens_of(model.cfg)
    with torch.no_grad():
        logits = model(tokens)
        watched, cache = model.run_with_cache(tokens, names_filter=list(model.hook_dict))
        assert_close(watched, logits, rtol=1e-10, atol=1e-10)
        rotary = model.cfg.rotary
        assert (rotary is not None) is ("blocks.0.attn.hook_rot_q" in model.hook_dict)
        if rotary is not None:
            assert_close(
                cache["rot_q", 0][:, 0],
                model.blocks[0].attn.placed(cache["q", 0][:, :1], 0, torch.tensor([0]))[:, 0],
            )
        rows = [tokens[0].tolist(), tokens[1, :7].tolist()]
        texts = [
            model.generate(rows, max_new_tokens=6, temperature=0, use_past_kv_cache=use)
            for use in (True, False)
        ]
    assert_close(*texts)


@pytest.mark.parametrize("shape", SHAPES)
def test_padded_prompts_are_those_alone(shape: str) -> None:
    model, mask = decoder(shape), torch.ones(2, 9)
    tokens = tokens_of(model.cfg, pos=9)
    mask[0, :4] = 0
    with torch.no_grad():
        padded = model(tokens, attention_mask=mask)
        assert_close(padded[0, 4:], model(tokens[:1, 4:])[0])
        assert_close(padded[1], model(tokens[1:])[0])


def test_heads_that_share_keys_show_them_once_each_and_count_once() -> None:
    grouped, single = decoder("llama"), decoder("llama", n_key_value_heads=None)
    assert grouped.cfg.n_key_value_heads == 2
    assert single.cfg.n_key_value_heads is None
    saved = 2 * 2 * 2 * 6 * 16  # layers, keys and values, groups, d_head, d_model
    assert single.cfg.n_params - grouped.cfg.n_params == saved
    assert grouped.W_K.shape == single.W_K.shape == (2, 4, 16, 6)
    assert_close(grouped.W_K[:, 0], grouped.W_K[:, 1])
    assert not torch.equal(grouped.W_K[:, 1], grouped.W_K[:, 2])


def test_what_it_has_not_is_an_error_that_says_so() -> None:
    model = decoder("llama")
    with pytest.raises(CircuitsError, match="rotary positions.*no W_pos"):
        _ = model.W_pos
    with pytest.raises(CircuitsError, match="no site 'hook_pos_embed'"):
        model.run_with_cache([[1, 2]], names_filter="hook_pos_embed")
    with pytest.raises(CircuitsError, match="normalizes them first"):
        decoder("qwen3").score_scales()


def test_gemma_scales_what_enters_the_stream_alone() -> None:
    model = decoder("gemma")
    assert_close(model.W_E, 4 * model.W_U.T)
    _, cache = model.run_with_cache([[3, 5]])
    assert_close(cache["embed"][0], model.W_E[[3, 5]])


BAD = {
    "no heads": ({"num_attention_heads": None}, "does not say num_attention_heads"),
    "odd size": ({"hidden_size": "32"}, "sets hidden_size='32'; it should be a whole number"),
    "groups": ({"num_key_value_heads": 3}, "does not divide n_heads=4"),
    "biases": ({"attention_bias": True}, "sets attention_bias=True"),
    "rope": ({"rope_parameters": {"rope_type": "longrope"}}, "rotary positions of kind 'longrope'"),
    "act": ({"hidden_act": "mish"}, "sets hidden_act='mish'"),
    "quantized": ({"quantization_config": {"bits": 4}}, "sets quantization_config"),
    "layers": ({"num_hidden_layers": 2}, "has, beyond a llama's, model.layers.2"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_loaded_is_one_clear_error(case: str, tmp_path: Path) -> None:
    hugging_face("llama").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | BAD[case][0]))
    with pytest.raises(CheckpointError, match=BAD[case][1]):
        circuits.load(tmp_path)


@pytest.mark.parametrize("case", ["llama", "pythia", "gemma2"])
def test_shards_are_one_model(case: str, tmp_path: Path) -> None:
    theirs = hugging_face(case)
    theirs.save_pretrained(tmp_path, max_shard_size="20kB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert circuits.checksum(circuits.load(tmp_path)) == circuits.checksum(circuits.load(theirs))


def test_half_precision_stays_where_it_is_mapped(tmp_path: Path) -> None:
    hugging_face("llama").to(torch.bfloat16).save_pretrained(tmp_path)
    model = circuits.load(tmp_path, dtype="bfloat16")
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    single = circuits.load(tmp_path)
    tokens = torch.randint(99, (2, 12), generator=torch.Generator().manual_seed(1))
    assert_close(model(tokens).float(), single(tokens), rtol=0.1, atol=0.5)
    path = tmp_path / "model.safetensors"
    with path.open("r+b") as file:  # what is written to the file is seen, so nothing was copied
        file.seek(path.stat().st_size - 2**14)
        file.write(bytes(2**14))
    assert sum(int((weight == 0).sum()) for weight in model.parameters()) > 2**12
    assert all(weight.all() for weight in single.parameters())


def test_every_decoder_reads_types_of_its_own() -> None:
    kinds = "gpt_neox llama mistral qwen2 qwen3 gemma gemma2 transformer_lens"
    assert {*DECODERS} == {*kinds.split()}
    assert all(issubclass(each, Decoder) for each in DECODERS.values())


TOY_CONFIG = {
    "n_layers": 2,
    "n_heads": 4,
    "d_model": 16,
    "d_head": 6,
    "n_ctx": 48,
    "d_vocab": 31,
    "act_fn": None,
    "normalization": "LN",
}


@pytest.mark.parametrize("shape", ["attn-only", "shortformer", "gelu-2l"])
def test_toy_models_load_from_their_own_files(shape: str, tmp_path: Path) -> None:
    model = decoder(shape, dtype=torch.float32)
    names = model.released_names()
    tensors = {names[name]: weight.detach() for name, weight in model.named_parameters()}
    tensors["blocks.0.attn.mask"] = torch.ones(48, 48, dtype=torch.bool)
    torch.save(tensors, tmp_path / "model_final.pth")
    more = {"attn_only": shape != "gelu-2l", "shortformer_pos": shape == "shortformer"}
    more |= {"act_fn": "gelu", "d_mlp": 20} if shape == "gelu-2l" else {}
    (tmp_path / "config.json").write_text(json.dumps(TOY_CONFIG | more))
    ours = circuits.load(tmp_path)
    assert circuits.checksum(ours) == circuits.checksum(model)
    tokens = tokens_of(model.cfg)
    assert_close(ours(tokens), model(tokens))
    (tmp_path / "config.json").write_text(json.dumps(TOY_CONFIG | more | {"act_fn": "solu_ln"}))
    if shape == "gelu-2l":
        with pytest.raises(CheckpointError, match="sets act_fn='solu_ln'"):
            circuits.load(tmp_path)


@pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning")
@pytest.mark.parametrize("shape", ["attn-only", "shortformer"])
def test_toy_models_are_what_transformer_lens_computes(shape: str) -> None:
    pytest.importorskip("transformer_lens")
    model = decoder(shape)
    theirs = twin(model)
    ours, tokens = circuits.load(theirs), tokens_of(model.cfg)
    with torch.no_grad():
        logits, expected = theirs.run_with_cache(tokens)
        mine, cache = ours.run_with_cache(tokens, names_filter=list(ours.hook_dict))
    assert_close(mine, logits)
    for site in {*expected} & {*cache}:
        assert_close(cache[site], expected[site])
    missing = {*expected} - {*ours.hook_dict}
    assert missing <= {"hook_pos_embed"}
    assert circuits.checksum(ours) == circuits.checksum(model)


def test_what_is_only_for_a_gpt_2_is_refused_by_name(tmp_path: Path) -> None:
    model = decoder("llama")
    with pytest.raises(CheckpointError, match="is a llama, and GPT-2s alone are written"):
        circuits.save(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(CircuitsError, match="is a HookedLlama, and only a HookedGPT2's weights"):
        fold_layer_norm(model, [[1, 2]])
