"""The tray: interventions that stay on while one looks, as hooks.

An edited model is the model under these hooks, and everything else is asked of it as of any model.
What an edit writes comes from the prompt's (or the contrast's) own run without any edit.

Shapes: b prompts, p positions of what is run, P positions of the prompt, d = d_model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from circuits.components import Component, check, parse
from circuits.errors import CircuitsError
from circuits.explorer.subject import Subject, token_id
from circuits.explorer.view import Edit
from circuits.hooks import HookPoint
from circuits.interventions import Hook, replacements, run_sites

STEERED = ("resid_pre", "resid_mid", "resid_post", "attn", "mlp", "embed", "pos")
# From what passes there [b p ...], and which token of the prompt each is [b p], to what is written.
Change = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Placed:
    """One edit as a hook: which part it writes at, and in which layer (-1: the embeddings)."""

    part: Component
    hook: Hook

    @property
    def layer(self) -> int:
        """The block that its site is in."""
        return -1 if self.part.layer is None else self.part.layer


@dataclass(frozen=True, eq=False)
class Tray:
    """The edits of a view that are on, as hooks, in their order."""

    placed: tuple[Placed, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.placed)

    def hooks(self, first: int | None = None, stop: int | None = None) -> list[Hook]:
        """Those that a pass from the input of block `first` to before block `stop` reaches.

        The stream that is put into the first block has been edited already.
        """
        reached = [
            each
            for each in self.placed
            if (stop is None or each.layer < stop)
            and (
                first is None
                or each.layer > first
                or (each.layer == first and each.part.kind != "resid_pre")
            )
        ]
        return [each.hook for each in reached]


def tray_of(subject: Subject) -> Tray:
    """The edits of the subject's view.

    Raises:
        CircuitsError: for parts that are not there, and edits that do not suit them.
    """
    placed = [
        each
        for edit in subject.view.edits
        for each in _placed(subject, edit, _parts(subject, edit))
    ]
    return Tray(tuple(placed))


def _parts(subject: Subject, edit: Edit) -> list[Component]:
    """The components that an edit is about, at an index of the prompt or everywhere."""
    cfg = subject.model.cfg
    part = check(parse(edit.part), cfg)
    at = part.position
    if isinstance(at, str):
        if at != "END":
            raise CircuitsError(
                f"{edit.part}: a prompt of your own has no role {at!r}; name a position by its "
                "index (@4, @-1), or END for the one that is looked at"
            )
        part = part.at(subject.at)
    elif at is not None:
        n = len(subject.ids)
        if not -n <= at < n:
            raise CircuitsError(f"{edit.part}: the prompt has {n} tokens; choose 0 to {n - 1}")
        part = part.at(at % n)
    if part.kind == "logits":
        raise CircuitsError("the logits are what is looked at, and cannot be edited; name a part")
    if edit.how != "freeze":
        if part.slot == "pattern" and edit.how != "patch":
            raise CircuitsError(
                f"{edit.part}: a pattern can be frozen or patched; to {edit.how} what the head "
                f"writes, name {replace(part, slot=None)}"
            )
        return [part]
    if part.kind not in ("head", "attn") or part.slot not in (None, "pattern"):
        raise CircuitsError(
            f"{edit.part} has no attention pattern; freeze a head or a layer: a5.h3"
        )
    heads = range(cfg.n_heads) if part.kind == "attn" else [part.head]
    return [
        Component("head", part.layer, head, slot="pattern", position=part.position)
        for head in heads
    ]


def _placed(subject: Subject, edit: Edit, parts: Sequence[Component]) -> list[Placed]:
    """The edit at each of these parts."""
    model = subject.model
    if edit.how == "scale":
        change: Change = lambda value, _: value * edit.amount  # noqa: E731
        return [Placed(part, _hook(part, change)) for part in parts]
    if edit.how == "steer":
        return [Placed(part, _hook(part, _steering(subject, edit, part))) for part in parts]
    if edit.how in ("zero", "mean"):
        everywhere = [part.at(None) for part in parts]
        values = replacements(model, everywhere, edit.how, subject.tokens, _all_real(subject))
        return [
            Placed(part, _hook(part, _constant(value)))
            for part, value in zip(parts, values, strict=True)
        ]
    ids = subject.ids
    if edit.how == "patch":
        if subject.twin is None or subject.unaligned is not None:
            why = subject.unaligned or "this needs a second, contrasting prompt; write one"
            raise CircuitsError(f"patch {edit.part}: {why}")
        ids = subject.twin
    tokens = torch.tensor([ids], device=subject.tokens.device)
    runs = run_sites(model, tokens, _all_real(subject), {part.site for part in parts})
    return [Placed(part, _hook(part, _copied(runs[part.site][part.within]))) for part in parts]


def _hook(part: Component, change: Change) -> Hook:
    """The hook that changes what the part writes, at the part's position or everywhere."""

    def write(value: Tensor, hook: HookPoint) -> Tensor:
        target = value[part.within]
        where = hook.positions
        assert where is not None
        new = change(target, where).to(target.dtype)
        if isinstance(part.position, int):
            here = torch.eq(where[:1], part.position).expand(
                target.shape[:2]
            )  # all prompts are alike
            new = torch.where(here.reshape(*here.shape, *[1] * (target.ndim - 2)), new, target)
        value[part.within] = new
        return value

    return part.site, write


def _constant(value: Tensor) -> Change:
    return lambda given, _: value.to(given).expand_as(given)


def _copied(run: Tensor) -> Change:
    """What passed in a run [1 P ...], token by token; what the run did not have stays as it is."""

    def copy(given: Tensor, where: Tensor) -> Tensor:
        n = run.shape[1]
        row = where[0]
        known = row < n
        source = run[0, row.clamp(max=n - 1)]
        if source.ndim > 1 and run.shape[-1] == n and given.shape[-1] != source.shape[-1]:
            # A pattern, of fewer keys where the prompt was cut, of more while text goes on.
            keys = given.shape[-1]
            source = (
                source[:, :keys] if keys < n else torch.nn.functional.pad(source, (0, keys - n))
            )
        return torch.where(known.reshape(-1, *[1] * (source.ndim - 1)), source, given)

    return copy


def _steering(subject: Subject, edit: Edit, part: Component) -> Change:
    """Adds the token's direction, as long as the share `amount` of what passes there."""
    if part.kind not in STEERED:
        raise CircuitsError(
            f"{edit.part} cannot be steered: a token has a direction in the stream; name "
            "resid_pre.5, resid_post.5, an attention layer (a5) or an MLP (m5)"
        )
    assert edit.token is not None
    model = subject.model
    token = token_id(model, edit.token, f"steer {edit.part}")
    direction = model.tokens_to_residual_directions(token).detach()
    direction = direction / direction.norm()
    return lambda value, _: value + edit.amount * value.norm(dim=-1, keepdim=True) * direction


def _all_real(subject: Subject) -> Tensor:
    return torch.ones_like(subject.tokens, dtype=torch.bool)
