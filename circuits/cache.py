"""What passed the sites in one run: a read-only mapping from site to tensor."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from circuits import decompose
from circuits.errors import CircuitsError, SiteError, nearest
from circuits.files import replacing
from circuits.hooks import (
    HookPoint,
    Hooks,
    NamesFilter,
    WatchedBy,
    take,
    watching,
)
from circuits.sites import full_name, position_axis

if TYPE_CHECKING:
    from circuits.model import HookedModel

COSTLY = ("hook_attn_in", "hook_q_input", "hook_k_input", "hook_v_input", "attn.hook_result")
_MASK = "__mask__"


class Cache(Mapping[str, Tensor]):
    """Which value did each site have?

    ``cache["blocks.5.attn.hook_pattern"]`` and ``cache["pattern", 5]`` are the same tensor; layers
    count from the end when negative; a gradient is ``cache["z_grad", 5]``. Axis 0 is the batch,
    also for one prompt. `mask` [b p] is True at real tokens, None without padding.

    Raises:
        SiteError: for a site that was not cached, naming the nearest that was.
    """

    def __init__(
        self,
        values: Mapping[str, Tensor],
        model: HookedModel,
        *,
        mask: Tensor | None = None,
        has_batch_dim: bool = True,
    ) -> None:
        self._values = dict(values)
        self.model, self.mask, self.has_batch_dim = model, mask, has_batch_dim

    def __getitem__(self, key: Any) -> Tensor:
        name = self._full_name(key)
        if name not in self._values:
            exists = name.removesuffix("_grad") in self.model.hook_dict
            why = "was not cached" if exists else "does not exist"
            hint = "" if exists else nearest(name, self._values)
            raise SiteError(
                f"site {name!r} {why}{hint}; {len(self)} were: see cache.keys(), or ask "
                "run_with_cache for it by names_filter"
            )
        return self._values[name]

    def _full_name(self, key: Any) -> str:
        if isinstance(key, str) and key in self._values:
            return key
        name, layer, layer_type = (*(key if isinstance(key, tuple) else (key,)), *[None] * 3)[:3]
        if not isinstance(name, str):
            raise SiteError(f"{key!r} is no site; give a name, or a tuple such as ('pattern', 5)")
        if isinstance(layer, int) and layer < 0:
            layer += self.model.cfg.n_layers
        site = name.removesuffix("_grad")
        return full_name(site, layer, layer_type) + name[len(site) :]

    def __contains__(self, key: object) -> bool:
        return self._full_name(key) in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Cache({len(self)} sites of {self.model.cfg.model_name})"

    def to(self, device: str | torch.device) -> Cache:
        """The same cache with its tensors on another device."""
        mask = None if self.mask is None else self.mask.to(device)
        return self._with({name: value.to(device) for name, value in self.items()}, mask)

    def remove_batch_dim(self) -> Cache:
        """A new cache, of the only prompt and without the batch axis; this one stays as it is.

        (That of `circuits.transformer_lens` changes in place, as code written for it expects.)

        Raises:
            CircuitsError: when there is more than one prompt.
        """
        if not self.has_batch_dim:
            return self
        sizes = {len(value) for value in self.values()}
        if sizes != {1}:
            raise CircuitsError(f"the cache holds {max(sizes)} prompts; only one can be unwrapped")
        bare = {name: value[0] for name, value in self.items()}
        mask = None if self.mask is None else self.mask[0]
        return Cache(bare, self.model, mask=mask, has_batch_dim=False)

    def apply_slice_to_batch_dim(self, batch_slice: Any) -> Cache:
        """The same cache with only some prompts (an int drops the batch axis)."""
        values = {name: take(value, batch_slice, 0) for name, value in self.items()}
        mask = None if self.mask is None else take(self.mask, batch_slice, 0)
        return Cache(values, self.model, mask=mask, has_batch_dim=not isinstance(batch_slice, int))

    def stack_activation(
        self, name: str, layer: int = -1, sublayer_type: str | None = None
    ) -> Tensor:
        """One site of all layers before `layer` (-1: all) in one tensor [layer, ...]."""
        end = self.model.cfg.n_layers if layer == -1 else layer
        return torch.stack([self[name, i, sublayer_type] for i in range(end)])

    def save(self, path: str | Path) -> None:
        """Write the cache to one safetensors file; `Cache.load` reads it back.

        Raises:
            CircuitsError: when the file cannot be written; nothing half-written is left.
        """
        path = Path(path)
        tensors = {name: value.contiguous().clone() for name, value in self.items()}
        if self.mask is not None:
            tensors[_MASK] = self.mask.clone()
        about = {
            "model": self.model.cfg.model_name,
            "has_batch_dim": json.dumps(self.has_batch_dim),
        }
        with replacing(path, SafetensorError) as partial:
            save_file(tensors, partial, metadata=about)

    @classmethod
    def load(cls, path: str | Path, model: HookedModel) -> Cache:
        """Read a cache that `save` wrote; `model` is the model it came from.

        Raises:
            CircuitsError: when the file is missing, damaged, or of another model.
        """
        try:
            with safe_open(str(path), "pt", device=str(model.W_E.device)) as file:
                about = file.metadata() or {}
                values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise CircuitsError(f"cannot read a cache from {path}: {error}") from error
        if about.get("model") != model.cfg.model_name:
            raise CircuitsError(
                f"{path} holds the cache of {about.get('model')!r}, not of {model.cfg.model_name!r}"
            )
        mask = values.pop(_MASK, None)
        order = {name: i for i, name in enumerate(model.hook_dict)}
        names = sorted(values, key=lambda name: order.get(name.removesuffix("_grad"), len(order)))
        has_batch_dim = json.loads(about["has_batch_dim"])
        return cls({n: values[n] for n in names}, model, mask=mask, has_batch_dim=has_batch_dim)

    def _with(self, values: Mapping[str, Tensor], mask: Tensor | None) -> Cache:
        return Cache(values, self.model, mask=mask, has_batch_dim=self.has_batch_dim)

    def accumulated_resid(
        self, layer: int | None = None, *, return_labels: bool = False, **options: Any
    ) -> Any:
        """The stream at each layer's input: see `decompose.accumulated_resid`."""
        stack, labels = decompose.accumulated_resid(self, layer, **options)
        return (stack, labels) if return_labels else stack

    def decompose_resid(
        self, layer: int | None = None, *, return_labels: bool = False, **options: Any
    ) -> Any:
        """What each layer added: see `decompose.decompose_resid`."""
        stack, labels = decompose.decompose_resid(self, layer, **options)
        return (stack, labels) if return_labels else stack

    def stack_head_results(
        self, layer: int | None = None, *, return_labels: bool = False, **options: Any
    ) -> Any:
        """What each head added: see `decompose.stack_head_results`."""
        stack, labels = decompose.stack_head_results(self, layer, **options)
        return (stack, labels) if return_labels else stack

    def stack_neuron_results(
        self, layer: int | None = None, *, return_labels: bool = False, **options: Any
    ) -> Any:
        """What each neuron added: see `decompose.stack_neuron_results`."""
        stack, labels = decompose.stack_neuron_results(self, layer, **options)
        return (stack, labels) if return_labels else stack

    def get_full_resid_decomposition(
        self, layer: int | None = None, *, return_labels: bool = False, **options: Any
    ) -> Any:
        """All parts of the stream: see `decompose.get_full_resid_decomposition`."""
        stack, labels = decompose.get_full_resid_decomposition(self, layer, **options)
        return (stack, labels) if return_labels else stack

    def apply_ln_to_stack(self, stack: Tensor, layer: int | None = None, **options: Any) -> Tensor:
        """Parts after LayerNorm: see `decompose.apply_ln_to_stack`."""
        return decompose.apply_ln_to_stack(self, stack, layer, **options)

    def logit_attrs(
        self, stack: Tensor, tokens: Any, incorrect_tokens: Any = None, **options: Any
    ) -> Tensor:
        """Direct logit attribution: see `decompose.logit_attrs`."""
        return decompose.logit_attrs(self, stack, tokens, incorrect_tokens, **options)


def run_with_cache(
    model: HookedModel,
    given: Any,
    *,
    names_filter: NamesFilter = None,
    pos_slice: Any = None,
    device: str | torch.device | None = None,
    incl_bwd: bool = False,
    metric: Any = None,
    fwd_hooks: Hooks = (),
    remove_batch_dim: bool = False,
    **options: Any,
) -> tuple[Any, Cache]:
    """What passes the sites when the model reads this?

    Returns forward's output and a `Cache`. `names_filter` is a name, names, or a predicate; None
    caches every site but the per-head residual streams. `pos_slice` keeps some query positions,
    `device` moves what is cached. With `incl_bwd` the gradient of `metric(output)` (default: the
    mean loss) with respect to every cached site is kept as ``name_grad``, also in inference_mode
    and no_grad; parameters get none.
    `fwd_hooks` edit values before they are cached. `options` are forward's.

    Raises:
        SiteError: for unknown sites, or named sites that this run does not reach.
    """
    values: dict[str, Tensor] = {}
    mask: Tensor | None = None

    def store(name: str, value: Tensor) -> None:
        value = take(value.detach(), pos_slice, position_axis(name))
        values[name] = value if device is None else value.to(device)

    def read(value: Tensor, hook: HookPoint) -> None:
        nonlocal mask
        mask = hook.run.mask
        store(hook.name, value)

    edits: list[WatchedBy] = [(names, fn, "edit") for names, fn in fwd_hooks]
    if names_filter is None:
        names_filter = lambda name: not name.endswith(COSTLY)  # noqa: E731
    if incl_bwd:
        output, sites, mask = _run_for_gradients(model, given, names_filter, edits, metric, options)
        for name, value in sites.items():
            store(name, value)
    else:
        with watching(model.hook_dict, [*edits, (names_filter, read, "read")]):
            output = model(given, **options)
    mask = mask if mask is None or device is None else mask.to(device)
    cache = Cache(values, model, mask=mask)
    return output, cache.remove_batch_dim() if remove_batch_dim else cache


def _run_for_gradients(
    model: HookedModel,
    given: Any,
    names_filter: NamesFilter,
    edits: list[WatchedBy],
    metric: Any,
    options: dict[str, Any],
) -> tuple[Any, dict[str, Tensor], Tensor | None]:
    """Output, each site's value and gradient, and the mask. No other gradients are computed."""
    if any(weight.is_inference() for weight in model.parameters()):
        raise CircuitsError(
            "torch records no gradients through weights that were made in inference_mode; load or "
            "build the model outside of it (it may be run inside)"
        )
    sites: dict[str, Tensor] = {}
    mask: Tensor | None = None

    def tap(value: Tensor, hook: HookPoint) -> Tensor:
        nonlocal mask
        mask = hook.run.mask
        # An editing hook gets a tensor of its own, so two sites that hold the same value (the
        # inputs of queries and keys, say) have separate gradients.
        if value.is_floating_point() and not value.requires_grad:
            value.requires_grad_()
        sites[hook.name] = value
        return value

    if metric is None:
        options = {"return_type": "both"} | options
    # The metric may run the model, too: that pass is not recorded.
    with torch.inference_mode(False), torch.enable_grad():
        given, options = _recorded(given), {key: _recorded(value) for key, value in options.items()}
        with watching(model.hook_dict, [*edits, (names_filter, tap, "edit")]):
            output = model(given, **options)
        if metric is None:
            output, target = output if isinstance(output, tuple) else (output, output)
        else:
            target = metric(output)
    if not isinstance(target, Tensor) or target.numel() != 1 or not target.requires_grad:
        raise CircuitsError(
            "gradients need a metric that returns one number, a scalar tensor computed from the "
            "model's output (not detached)"
        )
    inputs = {name: value for name, value in sites.items() if value.requires_grad}
    # With hook_tokens alone there is nothing to differentiate.
    grads = torch.autograd.grad(target, [*inputs.values()], allow_unused=True) if inputs else ()
    for (name, value), grad in zip(inputs.items(), grads, strict=True):
        sites[name + "_grad"] = torch.zeros_like(value) if grad is None else grad
    return output, sites, mask


def _recorded(value: Any) -> Any:
    """A tensor that was made in inference_mode, as one that gradients can be recorded with."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value
