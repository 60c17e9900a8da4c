"""torch.compile: the numbers of the plain model, with and without hooks, whenever they come."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
import torch
from random_models import TINY, random_tokens, randomized
from torch import Tensor
from torch.testing import assert_close

import circuits
from circuits.architectures import HookedGPT2
from circuits.hooks import HookPoint

pytestmark = [
    pytest.mark.slow,
    # The compiler reads .grad of every tensor it meets, and uses deprecated parts of torch.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
]
TOKENS = random_tokens(TINY, 2, 7)
Z = "blocks.0.attn.hook_z"
HAS_COMPILER = any(map(shutil.which, ("c++", "g++", "clang++")))
# Dynamo alone, whose guards decide what is compiled again; and the whole compiler.
BACKENDS = [
    "eager",
    pytest.param(
        "inductor",
        marks=pytest.mark.skipif(not HAS_COMPILER, reason="torch.compile needs a C++ compiler"),
    ),
]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def single() -> HookedGPT2:
    return randomized(dtype=torch.float32)


def close(ours: Tensor, expected: Tensor) -> None:
    assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def remove_head(z: Tensor, hook: HookPoint) -> Tensor:
    z[:, :, 1] = 0
    return z


@pytest.mark.parametrize("backend", BACKENDS)
def test_forward(single: HookedGPT2, backend: str) -> None:
    expected = single(TOKENS)
    compiled = torch.compile(single, backend=backend, fullgraph=True)
    close(compiled(TOKENS), expected)
    with torch.no_grad():
        close(compiled(TOKENS), expected)
        close(compiled(TOKENS[:1, :5]), single(TOKENS[:1, :5]))
    (ours,) = torch.autograd.grad(compiled(TOKENS).pow(2).sum(), single.W_pos)
    (theirs,) = torch.autograd.grad(single(TOKENS).pow(2).sum(), single.W_pos)
    assert_close(ours, theirs, atol=1e-2, rtol=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_hooks_come_and_go_after_compilation(single: HookedGPT2, backend: str) -> None:
    plain = single(TOKENS)
    expected = single.run_with_hooks(TOKENS, fwd_hooks=[(Z, remove_head)])
    assert not torch.allclose(plain, expected, atol=1e-2)
    compiled = torch.compile(single, backend=backend)
    close(compiled(TOKENS), plain)
    with single.hooks([(Z, remove_head)]):
        close(compiled(TOKENS), expected)
    close(compiled(TOKENS), plain)


def test_each_hook_is_its_own(single: HookedGPT2) -> None:
    compiled = torch.compile(single, backend="eager")
    for factor in (0.0, 1.0, 2.0):

        def scale(z: Tensor, hook: HookPoint, factor: float = factor) -> Tensor:
            return z * factor

        with single.hooks([(Z, scale)]):
            ours = compiled(TOKENS)
        close(ours, single.run_with_hooks(TOKENS, fwd_hooks=[(Z, scale)]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_model_compiled_in_place(single: HookedGPT2, backend: str) -> None:
    everywhere = list(single.hook_dict)
    expected = single.run_with_hooks(TOKENS, fwd_hooks=[(Z, remove_head)])
    logits, cache = single.run_with_cache(TOKENS, names_filter=everywhere)
    single.compile(backend=backend)
    close(single.run_with_hooks(TOKENS, fwd_hooks=[(Z, remove_head)]), expected)
    ours, seen = single.run_with_cache(TOKENS, names_filter=everywhere)
    close(ours, logits)
    for name in everywhere:
        close(seen[name], cache[name])
    close(single(TOKENS), logits)


def test_methods_of_a_compiled_model_run_as_they_are(single: HookedGPT2) -> None:
    compiled = torch.compile(single, backend="eager")
    expected = single.run_with_hooks(TOKENS, fwd_hooks=[(Z, remove_head)])
    close(compiled.run_with_hooks(TOKENS, fwd_hooks=[(Z, remove_head)]), expected)
    assert torch.equal(compiled.run_with_cache(TOKENS)[1][Z], single.run_with_cache(TOKENS)[1][Z])


def test_backward_hooks(single: HookedGPT2) -> None:
    compiled = torch.compile(single, backend="eager")
    seen: list[Tensor] = []
    for model in (single, compiled):
        with single.hooks(bwd_hooks=[(Z, lambda grad, hook: seen.append(grad.clone()))]):
            model(TOKENS).pow(2).sum().backward()
    assert_close(seen[0], seen[1], atol=1e-2, rtol=1e-3)


def test_packing_and_edits_after_compilation(single: HookedGPT2) -> None:
    compiled = torch.compile(single, backend="eager")
    close(compiled(TOKENS), single(TOKENS))
    with circuits.packed(single):
        close(compiled(TOKENS), single(TOKENS))
        with torch.no_grad():
            single.blocks[0].attn.W_O_flat.mul_(2)
        close(compiled(TOKENS), single(TOKENS))


@pytest.mark.filterwarnings("ignore:Graph break")
def test_padding_and_generation(single: HookedGPT2) -> None:
    expected = single([[1, 2, 3], [4]]), single.generate(TOKENS, max_new_tokens=3, seed=0)
    single.compile(backend="eager")
    close(single([[1, 2, 3], [4]]), expected[0])
    assert torch.equal(single.generate(TOKENS, max_new_tokens=3, seed=0), expected[1])
