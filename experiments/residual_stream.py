"""How is the residual stream used: in how many directions, by whom, and who erases what?

Every part of a transformer adds to one vector of d_model numbers. Here the model reads text that it
wrote itself, and the stream is taken apart (A Mathematical Framework for Transformer Circuits,
"The residual stream as a communication channel"):

- how many directions hold its variance after each part (the effective rank: the exponential of the
  entropy of the covariance's spectrum). What enters block 0 is token and position; its attention
  layer narrows that first, and only then does the stream widen;
- how many directions each head's OV circuit can write, and QK circuit compare;
- virtual weights: how much of what a part can write (W_V W_O of a layer's heads, W_out) a later one
  can read (W_Q, W_K, W_V, W_in): |W_write W_read| / (|W_write| |W_read|) against what is
  written turned at random. The output is left out: it reads with the embedding's own matrix;
- how much of what one part wrote a later one adds again (above 0) or takes away (below 0): the
  later part's output, projected on the earlier one's;
- what all parts together leave of the token embedding: the stream's component along it after each
  part, in embeddings, for all tokens of the text, without the most frequent ones, and each once.

Expected was that an MLP erases the embedding, and that it stays away. Against the claim would speak
that it does, or that the same is found along the embeddings of other tokens.

    circuits run residual_stream
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from torch import Tensor

from circuits.architectures import HookedGPT2
from circuits.cli.experiments import as_command
from circuits.components import all_heads
from circuits.errors import CircuitsError
from circuits.experiment import Check, Finding, check, interval, own_text, table
from circuits.padding import all_real

CLAIM = (
    "The used part of the stream widens up to the middle layers and narrows to a few directions "
    "before the output; the token embedding is outweighed, not erased: what MLP 0 takes of it on "
    "average, attention layer 1 writes back, and more."
)
MODEL = "mini"
TEXTS, QUICK_TEXTS = 96, 32  # of 128 tokens
GROUPS = 8  # of texts: each gives an independent estimate of every number
FREQUENT = 5  # tokens that are left out: less than one in 400, more than one in five places
TURNS = 8  # of what is written, for virtual weights by chance
ALL, OTHERS, ONCE, SHUFFLED = (
    "its own embedding",
    f"its own, the {FREQUENT} most frequent left out",
    "its own, each token once",
    "another token's (control)",
)
READS = {"queries": "W_Q", "keys": "W_K", "values": "W_V"}
MLPS = "MLPs"
NAME = "residual_stream"
SHOWN: dict[str, dict[str, Any]] = {
    "ranks": {
        "unit": "directions",
        "title": "Effective rank of the stream",
        "axes": ("after",),
        "view": "curves",
        "meanings": {"after": "the part whose output is the last in the stream"},
    },
    "erasure": {
        "unit": "share of the earlier output",
        "title": "What later parts add to (blue) or take from (orange) earlier outputs",
        "axes": ("later", "earlier"),
        "view": "heatmap",
        "meanings": {"control": "the same for the later output at other tokens"},
    },
    "embedding": {
        "unit": "embeddings",
        "title": "The stream's component along the token embedding",
        "axes": ("along", "after"),
        "view": "curves",
        "meanings": {
            "along": "along which embedding; the control: of a shuffled vocabulary, shuffled anew "
            "for each group of texts",
            "after": "the part whose output is the last in the stream",
            "adds": "how much of it this part adds, with its interval",
            "length": "root mean square length of the whole stream, in that of the embedding",
        },
    },
    "spaces": {
        "unit": "directions",
        "title": "Effective rank of each head's circuits",
        "axes": ("circuit", "layer", "head"),
        "view": "heatmap",
    },
    "virtual": {
        "unit": "% above chance",
        "title": "Virtual weights: how much of what one part can write can a later one read?",
        "axes": ("reads", "writer", "reader"),
        "view": "heatmap",
        "meanings": {
            "value": "by how much the score is above chance",
            "control": f"the same, what is written turned at random: the farthest of {TURNS}",
            "score": "|W_write W_read| / (|W_write| |W_read|)",
        },
    },
}


def run(model: HookedGPT2, *, seed: int = 0, quick: bool = False) -> Finding:
    """Measure ranks, virtual weights, and what is left of the embedding.

    Raises:
        CircuitsError: for a model of one block, or without MLPs.
    """
    if model.cfg.n_layers < 2 or model.cfg.attn_only:
        raise CircuitsError("the claim is about MLP 0 and attention layer 1; choose a larger model")
    n = QUICK_TEXTS if quick else TEXTS
    with torch.inference_mode():
        tokens = own_text(model, n, seed)
        _, cache = model.run_with_cache(tokens, attention_mask=all_real(tokens))
        parts, labels = cache.decompose_resid(return_labels=True)
        parts, names = parts[:, :, 1:].double(), [short(label) for label in labels]
        draw = torch.Generator().manual_seed(seed)
        frames = {
            "ranks": rank_table(parts, names),
            "erasure": erasure_table(parts, names, draw),
            "embedding": embedding_table(parts, names, tokens[:, 1:], model.W_E, draw),
            "spaces": space_table(model),
            "virtual": virtual_table(model, draw),
        }
    tables = {name: table(model, NAME, frames[name], **SHOWN[name]) for name in frames}
    return Finding(verdict(frames["ranks"], frames["embedding"]), tables)


def verdict(ranks: pd.DataFrame, embedding: pd.DataFrame) -> tuple[Check, ...]:
    """What the claim stands or falls with."""
    by_part = ranks.set_index("after")
    widest = by_part["value"].idxmax()
    depth = (list(by_part.index).index(widest) + 1) / len(by_part)
    end, top = by_part.iloc[-1], by_part.loc[widest]
    left = embedding.set_index(["along", "after"]).sort_index().loc
    own, other = left[ALL, "m0"], left[SHUFFLED, "m0"]
    return (
        Check(
            f"the stream is widest after {widest}: share of the depth", depth, above=0.25, below=0.8
        ),
        check(f"directions in use after {widest}", top, above=by_part.loc["pos", "ci_high"]),
        check("directions in use before the output", end, below=top["value"] / 2),
        check("the stream after m0, in lengths of the embedding", column(own, "length"), above=10),
        check("m0 adds along the embedding", column(own, "adds"), below=0),
        check("the same, each token once", column(left[ONCE, "m0"], "adds"), below=0),
        check("component along the embedding after a1", left[ALL, "a1"], above=1),
        check("the same, each token once", left[ONCE, "a1"], above=1),
        check(
            "m0 adds along another token's embedding",
            column(other, "adds"),
            above=-0.5,
            below=0.5,
            control=True,
        ),
        check(
            "component along another token's embedding after a1",
            left[SHUFFLED, "a1"],
            above=-0.5,
            below=0.5,
            control=True,
        ),
    )


def column(row: pd.Series, name: str) -> dict[str, float]:
    """Another of a row's numbers, with its interval."""
    bounds = {end: row[f"{name}_{end}"] for end in ("ci_low", "ci_high")}
    return {"value": row[name], **bounds, "n": row["n"]}


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


def rank_table(parts: Tensor, names: list[str]) -> pd.DataFrame:
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


def embedding_table(
    parts: Tensor, names: list[str], tokens: Tensor, W_E: Tensor, draw: torch.Generator
) -> pd.DataFrame:
    """What is left of the embedding after each part, and what does the part add to it?"""
    counts = tokens.flatten().bincount(minlength=len(W_E))
    frequent = torch.isin(tokens, counts.topk(FREQUENT).indices)
    shares: dict[str, list[Tensor]] = {ALL: [], OTHERS: [], ONCE: [], SHUFFLED: []}
    groups = (parts.chunk(GROUPS, 1), tokens.chunk(GROUPS), frequent.chunk(GROUPS))
    for group, texts, skipped in zip(*groups, strict=True):
        x, ids = group.flatten(1, 2), texts.flatten()
        kinds, place = ids.unique(return_inverse=True)
        once = x.new_zeros(len(x), len(kinds), x.shape[-1]).index_add_(1, place, x)
        once /= place.bincount()[:, None]
        others = x[:, ~skipped.flatten()]
        shuffled = W_E[torch.randperm(len(W_E), generator=draw)[ids]].double()
        shares[ALL].append(along(x, x[0]))
        shares[OTHERS].append(along(others, others[0]))
        shares[ONCE].append(along(once, once[0]))
        shares[SHUFFLED].append(along(x, shuffled))
    rows = []
    for name, found in shares.items():
        for part, values in zip(names, torch.stack(found, -1), strict=True):
            kept, adds, length = map(interval, values)
            row = {"along": name, "after": part, **kept}
            for what, more in {"adds": adds, "length": length}.items():
                row |= {what: more["value"]}
                row |= {f"{what}_{end}": more[end] for end in ("ci_low", "ci_high")}
            rows.append(row)
    return pd.DataFrame(rows)


def along(parts: Tensor, embed: Tensor) -> Tensor:
    """Of `parts` [part n d]: the sum's component along `embed` [n d], the part's, the sum's length.

    All in embeddings [part 3], over n tokens, each vector less the mean over tokens.
    """
    parts, embed = parts - parts.mean(1, keepdim=True), embed - embed.mean(0)
    size = embed.square().sum()
    adds = torch.einsum("and,nd->a", parts, embed) / size
    length = (parts.cumsum(0).square().sum((1, 2)) / size).sqrt()
    return torch.stack([adds.cumsum(0), adds, length], -1)


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


def virtual_table(model: HookedGPT2, draw: torch.Generator) -> pd.DataFrame:
    """How much of what a part can write can a later one read, against chance?

    |A B|^2 is the trace of A^T A times B B^T. Both are taken in the d - 1 dimensions that LayerNorm
    leaves, where a random turn makes it |A|^2 |B|^2 / (d - 1) on average.
    """
    d = model.cfg.d_model - 1
    ones = torch.ones(d + 1, 1)
    basis = torch.linalg.svd(ones.T.double())[2][1:].T  # all directions without a mean
    writers, readers = ends(model, basis)
    turns = torch.randn(TURNS, d, d, generator=draw).double()
    turns = torch.linalg.qr(turns)[0]
    rows, order = [], list(writers)
    for name, wrote in writers.items():
        turned = turns @ wrote @ turns.mT
        for (reads, reader), read in readers.items():
            if order.index(reader) <= order.index(name):
                continue
            chance = wrote.trace() * read.trace() / d
            value, control = (((x * read).sum((-1, -2)) / chance).sqrt() for x in (wrote, turned))
            about = {
                "reads": reads,
                "writer": name,
                "reader": reader,
                "value": 100 * (float(value) - 1),
            }
            most = control[(control - 1).abs().argmax()] - 1
            rows.append(about | {"control": 100 * float(most), "score": float(value) / d**0.5})
    frame = pd.DataFrame(rows)
    return frame.sort_values("reads", key=lambda x: x.map([*READS, MLPS].index), kind="stable")


def ends(
    model: HookedGPT2, basis: Tensor
) -> tuple[dict[str, Tensor], dict[tuple[str, str], Tensor]]:
    """A^T A of all that is written, and B B^T of all that reads, norms' weights folded in."""

    def gram(rows: Tensor) -> Tensor:
        x = rows.double() @ basis
        return x.T @ x

    W_E, W_pos = model.W_E, model.W_pos
    writers = {"embed": gram(W_E - W_E.mean(0)), "pos": gram(W_pos - W_pos.mean(0))}
    readers = {}
    for i, block in enumerate(model.blocks):
        writers[f"a{i}"] = gram((block.attn.W_V @ block.attn.W_O).flatten(0, 1))
        writers[f"m{i}"] = gram(block.mlp.W_out)
        for reads, name in READS.items():
            rows = getattr(block.attn, name).mT.flatten(0, 1)
            readers[reads, f"a{i}"] = gram(rows * block.ln1.w)
        readers[MLPS, f"m{i}"] = gram(block.mlp.W_in.T * block.ln2.w)
    return writers, readers


if __name__ == "__main__":
    as_command(__file__)
