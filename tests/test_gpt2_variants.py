"""Checkpoints that are GPT-2 but for a switch: the logits of transformers, on every engine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import slow_sweep
import torch
from checkpoint_files import SHAPE, config_of, released, single, write_folder
from lens_twin import IGNORE_DEPRECATION
from numpy.testing import assert_allclose
from random_models import randomized
from random_sweeps import random_prompts
from torch import Tensor
from torch.testing import assert_close

import circuits
from circuits.architectures import HookedGPT2
from circuits.architectures.parts import ACTIVATIONS as FUNCTIONS
from circuits.checkpoints import checksum, load
from circuits.config import ACTIVATIONS, ModelConfig
from circuits.errors import CheckpointError, CircuitsError
from circuits.metrics import get_metric
from circuits.sweep import Source, Sweep, cell, plan, run
from circuits.sweep.gradient import attribute
from circuits.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")

WINDOW = 4
# GPT-Neo computes scores in float32 there, whatever the precision of the rest.
NEAR: dict[str, float] = {"rtol": 1e-5, "atol": 1e-5}
SIZES = {"vocab_size": 31, "hidden_size": 16, "num_layers": 4, "num_heads": 4}
NEO: dict[str, Any] = SIZES | {
    "max_position_embeddings": 12,
    "attention_types": [[["global", "local"], 2]],
    "window_size": WINDOW,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
SWITCHES: list[dict[str, Any]] = [
    {"scale_attn_weights": False},
    {"scale_attn_by_inverse_layer_idx": True},
    {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True},
    {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True},
    *({"activation_function": name} for name in (*ACTIVATIONS, "gelu_pytorch_tanh", "swish")),
]
TOKENS = torch.randint(31, (3, 11), generator=torch.Generator().manual_seed(0))


def shaken(theirs: Any) -> Any:
    """Weights that are large enough for every switch to be seen."""
    torch.manual_seed(1)
    for weight in theirs.parameters():
        weight.data = torch.randn_like(weight) * 0.5
    return theirs.double().eval()


def neo(**changes: Any) -> Any:
    config = transformers.GPTNeoConfig(**(NEO | changes))
    return shaken(transformers.GPTNeoForCausalLM(config))


def gpt2(**switches: Any) -> Any:
    sizes = {"vocab_size": 31, "n_embd": 16, "n_layer": 3, "n_head": 4, "n_positions": 12}
    config = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, **switches)
    return shaken(transformers.GPT2LMHeadModel(config))


def logits_of(theirs: Any, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return theirs(tokens, attention_mask=mask).logits


def ours(theirs: Any, folder: Path) -> HookedGPT2:
    theirs.save_pretrained(folder)
    return load(folder, dtype="float64")


def variants() -> list[Any]:
    return [neo(), neo(attention_types=[[["local"], 4]], window_size=2), gpt2(**SWITCHES[1])]


def test_every_function_has_a_name() -> None:
    assert {*FUNCTIONS} == {*ACTIVATIONS}


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_switches_of_gpt_2(tmp_path: Path, switches: dict[str, Any]) -> None:
    theirs = gpt2(**switches)
    for model in (ours(theirs, tmp_path / "a"), load(theirs)):
        assert_close(model(TOKENS), logits_of(theirs, TOKENS), rtol=1e-9, atol=1e-9)
        logits, _ = model.run_with_cache(TOKENS, names_filter=list(model.hook_dict))
        assert_close(logits, logits_of(theirs, TOKENS), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("window", [1, 2, WINDOW, 11, 12, 256])
def test_gpt_neo(tmp_path: Path, window: int) -> None:
    theirs = neo(window_size=window)
    for model in (ours(theirs, tmp_path / "a"), load(theirs)):
        assert model.cfg.attn_types == ("global", "local", "global", "local")
        assert_close(model(TOKENS), logits_of(theirs, TOKENS), **NEAR)
        logits, cache = model.run_with_cache(TOKENS, names_filter=list(model.hook_dict))
        assert_close(logits, logits_of(theirs, TOKENS), **NEAR)
        seen = cache["pattern", 1][0, 0] > 0
        assert seen.sum(1).tolist() == [min(i + 1, window) for i in range(11)]
        assert (cache["pattern", 0][0, 0] > 0).sum(1).tolist() == list(range(1, 12))


@pytest.mark.slow
def test_padded_prompts_and_text_that_goes_on(tmp_path: Path) -> None:
    for theirs in variants():
        model = ours(theirs, tmp_path / "a")
        mask = torch.ones_like(TOKENS)
        mask[0, :5] = 0
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        with torch.no_grad():
            expected = theirs(TOKENS, attention_mask=mask, position_ids=positions).logits
        logits = model(TOKENS, attention_mask=mask)
        assert_close(logits[mask.bool()], expected[mask.bool()], **NEAR)
        options: dict[str, Any] = {"max_new_tokens": 6, "temperature": 0}
        prompt = TOKENS[:, :5]
        text = model.generate(prompt, **options)
        assert torch.equal(text, model.generate(prompt, use_past_kv_cache=False, **options))


CELLS = ["a0.h1", "a1.h2@END", "a1", "m0", "m1.n3", "resid_pre.1", "a2.h0<q>", "a1.h3<k>@2"]
CELLS += ["a1.h1<v>", "a1.h1<pattern>@END", "a0.h1->a1.h2<q>", "m0->a1.h0", "a0->m1", "a1->logits"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("options", [{}, {"hold": "heads"}], ids=str)
def test_sweeps_equal_plain_runs(tmp_path: Path, number: int, options: dict[str, Any]) -> None:
    model = ours(variants()[number], tmp_path / "a")
    prompts = random_prompts(model.cfg, (7, 11, 9, 5), seed=1, n_same=1)
    assert prompts.corrupted is not None
    source = Source("resample", prompts.corrupted, prompts.mask)
    sweep = Sweep(prompts, get_metric("loss"), ((), *map(cell, CELLS)), source, **options)
    scores, expected = run(model, plan(model, sweep)), slow_sweep.scores(model, sweep).numpy()
    assert_allclose(scores.values, expected, rtol=1e-9, atol=1e-9)
    assert (abs(expected - expected[0]) > 1e-9).any(1)[1:].all()


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1, 2])
def test_estimates_are_slopes(tmp_path: Path, number: int) -> None:
    model = ours(variants()[number], tmp_path / "a")
    prompts = random_prompts(model.cfg, (11, 11), seed=1, n_same=1)
    assert prompts.corrupted is not None
    source = Source("resample", prompts.corrupted, prompts.mask)
    sweep = Sweep(prompts, get_metric("loss"), (cell("m1"),), source)
    estimates, step = attribute(model, sweep).effects[0], 1e-6
    _, base = model.run_with_cache(prompts.tokens, attention_mask=prompts.mask)
    _, other = model.run_with_cache(prompts.corrupted, attention_mask=prompts.mask)
    change = step * (other["mlp_out", 1] - base["mlp_out", 1])
    hooks = [("blocks.1.hook_mlp_out", lambda value, hook: value + change)]
    moved = model.run_with_hooks(prompts.tokens, fwd_hooks=hooks, attention_mask=prompts.mask)
    plain = model(prompts.tokens, attention_mask=prompts.mask)
    slope = (sweep.metric(moved, prompts) - sweep.metric(plain, prompts)) / step
    assert_allclose(estimates, slope.detach().numpy(), rtol=1e-3, atol=1e-4)


def test_scores_are_explained_with_their_own_scale(tmp_path: Path) -> None:
    for theirs in variants():
        model = ours(theirs, tmp_path / "a")
        _, cache = model.run_with_cache(TOKENS)
        for layer, scale in enumerate(model.score_scales()):
            q, k = cache["q", layer], cache["k", layer]
            scores = torch.einsum("bqhe,bkhe->bhqk", q, k) / scale
            seen = cache["attn_scores", layer].isfinite()
            assert_close(cache["attn_scores", layer][seen], scores[seen])


def test_why_knows_what_a_local_head_sees(tmp_path: Path) -> None:
    """The keys compared with are those within the window, and others are one clear error."""
    model = ours(neo(), tmp_path / "a")
    model.tokenizer = Tokenizer.characters("ABCDEFGHIJKLMNOPQRSTUVWXYZabcde")
    prompt = [TOKENS[0].tolist()]
    whole = circuits.why(model, "a1.h2", prompt, against="mean").frame
    _, cache = model.run_with_cache(TOKENS[:1])
    scores, key = cache["attn_scores", 1][0, 2, -1], cache["pattern", 1][0, 2, -1].argmax()
    others = scores.isfinite()
    assert others.sum() == WINDOW
    others[key] = False
    expected = scores[key] - scores[others].mean()
    assert whole["value"].sum() == pytest.approx(expected.item(), rel=1e-6)
    with pytest.raises(CircuitsError, match="is 9 before the query.*local.*last 4 tokens"):
        circuits.why(model, "a1.h2", prompt, key=1)
    assert len(circuits.why(model, "a0.h2", prompt, key=1).frame)


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1, 2])
def test_what_is_saved_is_read_again_here_and_there(tmp_path: Path, number: int) -> None:
    theirs = [neo(), gpt2(scale_attn_weights=False, activation_function="quick_gelu")]
    theirs.append(gpt2(scale_attn_by_inverse_layer_idx=True))
    model = ours(theirs[number], tmp_path / "a")
    circuits.save(model, tmp_path / "b")
    again = load(tmp_path / "b", dtype="float64")
    assert again.cfg == replace(model.cfg, model_name=again.cfg.model_name)
    assert torch.equal(again(TOKENS), model(TOKENS))
    back = type(theirs[number]).from_pretrained(tmp_path / "b").double()
    assert_close(logits_of(back, TOKENS), model(TOKENS), **NEAR)
    circuits.save(again, tmp_path / "c")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "b" / file).read_bytes() == (tmp_path / "c" / file).read_bytes()


def test_local_attention_that_no_format_can_say(tmp_path: Path) -> None:
    cfg = replace(SHAPE, attn_types=("global", "local"), window_size=3, use_attn_scale=False)
    model = randomized(cfg)
    with pytest.raises(CheckpointError, match="biases of queries, keys or values"):
        circuits.save(model, tmp_path / "a")
    with torch.no_grad():
        for block in model.blocks:
            block.attn.b_QKV.zero_()
    circuits.save(model, tmp_path / "a")
    assert_close(load(tmp_path / "a")(TOKENS), model(TOKENS))
    with pytest.raises(CheckpointError, match="divided by the root of d_head"):
        circuits.save(randomized(replace(cfg, use_attn_scale=True)), tmp_path / "b")
    assert not (tmp_path / "b").exists()


HEADS = {
    "score": ("GPT2ForSequenceClassification", {}),
    "classifier": ("GPT2ForTokenClassification", {}),
    "qa_outputs": ("GPT2ForQuestionAnswering", {"num_labels": 2}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADS)
def test_heads_of_fine_tuned_models(tmp_path: Path, name: str) -> None:
    kind, more = HEADS[name]
    sizes = {"vocab_size": 31, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 12}
    labels = {"id2label": {0: "no", 1: "yes", 2: "so"}, "label2id": {"no": 0, "yes": 1, "so": 2}}
    config = transformers.GPT2Config(
        **sizes, bos_token_id=0, eos_token_id=0, pad_token_id=0, **(more or labels)
    )
    theirs = shaken(getattr(transformers, kind)(config))
    theirs.save_pretrained(tmp_path / "a")
    with pytest.warns(UserWarning, match=rf"kept as model.readouts\['{name}'\]"):
        model = load(tmp_path / "a", dtype="float64")
    readout = model.readouts[name]
    resid = model(TOKENS, stop_at_layer=2)
    with torch.no_grad():
        hidden = theirs.transformer(TOKENS).last_hidden_state
        expected = getattr(theirs, name)(hidden)
        assert_close(readout(model.ln_final(resid)), expected, rtol=1e-9, atol=1e-9)
    assert readout.labels == (("LABEL_0", "LABEL_1") if more else ("no", "yes", "so"))
    circuits.save(model, tmp_path / "b")
    back = getattr(transformers, kind).from_pretrained(tmp_path / "b").double()
    assert_close(getattr(back, name)(hidden), expected)
    with pytest.warns(UserWarning, match="kept as"):
        again = load(tmp_path / "b", dtype="float64")
    assert checksum(again) == checksum(model)
    assert again.readouts[name].labels == readout.labels
    with torch.no_grad():
        readout.W[0, 0] = torch.nan
    circuits.save(model, tmp_path / "c")
    with pytest.raises(CheckpointError, match=rf"NaN.*{name}.weight \(1 of"):
        load(tmp_path / "c")


LENS: list[dict[str, Any]] = [
    {"use_attn_scale": False},
    {"scale_attn_by_inverse_layer_idx": True},
    {"use_local_attn": True, "attn_types": ["global", "local", "local"], "window_size": 3},
    *({"act_fn": name} for name in ("gelu_new", "gelu", "gelu_fast", "relu", "silu")),
]


@pytest.mark.slow
@pytest.mark.parametrize("switches", LENS, ids=str)
@pytest.mark.filterwarnings(IGNORE_DEPRECATION)
def test_switches_of_transformer_lens(switches: dict[str, Any]) -> None:
    lens = pytest.importorskip("transformer_lens")
    sizes = {"n_layers": 3, "n_heads": 4, "d_model": 16, "d_head": 4, "n_ctx": 12, "d_vocab": 31}
    cfg = lens.HookedTransformerConfig(
        **(sizes | {"act_fn": "gelu_new", "dtype": torch.float64} | switches)
    )
    theirs = shaken(lens.HookedTransformer(cfg, move_to_device=False))
    model = load(theirs)
    with torch.no_grad():
        expected, cache = theirs.run_with_cache(TOKENS)
    logits, ours_ = model.run_with_cache(TOKENS, names_filter=list(model.hook_dict))
    assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    for layer in range(3):
        assert_close(ours_["pattern", layer], cache["pattern", layer], rtol=1e-9, atol=1e-9)
        assert_close(ours_["post", layer], cache["post", layer], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_types": [[["global", "far"], 2]]}, "far.*'global' or 'local'"),
        ({"attention_types": [[["global"], 3]]}, "3 layers"),
        ({"attention_types": 7}, "'global' or 'local'"),
        ({"num_layers": "2", "attention_types": None}, "n_layer='2'"),
        ({"window_size": 0}, "window_size=0"),
        ({"window_size": None}, "window_size=None"),
        ({"activation_function": "gelu_10"}, "activation_function='gelu_10'.*relu"),
    ],
)
def test_what_gpt_neo_does_not_have(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    neo().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text()) | changes
    if "attention_types" in changes:
        config.pop("attention_layers", None)
    path.write_text(json.dumps(config))
    with pytest.raises(CircuitsError, match=message):
        load(tmp_path)


def test_shapes_that_cannot_be() -> None:
    for changes in ({"attn_types": ("global",)}, {"attn_types": ("global", "near")}):
        with pytest.raises(CircuitsError, match="'global' or 'local' for each of the 2"):
            replace(SHAPE, **changes)
    with pytest.raises(CircuitsError, match="window_size"):
        ModelConfig(**(vars(SHAPE) | {"attn_types": ("global", "local"), "window_size": 1.5}))


def test_a_switch_is_part_of_what_a_model_is(tmp_path: Path) -> None:
    """The same numbers with another switch are another model."""
    plain = load(write_folder(tmp_path / "a", config_of(SHAPE), released(single())))
    for i, switch in enumerate(({"scale_attn_weights": False}, {"activation_function": "relu"})):
        folder = write_folder(tmp_path / f"b{i}", config_of(SHAPE, **switch), released(single()))
        assert checksum(load(folder)) != checksum(plain)
