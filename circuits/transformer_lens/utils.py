"""The functions of ``transformer_lens.utils`` that code for it uses most."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from circuits.errors import CircuitsError
from circuits.factored import FactoredMatrix
from circuits.sites import full_name
from circuits.transformer_lens.activations import (
    SOFTCAP_DISABLED,
    SUPPORTED_ACTIVATIONS,
    ActivationFunction,
    apply_softcap,
    gelu_fast,
    gelu_new,
    gelu_pytorch_tanh,
    softcap_enabled,
    solu,
)
from circuits.transformer_lens.axes import (
    get_corner,
    get_cumsum_along_dim,
    get_matrix_corner,
    get_offset_position_ids,
    is_lower_triangular,
    is_square,
    remove_batch_dim,
    repeat_along_head_dimension,
    transpose,
)
from circuits.transformer_lens.datasets import (
    download_file_from_hf,
    get_dataset,
    keep_single_column,
    tokenize_and_concatenate,
)
from circuits.transformer_lens.defaults import (
    USE_DEFAULT_VALUE,
    LocallyOverridenDefaults,
    get_nested_attr,
    override_or_use_default_value,
    set_nested_attr,
)
from circuits.transformer_lens.devices import (
    get_best_available_device,
    get_device,
    get_device_for_block_index,
    move_to_and_update_config,
    print_gpu_mem,
    warn_if_mps,
)
from circuits.transformer_lens.initialization import (
    calc_fan_in_and_fan_out,
    init_kaiming_normal_,
    init_kaiming_uniform_,
    init_xavier_normal_,
    init_xavier_uniform_,
)
from circuits.transformer_lens.options import require_sampling
from circuits.transformer_lens.products import (
    batch_addmm,
    complex_attn_linear,
    simple_attn_linear,
    temporarily_swap_parameter,
    vanilla_addmm,
)
from circuits.transformer_lens.slices import Slice, SliceInput
from circuits.transformer_lens.start_token import (
    get_attention_mask,
    get_input_with_manually_prepended_bos,
    get_tokenizer_with_bos,
    get_tokens_with_bos_removed,
)

TypedModuleList = torch.nn.ModuleList

__all__ = [
    "SOFTCAP_DISABLED",
    "SUPPORTED_ACTIVATIONS",
    "USE_DEFAULT_VALUE",
    "ActivationFunction",
    "LocallyOverridenDefaults",
    "Slice",
    "SliceInput",
    "TypedModuleList",
    "apply_softcap",
    "batch_addmm",
    "calc_fan_in_and_fan_out",
    "check_structure",
    "complex_attn_linear",
    "composition_scores",
    "download_file_from_hf",
    "filter_dict_by_prefix",
    "gelu_fast",
    "gelu_new",
    "gelu_pytorch_tanh",
    "get_act_name",
    "get_attention_mask",
    "get_best_available_device",
    "get_corner",
    "get_cumsum_along_dim",
    "get_dataset",
    "get_device",
    "get_device_for_block_index",
    "get_input_with_manually_prepended_bos",
    "get_matrix_corner",
    "get_nested_attr",
    "get_offset_position_ids",
    "get_pos_offset",
    "get_tokenizer_with_bos",
    "get_tokens_with_bos_removed",
    "init_kaiming_normal_",
    "init_kaiming_uniform_",
    "init_xavier_normal_",
    "init_xavier_uniform_",
    "is_library_available",
    "is_lower_triangular",
    "is_square",
    "keep_single_column",
    "lm_accuracy",
    "lm_cross_entropy_loss",
    "logits_to_df",
    "move_to_and_update_config",
    "override_or_use_default_value",
    "print_gpu_mem",
    "remove_batch_dim",
    "repeat_along_head_dimension",
    "sample_logits",
    "select_compatible_kwargs",
    "set_nested_attr",
    "simple_attn_linear",
    "softcap_enabled",
    "solu",
    "temporarily_swap_parameter",
    "test_prompt",
    "to_numpy",
    "tokenize_and_concatenate",
    "transpose",
    "vanilla_addmm",
    "warn_if_mps",
]


def get_act_name(name: str, layer: int | str | None = None, layer_type: str | None = None) -> str:
    """The full name of a site known by a short one, whether or not a model has it.

    >>> get_act_name("pattern", 5), get_act_name("resid_pre", 3)
    ('blocks.5.attn.hook_pattern', 'blocks.3.hook_resid_pre')
    """
    return full_name(name, layer, layer_type)


def to_numpy(tensor: Any) -> NDArray[Any]:
    """A tensor, a parameter, a list, a number or an array as a NumPy array.

    Raises:
        CircuitsError: for anything else.
    """
    if isinstance(tensor, np.ndarray):
        return tensor
    if isinstance(tensor, Tensor):
        return np.asarray(tensor.detach().cpu().numpy())
    if isinstance(tensor, list | tuple | int | float | bool | str):
        return np.array(tensor)
    raise CircuitsError(f"a {type(tensor).__name__} is no tensor, list or number")


def check_structure(t1: Tensor, t2: Tensor, *, verbose: bool = False) -> None:
    """Write whether the differences within two matrices have the same signs, row by row."""
    rows, columns = (
        [bool(((a.diff(dim=d) >= 0) == (b.diff(dim=d) >= 0)).all())]
        for a, b, d in ((t1, t2, 0), (t1, t2, 1))
    )
    _write("PASSED" if all([*rows, *columns]) else "FAILED")


def composition_scores(
    left: FactoredMatrix, right: FactoredMatrix, broadcast_dims: bool = True
) -> Tensor:
    """|AB| / (|A| |B|), with Frobenius norms, of every pair of matrices."""
    if broadcast_dims:
        n_right, n_left = right.ndim - 2, left.ndim - 2
        for i in range(n_left):
            right = right.unsqueeze(i)
        for i in range(n_right):
            left = left.unsqueeze(i + n_left)
    A, B = left.collapse_l(), right.collapse_r()
    norm = torch.linalg.matrix_norm
    scores: Tensor = norm(A @ B) / norm(B) / norm(A)
    return scores


def filter_dict_by_prefix(dictionary: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The entries whose names begin with ``prefix.``, by the rest of their names."""
    start = prefix if prefix.endswith(".") else f"{prefix}."
    return {k.removeprefix(start): v for k, v in dictionary.items() if k.startswith(start)}


def lm_cross_entropy_loss(
    logits: Tensor, tokens: Tensor, attention_mask: Tensor | None = None, per_token: bool = False
) -> Tensor:
    """The loss on each next token, [b p-1] or its mean, in nats.

    Without a mask every token counts, padding as well; with one, pairs of real tokens.
    """
    log_probs = F.log_softmax(logits, -1)[..., :-1, :]
    losses = -log_probs.gather(-1, tokens[..., 1:, None])[..., 0]
    n_tokens = losses.numel()
    if attention_mask is not None:
        real = attention_mask.bool()
        both = real[:, :-1] & real[:, 1:]
        losses, n_tokens = losses.masked_fill(~both, 0.0), int(both.sum())
    return losses if per_token else losses.sum() / n_tokens


def lm_accuracy(logits: Tensor, tokens: Tensor, per_token: bool = False) -> Tensor:
    """How often the most likely next token comes: each [b p-1], or their mean."""
    right = logits.argmax(-1)[..., :-1] == tokens[..., 1:]
    return right if per_token else right.sum() / right.numel()


def is_library_available(name: str) -> bool:
    """Whether a module of this name can be imported."""
    return importlib.util.find_spec(name) is not None


def sample_logits(
    final_logits: Tensor,
    top_k: int | None = None,
    top_p: float | None = None,
    temperature: float = 1.0,
    freq_penalty: float = 0.0,
    repetition_penalty: float = 1.0,
    tokens: Tensor | None = None,
) -> Tensor:
    """Tokens [b] drawn from logits [b v], by torch's random numbers.

    Temperature 0 takes the most likely ones. `top_k` keeps that many tokens; else `top_p` the
    fewest whose probability is above it. The penalties lower tokens that `tokens` [b p] have.

    Raises:
        CircuitsError: for values outside of their ranges, and `freq_penalty` without tokens.
    """
    require_sampling(temperature, top_k, top_p, repetition_penalty)
    logits = final_logits
    if repetition_penalty != 1.0 and tokens is not None:
        known = torch.zeros_like(logits, dtype=torch.bool).scatter(1, tokens, True)
        lower = torch.where(logits > 0, logits / repetition_penalty, logits * repetition_penalty)
        logits = torch.where(known, lower, logits)
    if temperature == 0.0:
        return logits.argmax(-1)
    logits = logits / temperature
    if freq_penalty > 0:
        if tokens is None:
            raise CircuitsError("freq_penalty counts tokens; give tokens=[batch, pos]")
        counts = torch.stack([row.bincount(minlength=logits.shape[-1]) for row in tokens])
        logits = logits - freq_penalty * counts
    if top_k is not None:
        least = logits.topk(min(top_k, logits.shape[-1]), -1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    elif top_p is not None:
        ordered, order = logits.sort(descending=True)
        beyond = ordered.softmax(-1).cumsum(-1) > top_p
        beyond = torch.cat([torch.zeros_like(beyond[..., :1]), beyond[..., :-1]], -1)
        logits = logits.masked_fill(beyond.scatter(-1, order, beyond), -torch.inf)
    drawn: Tensor = torch.distributions.Categorical(logits=logits.float()).sample()
    return drawn


def logits_to_df(logits: Tensor, tokenizer: Any = None, top_k: int | None = None) -> Any:
    """Which next tokens are how likely? A row a token of logits [v], the likeliest first."""
    log_probs = logits.detach().float().log_softmax(-1).cpu()
    order = log_probs.argsort(descending=True)[:top_k]
    columns: dict[str, Any] = {"token_index": order.tolist()}
    if tokenizer is not None:
        columns["token_string"] = [tokenizer.decode([i]) for i in order.tolist()]
    columns["logit"] = logits.detach().cpu()[order].tolist()
    columns["log_prob"] = log_probs[order].tolist()
    columns["probability"] = log_probs[order].exp().tolist()
    return pd.DataFrame(columns)


def select_compatible_kwargs(kwargs_dict: Mapping[str, Any], callable: Any) -> dict[str, Any]:
    """The options among these that a function has."""
    return {k: v for k, v in kwargs_dict.items() if k in inspect.signature(callable).parameters}


def get_pos_offset(past_kv_cache: Any, batch_size: int) -> int:
    """How many tokens a key-value cache has."""
    return 0 if past_kv_cache is None else int(past_kv_cache.n_tokens)


def _test_prompt(
    prompt: str,
    answer: str | Sequence[str],
    model: Any,
    prepend_space_to_answer: bool = True,
    print_details: bool = True,
    prepend_bos: bool | None = None,
    top_k: int = 10,
) -> None:
    """Write how the model ranks an answer to this prompt, and what it thinks most likely."""
    from circuits.transformer_lens.prompt_test import report

    lines = report(
        model,
        prompt,
        answer,
        prepend_bos=prepend_bos,
        space=prepend_space_to_answer,
        details=print_details,
        top_k=top_k,
    )
    for line in lines:
        _write(line)


test_prompt = _test_prompt
test_prompt.__test__ = False  # type: ignore[attr-defined]  # pytest takes it for a test


def _write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
