"""Which heads look where a head of this kind would look?

A detector is a function from token ids [... p] to targets [... q k], True where a head of its kind
looks; `attention_to` says how much of a pattern goes there. On BOS + r + r with n different tokens
in r, a query i of the second copy has the targets

====================  =========================================================
``previous-token``    i - 1
``current-token``     i
``first-token``       0, where heads rest (the attention sink)
``duplicate-token``   i - n, the earlier copy of this token
``induction``         i - n + 1, the token *after* the earlier copy
====================  =========================================================

With more copies there are more targets, and attention is summed over them: on r + r + r + r the
induction detector is prefix matching (Olsson et al. 2022, arXiv 2209.11895), except that they take
the mean over targets. Scoring i - n as induction finds duplicate-token heads instead, a
published error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.batch import as_batch, unpadded
from circuits.components import Component, check
from circuits.errors import CircuitsError, nearest
from circuits.inputs import ModelInput
from circuits.padding import all_real
from circuits.precision import wide

if TYPE_CHECKING:
    from circuits.config import ModelConfig
    from circuits.model import HookedModel

Tokens = Int[Tensor, "*any p"]
Targets = Bool[Tensor, "*any q k"]
ErrorMeasure = Literal["mul", "abs"]
Heads = Sequence[tuple[int, int]] | Mapping[int, Sequence[int]]


def previous_token(tokens: Tokens) -> Targets:
    """Where is the token before each?

    >>> previous_token(torch.tensor([7, 5, 9])).int().tolist()
    [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
    """
    return _shaped(tokens, _eye(tokens).roll(-1, -1).tril(-1))


def current_token(tokens: Tokens) -> Targets:
    """Where is each token itself? The first one, which sees nothing else, has no target."""
    itself = _eye(tokens)
    itself[0, 0] = False
    return _shaped(tokens, itself)


def first_token(tokens: Tokens) -> Targets:
    """Where does the prompt begin? The first token, which sees nothing else, has no target."""
    start = torch.zeros_like(_eye(tokens))
    start[1:, 0] = True
    return _shaped(tokens, start)


def duplicate_token(tokens: Tokens) -> Targets:
    """Where are the earlier copies of each token?

    >>> duplicate_token(torch.tensor([7, 5, 7])).int().tolist()
    [[0, 0, 0], [0, 0, 0], [1, 0, 0]]
    """
    return (tokens[..., :, None] == tokens[..., None, :]).tril(-1)


def induction(tokens: Tokens) -> Targets:
    """Where are the tokens that followed the earlier copies of each token?

    >>> induction(torch.tensor([7, 5, 7])).int().tolist()
    [[0, 0, 0], [0, 0, 0], [0, 1, 0]]
    """
    after = duplicate_token(tokens).roll(1, -1)
    after[..., 0] = False
    return after


DETECTORS: Mapping[str, Callable[[Tokens], Targets]] = {
    "previous-token": previous_token,
    "current-token": current_token,
    "first-token": first_token,
    "duplicate-token": duplicate_token,
    "induction": induction,
}


def attention_to(
    pattern: Float[Tensor, "*any q k"], targets: Bool[Tensor, "*some q k"]
) -> Float[Tensor, "*any"]:
    """How much attention goes from the queries that have targets to their targets?

    Summed over a query's targets, averaged over the queries that have one: 0 to 1. The leading
    axes of `targets` are the first ones of `pattern`: [b q k] go with [b h q k]. For a control,
    give the targets of other tokens than those that were read.

    >>> pattern = torch.tensor([[1.0, 0.0, 0.0], [0.3, 0.7, 0.0], [0.2, 0.5, 0.3]])
    >>> tokens = torch.tensor([7, 5, 7])
    >>> [round(float(attention_to(pattern, d(tokens))), 2) for d in (induction, duplicate_token)]
    [0.5, 0.2]

    Raises:
        CircuitsError: when the shapes disagree, or no query has a target.
    """
    lead = targets.shape[:-2]
    if pattern.shape[-2:] != targets.shape[-2:] or pattern.shape[: len(lead)] != lead:
        raise CircuitsError(
            f"a pattern of shape {tuple(pattern.shape)} and targets of shape "
            f"{tuple(targets.shape)} are not of the same prompts"
        )
    if not bool(targets.any(-1).any(-1).all()):
        raise CircuitsError("no query has a target; give tokens that have one, such as r + r")
    where = targets.view(*lead, *(1,) * (pattern.ndim - targets.ndim), *targets.shape[-2:])
    where = where.to(pattern.device)
    return (wide(pattern) * where).sum((-2, -1)) / where.any(-1).sum(-1)


def score(
    detector: str, pattern: Float[Tensor, "*any q k"], tokens: Tokens
) -> Float[Tensor, "*any"]:
    """How much does each head attend as this kind of head would? One of `DETECTORS`, 0 to 1.

    `tokens` [b p] are what the model read, `pattern` [b h q k] where it looked; see `attention_to`.

    >>> tokens = torch.tensor([0, 5, 6, 5, 6])
    >>> score("induction", torch.eye(5)[[0, 1, 2, 2, 3]], tokens)
    tensor(1.)

    Raises:
        CircuitsError: for an unknown detector, or tokens without targets.
    """
    return attention_to(pattern, _detector(detector)(tokens))


def detect_head(
    model: HookedModel,
    seq: str | Sequence[str] | Tensor,
    detection_pattern: str | Tensor,
    heads: Heads | None = None,
    cache: Mapping[str, Tensor] | None = None,
    *,
    exclude_bos: bool = False,
    exclude_current_token: bool = False,
    error_measure: ErrorMeasure = "mul",
) -> Float[Tensor, "layer head"]:
    """How well does each head's pattern match this one? (``transformer_lens.head_detector``)

    ``mul`` is the share of all attention, that of queries without a target included, that goes
    where the detection pattern P is 1: sum(A P) / sum(A); 0 where no attention is left.
    ``abs`` is 1 - sum|A - P| / n over n tokens: 1 for equality, -1 at worst.

    Args:
        model: The model.
        seq: A text, several (the mean over them is returned), or token ids [p] or [b p].
        detection_pattern: One of `DETECTORS`, also by TransformerLens' names
            (``previous_token_head``, ``duplicate_token_head``, ``induction_head``), or a lower
            triangular matrix [q k].
        heads: Pairs of layer and head, or heads by layer; all others score -1. None for all.
        cache: The patterns of the only prompt, if the model has read it already.
        exclude_bos: Leave out attention to the first token.
        exclude_current_token: Leave out attention to the query itself.
        error_measure: How to compare: ``mul`` or ``abs``.

    Returns:
        Scores [layer, head].

    Raises:
        CircuitsError: for an unknown pattern, measure or head, a pattern of another shape, or a
            cache together with several prompts.

    >>> from circuits.checkpoints import load
    >>> scores = detect_head(load("compiled"), "abcdefgabcdefg", "induction_head")
    >>> scores.shape, round(float(scores[1, 0]), 3)
    (torch.Size([6, 4]), 0.467)
    """
    if error_measure not in get_args(ErrorMeasure):
        raise CircuitsError(
            f"error_measure={error_measure!r}; choose {' or '.join(get_args(ErrorMeasure))}"
        )
    wanted, prompts = _wanted(heads, model.cfg), _prompts(model, seq)
    if cache is not None and len(prompts) > 1:
        raise CircuitsError(
            f"a cache holds one prompt's patterns, and {len(prompts)} prompts were given; give one "
            "prompt, or leave the cache out"
        )
    scores = []
    for tokens in prompts:
        expected = _expected(detection_pattern, tokens)
        excluded = (exclude_bos, exclude_current_token)
        scores.append(
            _similarity(_patterns(model, tokens, cache), expected, excluded, error_measure)
        )
    return torch.where(wanted, torch.stack(scores).mean(0), -1.0)


def _similarity(
    patterns: Float[Tensor, "l h q k"],
    expected: Float[Tensor, "q k"],
    excluded: tuple[bool, bool],
    measure: ErrorMeasure,
) -> Float[Tensor, "l h"]:
    """How alike they are; `excluded` leaves out the first token, and the query's own."""
    counted = torch.ones_like(expected)
    if excluded[0]:
        counted[:, 0] = 0
    if excluded[1]:
        counted.fill_diagonal_(0)
    expected, counted = expected.to(patterns), counted.to(patterns)
    if measure == "abs":
        return 1 - ((patterns - expected).abs() * counted).sum((-2, -1)) / len(counted)
    attention = patterns * counted
    matched, total = (attention * expected).sum((-2, -1)), attention.sum((-2, -1))
    return torch.where(total > 0, matched / total.clamp(min=1e-30), 0.0)


def _patterns(model: HookedModel, tokens: Tensor, cache: Mapping[str, Tensor] | None) -> Tensor:
    """Where every head looks in this prompt [p]: [l h q k] on the CPU."""
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers)]
    if cache is None:
        with torch.no_grad():
            options = {"attention_mask": all_real(tokens), "return_type": None}
            _, cache = model.run_with_cache(tokens[None], names_filter=names, **options)
    patterns = wide(torch.stack([cache[name].detach() for name in names]).cpu())
    patterns = patterns[:, 0] if patterns.ndim == 5 and patterns.shape[1] == 1 else patterns
    if patterns.shape[2:] != (len(tokens), len(tokens)):
        raise CircuitsError(
            f"the cache's patterns have shape {tuple(patterns.shape[1:])}, and the prompt has "
            f"{len(tokens)} tokens; give the cache of this prompt alone"
        )
    return patterns


def _prompts(model: HookedModel, seq: ModelInput) -> list[Tensor]:
    """The token ids of each prompt, without padding."""
    return [row.cpu() for row in unpadded(as_batch(model, seq))]


def _expected(pattern: str | Tensor, tokens: Tensor) -> Tensor:
    """The pattern that the heads are compared with, over these tokens [p]: numbers [q k]."""
    if isinstance(pattern, str):
        name = pattern.removesuffix("_head").replace("_", "-")
        return _detector(name)(tokens).float()
    expected, n = pattern.detach().float().cpu(), len(tokens)
    if expected.shape != (n, n) or not torch.equal(expected, expected.tril()):
        raise CircuitsError(
            f"a detection pattern for {n} tokens is a lower triangular matrix of shape {(n, n)}; "
            f"given was one of shape {tuple(expected.shape)}"
            + (" with numbers above the diagonal" if expected.shape == (n, n) else "")
        )
    return expected


def _wanted(heads: Heads | None, cfg: ModelConfig) -> Bool[Tensor, "l h"]:
    """True at the heads that are asked for."""
    if heads is None:
        return torch.ones(cfg.n_layers, cfg.n_heads, dtype=torch.bool)
    wanted = torch.zeros(cfg.n_layers, cfg.n_heads, dtype=torch.bool)
    if isinstance(heads, Mapping):
        heads = [(layer, head) for layer, those in heads.items() for head in those]
    for layer, head in heads:
        check(Component("head", layer, head), cfg)
        wanted[layer, head] = True
    return wanted


def _detector(name: str) -> Callable[[Tokens], Targets]:
    if name not in DETECTORS:
        raise CircuitsError(
            f"there is no detector {name!r}; choose {', '.join(DETECTORS)}"
            f"{nearest(name, DETECTORS)}"
        )
    return DETECTORS[name]


def _eye(tokens: Tensor) -> Tensor:
    n = tokens.shape[-1]
    return torch.eye(n, dtype=torch.bool, device=tokens.device)


def _shaped(tokens: Tensor, targets: Tensor) -> Tensor:
    """The same targets [q k] for all prompts."""
    return targets.expand(*tokens.shape[:-1], *targets.shape)
