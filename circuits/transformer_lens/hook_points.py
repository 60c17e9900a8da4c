"""Hook points that are modules, with hooks that stay until they are removed.

TransformerLens' `HookPoint` is an ``nn.Module``, so that it can be replaced by another one, and its
hooks are torch's own. The package's own watchers (`circuits.hooks.watching`) work on it as well.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from circuits import hooks as house
from circuits.errors import CircuitsError

Direction = Literal["fwd", "bwd"]
Directions = Literal["fwd", "bwd", "both"]
HookFunction = Callable[..., Any]


@dataclass
class LensHandle:
    """One hook that is on a `HookPoint`: torch's handle, and when it is to be removed."""

    hook: RemovableHandle
    is_permanent: bool = False
    context_level: int | None = None
    user_hook: HookFunction | None = None


class HookPoint(nn.Module, house.HookPoint):
    """A place that a value passes: the identity, which hooks may read or replace.

    >>> point = HookPoint()
    >>> point.add_hook(lambda value, hook: value * 2)
    >>> point(torch.ones(2)).tolist()
    [2.0, 2.0]
    """

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.name = ""
        self.watchers = ()
        self.run = house.Run()
        self.fwd_hooks: list[LensHandle] = []
        self.bwd_hooks: list[LensHandle] = []
        self.ctx: dict[Any, Any] = {}

    @property
    def watched(self) -> bool:
        """Whether anything looks here: a costly value is computed only then."""
        torchs = self._forward_hooks or self._forward_pre_hooks or self._backward_hooks
        return bool(torchs or self._backward_pre_hooks) or (
            bool(self.watchers) and bool(self._watchers_here())
        )

    def forward(self, value: Tensor) -> Tensor:
        """The value as the package's watchers leave it; torch's hooks follow.

        Hooks that may write in place get a copy, so that nothing upstream changes with it.
        """
        if self.watchers:
            value = self._call_watchers(value)
        hooks = self._forward_hooks.values()
        writes = any(not getattr(hook, "only_reads", False) for hook in hooks)
        return value.clone() if writes else value

    def add_hook(
        self,
        hook: HookFunction,
        dir: Direction = "fwd",
        is_permanent: bool = False,
        level: int | None = None,
        prepend: bool = False,
    ) -> None:
        """Call ``hook(value, hook=this point)`` in every pass, until it is removed.

        What it returns, unless None, goes on instead of the value; a tensor that can be broadcast
        to the value's shape is. With ``dir="bwd"`` it gets and may replace the gradient.

        Raises:
            CircuitsError: for another direction.
        """
        if dir not in ("fwd", "bwd"):
            raise CircuitsError(f"dir={dir!r}: a hook is on the 'fwd' or the 'bwd' pass")
        make = _forward_hook if dir == "fwd" else _backward_hook
        call = make(hook, self, _takes_hook(hook))
        # Some code asks torch's own lists which function is hooked here.
        name = f"partial({hook.func!r},...)" if isinstance(hook, partial) else repr(hook)
        call.__name__, call.only_reads = name, _only_reads(hook)  # type: ignore[attr-defined]
        if dir == "fwd":
            handle = self.register_forward_hook(call, prepend=prepend)
        else:
            handle = self.register_full_backward_hook(call, prepend=prepend)
        handles = self.fwd_hooks if dir == "fwd" else self.bwd_hooks
        place = 0 if prepend else len(handles)
        handles.insert(place, LensHandle(handle, is_permanent, level, hook))

    def add_perma_hook(self, hook: HookFunction, dir: Direction = "fwd") -> None:
        """A hook that `remove_hooks` leaves, unless it is told to take permanent ones, too."""
        self.add_hook(hook, dir, is_permanent=True)

    def has_hooks(
        self,
        dir: Directions = "both",
        including_permanent: bool = True,
        level: int | None = None,
    ) -> bool:
        """Whether there are hooks of this direction, and of this context level if one is given."""
        return any(
            (including_permanent or not handle.is_permanent)
            and (level is None or handle.context_level == level)
            for handles in self._handles(dir)
            for handle in handles
        )

    def remove_hooks(
        self,
        dir: Directions = "fwd",
        including_permanent: bool = False,
        level: int | None = None,
    ) -> None:
        """Remove the hooks of this direction: all, or those of one context level.

        Permanent ones stay unless they are included; then every hook goes.
        """
        for handles in self._handles(dir):
            for handle in list(handles):
                of_level = level is None or handle.context_level == level
                if including_permanent or (of_level and not handle.is_permanent):
                    handle.hook.remove()
                    handles.remove(handle)

    def _handles(self, dir: Directions) -> list[list[LensHandle]]:
        kinds = {"fwd": [self.fwd_hooks], "bwd": [self.bwd_hooks]}
        kinds["both"] = [self.fwd_hooks, self.bwd_hooks]
        if dir not in kinds:
            raise CircuitsError(f"dir={dir!r}: choose 'fwd', 'bwd' or 'both'")
        return kinds[dir]

    def clear_context(self) -> None:
        """Forget what hooks have written to `ctx`."""
        self.ctx = {}

    def __repr__(self) -> str:
        return f"HookPoint({self.name!r}, {len(self.fwd_hooks)} fwd, {len(self.bwd_hooks)} bwd)"


def reads(hook: HookFunction) -> HookFunction:
    """Mark a hook that never writes to its value, so that it needs no copy of it."""
    hook.only_reads = True  # type: ignore[attr-defined]
    return hook


def _only_reads(hook: HookFunction) -> bool:
    while isinstance(hook, partial):
        hook = hook.func
    return bool(getattr(hook, "only_reads", False))


def _takes_hook(fn: HookFunction) -> bool:
    """Whether the function can be given its hook point by name; else it is the second argument."""
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):  # some builtins have no signature
        return False
    return any(p.name == "hook" or p.kind is p.VAR_KEYWORD for p in parameters)


def _forward_hook(fn: HookFunction, point: HookPoint, by_name: bool) -> HookFunction:
    """What torch calls. Discovery tools put hundreds on a point, so that each does little more."""

    def call(_: nn.Module, given: Any, value: Any) -> Any:
        returned = fn(value, hook=point) if by_name else fn(value, point)
        return None if returned is None or returned is value else _fitted(returned, value)

    return call


def _backward_hook(fn: HookFunction, point: HookPoint, by_name: bool) -> HookFunction:
    def call(_: nn.Module, before: Any, grads: Any) -> Any:
        returned = fn(grads[0], hook=point) if by_name else fn(grads[0], point)
        if returned is None or (isinstance(returned, tuple) and len(returned) == 1):
            return returned
        return (_fitted(returned, grads[0]),)

    return call


def _fitted(returned: Any, value: Any) -> Any:
    """What a hook returned, in the shape of the value if it can be broadcast to it."""
    both = isinstance(returned, Tensor) and isinstance(value, Tensor)
    if not both or returned.shape == value.shape:
        return returned
    try:
        return torch.broadcast_to(returned, value.shape).contiguous()
    except RuntimeError:
        return returned  # another batch, say: what follows takes it or says why not
