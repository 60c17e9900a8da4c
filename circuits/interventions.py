"""What to write at a component in place of what it computes.

A method is one function in `METHODS`: given the reference run's values [b p ...] and which of its
tokens are real [b p], it returns the value to write, broadcastable to [b p ...]. Everything else
(which site, which head, which positions) is the same for all methods.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from einops import rearrange, reduce
from torch import Tensor

from circuits.batch import as_batch
from circuits.components import Component, check
from circuits.errors import CircuitsError, nearest
from circuits.hooks import HookFn, HookPoint
from circuits.padding import all_real

if TYPE_CHECKING:
    from circuits.model import HookedModel

Method = Callable[[Tensor, Tensor], Tensor]
Hook = tuple[str, HookFn]


def zero(values: Tensor, mask: Tensor) -> Tensor:
    """What is left when the component writes nothing? Zeros [1 1 ...].

    For a head this leaves the layer's output bias in place, for an MLP it removes the bias too.
    """
    return torch.zeros_like(values[:1, :1])


def mean(values: Tensor, mask: Tensor) -> Tensor:
    """What does the component write on average? The mean [1 1 ...] over all real tokens.

    >>> values, mask = torch.tensor([[1.0, 2.0], [6.0, 99.0]]), torch.tensor([[1, 1], [1, 0]])
    >>> mean(values[..., None], mask.bool()).flatten()
    tensor([3.])
    """
    return values[mask].mean(0)[None, None]


def resample(values: Tensor, mask: Tensor) -> Tensor:
    """What does the component write in another prompt? Its values [b p ...], row by row."""
    return values


def position_mean(values: Tensor, mask: Tensor) -> Tensor:
    """What does the component write on average at each position? The mean [1 p ...] over prompts.

    Raises:
        CircuitsError: when prompts differ in length, so that a position is not the same in all.
    """
    if not (mask == mask[:1]).all():
        raise CircuitsError(
            "the prompts differ in length, so there is no mean by position over all of them; give "
            "prompts of one length, or choose the method 'mean'"
        )
    return values.mean(0, keepdim=True)


def noise(values: Tensor, mask: Tensor, seed: int = 0) -> Tensor:
    """What would the component write if it said nothing, as loudly as ever? Gaussian [b p ...].

    Each number is drawn for each token, with the mean and the standard deviation that it has over
    all real tokens (the covariance's diagonal). The same seed draws the same.
    """
    real = values[mask]
    drawn = normal_draws(values.shape, seed).to(values)
    return real.mean(0) + real.std(0, correction=0) * drawn


def normal_draws(shape: Sequence[int], *key: object) -> Tensor:
    """Standard normal numbers in float64 that depend on the shape and this key alone.

    >>> normal_draws([2], 0, "embed").equal(normal_draws([2], 0, "embed"))
    True
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float64)


METHODS: dict[str, Method] = {
    "zero": zero,
    "mean": mean,
    "position-mean": position_mean,
    "resample": resample,
    "noise": noise,
}


def get_method(name: str) -> Method:
    """Which function is this method of ablation?

    Raises:
        CircuitsError: for an unknown name, with the nearest one.
    """
    if name not in METHODS:
        raise CircuitsError(
            f"there is no ablation method {name!r}; choose {', '.join(METHODS)}"
            f"{nearest(name, METHODS)}"
        )
    return METHODS[name]


def replacements(
    model: HookedModel,
    components: Sequence[Component],
    method: str,
    tokens: Tensor,
    mask: Tensor | None = None,
) -> list[Tensor]:
    """What does the method write at each of these components? One run of the model for all.

    `tokens` [b p] is the reference set, `mask` [b p] marks its real tokens. For ``mean`` it is any
    set of prompts; for ``resample`` row i is the prompt that row i takes its values from (see
    `partners`); ``zero`` takes only shapes from it. Each value broadcasts to [b p d], or [b p e]
    for a head.

    Raises:
        CircuitsError: for an unknown method or component, or an empty reference set.

    >>> from circuits.checkpoints import load
    >>> model, head = load("sort-abc"), Component("head", 1, 0)
    >>> values = replacements(model, [head], "mean", model.to_tokens(["CBABBC", "ABCABC"]))
    >>> hooks = [write_hook(head, values[0])]
    >>> model.run_with_hooks("CCBBAA", fwd_hooks=hooks).shape
    torch.Size([1, 6, 3])
    """
    write = get_method(method)
    sites = list(dict.fromkeys(check(component, model.cfg).site for component in components))
    mask = _real(model, tokens) if mask is None else mask.bool()
    if not mask.any():
        raise CircuitsError(
            f"the reference set for {method!r} is empty; give at least one prompt whose values "
            "can be taken"
        )
    with torch.no_grad():
        _, cache = model.run_with_cache(
            tokens, attention_mask=mask, names_filter=sites, return_type=None
        )
    return [write(cache[c.site][c.within], mask) for c in components]


def _real(model: HookedModel, tokens: Tensor) -> Tensor:
    """Which tokens [b p] are real, as far as they tell by themselves?"""
    if not tokens.numel():
        return all_real(tokens)
    batch = as_batch(model, tokens)
    if batch.undeclared is not None:
        batch.undeclared.refuse_ends(batch.tokens)
    return all_real(tokens) if batch.mask is None else batch.mask


def write_hook(component: Component, value: Tensor, where: Tensor | None = None) -> Hook:
    """Which hook writes this value at the component? For ``model.hooks`` or ``run_with_hooks``.

    `value` broadcasts to what the component writes: [b p d], or [b p e] for a head, [b p 1] for a
    neuron, [b q k] for a pattern. `where` [b p] is True at the tokens to write at; None means all.

    >>> name, fn = write_hook(Component("head", 0, 1), torch.zeros(1, 1, 4))
    >>> name, fn(torch.ones(1, 2, 3, 4), HookPoint())[0, 0].sum(-1)
    ('blocks.0.attn.hook_z', tensor([4., 0., 4.]))

    Raises:
        CircuitsError: when a position is named in the component but not resolved into `where`, and
            on running, when the value does not fit the prompts.
    """
    if component.position is not None and where is None:
        raise CircuitsError(f"{component} is about one position; say which tokens that is (where=)")

    def write(current: Tensor, hook: HookPoint) -> Tensor:
        target = current[component.within]
        try:
            new = value.to(target).expand_as(target)
        except RuntimeError as error:
            raise CircuitsError(
                f"{component} writes {tuple(target.shape)} here, which a value of shape "
                f"{tuple(value.shape)} does not fit; take it from prompts of the same shape"
            ) from error
        if where is not None:
            new = torch.where(rearrange(where.to(target.device), "b p -> b p 1"), new, target)
        edited = current.clone()
        edited[component.within] = new
        return edited

    return component.site, write


def partners(mask: Tensor, seed: int = 0) -> Tensor:
    """Which other prompt shall each prompt take values from? Row indices [b], none its own.

    Partners have the same number of real tokens, so that every position has a counterpart; within
    that, each prompt is taken from exactly once. `mask` [b p] marks the real tokens.

    >>> mask = torch.tensor([[1, 1], [1, 0], [1, 1], [1, 0]]).bool()
    >>> partners(mask)
    tensor([2, 3, 0, 1])

    Raises:
        CircuitsError: when a prompt is the only one of its length.
    """
    generator = torch.Generator().manual_seed(seed)
    lengths = reduce(mask.long(), "b p -> b", "sum").cpu()
    chosen = torch.empty_like(lengths)
    for length in lengths.unique():
        rows = (lengths == length).nonzero().flatten()
        if len(rows) == 1:
            raise CircuitsError(
                f"prompt {int(rows)} is the only one of {int(length)} tokens, and 'resample' needs "
                "another prompt of the same length to take values from; give more prompts of this "
                "length, or choose the method 'mean'"
            )
        order = rows[torch.randperm(len(rows), generator=generator)]
        chosen[order] = order.roll(1)
    return chosen.to(mask.device)


def require_change(before: Tensor, after: Tensor, what: str) -> None:
    """Did the intervention change anything at all? Silence is an error here.

    `what` names the intervention, for the message.

    >>> require_change(torch.zeros(2), torch.ones(2), "zero ablation of a0.h1")

    Raises:
        CircuitsError: when the two are equal, number by number.
    """
    if torch.equal(before, after):
        raise CircuitsError(
            f"{what} changed nothing: every value is what it was before, so a finding of 'no "
            "effect' would be empty; choose another component, method or reference"
        )
