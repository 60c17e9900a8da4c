"""This package as it is."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuits import HookedGPT2
from circuits import load as load_checkpoint
from circuits.metrics import get_metric
from circuits.prompts import UNSCORED, Prompts
from circuits.sweep import Cell, Source, Sweep, cell, plan, run
from circuits.sweep.gradient import attribute
from experiments.benchmarks.items import Given
from experiments.benchmarks.peers import ours_circuits


def load(folder: Path) -> HookedGPT2:
    return load_checkpoint(folder)


@torch.inference_mode()
def forward(model: HookedGPT2, given: Given) -> Tensor:
    return model(torch.from_numpy(given.tokens))


@torch.inference_mode()
def last_logits(model: HookedGPT2, given: Given) -> Tensor:
    final = model(torch.from_numpy(given.tokens), stop_at_layer=model.cfg.n_layers)
    return model.unembed(model.ln_final(final[:, -1:]))[:, 0]


@torch.inference_mode()
def full_cache(model: HookedGPT2, given: Given) -> list[Tensor]:
    _, cache = model.run_with_cache(torch.from_numpy(given.tokens))
    return [cache[name, -1] for name in ("pattern", "z", "resid_post")]


@torch.inference_mode()
def logit_lens(model: HookedGPT2, given: Given) -> Tensor:
    n = model.cfg.n_layers
    final, cache = model.run_with_cache(
        torch.from_numpy(given.tokens),
        names_filter=lambda name: name.endswith("hook_resid_pre"),
        stop_at_layer=n,
    )
    states = (*cache.values(), final)
    tops = [model.unembed(model.ln_final(state)).log_softmax(-1).amax(-1) for state in states]
    return torch.cat(tops)


def about(tokens: Tensor, given: Given) -> Prompts:
    """These tokens, asked for the logit difference after the last one."""
    n, width = tokens.shape
    return Prompts(
        task="benchmark",
        texts=("",) * n,
        tokens=tokens,
        mask=torch.ones_like(tokens, dtype=torch.bool),
        targets=torch.full_like(tokens, UNSCORED),
        roles={"END": torch.full((n,), width - 1)},
        metric="logit_diff",
        prepend_bos=False,
        answers=torch.from_numpy(given.answers),
        distractors=torch.from_numpy(given.distractors),
    )


def heads(model: HookedGPT2) -> tuple[Cell, ...]:
    """Every head, layer by layer."""
    places = range(model.cfg.n_layers), range(model.cfg.n_heads)
    return tuple(cell(f"a{layer}.h{head}") for layer, head in product(*places))


def patching(cells: tuple[Cell, ...], given: Given) -> Sweep:
    """What the clean prompts have, written into the corrupted ones."""
    prompts = about(torch.from_numpy(given.corrupted), given)
    source = Source("resample", torch.from_numpy(given.tokens), prompts.mask)
    return Sweep(prompts, get_metric("logit_diff"), cells, source)


def scores(model: HookedGPT2, sweep: Sweep) -> NDArray[np.float64]:
    """The metric's mean for every cell [layer ...]."""
    return run(model, plan(model, sweep)).values.mean(1).reshape(model.cfg.n_layers, -1)


def ablate_heads(model: HookedGPT2, given: Given) -> NDArray[np.float64]:
    prompts = about(torch.from_numpy(given.tokens), given)
    source = Source("zero", prompts.tokens, prompts.mask)
    return scores(model, Sweep(prompts, get_metric("logit_diff"), heads(model), source))


def patch_residual(model: HookedGPT2, given: Given) -> NDArray[np.float64]:
    places = range(model.cfg.n_layers), range(given.tokens.shape[1])
    cells = tuple(cell(f"resid_pre.{layer}@{p}") for layer, p in product(*places))
    return scores(model, patching(cells, given))


def patch_heads(model: HookedGPT2, given: Given) -> NDArray[np.float64]:
    return scores(model, patching(heads(model), given))


def attribution(model: HookedGPT2, given: Given) -> NDArray[np.float64]:
    effects = attribute(model, patching(heads(model), given)).effects
    return effects.mean(1).reshape(model.cfg.n_layers, -1)


def generate(model: HookedGPT2, given: Given) -> Tensor:
    tokens = torch.from_numpy(given.tokens)
    out = model.generate(
        tokens, max_new_tokens=given.new, do_sample=False, stop_at_eos=False, return_type="tokens"
    )
    return out[0, tokens.shape[1] :]


def edges_eap(model: HookedGPT2, given: Given) -> NDArray[np.float64]:
    return ours_circuits.scores(ours_circuits.search(model, *twins(given)), "eap")


def edges_eap_ig(model: HookedGPT2, given: Given) -> NDArray[np.float64]:
    return ours_circuits.scores(ours_circuits.search(model, *twins(given)), "eap-ig")


def edges_exact(model: HookedGPT2, given: Given) -> NDArray[np.float64]:
    return ours_circuits.scores(ours_circuits.search(model, *twins(given)), "exact")


def circuit_alone(model: HookedGPT2, given: Given) -> NDArray[np.float64]:
    return ours_circuits.alone(model, *twins(given))


def circuit_curve(model: HookedGPT2, given: Given) -> NDArray[np.float64]:
    return ours_circuits.curve(model, *twins(given))


def twins(given: Given) -> tuple[Prompts, Tensor]:
    """The prompts, and the tokens of the run whose values stand for what a circuit leaves out."""
    return about(torch.from_numpy(given.tokens), given), torch.from_numpy(given.corrupted)
