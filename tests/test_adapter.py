"""transformer_lens models of other architectures: their sites, weights and text as ours."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import einsum
from lens_models import SHAPES, WORDS, lens_model, state, word_tokenizer
from lens_twin import IGNORE_DEPRECATION, lens_twin
from random_models import TINY, random_tokens, randomized
from torch import Tensor

from circuits.adapter import AdaptedModel, adapt
from circuits.adapter.vocabulary import TheirTokenizer
from circuits.checkpoints import checksum, load, save
from circuits.decompose import logit_bias
from circuits.errors import CircuitsError, SiteError, TokenError
from circuits.hooks import site_names
from circuits.kv_cache import KVCache
from circuits.weights import process

pytest.importorskip("transformer_lens.HookedTransformer")
pytestmark = pytest.mark.filterwarnings(IGNORE_DEPRECATION)
close = partial(torch.testing.assert_close, atol=1e-10, rtol=1e-10)

TOKENS = torch.randint(2, len(WORDS), (3, 7), generator=torch.Generator().manual_seed(1))
GROUPED = ("llama", "gemma", "gemma2")
FLAGGED = ("hook_result", "hook_q_input", "hook_k_input", "hook_v_input", "hook_mlp_in")


@cache
def given(shape: str) -> AdaptedModel:
    return adapt(lens_model(shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_losses_and_streams_are_theirs(shape: str) -> None:
    model = given(shape)
    close(model(TOKENS), model.theirs(TOKENS))
    close(model(TOKENS, return_type="loss"), model.theirs(TOKENS, return_type="loss"))
    for layer in range(3):
        close(model(TOKENS, stop_at_layer=layer), model.theirs(TOKENS, stop_at_layer=layer))
    stream = model(TOKENS, stop_at_layer=1)
    close(model(stream, start_at_layer=1), model(TOKENS))
    close(model.unembed(model.ln_final(model(TOKENS, stop_at_layer=2))), model(TOKENS))
    assert model(TOKENS, return_type=None) is None


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_prompts_equal_those_run_alone(shape: str, side: str) -> None:
    model = given(shape)
    rows = [TOKENS[0].tolist(), TOKENS[1, :4].tolist(), TOKENS[2, :1].tolist()]
    logits, cache = model.run_with_cache(rows, padding_side=side)
    assert cache.mask is not None
    for row, found, real in zip(rows, logits, cache.mask, strict=True):
        close(found[real], model([row])[0])


@pytest.mark.parametrize("shape", SHAPES)
def test_every_site_shows_what_theirs_does(shape: str) -> None:
    model, theirs = given(shape), lens_model(shape)
    if not model.cfg.attn_only:
        theirs.set_use_hook_mlp_in(True)
    _, cache = model.run_with_cache(TOKENS)
    _, expected = theirs.run_with_cache(TOKENS)
    assert {name.rpartition(".")[2] for name in cache} >= {"hook_embed", "hook_z", "hook_pattern"}
    for name, value in cache.items():
        repeats = value.shape[2] // expected[name].shape[2] if name.endswith(("_k", "_v")) else 1
        close(value, expected[name].repeat_interleave(repeats, 2 if repeats > 1 else 0), msg=name)
    known = set(site_names(2))
    assert [name for name in model.hook_dict if name in known] == [
        name for name in site_names(2) if name in model.hook_dict
    ]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("site", FLAGGED)
def test_costly_sites_are_switched_on_while_watched(shape: str, site: str) -> None:
    model = given(shape)
    full = f"blocks.1.{'attn.' * (site == 'hook_result')}{site}"
    if full not in model.hook_dict:
        assert (shape in ("pythia", "attn-only"), site) == (True, "hook_mlp_in")
        return
    before = state(model.theirs)
    logits, cache = model.run_with_cache(TOKENS, names_filter=full)
    close(logits, model(TOKENS))
    if site == "hook_result":
        z = model.run_with_cache(TOKENS)[1]["z", 1]
        close(cache[full], einsum(z, model.blocks[1].attn.W_O, "b p h e, h e d -> b p h d"))
    else:
        name = "resid_mid" if site == "hook_mlp_in" else "resid_pre"
        stream = model.run_with_cache(TOKENS)[1][name, 1]
        close(
            cache[full],
            stream if site == "hook_mlp_in" else stream[:, :, None].expand(-1, -1, 4, -1),
        )
    assert state(model.theirs) == before


@pytest.mark.parametrize("shape", SHAPES)
def test_the_stream_is_the_sum_of_its_parts(shape: str) -> None:
    model = given(shape)
    _, cache = model.run_with_cache(TOKENS)
    final = cache["resid_post", 1]
    close(cache.decompose_resid().sum(0), final)
    if model.cfg.post_norms:
        for stack in (cache.stack_head_results, cache.get_full_resid_decomposition):
            with pytest.raises(CircuitsError, match="normalizes what"):
                stack()
        return
    close(cache.get_full_resid_decomposition(expand_neurons=False).sum(0), final)
    close(cache.get_full_resid_decomposition().sum(0), final)
    heads = cache.stack_head_results().view(2, 4, *final.shape)
    for layer, block in enumerate(model.blocks):
        close(heads[layer].sum(0) + block.attn.b_O, cache["attn_out", layer])


@pytest.mark.parametrize("shape", SHAPES)
def test_attributions_sum_to_the_logit(shape: str) -> None:
    """To the one before the soft cap, where there is one."""
    model = given(shape)
    _, cache = model.run_with_cache(TOKENS)
    parts = cache.logit_attrs(cache.decompose_resid(), 5)
    logits = model.theirs.unembed(model.ln_final(cache["resid_post", 1]))
    close(parts.sum(0) + logit_bias(model, 5), logits[..., 5])


@pytest.mark.parametrize("shape", SHAPES)
def test_plain_maps_are_those_of_the_forward_pass(shape: str) -> None:
    model = given(shape)
    _, cache = model.run_with_cache(
        TOKENS, names_filter=lambda name: ".ln1." not in name and not name.endswith("attn_in")
    )
    for layer, block in enumerate(model.blocks):
        if not model.cfg.attn_only:
            read = cache["resid_pre" if model.cfg.parallel else "resid_mid", layer]
            close(block.mlp.plain(block.ln2.plain(read)), cache["mlp_out", layer])
        normed = block.ln1.plain(cache["resid_pre", layer])
        for name, weight, bias in (
            ("q", block.attn.W_Q, block.attn.b_Q),
            ("k", block.attn.W_K, block.attn.b_K),
            ("v", block.attn.W_V, block.attn.b_V),
        ):
            close(einsum(normed, weight, "b p d, h d e -> b p h e") + bias, cache[name, layer])
    for norm in (model.ln_final, model.blocks[0].ln1):
        x = cache["resid_post", 1]
        centered = x if model.cfg.normalization_type == "RMS" else x - x.mean(-1, keepdim=True)
        scale = (centered.pow(2).mean(-1, keepdim=True) + model.cfg.eps).sqrt()
        close(centered / scale * norm.w + norm.b, norm.plain(x))


@pytest.mark.parametrize("shape", SHAPES)
def test_weights_are_theirs_under_our_names(shape: str) -> None:
    model = given(shape)
    names = "W_E W_U b_U W_Q W_K W_V W_O b_Q b_K b_V b_O".split()
    names += [] if model.cfg.attn_only else ["W_in", "b_in", "W_out", "b_out"]
    if model.cfg.gated_mlp:
        names.append("W_gate")
    for name in names:
        close(getattr(model, name), getattr(model.theirs, name), msg=name)
    assert model.W_E.data_ptr() == model.theirs.W_E.data_ptr()
    assert model.W_U.data_ptr() == model.theirs.W_U.data_ptr()
    for name in ("n_layers", "n_heads", "d_model", "d_head", "d_mlp", "n_ctx", "d_vocab", "act_fn"):
        assert getattr(model.cfg, name) == getattr(model.theirs.cfg, name)
    assert model.cfg.n_params == sum(w.numel() for w in model.theirs.parameters())
    assert model.cfg.n_key_value_heads == {"llama": 2, "gemma": 1, "gemma2": 2}.get(shape)


def test_editing_a_site_does_what_a_hook_of_theirs_does() -> None:
    for shape in SHAPES:
        model, theirs = given(shape), lens_model(shape)
        for site in ("hook_embed", "blocks.0.hook_attn_out", "blocks.1.attn.hook_z"):
            edit = lambda value, hook: value * 0.5  # noqa: E731
            expected = theirs.run_with_hooks(TOKENS, fwd_hooks=[(site, edit)])
            close(model.run_with_hooks(TOKENS, fwd_hooks=[(site, edit)]), expected)
            in_place = lambda value, hook: value.mul_(0.5)  # noqa: E731
            close(model.run_with_hooks(TOKENS, fwd_hooks=[(site, in_place)]), expected)


@pytest.mark.parametrize("shape", GROUPED)
def test_one_of_several_heads_that_share_a_key_can_be_edited(shape: str) -> None:
    model = given(shape)

    def silence(value: Tensor, hook: Any) -> Tensor:
        value[:, :, 1] = 0
        return value

    edited = {}
    for site in ("blocks.0.hook_k_input", "blocks.0.attn.hook_v"):
        with model.hooks([(site, silence)]):
            _, cache = model.run_with_cache(TOKENS, names_filter="blocks.0.attn.hook_z")
        edited[site] = cache["z", 0]
    plain = model.run_with_cache(TOKENS)[1]["z", 0]
    for site, z in edited.items():
        close(z[:, :, [0, 2, 3]], plain[:, :, [0, 2, 3]], msg=site)
        assert (z[:, :, 1] - plain[:, :, 1]).abs().max() > 1e-3


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_at_sites_are_theirs(shape: str) -> None:
    model, theirs = given(shape), lens_model(shape)
    sites = [
        "hook_embed",
        "blocks.0.hook_resid_pre",
        "blocks.0.attn.hook_z",
        "blocks.1.hook_attn_out",
    ]
    loss, cache = model.run_with_cache(
        TOKENS, return_type="loss", incl_bwd=True, names_filter=sites
    )
    close(loss, theirs(TOKENS, return_type="loss"))
    _, expected = theirs.run_with_cache(
        TOKENS, return_type="loss", incl_bwd=True, names_filter=lambda name: name in sites
    )
    for site in sites:
        close(cache[site + "_grad"], expected[site + "_grad"], msg=site)
    assert all(weight.grad is None for weight in model.theirs.parameters())


def test_the_model_is_left_as_it_was_also_after_an_error() -> None:
    model = given("llama")
    kept: list[Tensor] = []
    model.theirs.add_hook("hook_embed", lambda value, hook: kept.append(value))
    before = state(model.theirs)

    def fail(value: Tensor, hook: Any) -> None:
        raise RuntimeError("halfway")

    try:
        with pytest.raises(RuntimeError, match="halfway"):
            model.run_with_hooks(
                TOKENS, fwd_hooks=[(["hook_embed", "blocks.0.hook_q_input"], fail)]
            )
        assert state(model.theirs) == before
        assert not any(hook.watched for hook in model.hook_dict.values())
        kept.clear()
        model(TOKENS)
        assert len(kept) == 1  # somebody else's hook stays
        model.theirs.set_use_split_qkv_input(True)
        before = state(model.theirs)
        _, cache = model.run_with_cache(TOKENS)
        assert cache["scale", 0, "ln1"].shape == (*TOKENS.shape, 1)
        assert state(model.theirs) == before
    finally:
        model.theirs.set_use_split_qkv_input(False)
        model.theirs.reset_hooks()


def test_what_is_not_there_is_one_clear_error() -> None:
    model = given("llama")
    for ask, message in (
        (lambda: model.W_pos, "rotary positions.*no W_pos"),
        (lambda: model.run_with_cache(TOKENS, names_filter="hook_pos_embed"), "no site 'hook_pos"),
        (lambda: model.run_with_cache(TOKENS, names_filter="blocks.9.attn.hook_z"), "0 to 1"),
        (lambda: model.run_with_cache(TOKENS, names_filter="blocks.0.attn.hook_y"), "did you mean"),
        (lambda: model(TOKENS, past_kv_cache=KVCache()), "keeps no keys and values"),
        (lambda: given("pythia").W_gate, "no W_gate"),
        (lambda: given("attn-only").W_in, "no mlp"),
        (lambda: given("pythia").run_with_cache(TOKENS, names_filter="resid_mid1"), "no site"),
        (
            lambda: model.run_with_cache(
                TOKENS, names_filter=["blocks.0.hook_q_input", "blocks.0.ln1.hook_scale"]
            ),
            "same run",
        ),
    ):
        with pytest.raises(CircuitsError, match=message):
            ask()
    with (
        pytest.raises(SiteError, match="hooked but never reached"),
        model.hooks([("blocks.1.attn.hook_z", lambda value, hook: None)]),
    ):
        model(TOKENS, stop_at_layer=1)


def test_text_goes_through_their_vocabulary() -> None:
    model = given("gemma")
    text = "When Mary and John went to the garden, John gave a letter to"
    tokens = model.to_tokens(text)
    assert tokens[0, 0] == 0
    assert model.to_str_tokens(text)[:4] == ["<s>", "When", "Mary", "and"]
    assert model.to_tokens(text, prepend_bos=False).shape[1] == tokens.shape[1] - 1
    assert model.to_string(tokens[0, 1:3]) == "When Mary"
    assert model.to_single_token(" Mary") == WORDS.index("Mary")
    close(model(text), model(tokens))
    for bad, message in (
        ("Mary 😀", "no token for a part"),
        ("مرحبا", "no token for a part"),
        ("", "no tokens"),
        ("Mary " * 99, "reads at most 48"),
    ):
        with pytest.raises(TokenError, match=message):
            model(bad, prepend_bos=False)
    with pytest.raises(TokenError, match="is 2 tokens"):
        model.to_single_token("Mary John")
    with pytest.raises(TokenError, match="no such token ids"):
        model.to_string([999])
    bare = adapt(lens_model("gemma", words=False))
    with pytest.raises(TokenError, match="has no tokenizer"):
        bare.to_tokens(text)


@pytest.mark.parametrize("shape", SHAPES)
def test_text_is_generated_as_theirs(shape: str) -> None:
    model = given(shape)
    prompt = TOKENS[:1, :4]
    expected = prompt
    for _ in range(5):
        best = model.theirs(expected)[:, -1].argmax(-1, keepdim=True)
        expected = torch.cat([expected, best], 1)
    options: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "stop_at_eos": False}
    assert torch.equal(model.generate(prompt, **options), expected)
    rows = [prompt[0].tolist(), [5]]
    both = model.generate(rows, return_type="tokens", **options)
    alone = [model.generate([row], return_type="tokens", **options)[0] for row in rows]
    assert [list(map(int, row)) for row in both] == [list(map(int, row)) for row in alone]


def test_sentence_pieces_keep_the_space_before_a_word() -> None:
    class Pieces:
        all_special_ids, unk_token_id, bos_token_id = [0], None, 0
        eos_token_id, pad_token_id = None, None
        get_vocab = staticmethod(lambda: {"<s>": 0, "▁to": 1, "to": 2, "<0xE2>": 3})
        convert_ids_to_tokens = staticmethod(
            lambda ids: [["<s>", "▁to", "to", "<0xE2>"][i] for i in ids]
        )
        decode = staticmethod(
            lambda ids, **_: "".join(["<s>", "to", "to", "\ufffd"][i] for i in ids)
        )

    theirs = TheirTokenizer(Pieces(), name="pieces")
    assert theirs.token_strings([0, 1, 2, 3]) == ["<s>", " to", "to", "<0xE2>"]


def test_a_gpt_2_gives_the_numbers_of_the_native_model() -> None:
    ours = randomized()
    adapted = adapt(lens_twin(ours, use_hook_tokens=True))
    native, tokens = load(adapted.theirs), random_tokens(TINY, 2, 8)
    lens_2 = "unembed.hook_in" not in adapted.theirs.hook_dict
    known = [n for n in native.hook_dict if not (lens_2 and n.startswith("unembed"))]
    assert list(adapted.hook_dict) == known
    if lens_2:  # where it comes after w and b
        known = [name for name in known if "normalized" not in name]
    for flagged in (False, True):
        sites = [n for n in known if n.endswith(FLAGGED) == flagged and "attn_in" not in n]
        mine, other = (m.run_with_cache(tokens, names_filter=sites) for m in (adapted, native))
        close(mine[0], other[0])
        for name, value in other[1].items():
            close(mine[1][name], value, msg=name)
    assert adapted.cfg.n_params == sum(w.numel() for w in adapted.theirs.parameters())


def test_who_it_is_is_known_by_its_weights() -> None:
    model, same = given("llama"), adapt(lens_model("llama"))
    assert checksum(model) == checksum(same)
    with torch.no_grad():
        same.theirs.blocks[0].mlp.W_gate[0, 0] += 1
    assert checksum(model) != checksum(same)
    assert (model.cfg.model_name, model.source) == (
        "tiny-llama",
        "transformer_lens HookedTransformer",
    )
    assert adapt(model) is model


def test_their_weights_are_neither_saved_nor_rewritten_here(tmp_path: Path) -> None:
    with pytest.raises(CircuitsError, match="another library's"):
        save(given("llama"), tmp_path / "saved")
    assert not list(tmp_path.iterdir())
    with pytest.raises(CircuitsError, match="process its weights itself"):
        process(given("gpt2"), [[1, 2]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_dir": "bidirectional"}, "bidirectional"),
        ({"original_architecture": "Olmo2ForCausalLM"}, "Olmo2"),
        ({"normalization_type": None}, "normalization_type=None"),
    ],
    ids=str,
)
def test_other_architectures_are_refused(change: dict[str, Any], message: str) -> None:
    theirs = lens_model("gpt2", words=False)
    for name, value in change.items():
        setattr(theirs.cfg, name, value)
    with pytest.raises(CircuitsError, match=f"tiny-gpt2 cannot be adapted: .*{message}"):
        adapt(theirs)


def test_other_objects_are_refused() -> None:
    for other in (randomized(), torch.nn.Linear(2, 2), "gpt2", word_tokenizer()):
        with pytest.raises(CircuitsError, match="give a HookedTransformer or"):
            adapt(other)
