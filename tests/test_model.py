"""The model's interface: inputs, outputs, weights, and that no call leaves a trace."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import TINY, random_tokens, randomized, seeds, tiny_configs
from torch import Tensor

from circuits.architectures import HookedGPT2
from circuits.checkpoints import checksum
from circuits.config import GPT2_SIZES, ModelConfig
from circuits.errors import CircuitsError, TokenError
from circuits.hooks import HookPoint
from circuits.kv_cache import KVCache
from circuits.tokenizer import END_OF_TEXT, Tokenizer

TOKENS = random_tokens(TINY, batch=3, pos=7)
LETTERS = Tokenizer.characters("ABCDE .", [END_OF_TEXT])
WRITER = randomized(
    ModelConfig(n_layers=1, n_heads=2, d_model=8, n_ctx=12, d_vocab=8, model_name="letters"),
    tokenizer=LETTERS,
)

# --- sizes and weights --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "n_params"),
    [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
    ],
)
def test_released_sizes(name: str, n_params: int) -> None:
    with torch.device("meta"):
        model = HookedGPT2(GPT2_SIZES[name])
    assert sum(weight.numel() for weight in model.parameters()) == n_params
    assert model.cfg.n_params == n_params


@given(cfg=tiny_configs())
def test_the_configuration_counts_the_parameters(cfg: ModelConfig) -> None:
    with torch.device("meta"):
        model = HookedGPT2(cfg)
    assert sum(weight.numel() for weight in model.parameters()) == cfg.n_params


def test_random_weights_are_gpt2s_initial_ones() -> None:
    cfg = ModelConfig(n_layers=8, n_heads=2, d_model=64, n_ctx=64, d_vocab=300)
    model, again, other = (HookedGPT2.random(cfg, seed=seed) for seed in (3, 3, 4))
    assert checksum(model) == checksum(again) != checksum(other)
    last = model.blocks[7]
    for weight, std in [
        (model.W_E, 0.02),
        (model.W_pos, 0.01),
        (last.attn.W_QKV, 0.02),
        (last.mlp.W_in, 0.02),
        (last.attn.W_O_flat, 0.02 / 4),  # sqrt(2 * 8 layers) = 4
        (last.mlp.W_out, 0.02 / 4),
    ]:
        assert weight.std().item() == pytest.approx(std, rel=0.05)
    for name, weight in model.named_parameters():
        if weight.ndim == 1:
            assert (weight == (1.0 if name.endswith(".w") else 0.0)).all(), name


def test_the_configuration_follows_the_weights(tiny: HookedGPT2) -> None:
    assert (tiny.cfg.dtype, tiny.cfg.device) == (torch.float64, torch.device("cpu"))
    assert tiny.to(torch.bfloat16).cfg.dtype == torch.bfloat16
    assert tiny.cfg == TINY


def test_tied_weights_are_one_parameter(tiny: HookedGPT2) -> None:
    assert tiny.unembed.W_E is tiny.W_E
    assert tiny.W_U.data_ptr() == tiny.W_E.data_ptr()
    assert tiny.b_U.tolist() == [0] * TINY.d_vocab
    assert tiny.unembed.b_U is None
    untied = HookedGPT2.random(ModelConfig(1, 1, 4, 4, 9, tied=False))
    assert untied.W_U.shape == (4, 9)
    assert untied.unembed.b_U is not None


def test_weights_by_head_are_views_of_the_checkpoints_matrix(tiny: HookedGPT2) -> None:
    n, heads, d, e = TINY.n_layers, TINY.n_heads, TINY.d_model, TINY.d_head
    assert tiny.W_Q.shape == tiny.W_K.shape == tiny.W_V.shape == (n, heads, d, e)
    assert tiny.W_O.shape == (n, heads, e, d)
    assert tiny.b_Q.shape == tiny.b_K.shape == tiny.b_V.shape == (n, heads, e)
    assert tiny.W_in.shape == tiny.W_out.mT.shape == (n, d, TINY.d_mlp)
    assert (tiny.b_in.shape, tiny.b_out.shape, tiny.b_O.shape) == ((n, TINY.d_mlp), (n, d), (n, d))
    attn = tiny.blocks[1].attn
    for i, name in enumerate("QKV"):
        columns = slice((i * heads + 2) * e, (i * heads + 3) * e)  # head 2
        weight, bias = getattr(attn, f"W_{name}"), getattr(attn, f"b_{name}")
        assert torch.equal(weight[2], attn.W_QKV[:, columns])
        assert torch.equal(bias[2], attn.b_QKV[columns])
        assert weight.untyped_storage().data_ptr() == attn.W_QKV.untyped_storage().data_ptr()
    assert torch.equal(attn.W_O[2], attn.W_O_flat[2 * e : 3 * e])


def test_a_copy_is_independent(tiny: HookedGPT2) -> None:
    twin = copy.deepcopy(tiny)
    with twin.hooks([("hook_embed", lambda value, hook: value * 0)]):
        assert not tiny.hook_dict["hook_embed"].watched
        twin(TOKENS)
        tiny(TOKENS[:1])
    assert torch.equal(twin(TOKENS), tiny(TOKENS))
    assert twin.unembed.W_E is twin.W_E is not tiny.W_E


# --- what goes in -------------------------------------------------------------------------------


def test_forms_of_input(tiny: HookedGPT2) -> None:
    logits = tiny(TOKENS)
    assert logits.shape == (3, 7, TINY.d_vocab)
    assert torch.equal(tiny(TOKENS.tolist()), logits)
    assert torch.equal(tiny(TOKENS.int()), logits)
    assert torch.equal(tiny(list(TOKENS)), logits)
    torch.testing.assert_close(tiny(TOKENS[0]), logits[:1])
    text = WRITER("A BAD CAB")
    assert text.shape == (1, 10, 8)
    assert torch.equal(text, WRITER(WRITER.to_tokens("A BAD CAB")))
    assert torch.equal(text, WRITER("<|endoftext|>A BAD CAB", prepend_bos=False))
    torch.testing.assert_close(WRITER(["A BAD CAB", "E"])[:1], text, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (torch.zeros(1, 2), {}, "float32 tensor of shape .*token ids .batch, pos., or a residual"),
        (torch.zeros(1, 2, 3).long(), {}, r"shape \(1, 2, 3\)"),
        (torch.zeros(1, 0).long(), {}, "no tokens; give at least one"),
        (torch.tensor([[31]]), {}, "31 is outside the vocabulary of gpt2, 0 to 30"),
        (torch.tensor([[-1, 3]]), {}, "-1 is outside"),
        (torch.zeros(1, 13).long(), {}, "13 tokens, and gpt2 reads at most 12"),
        ("A", {}, "no tokenizer; give token ids, or set model.tokenizer"),
        ([[1], "A"], {}, r"prompt 0 is \[1\], and others are texts"),
        (TOKENS, {"attention_mask": torch.ones(3, 6)}, r"shape \(3, 6\), the tokens have \(3, 7\)"),
        ("A", {"attention_mask": torch.ones(1, 2)}, "belongs to token ids"),
        ([[1], [2, 3]], {"padding_side": "top"}, "padding_side='top'; choose 'left' or 'right'"),
    ],
)
def test_input_that_is_refused(
    tiny: HookedGPT2, given: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TokenError, match=message):
        tiny(given, **options)


@pytest.mark.parametrize("wrong", [TOKENS, torch.zeros(2, 16), torch.zeros(1, 2, 15), "A", [[1]]])
def test_residual_streams_that_are_refused(tiny: HookedGPT2, wrong: Any) -> None:
    with pytest.raises(CircuitsError, match=r"residual stream \[batch, pos, 16\], not "):
        tiny(wrong, start_at_layer=1)


# --- what comes out -----------------------------------------------------------------------------


@settings(max_examples=25)
@given(cfg=tiny_configs(), seed=seeds, data=st.data())
def test_layers_compose_to_the_whole(cfg: ModelConfig, seed: int, data: st.DataObject) -> None:
    model = randomized(cfg, seed=seed)
    rows = data.draw(
        st.lists(
            st.lists(st.integers(0, cfg.d_vocab - 1), min_size=1, max_size=cfg.n_ctx),
            min_size=1,
            max_size=3,
        )
    )
    first, second = sorted(data.draw(st.tuples(*[st.integers(0, cfg.n_layers)] * 2)))
    whole = model(rows)
    mask = model.run.mask
    head = model(rows, stop_at_layer=first)
    middle = model(head, start_at_layer=first, stop_at_layer=second, attention_mask=mask)
    assert torch.equal(model(middle, start_at_layer=second, attention_mask=mask), whole)
    assert torch.equal(model(rows, stop_at_layer=second), middle)


def test_stopping_at_a_layer_gives_what_enters_it(tiny: HookedGPT2) -> None:
    _, cache = tiny.run_with_cache(TOKENS)
    for layer in range(TINY.n_layers):
        stream = tiny(TOKENS, stop_at_layer=layer)
        torch.testing.assert_close(stream, cache["resid_pre", layer], atol=1e-12, rtol=0)
        assert torch.equal(stream, tiny(TOKENS, stop_at_layer=layer - TINY.n_layers))
    last = tiny(TOKENS, stop_at_layer=TINY.n_layers)
    torch.testing.assert_close(last, cache["resid_post", -1], atol=1e-12, rtol=0)


@pytest.mark.parametrize(("start", "stop"), [(None, 3), (None, -3), (3, None), (2, 1), (-3, None)])
def test_layers_that_do_not_exist(tiny: HookedGPT2, start: int | None, stop: int | None) -> None:
    with pytest.raises(CircuitsError, match="choose 0 <= start <= stop <= 2 in a model of 2"):
        tiny(TOKENS, start_at_layer=start, stop_at_layer=stop)


def test_losses(tiny: HookedGPT2) -> None:
    logits, loss = tiny(TOKENS, return_type="both")
    each = tiny(TOKENS, return_type="loss", loss_per_token=True)
    by_hand = -logits.log_softmax(-1)[:, :-1].gather(-1, TOKENS[:, 1:, None])[..., 0]
    torch.testing.assert_close(each, by_hand, atol=1e-12, rtol=0)
    torch.testing.assert_close(loss, by_hand.mean(), atol=1e-12, rtol=0)
    assert torch.equal(tiny(TOKENS, return_type="loss"), loss)
    assert torch.equal(logits, tiny(TOKENS))
    assert tiny(TOKENS, return_type=None) is None


def test_no_logits_unless_they_are_wanted_or_watched(
    tiny: HookedGPT2, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, cache = tiny.run_with_cache(TOKENS, names_filter="unembed.hook_out", return_type=None)
    assert torch.equal(cache["unembed.hook_out"], tiny(TOKENS))
    calls: list[torch.Tensor] = []
    monkeypatch.setattr(tiny.unembed, "forward", calls.append)
    assert tiny(TOKENS, return_type=None) is None
    assert not calls


def test_losses_that_do_not_exist(tiny: HookedGPT2) -> None:
    with pytest.raises(TokenError, match="at least two tokens"):
        tiny([[1], [2]], return_type="loss")
    with pytest.raises(TokenError, match="with start_at_layer ask for logits"):
        tiny(torch.zeros(1, 3, 16).double(), start_at_layer=0, return_type="loss")
    with pytest.raises(CircuitsError, match="return_type='losses'; choose logits, loss, both"):
        tiny(TOKENS, return_type="losses")


# --- no trace -----------------------------------------------------------------------------------


def double(value: Tensor, hook: HookPoint) -> None:
    value.mul_(2)


CALLS: dict[str, Callable[[HookedGPT2], Any]] = {
    "logits": lambda m: m(TOKENS),
    "loss": lambda m: m([[1, 2, 3], [4]], return_type="loss"),
    "cache": lambda m: m.run_with_cache(TOKENS, names_filter=list(m.hook_dict)),
    "gradients": lambda m: m.run_with_cache(TOKENS, incl_bwd=True),
    "in-place hooks": lambda m: m.run_with_hooks(
        TOKENS, fwd_hooks=[(lambda name: name != "hook_tokens", double)]
    ),
    "backward hooks": lambda m: m.run_with_hooks(
        TOKENS, bwd_hooks=[("hook_embed", lambda grad, hook: grad * 2)]
    ),
    "text": lambda m: m.generate([[1], [2, 3]], max_new_tokens=3, seed=0),
    "edited text": lambda m: m.generate(
        [[1]], max_new_tokens=3, fwd_hooks=[("blocks.0.hook_mlp_out", double)]
    ),
    "key-value cache": lambda m: m(TOKENS, past_kv_cache=KVCache()),
    "decomposition": lambda m: m.run_with_cache(TOKENS)[1].get_full_resid_decomposition(),
    "attribution": lambda m: (
        lambda cache: cache.logit_attrs(cache.decompose_resid(), torch.tensor([1, 2, 3]))
    )(m.run_with_cache(TOKENS)[1]),
    "stacked weights": lambda m: m.W_Q.detach().mul_(2),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
def test_no_call_leaves_a_trace(tiny: HookedGPT2, call: str, grad: bool) -> None:
    before, plain = checksum(tiny), tiny(TOKENS)
    with torch.set_grad_enabled(grad or call == "backward hooks"):
        CALLS[call](tiny)
    assert checksum(tiny) == before
    assert torch.equal(tiny(TOKENS), plain)
    assert [name for name, hook in tiny.hook_dict.items() if hook.watched] == []
    assert [name for name, weight in tiny.named_parameters() if weight.grad is not None] == []
    assert all(weight.requires_grad for weight in tiny.parameters())


# --- other precisions and devices ---------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_lower_precision_is_close(dtype: torch.dtype) -> None:
    exact, low = randomized(), randomized(dtype=dtype)
    logits, cache = low.run_with_cache(TOKENS, names_filter=list(low.hook_dict))
    tolerance = 1e-4 if dtype == torch.float32 else 0.5
    torch.testing.assert_close(logits.double(), exact(TOKENS), atol=tolerance, rtol=0.05)
    assert {value.dtype for name, value in cache.items() if name != "hook_tokens"} == {dtype}
    loss = low([[1, 2, 3], [4, 5]], return_type="loss")
    assert loss.dtype == torch.float32
    loss.backward()
    assert low.W_E.grad is not None
    assert low.W_E.grad.isfinite().all()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_the_cpu(tiny: HookedGPT2) -> None:
    logits, cache = tiny.run_with_cache([[1, 2, 3], [4]])
    there, cache_there = tiny.to("cuda").run_with_cache([[1, 2, 3], [4]])
    assert tiny.cfg.device.type == "cuda"
    torch.testing.assert_close(there.cpu(), logits, atol=1e-10, rtol=0)
    for name, value in cache_there.to("cpu").items():
        torch.testing.assert_close(value, cache[name], atol=1e-10, rtol=0)
    _, kept = tiny.run_with_cache([[1, 2, 3]], device="cpu")
    assert {value.device.type for value in kept.values()} == {"cpu"}


# --- tokens -------------------------------------------------------------------------------------


def test_tokens_and_text() -> None:
    assert WRITER.to_tokens("AB").tolist() == [[7, 0, 1]]
    assert WRITER.to_tokens("AB", prepend_bos=False).tolist() == [[0, 1]]
    assert WRITER.to_tokens(["AB", "C"]).tolist() == [[7, 0, 1], [7, 2, 7]]
    assert WRITER.to_tokens(["AB", "C"], padding_side="left").tolist() == [[7, 0, 1], [7, 7, 2]]
    assert WRITER.to_str_tokens("AB") == [END_OF_TEXT, "A", "B"]
    assert WRITER.to_str_tokens(["A", "B C"], prepend_bos=False) == [["A"], ["B", " ", "C"]]
    assert WRITER.to_str_tokens(torch.tensor([[0, 1]])) == ["A", "B"]
    assert WRITER.to_str_tokens([0, 1]) == ["A", "B"]
    assert WRITER.to_string(torch.tensor([0, 1])) == "AB"
    assert WRITER.to_string([[0, 1], [2]]) == ["AB", "C"]
    assert WRITER.to_string(2) == "C"
    assert WRITER.to_single_token("B") == 1
    assert WRITER.to_single_str_token(1) == "B"
    with pytest.raises(TokenError, match="2 tokens"):
        WRITER.to_single_token("AB")


def test_residual_directions_are_columns_of_the_unembedding() -> None:
    for token, ids in (("B", 1), (1, 1), (torch.tensor([0, 2]), [0, 2])):
        direction = WRITER.tokens_to_residual_directions(token)
        assert torch.equal(direction, WRITER.W_U.T[ids])
