"""x W + b by the fastest path that this machine has, with the same numbers.

`linear` is the product with a weight matrix of every module. Everywhere it is `torch.addmm`, but on
AMD's CPUs with AVX-512, where that is Intel's MKL, which does not use them: oneDNN, which torch has
on board as well, multiplies the same float32 matrices more than twice as fast. Inside
``with packed(model)`` it reads copies in its own layout, which helps most with few rows.
``with settled(False)`` uses `torch.addmm` alone.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable

# A call costs more: below this many multiplications (rows times weights) nothing is gained.
LEAST_WORK = 2**19
ROWS = 64  # for which the layout of packed weights is chosen; it serves any number
_SETTLED: ContextVar[bool | None] = ContextVar("settled", default=None)
_BLOCKS: ContextVar[frozenset[object]] = ContextVar("blocks", default=frozenset())


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, pack: Pack, gelu: str | None = None
) -> Tensor:
    """What is x W + b, or with `gelu` its GELU?

    `x` [... i], `weight` [i o], `bias` [o] give [... o]. `gelu` is torch's name of the form, "tanh"
    or "none". `pack` keeps the weight's packed copy while `packed` is active.
    """
    if (stored := pack.find(x, weight)) is not None:
        tensors = (x, weight) if bias is None else (x, weight, bias)
        if not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors)):
            return _product(x, stored, bias, gelu)
        tie = None
        if any(t.requires_grad for t in tensors[1:]):
            tie = _WeightGradient.apply(x.detach(), weight, bias)  # type: ignore[no-untyped-call]
        out: Tensor = _Product.apply(x, tie, weight, bias, pack)  # type: ignore[no-untyped-call]
    else:
        rows = x.reshape(-1, x.shape[-1])
        out = rows @ weight if bias is None else torch.addmm(bias, rows, weight)
        out = out.view(*x.shape[:-1], weight.shape[1])
    return out if gelu is None else F.gelu(out, approximate=gelu)


@contextmanager
def packed(model: nn.Module) -> Iterator[None]:
    """Let the model keep its weights in oneDNN's own layout in this block, where that is faster.

    Everything stays as it is but for the speed: the same numbers within float noise, the same
    hooks, gradients, errors. A weight is packed when it is first used; for GPT-2 small this takes
    a third of a second and a second copy of 0.5 GB, backward passes a third. It pays where few rows
    go through the model many times, as in generation; with hundreds of rows a pass the gain is
    small. On machines where oneDNN is not used (see the module), and for anything but float32 on
    a CPU, nothing is packed. Copies are freed on leaving. Blocks may be nested.

    A weight that is edited inside the block, as torch records it, is packed again. What torch does
    not record, writing through ``weight.data`` or ``weight.numpy()``, goes unnoticed until the
    block ends. Other threads, and whatever else runs outside of the block, read the weights.

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
    _BLOCKS.set(_BLOCKS.get() | {user})
    try:
        yield
    finally:
        _BLOCKS.set(_BLOCKS.get() - {user})
        for pack in packs:
            pack.users.remove(user)
            if not pack.users:
                pack.copies.clear()


def pays() -> bool:
    """Is oneDNN used here? As `settled`, otherwise where this machine's CPU makes it faster."""
    said = _SETTLED.get()
    return onednn_is_faster() if said is None else said


@contextmanager
def settled(use: bool) -> Iterator[None]:
    """In this block, whether oneDNN is used is not found out but said.

    The two ways differ in the last bits: what has to continue bit by bit, maybe on another machine,
    says what its beginning has used.

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

    `users` are the `packed` blocks that are active, in any thread. `copies` holds the copy for the
    product, and under True that of the transposed matrix, for gradients.
    """

    users: list[object] = field(default_factory=list)
    copies: dict[bool, _Copy] = field(default_factory=dict)

    def __reduce__(self) -> tuple[type[Pack], tuple[()]]:
        """Neither blocks nor copies belong to another model."""
        return Pack, ()

    def find(self, x: Tensor, weight: Tensor, *, transposed: bool = False) -> Tensor | None:
        """What oneDNN multiplies `x` [... i] with; None where `torch.addmm` is to be used."""
        if torch.compiler.is_compiling():  # the compiler chooses kernels itself
            return None
        work = x.numel() * weight.shape[0 if transposed else 1]
        if work < LEAST_WORK or not pays() or not _fits(x, weight):
            return None
        stored = weight if transposed else weight.T
        # The blocks of another thread are not ours, and edits of inference tensors not recorded.
        if _BLOCKS.get().isdisjoint(self.users) or weight.is_inference():
            return stored.detach()
        version = (weight.data_ptr(), weight._version)
        copy = self.copies.get(transposed)
        if copy is None or copy.version != version:
            copy = _Copy(weight, version, _packed_copy(stored))
            self.copies[transposed] = copy
        return copy.packed


def _fits(x: Tensor, weight: Tensor) -> bool:
    """Is this a product that oneDNN can do here, and that nobody transforms?"""
    return (
        type(x) is Tensor
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
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
        copy: Tensor = torch.ops.mkldnn._reorder_linear_weight(transposed.detach(), ROWS)
    return copy


def _product(x: Tensor, stored: Tensor, bias: Tensor | None, gelu: str | None) -> Tensor:
    """x W + b, given W transposed [o i], packed or not."""
    how: tuple[Any, ...] = ("none", [], "") if gelu is None else ("gelu", [], gelu)
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, stored, bias, *how)
    return out


@cache
def onednn_is_faster() -> bool:
    """Is this a machine whose CPU MKL does not use well, and a torch whose oneDNN can be called?

    By the CPU, not by a measurement: all processes on a machine shall compute the same numbers.
    """
    is_slow = torch.backends.mkl.is_available() and _vendor() == "AuthenticAMD"
    if not is_slow or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    return onednn_works()


def onednn_works() -> bool:
    """Are torch's private operations there, and do what they are expected to do?"""
    x, weight, bias = torch.eye(3)[:2] + 1, torch.arange(12.0).view(3, 4), torch.ones(4)
    expected = F.gelu(torch.addmm(bias, x, weight), approximate="tanh")
    try:
        found = [_product(x, w, bias, "tanh") for w in (weight.T, _packed_copy(weight.T))]
    except (AttributeError, RuntimeError, TypeError):
        return False
    return all(torch.allclose(out, expected) for out in found)


def _vendor() -> str:
    """Who made this CPU, by its own name? Empty if unknown."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else platform.processor()
    return next((name for name in ("AuthenticAMD", "GenuineIntel") if name in text), "")


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


class _Product(torch.autograd.Function):
    """The product, with the gradient of its input."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, tie: Tensor | None, weight: Tensor, bias: Tensor | None, pack: Pack
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.pack = pack
        copy = pack.find(x, weight)
        assert copy is not None
        return _product(x, copy, bias, None)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        (weight,) = ctx.saved_tensors
        of_x = None
        if ctx.needs_input_grad[0]:
            copy = None
            if not torch.is_grad_enabled():  # which it is for second gradients
                copy = ctx.pack.find(grad, weight, transposed=True)
            of_x = grad @ weight.T if copy is None else _product(grad, copy, None, None)
        return of_x, grad if ctx.needs_input_grad[1] else None, None, None, None
