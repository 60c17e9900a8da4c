"""The functions of ``transformer_lens.utils`` that code for it uses most."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from circuits.errors import CircuitsError
from circuits.factored import FactoredMatrix
from circuits.sites import full_name
from circuits.transformer_lens.datasets import (
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
from circuits.transformer_lens.initialization import (
    calc_fan_in_and_fan_out,
    init_kaiming_normal_,
    init_kaiming_uniform_,
    init_xavier_normal_,
    init_xavier_uniform_,
)
from circuits.transformer_lens.options import require_sampling
from circuits.transformer_lens.slices import Slice, SliceInput

__all__ = [
    "USE_DEFAULT_VALUE",
    "LocallyOverridenDefaults",
    "Slice",
    "SliceInput",
    "calc_fan_in_and_fan_out",
    "check_structure",
    "composition_scores",
    "filter_dict_by_prefix",
    "gelu_fast",
    "gelu_new",
    "get_act_name",
    "get_attention_mask",
    "get_corner",
    "get_cumsum_along_dim",
    "get_dataset",
    "get_device",
    "get_input_with_manually_prepended_bos",
    "get_nested_attr",
    "get_offset_position_ids",
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
    "override_or_use_default_value",
    "print_gpu_mem",
    "remove_batch_dim",
    "repeat_along_head_dimension",
    "sample_logits",
    "set_nested_attr",
    "solu",
    "test_prompt",
    "to_numpy",
    "tokenize_and_concatenate",
    "transpose",
    "warn_if_mps",
]


def get_act_name(name: str, layer: int | str | None = None, layer_type: str | None = None) -> str:
    """The full name of a site known by a short one, whether or not a model has it.

    >>> get_act_name("pattern", 5), get_act_name("resid_pre", 3)
    ('blocks.5.attn.hook_pattern', 'blocks.3.hook_resid_pre')
    """
    return full_name(name, layer, layer_type)


def get_device() -> str:
    """Where tensors are put by default: ``cuda`` if there is one, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


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


def get_corner(tensor: Any, n: int = 3) -> Any:
    """The first n entries along every axis."""
    return (
        tensor.get_corner(n)
        if isinstance(tensor, FactoredMatrix)
        else tensor[(slice(n),) * tensor.ndim]
    )


def remove_batch_dim(tensor: Tensor) -> Tensor:
    """The tensor without its first axis, if that has length 1."""
    return tensor.squeeze(0) if tensor.shape[0] == 1 else tensor


def transpose(tensor: Tensor) -> Tensor:
    """The tensor with its last two axes swapped."""
    return tensor.mT


def is_square(x: Tensor) -> bool:
    """Whether this is a square matrix."""
    return x.ndim == 2 and x.shape[0] == x.shape[1]


def is_lower_triangular(x: Tensor) -> bool:
    """Whether this is a square matrix with nothing above the diagonal."""
    return is_square(x) and bool(x.equal(x.tril()))


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


def get_offset_position_ids(past_kv_pos_offset: int, attention_mask: Tensor) -> Tensor:
    """Each token's position among the real tokens of its prompt, after those of the past."""
    return (attention_mask.cumsum(1) - 1).clamp(min=0)[:, past_kv_pos_offset:]


def get_cumsum_along_dim(tensor: Tensor, dim: int, reverse: bool = False) -> Tensor:
    """The running sum along an axis, from its end if `reverse`."""
    return tensor.flip(dim).cumsum(dim).flip(dim) if reverse else tensor.cumsum(dim)


def repeat_along_head_dimension(tensor: Tensor, n_heads: int, clone_tensor: bool = True) -> Tensor:
    """[b p d] as [b p h d], the same for each head."""
    repeated = tensor.unsqueeze(-2).expand(*tensor.shape[:-1], n_heads, -1)
    return repeated.clone() if clone_tensor else repeated


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


def gelu_new(input: Tensor) -> Tensor:
    """GPT-2's nonlinearity."""
    return F.gelu(input, approximate="tanh")


def gelu_fast(input: Tensor) -> Tensor:
    """The same within rounding."""
    inner = input * 0.7978845608 * (1 + 0.044715 * input * input)
    return 0.5 * input * (1 + torch.tanh(inner))


def solu(input: Tensor) -> Tensor:
    """x softmax(x)."""
    return input * F.softmax(input, -1)


def is_library_available(name: str) -> bool:
    """Whether a module of this name can be imported."""
    return importlib.util.find_spec(name) is not None


def get_tokenizer_with_bos(tokenizer: Any) -> Any:
    """The tokenizer as it is: start tokens are put before texts by the model here."""
    return tokenizer


def get_input_with_manually_prepended_bos(bos_token: str | None, input: Any) -> Any:
    """The text, or texts, with the start token's before it."""
    if bos_token is None:
        return input
    return bos_token + input if isinstance(input, str) else [bos_token + text for text in input]


def get_tokens_with_bos_removed(
    tokenizer: Any, tokens: Tensor, padding_side: str | None = None
) -> Tensor:
    """Rows without their start token, [.. p-1]."""
    if tokenizer.bos_token_id is None:
        return tokens
    if (padding_side or tokenizer.padding_side) == "right":
        return tokens[..., 1:]
    real = get_attention_mask(tokenizer, tokens, True, "left")
    first = real.argmax(-1)
    rows = [
        torch.cat([row[:i], row[i + 1 :]]) for row, i in zip(tokens, first.tolist(), strict=True)
    ]
    return torch.stack(rows)


def get_attention_mask(
    tokenizer: Any, tokens: Tensor, prepend_bos: bool, padding_side: str | None = None
) -> Tensor:
    """Which tokens [b p] are real: 1, or 0 for padding at the tokenizer's side.

    Where the start token is the padding token, the last one before a prompt is its start.
    """
    mask = torch.ones_like(tokens)
    if tokenizer is None:
        return mask
    text = tokens.ne(tokenizer.pad_token_id)
    if (padding_side or tokenizer.padding_side) == "right":
        mask[get_cumsum_along_dim(text, -1, reverse=True) == 0] = 0
        return mask
    leading = get_cumsum_along_dim(text, -1) == 0
    mask[leading] = 0
    if prepend_bos and tokenizer.bos_token_id == tokenizer.pad_token_id:
        mask[torch.arange(len(mask)), leading.sum(-1) - 1] = 1
    return mask


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


def print_gpu_mem(step_name: str = "") -> None:
    """Write how much memory of the first GPU is in use."""
    gib = torch.cuda.memory_allocated(0) / 2**30 if torch.cuda.is_available() else 0.0
    _write(f"{step_name} ~ {gib:.2f} GiB allocated on GPU.")


def warn_if_mps(device: Any) -> None:
    """Nothing; TransformerLens warns of Apple's GPUs here."""


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
