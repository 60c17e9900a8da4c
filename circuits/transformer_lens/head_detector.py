"""Which heads attend as a pattern says? `circuits.detectors`, under TransformerLens' names."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from circuits.detectors import detect_head
from circuits.errors import CircuitsError

__all__ = [
    "HEAD_NAMES",
    "HeadName",
    "compute_head_attention_similarity_score",
    "detect_head",
    "get_duplicate_token_head_detection_pattern",
    "get_induction_head_detection_pattern",
    "get_previous_token_head_detection_pattern",
    "get_supported_heads",
]

HeadName = Literal["previous_token_head", "duplicate_token_head", "induction_head"]
HEAD_NAMES: tuple[str, ...] = get_args(HeadName)


def get_supported_heads() -> tuple[str, ...]:
    """The names of the patterns."""
    return HEAD_NAMES


def get_previous_token_head_detection_pattern(tokens: Tensor) -> Tensor:
    """[p p]: 1 where a token stands just before."""
    n = tokens.shape[-1]
    return torch.diag(torch.ones(n - 1), -1)


def get_duplicate_token_head_detection_pattern(tokens: Tensor) -> Tensor:
    """[p p]: 1 where an earlier token is the same."""
    row = tokens.reshape(-1).cpu()
    return (row[:, None] == row[None]).float().tril(-1)


def get_induction_head_detection_pattern(tokens: Tensor) -> Tensor:
    """[p p]: 1 at what followed an earlier copy of the token."""
    same = get_duplicate_token_head_detection_pattern(tokens)
    shifted = torch.zeros_like(same)
    shifted[:, 1:] = same[:, :-1]
    return shifted.tril(-1)


def compute_head_attention_similarity_score(
    attention_pattern: Tensor,
    detection_pattern: Tensor,
    *,
    exclude_bos: bool = False,
    exclude_current_token: bool = False,
    error_measure: Literal["abs", "mul"] = "mul",
) -> float:
    """How much of the attention [q k] goes where the pattern says ("mul"), or 1 less the error."""
    attention = attention_pattern.clone()
    if exclude_bos:
        attention[:, 0] = 0
    if exclude_current_token:
        attention.fill_diagonal_(0)
    if error_measure == "mul":
        return float((attention * detection_pattern).sum() / attention.sum())
    if error_measure != "abs":
        raise CircuitsError(f"error_measure={error_measure!r}: choose 'mul' or 'abs'")
    error = (attention - detection_pattern).abs().mean() * len(attention)
    return round(1 - float(error), 3)
