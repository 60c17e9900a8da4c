"""Products with packed weights are the plain products: numbers, gradients, edits, errors."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial

import pytest
import torch
from linear_map import Map, numbers
from random_models import TINY, random_tokens, randomized
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.testing import assert_close

import circuits
from circuits.architectures import HookedGPT2
from circuits.backend import Backend, onednn, onednn_is_faster, onednn_works, packed
from circuits.backend import linear as module

near = partial(assert_close, atol=2e-5, rtol=1e-5)
Mode = Callable[[], AbstractContextManager[None]]
TOKENS = random_tokens(TINY, 3, 7)


@pytest.fixture
def single() -> HookedGPT2:
    return randomized(dtype=torch.float32)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("shape", [(5,), (1, 5), (4, 5), (2, 3, 5), (2, 3, 4, 5), (0, 5)])
@pytest.mark.parametrize("gelu", [None, "tanh", "none"])
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_plain_product(
    shape: tuple[int, ...], gelu: str | None, mode: Mode, bias: bool
) -> None:
    a_map, x = Map(bias=bias), numbers(*shape)
    with mode():
        near(a_map(x, gelu), a_map.expected(x, gelu))
        assert not a_map.backend.copies
        with packed(a_map):
            near(a_map(x, gelu), a_map.expected(x, gelu))
            is_read = x.numel() == 5 and torch.get_num_threads() == 1
            assert bool(a_map.backend.copies) != is_read


@pytest.mark.usefixtures("always")
def test_overlaps_of_values_are_products_that_pack_nothing() -> None:
    backend, x, others = Backend(), numbers(4, 5), numbers(5, 3).T
    with backend.packed():
        near(backend.overlaps(x, others), x @ others.T)
        assert not backend.copies
    near(backend.overlaps(x.double(), others.double()), x.double() @ others.T.double())


@pytest.mark.usefixtures("always")
def test_takes_any_strides() -> None:
    a_map = Map()
    with packed(a_map), torch.no_grad():
        for x in (numbers(3, 2, 5).transpose(0, 1), numbers(4, 10)[:, ::2], numbers(5, 4).T):
            near(a_map(x), a_map.expected(x))
        near(a_map(numbers(1, 5).expand(3, 5)), a_map.expected(numbers(1, 5).expand(3, 5)))


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("gelu", [None, "tanh", "none"])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_those_of_the_plain_product(gelu: str | None, bias: bool) -> None:
    a_map, x = Map(bias=bias), numbers(2, 3, 5).requires_grad_()
    wanted = [x, *a_map.parameters()]
    with packed(a_map):
        ours = torch.autograd.grad(a_map(x, gelu).pow(2).sum(), wanted)
        assert {key[-1] for key in a_map.backend.copies} == {"packed", "transposed"}
        a_map.requires_grad_(False)
        near(torch.autograd.grad(a_map(x, gelu).pow(2).sum(), x)[0], ours[0])
    a_map.requires_grad_(True)
    unpacked = torch.autograd.grad(a_map(x, gelu).pow(2).sum(), wanted)
    theirs = torch.autograd.grad(a_map.expected(x, gelu).pow(2).sum(), wanted)
    assert_close(unpacked, theirs, atol=1e-4, rtol=1e-5)
    assert_close(ours, theirs, atol=1e-4, rtol=1e-5)


@pytest.mark.usefixtures("always")
def test_weights_alone_have_gradients() -> None:
    a_map, x = Map(), numbers(4, 5)
    with packed(a_map):
        a_map(x).pow(3).sum().backward()
    theirs = torch.autograd.grad(a_map.expected(x).pow(3).sum(), [*a_map.parameters()])
    assert_close([p.grad for p in a_map.parameters()], [*theirs], atol=1e-3, rtol=1e-5)


@pytest.mark.usefixtures("always")
def test_gradients_of_activations_do_not_pay_for_those_of_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a_map, x = Map(), numbers(4, 5).requires_grad_()

    def refuse(*_: object) -> None:
        raise AssertionError("the weight's gradient was computed")

    with packed(a_map):
        out = a_map(x).sum()
        monkeypatch.setattr(module._WeightGradient, "backward", refuse)
        near(torch.autograd.grad(out, x)[0], a_map.weight.sum(1).expand(4, 5))


@pytest.mark.usefixtures("always")
def test_second_gradients_are_right_or_refused() -> None:
    a_map, x = Map(), numbers(4, 5).requires_grad_()

    def second(out: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
        (first,) = torch.autograd.grad(out.pow(3).sum(), x, create_graph=True)
        return torch.autograd.grad(first.pow(2).sum(), of)

    with packed(a_map):
        assert_close(second(a_map(x), x), second(a_map.expected(x), x), atol=1e-2, rtol=1e-4)
        (of_weight,) = torch.autograd.grad(a_map(x).sum(), a_map.weight, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable|does not require grad"):
            of_weight.sum().backward()


@pytest.mark.usefixtures("always")
def test_gradients_after_the_block() -> None:
    a_map, x = Map(), numbers(4, 5).requires_grad_()
    with packed(a_map):
        out = a_map(x)
    near(torch.autograd.grad(out.sum(), x)[0], a_map.weight.sum(1).expand(4, 5))
    assert not a_map.backend.copies


@pytest.mark.usefixtures("always")
def test_edited_weights_are_packed_again() -> None:
    a_map, x = Map(), numbers(4, 5)
    edits: list[Callable[[], object]] = [
        lambda: a_map.weight.mul_(2),
        lambda: a_map.weight[2:].zero_(),
        lambda: setattr(a_map, "weight", nn.Parameter(numbers(5, 6))),
        lambda: setattr(a_map.weight, "data", numbers(5, 6) + 1),
        lambda: a_map.load_state_dict({"weight": numbers(5, 6) + 2, "bias": numbers(6)}),
    ]
    with packed(a_map), torch.no_grad():
        for edit in edits:
            before = a_map(x)
            edit()
            near(a_map(x), a_map.expected(x))
            assert not torch.allclose(a_map(x), before)


@pytest.mark.usefixtures("always")
def test_a_weight_edited_before_the_backward_pass_is_refused() -> None:
    a_map, x = Map(), numbers(4, 5).requires_grad_()
    with packed(a_map):
        out = a_map(x).sum()
        with torch.no_grad():
            a_map.weight.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.backward()


@pytest.mark.usefixtures("always")
def test_blocks_nest_and_leave_nothing() -> None:
    a_map, x = Map(), numbers(4, 5)
    with packed(a_map):
        with packed(a_map):
            a_map(x)
        assert a_map.backend.copies
        with pytest.raises(ValueError), packed(a_map):
            raise ValueError
        near(a_map(x), a_map.expected(x))
    assert not a_map.backend.copies
    assert not a_map.backend._blocks


@pytest.mark.usefixtures("always")
def test_copies_of_a_model_take_no_packed_weights_along(single: HookedGPT2) -> None:
    with packed(single):
        expected = single(TOKENS)
        twin = copy.deepcopy(single)
        file = io.BytesIO()
        torch.save(single, file)
        assert single.backend.copies
    assert twin.backend is twin.blocks[1].mlp.backend is not single.backend
    assert not twin.backend._blocks
    assert not twin.backend.copies
    near(twin(TOKENS), expected)
    assert file.tell()
    assert not [name for name in single.state_dict() if "backend" in name]


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions_are_not_packed(dtype: torch.dtype) -> None:
    a_map, x = Map(dtype=dtype), numbers(4, 5).to(dtype)
    expected = a_map(x)
    with packed(a_map):
        assert torch.equal(a_map(x), expected)
        assert not a_map.backend.copies


@pytest.mark.usefixtures("always")
def test_weights_whose_edits_are_not_recorded_are_not_packed() -> None:
    with torch.inference_mode():
        a_map = Map()
        with packed(a_map):
            near(a_map(numbers(4, 5)), a_map.expected(numbers(4, 5)))
            assert not a_map.backend.copies


@pytest.mark.usefixtures("always")
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own, in jvp
def test_transformations_see_the_plain_product() -> None:
    a_map, x = Map(), numbers(4, 3, 5)
    with packed(a_map):
        near(torch.func.vmap(a_map)(x), a_map.expected(x))
        _, tangent = torch.func.jvp(a_map, (x,), (torch.ones_like(x),))
        near(tangent, torch.ones_like(x) @ a_map.weight)
        with forward_ad.dual_level(), torch.no_grad():
            dual = a_map(forward_ad.make_dual(x, torch.ones_like(x)))
            near(forward_ad.unpack_dual(dual).tangent, torch.ones_like(x) @ a_map.weight)
        with torch.autocast("cpu", torch.bfloat16):
            assert a_map(x).dtype == torch.bfloat16


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("act_fn", ["gelu_new", "gelu"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_model_says_the_same(act_fn: str, tied: bool) -> None:
    model = randomized(replace(TINY, act_fn=act_fn, tied=tied), dtype=torch.float32)
    plain = model(TOKENS)
    _, expected = model.run_with_cache(TOKENS, names_filter=list(model.hook_dict))
    with circuits.packed(model):
        assert_close(model(TOKENS), plain, atol=1e-4, rtol=1e-4)
        assert len(model.backend.copies) == 4 * TINY.n_layers + 1
        logits, cache = model.run_with_cache(TOKENS, names_filter=list(model.hook_dict))
        assert_close(logits, plain, atol=1e-4, rtol=1e-4)
        for name, value in cache.items():
            assert_close(value, expected[name], atol=1e-3, rtol=1e-4, msg=name)
        assert_close(model(TOKENS[:1, :1]), plain[:1, :1], atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("always")
def test_the_model_has_the_same_gradients(single: HookedGPT2) -> None:
    def gradients() -> list[Tensor]:
        loss = single(TOKENS, return_type="loss")
        return list(torch.autograd.grad(loss, [*single.parameters()]))

    expected = gradients()
    with packed(single):
        assert_close(gradients(), expected, atol=1e-4, rtol=1e-3)


def test_parts_of_a_block_take_any_leading_axes(tiny: HookedGPT2) -> None:
    block, x = tiny.blocks[0], torch.randn(2, 3, 4, TINY.d_model, dtype=torch.float64)
    with torch.no_grad():
        qkv, mlp = block.attn.qkv(x), block.mlp.plain(x)
        assert qkv.shape == (2, 3, 4, 3, TINY.n_heads, TINY.d_head)
        assert_close(qkv[1, 2, 3, 0], block.attn.qkv(x[1, 2, 3])[0])
        assert_close(
            qkv[..., 1, :, :], block.attn.qkv(x.flatten(0, 2)).view(qkv.shape)[..., 1, :, :]
        )
        assert_close(mlp[0], block.mlp(x[0]))
        z = qkv[..., 2, :, :]
        out = torch.einsum("...he,hed->...d", z, block.attn.W_O) + block.attn.b_O
        assert_close(block.attn.out(z), out)


@pytest.mark.usefixtures("always")
def test_which_way_is_taken_can_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    a_map, x = Map(), numbers(4, 5)
    monkeypatch.setattr(module, "product", lambda *_: "oneDNN")
    with torch.no_grad():
        assert a_map(x) == "oneDNN"
        with a_map.backend.using(onednn=False):
            assert torch.equal(a_map(x), torch.addmm(a_map.bias, x, a_map.weight))
            with a_map.backend.using(onednn=True):
                assert a_map(x) == "oneDNN"
        assert a_map(x) == "oneDNN"


def test_other_machines_use_addmm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "onednn_is_faster", lambda: False)
    monkeypatch.setattr(module, "LEAST_WORK", 0)
    monkeypatch.setattr(module, "LEAST_ROW", 0)
    a_map, x = Map(), numbers(4, 5)
    with packed(a_map):
        assert torch.equal(a_map(x), torch.addmm(a_map.bias, x, a_map.weight))
        assert not a_map.backend.copies


def test_small_products_use_addmm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "onednn_is_faster", lambda: True)
    a_map, x = Map(), numbers(4, 5)
    with packed(a_map):
        assert torch.equal(a_map(x), torch.addmm(a_map.bias, x, a_map.weight))
        assert not a_map.backend.copies


@pytest.mark.parametrize("error", [AttributeError, RuntimeError, TypeError])
def test_a_torch_without_the_operations(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def missing(*_: object) -> Tensor:
        raise error

    monkeypatch.setattr(onednn, "pack", missing)
    assert not onednn_works()


def test_a_torch_whose_operations_do_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "product", lambda x, *_: x @ torch.ones(3, 4))
    assert not onednn_works()


@pytest.mark.parametrize(
    ("vendor", "capability", "expected"),
    [
        ("AuthenticAMD", "AVX512", True),
        ("AuthenticAMD", "AVX2", False),
        ("GenuineIntel", "AVX512", False),
        ("", "DEFAULT", False),
    ],
)
def test_which_machines(
    monkeypatch: pytest.MonkeyPatch, vendor: str, capability: str, expected: bool
) -> None:
    monkeypatch.setattr(onednn, "_vendor", lambda: vendor)
    monkeypatch.setattr(onednn, "onednn_works", lambda: True)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert onednn_is_faster.__wrapped__() is expected
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert not onednn_is_faster.__wrapped__()


def test_the_vendor_is_found() -> None:
    assert onednn._vendor() in ("AuthenticAMD", "GenuineIntel", "")


@pytest.mark.usefixtures("always")
def test_other_threads_read_the_weights_not_the_copies() -> None:
    a_map, x = Map(), numbers(4, 5)
    with torch.no_grad(), packed(a_map), ThreadPoolExecutor(1) as pool:
        before = a_map(x)
        a_map.weight.data.zero_()  # which torch does not record
        assert torch.equal(a_map(x), before)
        near(pool.submit(a_map, x).result(), a_map.expected(x))
