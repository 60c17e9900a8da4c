"""A `TransformerBridge` of transformer_lens 4 (3 has it, too) where one of ours is wanted."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import slow_sweep
import torch
from bridge_models import SHAPES, bridge, built
from einops import einsum
from every_analysis import OF_A_MODEL, answer, write_files
from lens_models import WORDS, state
from numpy.testing import assert_allclose
from random_sweeps import random_prompts
from torch import Tensor

from circuits.adapter import AdaptedModel, adapt
from circuits.analyses.ablate import ablate
from circuits.checkpoints import load
from circuits.errors import CircuitsError, SiteError
from circuits.metrics import METRICS
from circuits.sweep import Source, Sweep, cell, plan, run
from circuits.sweep.gradient import attribute

pytest.importorskip("transformer_lens.model_bridge")
close = partial(torch.testing.assert_close, atol=2e-5, rtol=2e-5)
TOKENS = torch.randint(2, len(WORDS), (3, 7), generator=torch.Generator().manual_seed(1))


@cache
def given(shape: str) -> AdaptedModel:
    return adapt(bridge(shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_and_streams_are_theirs(shape: str) -> None:
    model = given(shape)
    logits, cache = model.run_with_cache(TOKENS)
    close(logits, model.theirs(TOKENS))
    close(model(TOKENS, stop_at_layer=0), cache["resid_pre", 0])
    close(model(TOKENS, stop_at_layer=1), cache["resid_pre", 1])
    close(model(TOKENS, stop_at_layer=2), cache["resid_post", 1])
    close(model.unembed(model.ln_final(cache["resid_post", 1])), logits)
    if hasattr(model.theirs, "_setup_start_at_layer"):
        close(model(cache["resid_pre", 1], start_at_layer=1), logits)
    else:  # before 4.0
        with pytest.raises(CircuitsError, match=f"tiny-{shape}.*layer"):
            model(cache["resid_pre", 1], start_at_layer=1)
    close(cache["embed"], model.W_E[TOKENS])
    close(cache["tokens"], TOKENS)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_prompts_equal_those_run_alone(shape: str, side: str) -> None:
    model = given(shape)
    rows = [TOKENS[0].tolist(), TOKENS[1, :4].tolist(), TOKENS[2, :1].tolist()]
    logits, cache = model.run_with_cache(rows, padding_side=side)
    for row, found, real in zip(rows, logits, cache.mask, strict=True):
        close(found[real], model([row])[0])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_stream_is_the_sum_of_its_parts(shape: str) -> None:
    model = given(shape)
    _, cache = model.run_with_cache(TOKENS)
    final = cache["resid_post", 1]
    close(cache.decompose_resid().sum(0), final)
    if model.cfg.post_norms:
        with pytest.raises(CircuitsError, match="normalizes what"):
            cache.stack_head_results()
    else:
        close(cache.get_full_resid_decomposition().sum(0), final)
    for layer, block in enumerate(model.blocks):
        close(block.mlp.plain(block.ln2.plain(cache["resid_mid", layer])), cache["mlp_out", layer])
        normed = block.ln1.plain(cache["resid_pre", layer])
        for name in "qkv":
            weight = getattr(block.attn, f"W_{name.upper()}")
            bias = getattr(block.attn, f"b_{name.upper()}")
            close(einsum(normed, weight, "b p d, h d e -> b p h e") + bias, cache[name, layer])
    for norm in (model.ln_final, model.blocks[0].ln1):
        centered = final if norm.b.eq(0).all() else final - final.mean(-1, keepdim=True)
        scale = (centered.pow(2).mean(-1, keepdim=True) + model.cfg.eps).sqrt()
        close(centered / scale * norm.w + norm.b, norm.plain(final))
    shapes = {name: tuple(getattr(model, name).shape[1:]) for name in ("W_K", "W_O", "b_V", "b_in")}
    d_head, d_mlp = model.cfg.d_head, model.cfg.d_mlp
    assert shapes == {
        "W_K": (4, 16, d_head),
        "W_O": (4, d_head, 16),
        "b_V": (4, d_head),
        "b_in": (d_mlp,),
    }


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "site", ["attn.hook_result", "hook_q_input", "hook_attn_in", "hook_mlp_in"]
)
def test_costly_sites_are_switched_on_while_watched(shape: str, site: str) -> None:
    model, before = given(shape), state(bridge(shape))
    logits, cache = model.run_with_cache(TOKENS, names_filter=f"blocks.1.{site}")
    close(logits, model(TOKENS))
    value = cache[f"blocks.1.{site}"]
    if site == "attn.hook_result":
        z = model.run_with_cache(TOKENS)[1]["z", 1]
        close(value, einsum(z, model.blocks[1].attn.W_O, "b p h e, h e d -> b p h d"))
    else:
        name = "resid_mid" if site == "hook_mlp_in" else "resid_pre"
        stream = model.run_with_cache(TOKENS)[1][name, 1]
        close(value, stream if value.ndim == 3 else stream[:, :, None].expand_as(value))
    assert state(model.theirs) == before


@pytest.mark.parametrize("shape", SHAPES)
def test_an_edit_between_attention_and_mlp_stays_in_the_stream(shape: str) -> None:
    """As an edit of what attention adds does; theirs would only reach the MLP."""
    model = given(shape)
    change = torch.linspace(-1, 1, 16)
    edited = [
        model.run_with_hooks(
            TOKENS, fwd_hooks=[(f"blocks.0.{site}", lambda value, hook: value + change)]
        )
        for site in ("hook_attn_out", "hook_resid_mid")
    ]
    close(*edited)
    assert (edited[0] - model(TOKENS)).abs().max() > 1e-2
    theirs = model.theirs.run_with_hooks(
        TOKENS, fwd_hooks=[("blocks.0.hook_resid_mid", lambda value, hook: value + change)]
    )
    assert (edited[0] - theirs).abs().max() > 1e-2


def test_heads_that_share_a_key_are_written_together() -> None:
    model = given("Llama")

    def silence(heads: list[int]) -> Any:
        def write(value: Tensor, hook: Any) -> Tensor:
            value[:, :, heads] = 0
            return value

        return [("blocks.1.attn.hook_k", write)]

    both = model.run_with_hooks(TOKENS, fwd_hooks=silence([0, 1]))
    assert (both - model(TOKENS)).abs().max() > 1e-4
    with pytest.raises(SiteError, match="2 heads share what passes 'blocks.1.attn.hook_k'"):
        model.run_with_hooks(TOKENS, fwd_hooks=silence([1]))
    assert state(model.theirs) == state(bridge("Llama"))


@pytest.mark.parametrize("shape", SHAPES)
def test_sweeps_equal_plain_runs_with_hooks(shape: str) -> None:
    model = given(shape)
    parts = ["a0.h1", "a1@END", "m0", "embed@MID", "resid_mid.0", "resid_post.1", "a1.h2<q>"]
    parts += ["m0.n3", "a0.h1<pattern>@END", "a0->m1", "m0->logits", "embed->a1.h0<q>@END"]
    prompts = random_prompts(model.cfg, (7, 5, 7), seed=1, n_same=1)
    source = Source("resample", prompts.corrupted, prompts.mask)
    sweep = Sweep(prompts, METRICS["loss"], ((), *map(cell, parts)), source)
    found = run(model, plan(model, sweep))
    assert_allclose(found.values, slow_sweep.scores(model, sweep).numpy(), rtol=1e-4, atol=1e-5)
    assert found.changed.tolist() == [False, *[True] * len(parts)]
    small = Sweep(prompts, METRICS["loss"], tuple(map(cell, ("m1", "a0.h1"))), source)
    assert attribute(model, small).effects.all()
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())


def test_a_gpt_2_gives_the_numbers_of_the_native_model() -> None:
    adapted, native = given("GPT2"), load(built("GPT2"))
    logits, cache = adapted.run_with_cache(TOKENS)
    expected, known = native.run_with_cache(TOKENS)
    close(logits, expected)
    assert set(known) <= set(adapted.hook_dict)
    for name, value in known.items():
        hidden = value.isneginf()  # what may not be seen has the lowest number there
        assert (cache[name][hidden] < -1e30).all()
        close(cache[name][~hidden], value[~hidden], msg=name)
    prompts = random_prompts(native.cfg, (7, 5, 7), seed=1)
    options: dict[str, Any] = {"all_heads": True, "task": prompts, "metric": "loss"}
    mine, other = (ablate(model, **options).frame for model in (adapted.theirs, native))
    assert_allclose(mine["value"], other["value"], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("options", [{"no_processing": True}, {}], ids=["as it is", "processed"])
def test_a_bridge_in_compatibility_mode_is_adapted_too(options: dict[str, bool]) -> None:
    theirs = bridge.__wrapped__("Llama")
    expected = adapt(theirs)(TOKENS).log_softmax(-1).detach()
    theirs.enable_compatibility_mode(disable_warnings=True, **options)
    model = adapt(theirs)
    logits, cache = model.run_with_cache(TOKENS)
    close(logits.log_softmax(-1), expected)
    close(cache.decompose_resid().sum(0), cache["resid_post", 1])
    close(cache.get_full_resid_decomposition().sum(0), cache["resid_post", 1])
    close(model.unembed(model.ln_final(cache["resid_post", 1])), logits)


def test_text_goes_through_their_vocabulary() -> None:
    model = given("Gemma")
    assert model.to_str_tokens("When Mary and John")[:3] == ["<s>", "When", "Mary"]
    close(model("When Mary and John"), model.theirs("When Mary and John"))
    with pytest.raises(CircuitsError, match="no W_pos"):
        _ = model.W_pos


@pytest.mark.parametrize("name", OF_A_MODEL)
@pytest.mark.slow
def test_every_analysis_answers_or_says_why_not(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_files()
    model, before = bridge("Llama"), state(bridge("Llama"))
    refused = {"why": "more than queries times keys", "evaluate": "heads share what passes"}
    refused |= {"fine-tune": "no GPT-2 of this package"}
    if name in refused:
        with pytest.raises(CircuitsError, match=refused[name]):
            answer(name, model)
    else:
        found = answer(name, model, bridge.__wrapped__("Llama"))
        assert len(found.frame)
        assert found.provenance.source == "transformer_lens TransformerBridge"
    assert state(model) == before
