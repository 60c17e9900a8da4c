"""x W + b by the fastest path that this machine has, with the same numbers.

`linear` is the product with a weight matrix of every module. It is `torch.addmm`, except inside
``with packed(model)``: there it may use copies of the weights in oneDNN's own layout, which on some
CPUs are multiplied two to four times as fast.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable

PROBE_ROWS, PROBE_WIDTH = 64, 512  # what the measurement multiplies: a few milliseconds in all
WORTHWHILE = 1.2  # how many times as fast packed copies must be to be used
# A call costs more: below this many multiplications (rows times weights) nothing is gained.
LEAST_WORK = 2**19
_SETTLED: ContextVar[bool | None] = ContextVar("settled", default=None)


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, pack: Pack, gelu: str | None = None
) -> Tensor:
    """What is x W + b, or with `gelu` its GELU?

    `x` [... i], `weight` [i o], `bias` [o] give [... o]. `gelu` is torch's name of the form, "tanh"
    or "none". `pack` keeps the weight's packed copy while `packed` is active.
    """
    if pack.users and (fast := pack.find(x, weight)) is not None:
        tensors = (x, weight) if bias is None else (x, weight, bias)
        if not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors)):
            return _product(x, fast, bias, gelu)
        tie = _WeightGradient.apply(x.detach(), weight, bias)  # type: ignore[no-untyped-call]
        out: Tensor = _Packed.apply(x, tie, weight, bias, pack)  # type: ignore[no-untyped-call]
    else:
        rows = x.reshape(-1, x.shape[-1])
        out = rows @ weight if bias is None else torch.addmm(bias, rows, weight)
        out = out.view(*x.shape[:-1], weight.shape[1])
    return out if gelu is None else F.gelu(out, approximate=gelu)


@contextmanager
def packed(model: nn.Module) -> Iterator[None]:
    """Where this machine multiplies packed weights faster, let the model use them in this block.

    Everything stays as it is but for the speed: the same numbers within float noise, the same
    hooks, gradients, errors. A weight is packed when it is first used (for all of GPT-2 small: a
    second copy of 0.5 GB, in 0.4 s; backward passes add a third), so the block pays for many
    prompts rather than for one. Where a measurement of a few milliseconds says that packing does
    not pay, and for anything but float32 on a CPU, nothing is packed. Copies are freed on leaving.
    Blocks may be nested.

    A weight that is edited inside the block, as torch records it, is packed again. What torch does
    not record, writing through ``weight.data`` or ``weight.numpy()``, goes unnoticed until the
    block ends.

    >>> import torch
    >>> from circuits.config import ModelConfig
    >>> from circuits.model import HookedGPT2
    >>> model = HookedGPT2.random(ModelConfig(n_layers=1, n_heads=2, d_model=8, n_ctx=4, d_vocab=9))
    >>> with packed(model):
    ...     logits = model([[1, 2, 3]])
    >>> torch.allclose(logits, model([[1, 2, 3]]), atol=1e-6)
    True
    """
    packs = [p for module in model.modules() for p in vars(module).values() if isinstance(p, Pack)]
    user = object()
    for pack in packs:
        pack.users.append(user)
    try:
        yield
    finally:
        for pack in packs:
            pack.users.remove(user)
            if not pack.users:
                pack.copies.clear()


def pays() -> bool:
    """Are packed weights used here, where they fit? As `settled`, otherwise as measured."""
    said = _SETTLED.get()
    return packing_pays(torch.get_num_threads()) if said is None else said


@contextmanager
def settled(use: bool) -> Iterator[None]:
    """In this block, `pays` is not measured but said.

    The two ways differ in the last bits, and a machine that is busy may measure otherwise than it
    did before: what has to continue a computation bit by bit says what its beginning has used.

    >>> with settled(False):
    ...     pays()
    False
    """
    token = _SETTLED.set(use)
    try:
        yield
    finally:
        _SETTLED.reset(token)


class _Copy(NamedTuple):
    weight: Tensor  # kept, so that its address is not given to another tensor
    version: tuple[int, int]
    packed: Tensor


@dataclass(eq=False)
class Pack:
    """Where is the packed copy of one weight? Copies and pickles of a model take none along.

    `users` are the `packed` blocks that are active. `copies` holds the copy for the product, and
    under True that of the transposed matrix, for gradients.
    """

    users: list[object] = field(default_factory=list)
    copies: dict[bool, _Copy] = field(default_factory=dict)

    def __reduce__(self) -> tuple[type[Pack], tuple[()]]:
        """Neither blocks nor copies belong to another model."""
        return Pack, ()

    def find(self, x: Tensor, weight: Tensor, *, transposed: bool = False) -> Tensor | None:
        """The copy to multiply `x` [... i] with, or None where `torch.addmm` is to be used."""
        if x.numel() * weight.shape[0 if transposed else 1] < LEAST_WORK or not _fits(x, weight):
            return None
        if not pays():
            return None
        version = (weight.data_ptr(), weight._version)
        copy = self.copies.get(transposed)
        if copy is None or copy.version != version:
            copy = _Copy(weight, version, _packed_copy(weight if transposed else weight.T))
            self.copies[transposed] = copy
        return copy.packed


def _fits(x: Tensor, weight: Tensor) -> bool:
    """Is this a product that oneDNN's packed weights can do, and that nobody transforms?"""
    return (
        not torch.compiler.is_compiling()  # the compiler packs weights itself
        and type(x) is Tensor
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and not weight.is_inference()  # whose edits are not recorded
        and not torch.is_autocast_enabled("cpu")
        and not _is_transformed()
    )


def _is_transformed() -> bool:
    """Inside `torch.func`'s transformations, or forward-mode differentiation? If in doubt, yes."""
    active = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)
    return bool(active()) or getattr(forward_ad, "_current_level", 0) >= 0


def _packed_copy(transposed: Tensor) -> Tensor:
    """The copy of W, given W transposed [o i]."""
    with torch.no_grad():
        copy: Tensor = torch.ops.mkldnn._reorder_linear_weight(transposed.detach(), PROBE_ROWS)
    return copy


def _product(x: Tensor, copy: Tensor, bias: Tensor | None, gelu: str | None) -> Tensor:
    how: tuple[Any, ...] = ("none", [], "") if gelu is None else ("gelu", [], gelu)
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, copy, bias, *how)
    return out


@lru_cache
def packing_pays(n_threads: int) -> bool:
    """Does this machine multiply packed weights faster, with this number of threads?

    Measured once. The best of several runs counts, in the best of several rounds, because other
    programs can only hide the difference.
    """
    x, weight = torch.ones(PROBE_ROWS, PROBE_WIDTH), torch.ones(PROBE_WIDTH, PROBE_WIDTH)
    bias = weight[0]
    try:
        copy = _packed_copy(weight)
        if not torch.allclose(_product(x, copy, bias, None), torch.addmm(bias, x, weight)):
            return False
    except (AttributeError, RuntimeError, TypeError):  # private operations, which may change
        return False
    with torch.no_grad():
        return any(_is_faster(x, weight, bias, copy) for _ in range(5))


def _is_faster(x: Tensor, weight: Tensor, bias: Tensor, copy: Tensor) -> bool:
    plain, fast = [], []
    for _ in range(10):
        start = time.perf_counter()
        torch.addmm(bias, x, weight)
        between = time.perf_counter()
        _product(x, copy, bias, None)
        plain.append(between - start)
        fast.append(time.perf_counter() - between)
    return min(plain) > WORTHWHILE * min(fast)


class _WeightGradient(torch.autograd.Function):
    """Zeros, whose gradient is that of the product's weight and bias.

    A node of its own, because torch runs a node for all of its inputs: gradients of activations
    alone, which attribution asks for, would otherwise pay for those of the weights.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x)
        return x.new_zeros(()).expand(*x.shape[:-1], weight.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        (x,) = ctx.saved_tensors
        rows, grads = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
        _, of_weight, of_bias = ctx.needs_input_grad
        return None, rows.T @ grads if of_weight else None, grads.sum(0) if of_bias else None


class _Packed(torch.autograd.Function):
    """The product, with the gradient of its input."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, tie: Tensor, weight: Tensor, bias: Tensor | None, pack: Pack
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.pack = pack
        copy = pack.find(x, weight)
        assert copy is not None
        return _product(x, copy, bias, None)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None, None, None]:
        (weight,) = ctx.saved_tensors
        of_x = None
        if ctx.needs_input_grad[0]:
            copy = None
            if ctx.pack.users and not torch.is_grad_enabled():  # which it is for second gradients
                copy = ctx.pack.find(grad, weight, transposed=True)
            of_x = grad @ weight.T if copy is None else _product(grad, copy, None, None)
        return of_x, grad, None, None, None
