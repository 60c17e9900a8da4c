"""`HookedRootModule`: any module whose hook points can be hooked by name.

Toy models are written as subclasses of it: hook points are set in ``__init__``, and then
``self.setup()`` gives them their names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from circuits.errors import CircuitsError, SiteError, nearest
from circuits.hooks import position_axis, take
from circuits.transformer_lens.hook_points import (
    Direction,
    Directions,
    HookFunction,
    HookPoint,
    LensHandle,
    reads,
)

Names = str | Sequence[str] | Callable[[str], bool] | None
NamedHook = tuple[str | Callable[[str], bool], HookFunction]


class HookedRootModule(nn.Module):
    """A module with hook points: see `setup`.

    >>> import torch
    >>> class Toy(HookedRootModule):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.hook_x = HookPoint()
    ...         self.setup()
    ...     def forward(self, x):
    ...         return self.hook_x(x) + 1
    >>> Toy().run_with_hooks(torch.ones(1), fwd_hooks=[("hook_x", lambda x, hook: x * 5)])
    tensor([6.])
    """

    mod_dict: dict[str, nn.Module]
    hook_dict: dict[str, Any]
    is_caching = False
    context_level = 0

    def setup(self) -> None:
        """Give every module its name, and list them in `mod_dict`, hook points in `hook_dict`."""
        self.mod_dict, self.hook_dict = {}, {}
        for name, module in self.named_modules():
            if name:
                module.name = name
                self.mod_dict[name] = module
                if isinstance(module, HookPoint):
                    self.hook_dict[name] = module

    def hook_points(self) -> Any:
        """All hook points."""
        return self.hook_dict.values()

    def list_hooks(
        self, name_filter: Names = None, dir: Directions = "both", including_permanent: bool = True
    ) -> dict[str, list[LensHandle]]:
        """The hooks that are on, by the names of their points."""
        wanted, listed = names_predicate(name_filter), {}
        for name, point in self.hook_dict.items():
            handles = [*(point.fwd_hooks if dir != "bwd" else [])]
            handles += point.bwd_hooks if dir != "fwd" else []
            handles = [h for h in handles if including_permanent or not h.is_permanent]
            if handles and wanted(name):
                listed[name] = handles
        return listed

    def remove_all_hook_fns(
        self,
        direction: Directions = "both",
        including_permanent: bool = False,
        level: int | None = None,
    ) -> None:
        """Remove hooks from every point: see `HookPoint.remove_hooks`."""
        for point in self.hook_points():
            point.remove_hooks(direction, including_permanent=including_permanent, level=level)

    def clear_contexts(self) -> None:
        """Forget what hooks have written to ``hook.ctx``."""
        for point in self.hook_points():
            point.clear_context()

    def reset_hooks(
        self,
        clear_contexts: bool = True,
        direction: Directions = "both",
        including_permanent: bool = False,
        level: int | None = None,
    ) -> None:
        """Remove all hooks that are not permanent, and what they wrote to ``hook.ctx``."""
        if clear_contexts:
            self.clear_contexts()
        self.remove_all_hook_fns(direction, including_permanent, level)
        self.is_caching = False

    def check_hooks_to_add(
        self,
        hook_point: HookPoint,
        hook_point_name: str,
        hook: HookFunction,
        dir: Direction = "fwd",
        is_permanent: bool = False,
        prepend: bool = False,
    ) -> None:
        """Nothing; a subclass may refuse a hook here. Every site exists without a flag."""

    def check_and_add_hook(
        self,
        hook_point: HookPoint,
        hook_point_name: str,
        hook: HookFunction,
        dir: Direction = "fwd",
        is_permanent: bool = False,
        level: int | None = None,
        prepend: bool = False,
    ) -> None:
        """Add a hook to a point that `check_hooks_to_add` does not refuse."""
        self.check_hooks_to_add(hook_point, hook_point_name, hook, dir, is_permanent, prepend)
        hook_point.add_hook(hook, dir, is_permanent, level, prepend)

    def add_hook(
        self,
        name: str | Callable[[str], bool],
        hook: HookFunction,
        dir: Direction = "fwd",
        is_permanent: bool = False,
        level: int | None = None,
        prepend: bool = False,
    ) -> None:
        """Hook a point by its name, or all that a predicate selects, until `reset_hooks`.

        Raises:
            SiteError: for a name that no point has.
        """
        for site, point in self._points(name):
            self.check_and_add_hook(point, site, hook, dir, is_permanent, level, prepend)

    def add_perma_hook(
        self, name: str | Callable[[str], bool], hook: HookFunction, dir: Direction = "fwd"
    ) -> None:
        """A hook that `reset_hooks` leaves, unless it is told to take permanent ones, too."""
        self.add_hook(name, hook, dir, is_permanent=True)

    def _points(self, name: str | Callable[[str], bool]) -> list[tuple[str, HookPoint]]:
        if not isinstance(name, str):
            return [(site, self.hook_dict[site]) for site in self._shown() if name(site)]
        if name not in self.hook_dict:
            raise SiteError(
                f"there is no hook point {name!r} in this model{nearest(name, self.hook_dict)} "
                "(model.hook_dict lists them)"
            )
        return [(name, self.hook_dict[name])]

    def _shown(self) -> list[str]:
        """The sites that predicates meet: all; a model may keep some behind flags."""
        return list(self.hook_dict)

    @contextmanager
    def hooks(
        self,
        fwd_hooks: Sequence[NamedHook] = (),
        bwd_hooks: Sequence[NamedHook] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
    ) -> Iterator[Any]:
        """Hooks inside of the ``with`` block; they stay afterwards if not `reset_hooks_end`."""
        self.context_level += 1
        try:
            for dir_, hooks in (("fwd", fwd_hooks), ("bwd", bwd_hooks)):
                for names, hook in hooks:
                    for _, point in self._points(names):
                        point.add_hook(hook, dir_, level=self.context_level)  # type: ignore[arg-type]
            yield self
        finally:
            if reset_hooks_end:
                self.reset_hooks(clear_contexts, level=self.context_level)
            self.context_level -= 1

    def run_with_hooks(
        self,
        *model_args: Any,
        fwd_hooks: Sequence[NamedHook] = (),
        bwd_hooks: Sequence[NamedHook] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
        **model_kwargs: Any,
    ) -> Any:
        """`forward` with these hooks. Backward ones act if they stay: ``reset_hooks_end=False``."""
        with self.hooks(fwd_hooks, bwd_hooks, reset_hooks_end, clear_contexts):
            return self.forward(*model_args, **model_kwargs)

    def get_caching_hooks(
        self,
        names_filter: Names = None,
        incl_bwd: bool = False,
        device: Any = None,
        remove_batch_dim: bool = False,
        cache: dict[str, Tensor] | None = None,
        pos_slice: Any = None,
    ) -> tuple[dict[str, Tensor], list[NamedHook], list[NamedHook]]:
        """A dictionary, and the hooks, forward and backward, that fill it."""
        store: dict[str, Tensor] = {} if cache is None else cache
        where = [pos_slice] if isinstance(pos_slice, int) else pos_slice

        @reads
        def save(value: Tensor, hook: HookPoint, end: str = "") -> None:
            kept = value.detach() if device is None else value.detach().to(device)
            kept = kept[0] if remove_batch_dim else kept
            axis = position_axis(hook.name)
            store[hook.name + end] = take(kept, where, axis) if kept.ndim >= -axis else kept

        self.is_caching = True
        named = isinstance(names_filter, str | list | tuple | set)
        wanted = names_predicate(names_filter)
        sites = [name for name in (self.hook_dict if named else self._shown()) if wanted(name)]
        forward: list[NamedHook] = [(name, save) for name in sites]
        backward: list[NamedHook] = [(name, partial(save, end="_grad")) for name in sites]
        return store, forward, backward if incl_bwd else []

    def add_caching_hooks(
        self,
        names_filter: Names = None,
        incl_bwd: bool = False,
        device: Any = None,
        remove_batch_dim: bool = False,
        cache: dict[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Hooks that fill the returned dictionary in every pass, until `reset_hooks`."""
        cache, forward, backward = self.get_caching_hooks(
            names_filter, incl_bwd, device, remove_batch_dim, cache
        )
        for name, hook in forward:
            self.add_hook(name, hook, "fwd")
        for name, hook in backward:
            self.add_hook(name, hook, "bwd")
        return cache

    def cache_all(
        self,
        cache: dict[str, Tensor] | None,
        incl_bwd: bool = False,
        device: Any = None,
        remove_batch_dim: bool = False,
    ) -> None:
        """`add_caching_hooks` on every site, into the given dictionary."""
        self.add_caching_hooks(None, incl_bwd, device, remove_batch_dim, cache)

    def cache_some(
        self,
        cache: dict[str, Tensor] | None,
        names: Callable[[str], bool],
        incl_bwd: bool = False,
        device: Any = None,
        remove_batch_dim: bool = False,
    ) -> None:
        """`add_caching_hooks` on the sites that `names` selects, into the given dictionary."""
        self.add_caching_hooks(names, incl_bwd, device, remove_batch_dim, cache)

    def run_with_cache(
        self,
        *model_args: Any,
        names_filter: Names = None,
        device: Any = None,
        remove_batch_dim: bool = False,
        incl_bwd: bool = False,
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
        pos_slice: Any = None,
        **model_kwargs: Any,
    ) -> tuple[Any, Any]:
        """What the module returns, and what passed its points; with `incl_bwd` gradients, too."""
        cache, forward, backward = self.get_caching_hooks(
            names_filter, incl_bwd, device, remove_batch_dim, pos_slice=pos_slice
        )
        with self.hooks(forward, backward, reset_hooks_end, clear_contexts):
            output = self(*model_args, **model_kwargs)
            if incl_bwd:
                output.backward()
        return output, cache


def names_predicate(names: Names) -> Callable[[str], bool]:
    """A predicate for what may select sites: a name, names, a predicate, or None for all.

    Raises:
        CircuitsError: for anything else.
    """
    if names is None:
        return lambda name: True
    if callable(names):
        return names
    if isinstance(names, str):
        return lambda name: name == names
    if isinstance(names, list | tuple | set):
        return lambda name: name in names
    raise CircuitsError(
        f"names_filter is a {type(names).__name__}; give a name, names, a predicate, or None"
    )
