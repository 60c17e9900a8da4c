"""How is the residual stream used: in how many directions, by whom, and who erases what?

Every part of a transformer adds to one vector of d_model numbers. Here the model reads text that it
wrote itself, and the stream is taken apart (A Mathematical Framework for Transformer Circuits,
"The residual stream as a communication channel"):

- how many directions hold its variance after each part (the effective rank: the exponential of the
  entropy of the covariance's spectrum);
- how many directions each head's OV circuit can write, and QK circuit compare;
- how much of what one part wrote a later one adds again (above 0) or takes away (below 0): the
  later part's output, projected on the earlier one's. What a later part takes away frees its place.
  It is a mean over tokens, and single ones may go the other way: notebook 1 shows how many do.

    circuits run residual_stream
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from circuits.components import all_heads
from circuits.experiment import Check, Finding, check, table
from circuits.model import HookedGPT2
from circuits.result import mean_interval

CLAIM = (
    "The used part of the stream widens up to the middle layers and narrows to a few directions "
    "before the output, and MLPs on average erase the token embedding on the way."
)
MODEL = "mini"
TEXTS, QUICK_TEXTS, LENGTH = 96, 32, 128
GROUPS = 8  # of texts: each gives an independent estimate of every number
NAME = "residual_stream"


def run(model: HookedGPT2, *, seed: int = 0, quick: bool = False) -> Finding:
    """Measure ranks and erasures on the model's own text."""
    n = QUICK_TEXTS if quick else TEXTS
    with torch.inference_mode():
        tokens = own_text(model, n, seed)
        _, cache = model.run_with_cache(tokens)
        parts, labels = cache.decompose_resid(return_labels=True)
        parts, names = parts[:, :, 1:].double(), [short(label) for label in labels]
        ranks = rank_table(parts, names, model.cfg.n_layers)
        erased = erasure_table(parts, names, torch.Generator().manual_seed(seed))
        spaces = space_table(model)
    tables = {
        "ranks": table(
            model,
            NAME,
            ranks,
            "directions",
            f"Effective rank of the stream ({model.cfg.d_model} dimensions)",
            axes=("after",),
            view="curves",
            meanings={"after": "the part whose output is the last in the stream"},
        ),
        "erasure": table(
            model,
            NAME,
            erased,
            "share of the earlier output",
            "What later parts add to (blue) or take from (orange) earlier outputs",
            axes=("later", "earlier"),
            view="heatmap",
            meanings={"control": "the same for the later output at other tokens"},
        ),
        "spaces": table(
            model,
            NAME,
            spaces,
            "directions",
            "Effective rank of each head's circuits",
            axes=("circuit", "layer", "head"),
            view="heatmap",
        ),
    }
    return Finding(verdict(ranks, erased, model), tables)


def verdict(ranks: pd.DataFrame, erased: pd.DataFrame, model: HookedGPT2) -> tuple[Check, ...]:
    """What the claim stands or falls with."""
    by_part = ranks.set_index("after")
    widest = by_part["value"].idxmax()
    depth = (list(by_part.index).index(widest) + 1) / len(by_part)
    end, top = by_part.iloc[-1], by_part.loc[widest]
    on_embedding = erased[(erased["earlier"] == "embed") & erased["later"].str.startswith("m")]
    most = on_embedding.loc[on_embedding["value"].idxmin()]
    return (
        Check(
            f"the stream is widest after {widest}: share of the depth", depth, above=0.25, below=0.8
        ),
        check(f"directions in use after {widest}", top, above=by_part["ci_high"].iloc[0]),
        check("directions in use before the output", end, below=top["value"] / 2),
        check(f"share of the embedding that {most['later']} takes away", most, below=-0.1),
        Check(
            "the same for its output at other tokens",
            float(most["control"]),
            above=-0.1,
            below=0.1,
            control=True,
        ),
    )


def own_text(model: HookedGPT2, n: int, seed: int) -> Tensor:
    """Text that the model writes after its start token: [n p]."""
    start = model.to_tokens("", prepend_bos=True).expand(n, -1)
    length = min(LENGTH, model.cfg.n_ctx) - 1
    written: Tensor = model.generate(
        start, max_new_tokens=length, stop_at_eos=False, seed=seed, return_type="tokens"
    )
    return written


def short(label: str) -> str:
    """The name of a part in this package's grammar: 3_mlp_out is m3."""
    layer, _, kind = label.partition("_")
    if layer.isdigit():
        return f"{'a' if kind == 'attn_out' else 'm'}{layer}"
    return label.removesuffix("_embed")


def effective_rank(spectrum: Tensor) -> float:
    """Of how many equal directions has this spectrum [d] of variances the entropy?"""
    share = spectrum.clamp_min(0) / spectrum.clamp_min(0).sum()
    return float(torch.special.entr(share).sum().exp())


def rank_table(parts: Tensor, names: list[str], n_layers: int) -> pd.DataFrame:
    """The effective rank of the stream after each part, with its interval over groups of texts."""
    stream, rows = torch.zeros_like(parts[0]), []
    for name, part in zip(names, parts, strict=True):
        stream = stream + part
        ranks = []
        for group in stream.chunk(GROUPS):
            x = group.flatten(0, 1)
            x = x - x.mean(0)
            ranks.append(effective_rank(torch.linalg.eigvalsh(x.T @ x)))
        rows.append({"after": name, **interval(ranks)})
    return pd.DataFrame(rows)


def erasure_table(parts: Tensor, names: list[str], draw: torch.Generator) -> pd.DataFrame:
    """By which factor of each earlier output does each later one change it?"""
    estimates, controls = [], []
    for group in parts.chunk(GROUPS, dim=1):
        x = group.flatten(1, 2)
        x = x - x.mean(1, keepdim=True)
        other = x[:, torch.randperm(x.shape[1], generator=draw)]
        length = (x * x).sum((1, 2))[:, None]
        estimates.append(torch.einsum("and,bnd->ab", x, x) / length)
        controls.append(torch.einsum("and,bnd->ab", x, other) / length)
    factors, control = torch.stack(estimates, -1).numpy(), torch.stack(controls, -1).numpy()
    return pd.DataFrame(
        {
            "later": names[j],
            "earlier": names[i],
            **interval(factors[i, j]),
            "control": control[i, j].mean(),
        }
        for j in range(1, len(names))
        for i in range(j)
    )


def space_table(model: HookedGPT2) -> pd.DataFrame:
    """How many directions does each head write, and compare? By the spectrum of its matrices."""
    circuits = {"OV": model.OV, "QK": model.QK}
    return pd.DataFrame(
        {
            "circuit": name,
            "component": str(head),
            "layer": head.layer,
            "head": head.head,
            "value": effective_rank(circuit.S[head.layer, head.head].double() ** 2),
        }
        for name, circuit in circuits.items()
        for head in all_heads(model.cfg)
    )


def interval(values: object) -> dict[str, float]:
    return {name: float(x) for name, x in mean_interval(np.asarray(values)).items()}
