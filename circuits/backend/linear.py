"""A model's products with its weight matrices, the same within float noise in every way.

They are `torch.addmm`, except on AMD's CPUs with AVX-512. There `addmm` is Intel's MKL, which does
not use AVX-512 on these CPUs; oneDNN, which torch includes as well, multiplies the same float32
matrices more than twice as fast. Inside ``with packed(model)`` oneDNN reads copies in its own
layout, which helps most with few rows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable

from circuits.backend.onednn import onednn_is_faster, pack, product

if TYPE_CHECKING:
    from circuits.model import HookedModel

# A call of oneDNN costs more: it gains nothing below this many multiplications (rows x weights).
LEAST_WORK = 2**19
# But for one row of packed weights, where its threads share what is the work, reading the weights.
LEAST_ROW = 2**16
# A matrix's place in memory, and what its copy is: packed, packed and transposed, or by rows.
_Key = tuple[int, tuple[int, ...], tuple[int, ...], str]


class _Copy(NamedTuple):
    weight: Tensor  # held here, so that its address is not given to another tensor
    version: int
    matrix: Tensor


class _Thread(threading.local):
    """What one thread has asked for."""

    blocks: frozenset[object] = frozenset()  # the `packed` blocks that it is in
    onednn: bool | None = None  # what `using` says


class Backend:
    """The products of one model. Copies and pickles of a model get a new one.

    `copies` are the packed weights while a `packed` block is active in any thread; a matrix has a
    second copy, transposed, for gradients, and one by rows for one row in one thread.
    """

    def __init__(self) -> None:
        self.copies: dict[_Key, _Copy] = {}
        self._blocks: set[object] = set()
        self._thread = _Thread()

    def __reduce__(self) -> tuple[type[Backend], tuple[()]]:
        """A new back end: blocks and copies are of this model alone."""
        return Backend, ()

    def linear(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, gelu: str | None = None
    ) -> Tensor:
        """x W + b, or with `gelu` its GELU.

        `x` [... i], `weight` [i o], `bias` [o] give [... o]. `gelu` is torch's name of the form,
        "tanh" or "none".
        """
        weight, stored = self._chosen(x, weight)
        if stored is None:
            out = _by_torch(x, weight, bias)
            if gelu is None:
                return out
            if out.requires_grad:
                return F.gelu(out, approximate=gelu)
            torch.ops.aten.gelu_(out, approximate=gelu)  # nobody else has it
            return out
        learned = [t for t in (weight, bias) if t is not None and t.requires_grad]
        if not (torch.is_grad_enabled() and (learned or x.requires_grad)):
            return product(x, stored, bias, gelu)
        tie = None
        if learned:
            tie = _WeightGradient.apply(x.detach(), weight, bias)  # type: ignore[no-untyped-call]
        out = _Product.apply(x, tie, weight, bias, self)  # type: ignore[no-untyped-call]
        return out if gelu is None else F.gelu(out, approximate=gelu)

    def prepared(
        self, n_rows: int, weight: Tensor, bias: Tensor | None, gelu: str | None = None
    ) -> Callable[[Tensor], Tensor]:
        """What computes `linear` of x [n_rows i] from now on, without asking again how.

        As long as nobody edits the weight, and without gradients.
        """
        matrix, stored = self._chosen(weight.new_empty(n_rows, weight.shape[0]), weight)
        if stored is not None:
            copy = stored
            return lambda x: product(x, copy, bias, gelu)
        if gelu is None:
            return lambda x: _by_torch(x, matrix, bias)
        return lambda x: F.gelu(_by_torch(x, matrix, bias), approximate=gelu)

    def _chosen(self, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor | None]:
        """What is to multiply `x`: the weight or a copy of it for torch, or what oneDNN takes."""
        # Reading the weight is all the work of one row. One thread of torch's own product reads a
        # quarter faster than one of oneDNN's; but it is one thread always.
        if x.numel() == x.shape[-1] and torch.get_num_threads() == 1:
            weight = self._by_rows(x, weight)
            if weight.stride(-1) == 1:
                return weight, None
        return weight, self.stored(x, weight)

    @torch.no_grad()
    def overlaps(self, x: Tensor, others: Tensor) -> Tensor:
        """x others^T, of values of which none is a weight: [n i] and [o i] give [n o].

        Nothing is packed, and no gradient is passed back.
        """
        if self._multiplies(x, others.T, LEAST_WORK):
            return product(x, others, None, None)
        return x @ others.T

    @property
    def uses_onednn(self) -> bool:
        """Whether oneDNN multiplies here: as `using` says, else where this CPU is faster by it."""
        asked = self._thread.onednn
        return onednn_is_faster() if asked is None else asked

    @contextmanager
    def using(self, *, onednn: bool) -> Iterator[None]:
        """Use oneDNN in this block, or do not, whatever is faster on this machine.

        The two ways differ in the last bits: a computation that has to continue bit by bit, maybe
        on another machine, asks for the way in which it began.

        >>> backend = Backend()
        >>> with backend.using(onednn=False):
        ...     backend.uses_onednn
        False
        """
        before, self._thread.onednn = self._thread.onednn, onednn
        try:
            yield
        finally:
            self._thread.onednn = before

    @contextmanager
    def packed(self) -> Iterator[None]:
        """Keep packed weights in this block: see `circuits.backend.packed`."""
        block = object()
        self._blocks.add(block)
        self._thread.blocks |= {block}
        try:
            yield
        finally:
            self._thread.blocks -= {block}
            self._blocks.remove(block)
            if not self._blocks:
                self.copies.clear()

    def stored(self, x: Tensor, weight: Tensor, *, transposed: bool = False) -> Tensor | None:
        """What oneDNN multiplies `x` [... i] with; None where torch's own product is to be used."""
        is_row, is_read = x.numel() == x.shape[-1], self._reads(weight)
        least = LEAST_ROW if is_row and not is_read else LEAST_WORK
        if not self._multiplies(x, weight.T if transposed else weight, least):
            return None
        matrix = weight if transposed else weight.T
        # One row is as fast where each output's weights lie together, as in a tied unembedding.
        if is_read or (is_row and matrix.is_contiguous()):
            return matrix.detach()
        return self._copy(weight, "transposed" if transposed else "packed", lambda: pack(matrix))

    def _by_rows(self, x: Tensor, weight: Tensor) -> Tensor:
        """A weight whose columns lie together, as a `packed` block copies it for one row `x`.

        Such is an unembedding that is the embedding, transposed: torch needs twice the time for it.
        Where nothing is copied, the weight itself.
        """
        if weight.stride(-1) == 1:
            return weight
        is_large = weight.numel() >= LEAST_WORK and not torch.compiler.is_compiling()
        is_copied = is_large and self.uses_onednn and _fits(x, weight) and not self._reads(weight)
        if not is_copied or torch.is_grad_enabled():
            return weight
        return self._copy(weight, "rows", weight.detach().contiguous)

    def _reads(self, weight: Tensor) -> bool:
        """Whether weights are read where they are: blocks of other threads do not count.

        Nor are inference tensors copied, whose edits torch does not record.
        """
        return self._thread.blocks.isdisjoint(self._blocks) or weight.is_inference()

    def _copy(self, weight: Tensor, kind: str, make: Callable[[], Tensor]) -> Tensor:
        key = weight.data_ptr(), tuple(weight.shape), weight.stride(), kind
        copy = self.copies.get(key)
        if copy is None or copy.version != weight._version:
            copy = self.copies[key] = _Copy(weight, weight._version, make())
        return copy.matrix

    def _multiplies(self, x: Tensor, matrix: Tensor, least: int) -> bool:
        """Whether oneDNN is to multiply `x` [... i] and this matrix [i o]."""
        if torch.compiler.is_compiling():  # the compiler chooses kernels itself
            return False
        work = x.numel() * matrix.shape[1]
        return work >= least and self.uses_onednn and _fits(x, matrix)


@contextmanager
def packed(model: HookedModel) -> Iterator[None]:
    """Let the model keep its weights in oneDNN's own layout in this block, where that is faster.

    Only the speed changes: the same numbers within float noise, the same hooks, gradients, errors.
    A weight is packed when it is first used; for GPT-2 small this takes a third of a second and a
    second copy of 0.5 GB, backward passes a third. It is worth it where few rows go through the
    model many times, as in generation (one row in one thread needs a copy of the unembedding only);
    with hundreds of rows a pass the gain is small. On machines where oneDNN is not used (see
    `circuits.backend.linear`), and for anything but float32 on a CPU, nothing is packed. Copies are
    freed on leaving. Blocks may be nested.

    A weight that is edited inside the block, as torch records it, is packed again. What torch does
    not record, writing through ``weight.data`` or ``weight.numpy()``, goes unnoticed until the
    block ends. Other threads, and whatever else runs outside of the block, read the weights.

    >>> import torch
    >>> from circuits.config import ModelConfig
    >>> from circuits.architectures import HookedGPT2
    >>> model = HookedGPT2.random(ModelConfig(n_layers=1, n_heads=2, d_model=8, n_ctx=4, d_vocab=9))
    >>> with packed(model):
    ...     logits = model([[1, 2, 3]])
    >>> torch.allclose(logits, model([[1, 2, 3]]), atol=1e-6)
    True
    """
    with model.backend.packed():
        yield


def _by_torch(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W + b [... o] by torch's own product."""
    if x.ndim == 2:
        return x @ weight if bias is None else torch.addmm(bias, x, weight)
    return _by_torch(x.reshape(-1, x.shape[-1]), weight, bias).view(*x.shape[:-1], weight.shape[1])


def _fits(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN can compute this product here, where no transformation is active."""
    return (
        type(x) is Tensor
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and not _is_transformed()
    )


def _is_transformed() -> bool:
    """Whether `torch.func` or forward-mode differentiation transforms this; True if in doubt."""
    active = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)
    return bool(active()) or getattr(forward_ad, "_current_level", 0) >= 0


class _WeightGradient(torch.autograd.Function):
    """Zeros, whose gradient is that of the product's weight and bias.

    A node of its own, because torch runs a node for all of its inputs: gradients of activations
    alone, which attribution asks for, would otherwise compute those of the weights as well.
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
        ctx: Any, x: Tensor, tie: Tensor | None, weight: Tensor, bias: Tensor | None, by: Backend
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.backend = by
        stored = by.stored(x, weight)
        assert stored is not None
        return product(x, stored, bias, None)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        (weight,) = ctx.saved_tensors
        of_x = None
        if ctx.needs_input_grad[0]:
            stored = None
            if not torch.is_grad_enabled():  # which it is for second gradients
                stored = ctx.backend.stored(grad, weight, transposed=True)
            of_x = grad @ weight.T if stored is None else product(grad, stored, None, None)
        return of_x, grad if ctx.needs_input_grad[1] else None, None, None, None
