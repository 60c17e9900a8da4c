"""Write values at components by hooks: which values, where, and whether anything changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from einops import rearrange, reduce
from torch import Tensor

from circuits.batch import as_batch
from circuits.components import Component, check
from circuits.errors import CircuitsError
from circuits.hooks import HookFn, HookPoint
from circuits.interventions.base import Into, get_method
from circuits.interventions.reference import Reference, Source, run_sites
from circuits.padding import all_real

if TYPE_CHECKING:
    from circuits.model import HookedModel

Hook = tuple[str, HookFn]


def replacements(
    model: HookedModel,
    components: Sequence[Component],
    method: str,
    tokens: Tensor,
    mask: Tensor | None = None,
) -> list[Tensor]:
    """What the method writes at each of these components, in the prompts of the set themselves.

    `tokens` [b p] is the reference set, `mask` [b p] marks its real tokens. For ``mean`` it is any
    set of prompts; for ``resample`` row i is the prompt that row i takes its values from (see
    `partners`); ``zero`` takes only shapes from it. Each value broadcasts to [b p d], or [b p e]
    for a head.

    Raises:
        CircuitsError: for an unknown method or component, an empty reference set, or one whose
            prompts are not as the method needs them.

    >>> from circuits.checkpoints import load
    >>> model, head = load("sort-abc"), Component("head", 1, 0)
    >>> values = replacements(model, [head], "mean", model.to_tokens(["CBABBC", "ABCABC"]))
    >>> hooks = [write_hook(head, values[0])]
    >>> model.run_with_hooks("CCBBAA", fwd_hooks=hooks).shape
    torch.Size([1, 6, 3])
    """
    rule = get_method(method)
    sites = list(dict.fromkeys(check(component, model.cfg).site for component in components))
    mask = _real(model, tokens) if mask is None else mask.bool()
    source = Source(method, tokens, mask)
    if rule.needs == "alike":
        if bool((mask[:, 1:] & ~mask[:, :-1]).any()):
            raise CircuitsError(f"{method!r} counts positions; give prompts padded on the right")
        source.require_alike(source.kinds)
    other = run_sites(model, tokens, mask, sites) if rule.needs == "rows" else {}
    kinds = source.kinds if rule.needs == "alike" else []
    written = Reference(model, source, sites).write(Into(mask, 0, kinds, other))
    return [written[c.site][c.within].clone() for c in components]


def _real(model: HookedModel, tokens: Tensor) -> Tensor:
    """Which tokens [b p] are real, as far as they tell by themselves."""
    if not tokens.numel():
        return all_real(tokens)
    batch = as_batch(model, tokens)
    if batch.undeclared is not None:
        batch.undeclared.refuse_ends(batch.tokens)
    return all_real(tokens) if batch.mask is None else batch.mask


def write_hook(component: Component, value: Tensor, where: Tensor | None = None) -> Hook:
    """The hook that writes this value at the component, for ``model.hooks`` or ``run_with_hooks``.

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
    """The other prompt that each prompt takes values from: row indices [b], none its own.

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
                f"prompt {int(rows)} is the only one of {int(length)} tokens, and values "
                "are to be taken from another prompt of the same length; give more prompts of this "
                "length, or choose the method 'mean'"
            )
        order = rows[torch.randperm(len(rows), generator=generator)]
        chosen[order] = order.roll(1)
    return chosen.to(mask.device)


def require_change(before: Tensor, after: Tensor, what: str) -> None:
    """Refuse an intervention that changed nothing: silence is an error here.

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
