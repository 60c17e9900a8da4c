"""What is measured of `mini`, while it is trained and when it is finished."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from mini_data import END, HELD_OUT_NAMES
from torch import Tensor

from circuits.architectures import HookedGPT2
from circuits.checkpoints.bundled import FOLDER
from circuits.hooks import watching
from circuits.metrics import get_metric
from circuits.padding import all_real
from circuits.prompts import make


def token_losses(model: HookedGPT2, tokens: Tensor) -> Tensor:
    """[row, position]: the loss of predicting each token but the first."""
    chunks = tokens.split(16)  # of rows in which stories end anywhere
    logits = torch.cat([model(chunk, attention_mask=all_real(chunk)) for chunk in chunks])
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")


def repeats(model: HookedGPT2, n: int, rows: int, end: int) -> tuple[Tensor, Tensor]:
    """BOS + r + r, and its control BOS + 2n unrepeated random tokens."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.rand(rows, end, generator=generator).argsort(1)[:, : 2 * n]
    bos = torch.full((rows, 1), end)
    device = model.W_E.device
    repeated = torch.cat([bos, ids[:, :n], ids[:, :n]], 1).to(device)
    return repeated, torch.cat([bos, ids], 1).to(device)


def head_scores(model: HookedGPT2, tokens: Tensor, n: int) -> dict[str, Tensor]:
    """Mean attention [layer, head] from query i to i-1 (all i), i-n and i-n+1 (second copy)."""
    patterns: list[Tensor] = []
    sites = {str(i): block.attn.hook_pattern for i, block in enumerate(model.blocks)}
    with watching(sites, [(lambda name: True, lambda x, hook: patterns.append(x), "read")]):
        model(tokens)
    every, second = torch.arange(1, 2 * n + 1), torch.arange(n + 1, 2 * n + 1)
    targets = {
        "previous": (every, every - 1),
        "duplicate": (second, second - n),
        "induction": (second, second - n + 1),
    }
    stacked = torch.stack(patterns)  # [layer, row, head, query, key]
    return {name: stacked[..., i, j].mean((1, 3)) for name, (i, j) in targets.items()}


def ioi_gaps(model: HookedGPT2, n: int, names: Sequence[str], seed: int) -> Tensor:
    """logit(IO) - logit(S) on `n` prompts with these names, in sentences no story has, [prompt]."""
    prompts = make("ioi", model, n, seed, names=names)
    return get_metric("logit_diff")(model(prompts.tokens), prompts)


@torch.no_grad()
def evaluate(model: HookedGPT2, prose: np.ndarray) -> dict[str, float]:
    """Everything the emergence figure shows, on data the model was not trained on."""
    end, n, device = model.to_single_token(END), 50, model.W_E.device
    rows = torch.from_numpy(prose[: 64 * 255].astype(np.int64)).view(64, 255)
    rows = torch.cat([torch.full((64, 1), end), rows], 1).to(device)
    losses = token_losses(model, rows)
    repeated, control = repeats(model, n, 16, end)
    repeat_losses = token_losses(model, repeated)
    scores, control_scores = (head_scores(model, t, n) for t in (repeated, control))
    out = {
        "validation_loss": losses.mean().item(),
        "icl_score": (losses[:, 200:250].mean() - losses[:, 20:70].mean()).item(),
        "first_copy_loss": repeat_losses[:, :n].mean().item(),
        "second_copy_loss": repeat_losses[:, n + 1 :].mean().item(),
    }
    for name, value in scores.items():
        out[f"best_{name}"] = value.max().item()
        out[f"control_{name}"] = control_scores[name].flatten()[value.argmax()].item()
    gaps = ioi_gaps(model, 120, HELD_OUT_NAMES, seed=1)
    out["ioi_accuracy"] = (gaps > 0).float().mean().item()
    out["ioi_logit_diff"] = gaps.mean().item()
    return out


def training_log(
    model: HookedGPT2, shown: Mapping[str, str], name: str = "measure"
) -> pd.DataFrame | None:
    """What a bundled folder keeps of its training, at log-spaced steps; None if it keeps nothing.

    `shown` maps the log's columns to what they are called in the column `name`.
    """
    log = FOLDER / model.cfg.model_name / "metrics.jsonl"
    if not log.is_file():
        return None
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    rows = [
        {name: called, "million tokens": line["tokens"] / 1e6, "value": line[column]}
        for column, called in shown.items()
        for line in lines
    ]
    return pd.DataFrame(rows)
