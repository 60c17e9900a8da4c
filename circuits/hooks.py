"""Hook points: named places in the forward pass where a value can be read or replaced.

Their names are explained in `circuits.sites`. A `HookPoint` is the identity until it is watched.
Hooks are installed and removed by one context manager, `watching`, which also reports hooks that
never fired. There is no other way to leave a hook on a model, and no global state. Hooks act in the
thread that installed them.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from circuits.errors import SiteError, nearest
from circuits.sites import full_name, get_act_name, layer_of, position_axis, site_names

__all__ = [
    "GradFn",
    "GradHooks",
    "HookFn",
    "HookKind",
    "HookPoint",
    "Hooks",
    "NamesFilter",
    "Run",
    "WatchedBy",
    "Watcher",
    "get_act_name",
    "layer_of",
    "match_sites",
    "position_axis",
    "require_site",
    "site_names",
    "take",
    "watching",
]

HookFn = Callable[[Tensor, "HookPoint"], "Tensor | None"]
GradFn = Callable[[Tensor, "HookPoint"], "Tensor | tuple[Tensor] | None"]  # a tuple as torch's own
HookKind = Literal["edit", "read", "grad"]
# What may name sites: one name, several, a predicate on names, or None for "all that are cheap".
NamesFilter = str | Sequence[str] | Callable[[str], bool] | None

Hooks = Sequence[tuple[NamesFilter, HookFn]]
GradHooks = Sequence[tuple[NamesFilter, GradFn]]
WatchedBy = tuple[NamesFilter, HookFn | GradFn, HookKind]


@dataclass(eq=False)
class Watcher:
    """One installed hook: what to call, what it may do, and how often it has fired."""

    fn: Callable[..., Tensor | tuple[Tensor] | None]
    kind: HookKind
    fired: int = 0
    by_keyword: bool = field(init=False)

    def __post_init__(self) -> None:
        # Hooks written for TransformerLens may take `hook` anywhere in their signature, by name.
        try:
            self.by_keyword = "hook" in inspect.signature(self.fn).parameters
        except (TypeError, ValueError):  # some builtins have no signature
            self.by_keyword = False

    def __call__(self, value: Tensor, hook: HookPoint) -> Tensor | tuple[Tensor] | None:
        """Call the function as its signature wants to be called."""
        return self.fn(value, hook=hook) if self.by_keyword else self.fn(value, hook)


Facts = tuple[Tensor | None, Tensor | None]  # positions and mask


class Run(threading.local):
    """Facts about this thread's forward pass, which hooks may read through `HookPoint.run`.

    `positions` [batch, pos] are each token's position in its own prompt (padding counts as 0):
    with a key-value cache a hook sees only the new tokens, and this tells it which they are.
    `mask` [batch, pos] is True at real tokens; None when there is no padding. `watchers` are this
    thread's: they act on its passes, and on no other's.
    """

    def __init__(self) -> None:
        self.facts: Facts = (None, None)
        self.watchers: set[Watcher] = set()

    positions = property(lambda self: self.facts[0])
    mask = property(lambda self: self.facts[1])

    def __reduce__(self) -> tuple[type[Run], tuple[()]]:
        """Copies and pickles of a model take neither facts nor hooks along."""
        return Run, ()


@dataclass(eq=False)
class HookPoint:
    """A place that a value passes: the identity, with a name and the watchers of all threads.

    Hooks are ``fn(value, hook) -> value | None``; None leaves the value as it is. An editing hook
    receives its own copy, so it may write in place without touching a cached tensor upstream.
    Readers (caches) see the value after all edits.
    """

    name: str = ""
    watchers: tuple[Watcher, ...] = ()
    run: Run = field(default_factory=Run)

    @property
    def watched(self) -> bool:
        """Whether anybody in this thread is looking: costly sites are computed only then."""
        return bool(self.watchers) and bool(self._watchers_here())

    @property
    def positions(self) -> Tensor | None:
        """The prompt positions [batch, pos] of the value that the hook was given."""
        return self.run.facts[0]

    def layer(self) -> int:
        """The block that this point is in.

        Raises:
            SiteError: when the point is outside the blocks, e.g. ``hook_embed``.
        """
        parts = self.name.split(".")
        if parts[0] != "blocks":
            raise SiteError(f"{self.name!r} is outside the blocks and has no layer")
        return int(parts[1])

    def __call__(self, value: Tensor) -> Tensor:
        """The value as it is, or as the watchers leave it."""
        return self._call_watchers(value) if self.watchers else value

    def _watchers_here(self) -> list[Watcher]:
        return [watcher for watcher in self.watchers if watcher in self.run.watchers]

    def _call_watchers(self, value: Tensor) -> Tensor:
        watchers = self._watchers_here()
        for watcher in watchers:
            if watcher.kind == "edit":
                value = self._edit(watcher, value)
        for watcher in watchers:
            if watcher.kind == "read":
                watcher.fired += 1
                self._ask(watcher, value)
        grad_watchers = [w for w in watchers if w.kind == "grad"]
        if grad_watchers:
            value = self._watch_grad(grad_watchers, value)
        return value

    def _ask(
        self, watcher: Watcher, value: Tensor, facts: Facts | None = None
    ) -> Tensor | tuple[Tensor] | None:
        """Call the hook. If it runs the model itself, that is a plain pass beside this one."""
        run = self.run
        before = run.facts, run.watchers
        run.facts, run.watchers = before[0] if facts is None else facts, set()
        try:
            return watcher(value, self)
        finally:
            run.facts, run.watchers = before

    def _edit(self, watcher: Watcher, value: Tensor) -> Tensor:
        watcher.fired += 1
        given = value.clone()
        edited = self._ask(watcher, given)
        return given if edited is None else self._checked("hook", edited, value)

    def _checked(self, kind: str, returned: Tensor | tuple[Tensor], value: Tensor) -> Tensor:
        """What a hook returned, if it can stand where `value` stood."""
        if isinstance(returned, Tensor) and _kind(returned) == _kind(value):
            return returned
        got = _described(returned) if isinstance(returned, Tensor) else type(returned).__name__
        raise SiteError(
            f"the {kind} on {self.name!r} returned {got}; return a tensor of shape "
            f"{_described(value)}, or None to leave the value as it is"
        )

    def _watch_grad(self, watchers: list[Watcher], value: Tensor) -> Tensor:
        if not value.requires_grad:
            raise SiteError(
                f"a backward hook watches {self.name!r}, but no gradient flows there; run with "
                "gradients enabled (outside torch.no_grad and torch.inference_mode)"
            )
        facts = self.run.facts  # backward, they are those of another pass

        def call(watcher: Watcher, grad: Tensor) -> Tensor | None:
            new = self._ask(watcher, grad, facts)
            if isinstance(new, tuple) and len(new) == 1:
                new = new[0]
            return None if new is None else self._checked("backward hook", new, grad)

        # A new tensor, so that only the gradient through this site is seen and changed: the same
        # residual tensor may be registered under two names (resid_post here, resid_pre there).
        value = value.view_as(value)
        for watcher in watchers:
            watcher.fired += 1
            value.register_hook(partial(call, watcher))
        return value


def _kind(value: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    return value.shape, value.dtype, value.device


def _described(value: Tensor) -> str:
    return f"{tuple(value.shape)}, {str(value.dtype).removeprefix('torch.')} on {value.device}"


def match_sites(
    names_filter: NamesFilter, sites: Mapping[str, HookPoint], costly: Iterable[str] = ()
) -> list[str]:
    """The sites that this filter selects, in the order of the forward pass.

    None selects all sites but the costly ones, which have to be asked for by name.

    Raises:
        SiteError: when a name does not exist or the filter selects nothing.
    """
    if names_filter is None:
        skipped = set(costly)
        return [name for name in sites if name not in skipped]
    if callable(names_filter):
        chosen = [name for name in sites if names_filter(name)]
        if not chosen:
            raise SiteError(
                f"the names filter matches none of the {len(sites)} sites; they are named like "
                f"{', '.join(map(repr, list(sites)[1:4]))}: see model.hook_dict"
            )
        return chosen
    wanted = [names_filter] if isinstance(names_filter, str) else list(names_filter)
    if not wanted:
        raise SiteError("the names filter is empty; name at least one site: see model.hook_dict")
    full = {require_site(name, sites) for name in wanted}
    return [name for name in sites if name in full]


def require_site(name: str, sites: Mapping[str, Any]) -> str:
    """The full name of this site, if it exists.

    Raises:
        SiteError: naming the nearest sites that do exist.
    """
    full = name if name in sites else full_name(name)
    if full in sites:
        return full
    layers = [layer for layer in map(layer_of, sites) if layer is not None]
    last = max(layers, default=0)
    try:
        beyond = (layer_of(full) or 0) > last
    except ValueError:
        beyond = False
    hint = f"; its blocks are 0 to {last}" if beyond else nearest(full, sites)
    raise SiteError(f"there is no site {name!r} in this model{hint} (model.hook_dict lists them)")


_LOCK = threading.Lock()  # threads may install hooks on one model at the same time


@contextmanager
def watching(sites: Mapping[str, HookPoint], hooks: Sequence[WatchedBy]) -> Iterator[None]:
    """Watch these sites inside the ``with`` block, in this thread, and only there.

    A hook that runs the model itself runs it without the hooks that are around it.

    Each entry of `hooks` is (names, function, kind). On leaving, also through an exception, every
    watcher is removed.

    Raises:
        SiteError: for unknown names at entry; at exit for a named site that was never reached, or
            a filter none of whose sites was.
    """
    resolved = [(match_sites(names, sites), fn, kind) for names, fn, kind in hooks]
    installed: list[list[tuple[str, Watcher]]] = []
    try:
        for names, fn, kind in resolved:
            group = [(name, Watcher(fn, kind)) for name in names]
            installed.append(group)
            with _LOCK:
                for name, watcher in group:
                    sites[name].watchers += (watcher,)
                    sites[name].run.watchers.add(watcher)
        yield
        for (wanted, _, _), group in zip(hooks, installed, strict=True):
            silent = [name for name, watcher in group if not watcher.fired]
            is_family = wanted is None or callable(wanted)
            if silent and not (is_family and len(silent) < len(group)):
                raise SiteError(
                    f"hooked but never reached: {', '.join(map(repr, silent[:4]))}"
                    f"{' and more' if len(silent) > 4 else ''}; run the model inside the block, "
                    "and check start_at_layer and stop_at_layer"
                )
    finally:
        with _LOCK:
            for name, watcher in (pair for group in installed for pair in group):
                sites[name].watchers = tuple(w for w in sites[name].watchers if w is not watcher)
                sites[name].run.watchers.discard(watcher)


def take(value: Tensor, pos_slice: Any, axis: int) -> Tensor:
    """The part of `value` at some positions.

    `pos_slice` is None (all), an int (the axis goes), a slice, a tuple of a slice's arguments, a
    list or tensor of indices, or TransformerLens' ``Slice``.
    """
    if pos_slice is None:
        return value
    if hasattr(pos_slice, "apply"):
        return torch.as_tensor(pos_slice.apply(value, dim=axis))
    if isinstance(pos_slice, int):
        return value.select(axis, pos_slice)
    if isinstance(pos_slice, tuple):
        pos_slice = slice(*pos_slice)
    index: list[Any] = [slice(None)] * value.ndim
    index[axis] = pos_slice
    return value[tuple(index)]
