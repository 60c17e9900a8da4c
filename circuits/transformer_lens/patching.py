"""Activation patching, one activation after the other, as ``transformer_lens.patching`` does it.

Each function takes the model, corrupted tokens, the cache of the clean run and a metric of logits,
and returns the metric after each patch. `circuits.patch` gives the same numbers faster.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from circuits.errors import CircuitsError
from circuits.transformer_lens.utils import get_act_name

Setter = Callable[[Tensor, Sequence[int], Any], Tensor]


def make_df_from_ranges(
    column_max_ranges: Sequence[int], column_names: Sequence[str]
) -> pd.DataFrame:
    """Every combination of numbers below these, the last column's first, as a table."""
    rows = itertools.product(*map(range, column_max_ranges))
    frame: pd.DataFrame = pd.DataFrame(list(rows), columns=list(column_names))
    return frame


def generic_activation_patch(
    model: Any,
    corrupted_tokens: Tensor,
    clean_cache: Any,
    patching_metric: Callable[[Tensor], Any],
    patch_setter: Setter,
    activation_name: str,
    index_axis_names: Sequence[str] | None = None,
    index_df: pd.DataFrame | None = None,
    return_index_df: bool = False,
) -> Any:
    """The metric of the corrupted run after each patch from the clean one.

    A patch is an index such as (layer, position): every one of the axes, or the rows of `index_df`.
    ``patch_setter(corrupted, index, clean)`` returns the activation to go on with.

    Raises:
        CircuitsError: unless either axes or a table are given.
    """
    if (index_df is None) == (index_axis_names is None):
        raise CircuitsError("give either index_axis_names or index_df")
    shape: list[int] | None = None
    if index_df is None:
        n_pos, n_heads = corrupted_tokens.shape[-1], model.cfg.n_heads
        sizes = {"layer": model.cfg.n_layers, "head": n_heads, "head_index": n_heads}
        sizes |= dict.fromkeys(("pos", "src_pos", "dest_pos"), n_pos)
        shape = [sizes[axis] for axis in index_axis_names or ()]
        index_df = make_df_from_ranges(shape, index_axis_names or ())

    def patched(index: list[int]) -> Any:
        name = get_act_name(activation_name, index[0])
        clean = clean_cache[name]

        def patch(corrupted: Tensor, hook: Any) -> Tensor:
            return patch_setter(corrupted.clone(), index, clean)

        logits = model.run_with_hooks(corrupted_tokens, fwd_hooks=[(name, patch)])
        return torch.as_tensor(patching_metric(logits)).detach()

    rows = [[int(i) for i in row] for row in index_df.itertuples(index=False)]
    values = torch.tensor([float(patched(row)) for row in rows], device=model.cfg.device)
    values = values if shape is None else values.view(shape)
    return (values, index_df) if return_index_df else values


def layer_pos_patch_setter(corrupted: Tensor, index: Sequence[int], clean: Tensor) -> Tensor:
    """Patch [b p ..] at (layer, position)."""
    _, pos = index
    corrupted[:, pos] = clean[:, pos]
    return corrupted


def layer_pos_head_vector_patch_setter(
    corrupted: Tensor, index: Sequence[int], clean: Tensor
) -> Tensor:
    """Patch [b p h ..] at (layer, position, head)."""
    _, pos, head = index
    corrupted[:, pos, head] = clean[:, pos, head]
    return corrupted


def layer_head_vector_patch_setter(
    corrupted: Tensor, index: Sequence[int], clean: Tensor
) -> Tensor:
    """Patch [b p h ..] at (layer, head)."""
    _, head = index
    corrupted[:, :, head] = clean[:, :, head]
    return corrupted


def layer_head_pattern_patch_setter(
    corrupted: Tensor, index: Sequence[int], clean: Tensor
) -> Tensor:
    """Patch [b h q k] at (layer, head)."""
    _, head = index
    corrupted[:, head] = clean[:, head]
    return corrupted


def layer_head_pos_pattern_patch_setter(
    corrupted: Tensor, index: Sequence[int], clean: Tensor
) -> Tensor:
    """Patch [b h q k] at (layer, head, q)."""
    _, head, query = index
    corrupted[:, head, query] = clean[:, head, query]
    return corrupted


def layer_head_dest_src_pos_pattern_patch_setter(
    corrupted: Tensor, index: Sequence[int], clean: Tensor
) -> Tensor:
    """Patch [b h q k] at (layer, head, q, k)."""
    _, head, query, key = index
    corrupted[:, head, query, key] = clean[:, head, query, key]
    return corrupted


def _specialized(name: str, setter: Setter, *axes: str) -> Callable[..., Any]:
    options = {"activation_name": name, "index_axis_names": axes}
    return partial(generic_activation_patch, patch_setter=setter, **options)  # type: ignore[arg-type]


def _by_pos(name: str) -> Callable[..., Any]:
    return _specialized(name, layer_pos_patch_setter, "layer", "pos")


def _head_by_pos(name: str) -> Callable[..., Any]:
    return _specialized(name, layer_pos_head_vector_patch_setter, "layer", "pos", "head")


def _head(name: str) -> Callable[..., Any]:
    return _specialized(name, layer_head_vector_patch_setter, "layer", "head")


get_act_patch_resid_pre = _by_pos("resid_pre")
get_act_patch_resid_mid = _by_pos("resid_mid")
get_act_patch_attn_out = _by_pos("attn_out")
get_act_patch_mlp_out = _by_pos("mlp_out")
get_act_patch_attn_head_out_by_pos = _head_by_pos("z")
get_act_patch_attn_head_q_by_pos = _head_by_pos("q")
get_act_patch_attn_head_k_by_pos = _head_by_pos("k")
get_act_patch_attn_head_v_by_pos = _head_by_pos("v")
get_act_patch_attn_head_pattern_by_pos = _specialized(
    "pattern", layer_head_pos_pattern_patch_setter, "layer", "head_index", "dest_pos"
)
get_act_patch_attn_head_pattern_dest_src_pos = _specialized(
    "pattern",
    layer_head_dest_src_pos_pattern_patch_setter,
    *("layer", "head_index", "dest_pos", "src_pos"),
)
get_act_patch_attn_head_out_all_pos = _head("z")
get_act_patch_attn_head_q_all_pos = _head("q")
get_act_patch_attn_head_k_all_pos = _head("k")
get_act_patch_attn_head_v_all_pos = _head("v")
get_act_patch_attn_head_pattern_all_pos = _specialized(
    "pattern", layer_head_pattern_patch_setter, "layer", "head_index"
)


def _every(functions: Sequence[Callable[..., Any]], *given: Any) -> Tensor:
    return torch.stack([function(*given) for function in functions])


def get_act_patch_attn_head_all_pos_every(
    model: Any, corrupted_tokens: Tensor, clean_cache: Any, metric: Any
) -> Tensor:
    """Outputs, queries, keys, values and patterns of heads at all positions: [5 layer head]."""
    functions = [_head(name) for name in ("z", "q", "k", "v")]
    functions.append(get_act_patch_attn_head_pattern_all_pos)
    return _every(functions, model, corrupted_tokens, clean_cache, metric)


def get_act_patch_attn_head_by_pos_every(
    model: Any, corrupted_tokens: Tensor, clean_cache: Any, metric: Any
) -> Tensor:
    """The same by position: [5 layer pos head]."""
    given = (model, corrupted_tokens, clean_cache, metric)
    vectors = _every([_head_by_pos(name) for name in ("z", "q", "k", "v")], *given)
    patterns = get_act_patch_attn_head_pattern_by_pos(*given).transpose(1, 2)
    return torch.cat([vectors, patterns[None]])


def get_act_patch_block_every(
    model: Any, corrupted_tokens: Tensor, clean_cache: Any, metric: Any
) -> Tensor:
    """The stream before each block, what attention and MLPs write, by position: [3 layer pos]."""
    functions = [_by_pos(name) for name in ("resid_pre", "attn_out", "mlp_out")]
    return _every(functions, model, corrupted_tokens, clean_cache, metric)
