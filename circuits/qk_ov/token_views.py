"""Four ways to read a token-to-token matrix, and one number for each head's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import pandas as pd
import torch
from torch import Tensor

from circuits import components
from circuits.components import Component
from circuits.errors import CircuitsError, nearest
from circuits.factored import FactoredMatrix
from circuits.model import HookedModel
from circuits.qk_ov.token_circuits import (
    TokenCircuit,
    diagonal_ranks,
    eigenvalues,
    extremes,
    trace_share,
)
from circuits.result import Result, provenance

Show = Literal["pairs", "diagonal", "eigenvalues", "directions"]
Row = dict[str, str | int | float]
Words = Callable[[Sequence[int]], list[str]]  # what tokens are called
MOST_READ = 5  # tokens that are read off each end of a direction
MEANINGS = {
    "component": "the head",
    "layer": "of the head",
    "head": "within its layer",
    "place": "1 is the highest value, -1 the lowest (with tokens: of each token)",
    "deviations": "value minus the mean of all entries, in standard deviations of all entries",
    "matrix": "this head's, or what a random matrix has on average",
    "within": "where a token's own entry may lie among all entries of its row",
    "k": "the same as a number",
    "mean_rank": "mean place of a token's own entry in its row; 1 is the highest",
    "tokens": "how many rows were looked at",
    "eigenvalue": "number; 1 is the largest",
    "real": "its real part",
    "imaginary": "its imaginary part",
    "copying": "sum of all eigenvalues over the sum of their sizes, from -1 to 1",
    "matching": "sum of all eigenvalues over the sum of their sizes, from -1 to 1",
    "control": "the same with the columns' tokens shuffled (seed 0)",
    "spread": "root mean square of the head's whole matrix",
    "reading": "the direction in words: what it reads at one end, and what that means at the other",
    "direction": "number of the singular direction; 1 is the largest",
    "sign": "which end of it: a singular vector's sign is arbitrary, that of a pair is not",
    "share": "of the matrix' squared norm that lies in this direction",
    "offset": "how many positions before the query the key stands",
    "lowest": "of all queries, relative to the mean of the query's keys",
    "highest": "of all queries, relative to the mean of the query's keys",
    "best": "share of queries whose highest score is at this offset",
    "queries": "how many have a key at this offset; value is their mean",
}
VALUES = {
    "pairs": "the matrix' entry, relative to the mean of its row",
    "diagonal": "share of tokens whose own entry is there",
    "eigenvalues": "size of the eigenvalue",
    "directions": "the singular value",
    "positions": "score relative to the mean of the query's keys, mean over queries",
    "heads": "sum of all eigenvalues over the sum of their sizes, from -1 to 1",
}


@dataclass(frozen=True)
class Kind:
    """What a matrix of this kind is called, and its rows, columns, entries."""

    analysis: str
    question: str
    row: str
    column: str
    unit: str
    score: str


@dataclass(frozen=True, eq=False)
class View:
    """A way to read a head's matrix.

    Attributes:
        show: one of `VALUES`; heads, if all heads are compared.
        head: the one that is looked at; None for all.
        effective: whether rows and columns are effective embeddings.
        tokens: the ids of the only rows that are read; None for all.
        top: how many pairs at each end, or directions, are listed.
    """

    show: str
    head: Component | None
    effective: bool
    tokens: Tensor | None
    top: int


def answer(model: HookedModel, kind: Kind, circuit: TokenCircuit, view: View) -> Result:
    """The view that was asked for, of one head or of all of them."""
    if view.head is None:
        frame = _heads(model, circuit)
        frame = frame[frame["layer"] > 0] if view.effective else frame
        return in_result(model, kind, view, frame)
    matrix, words = circuit.of(view.head), model.require_tokenizer().token_strings
    if view.show == "pairs":
        frame = pd.DataFrame(_pairs(matrix, kind, view.tokens, view.top, words))
    elif view.show == "diagonal":
        frame = _diagonal(matrix, view.tokens)
    elif view.show == "eigenvalues":
        frame = _eigenvalues(matrix, kind)
    else:
        frame = pd.DataFrame(_directions(matrix, kind, view.top, words))
    frame.insert(0, "component", str(view.head))
    return in_result(model, kind, view, frame)


def view_of(
    model: HookedModel,
    head: str | Component | None,
    show: str | None,
    *,
    effective: bool,
    tokens: str | Sequence[str] | None,
    top: int,
    views: Sequence[str] = get_args(Show),
) -> View:
    """The view that is asked for, one of `views`.

    Raises:
        CircuitsError: for a view there is not, options that do not belong to it, and heads and
            tokens that are not there.
    """
    if show is not None and show not in views:
        raise CircuitsError(
            f"there is no view {show!r}; choose {', '.join(views)}{nearest(str(show), views)}"
        )
    if top < 1:
        raise CircuitsError(f"top={top}: list 1 or more")
    if head is None and (tokens is not None or show not in (None, "eigenvalues")):
        raise CircuitsError(
            f"{'tokens' if tokens is not None else show} belongs to one head; name it (a1.h0), or "
            "leave this out to compare all heads by their eigenvalues"
        )
    part = None if head is None else components.one_head(head, model.cfg)
    if effective and (model.cfg.n_layers == 1 or (part is not None and part.layer == 0)):
        raise CircuitsError(
            "the heads of layer 0 read the embedding before MLP 0 does; leave out effective"
        )
    if part is None:
        return View("heads", None, effective, None, top)
    show = show or "pairs"
    if tokens is not None and show not in ("pairs", "diagonal"):
        raise CircuitsError(f"{show} are of the whole matrix; leave out tokens")
    return View(show, part, effective, _token_ids(model, tokens), top)


def _token_ids(model: HookedModel, tokens: str | Sequence[str] | None) -> Tensor | None:
    """The ids of these tokens, each once; None for all.

    Raises:
        TokenError: for a text that is not exactly one token.
    """
    if tokens is None:
        return None
    texts = [tokens] if isinstance(tokens, str) else tokens
    ids = dict.fromkeys(model.to_single_token(text) for text in texts)
    return torch.tensor(list(ids), device=model.cfg.device)


def in_result(model: HookedModel, kind: Kind, view: View, frame: pd.DataFrame) -> Result:
    """The table with its title, units, figure and provenance."""
    axes, figure = {
        "pairs": (("pair",), "bars"),
        "diagonal": (("matrix", "within"), "curves"),
        "eigenvalues": (("eigenvalue", "real", "imaginary"), "plane"),
        "directions": (("reading",), "bars"),
        "positions": (("offset",), "curves"),
        "heads": (("layer", "head"), "heatmap"),
    }[view.show]
    named = {} if view.head is None else {"head": str(view.head)}
    units = {"diagonal": "share of tokens", "heads": f"{kind.score} score"}
    embedding = ", after MLP 0" if view.effective else ""
    of_kind = {
        "value": VALUES[view.show],
        kind.row: f"token at the {kind.row}",
        kind.column: f"token at the {kind.column}",
        "pair": f"{kind.row} and {kind.column}",
    }
    return Result(
        frame,
        unit=units.get(view.show, kind.unit),
        title=f"{kind.question.format(view.head or 'each head')} "
        f"({model.cfg.model_name}{embedding})",
        provenance=provenance(model, kind.analysis, arguments=named),
        axes=axes,
        view=figure,
        meanings=MEANINGS | of_kind | _numbered(kind),
    )


def _numbered(kind: Kind) -> dict[str, str]:
    """What the columns of the tokens that are read off a direction mean."""
    return {
        f"{side}_{place}": f"{side} number {place} along the direction"
        for side in (kind.row, kind.column)
        for place in range(1, MOST_READ + 1)
    }


def _pairs(
    matrix: FactoredMatrix, kind: Kind, rows: Tensor | None, top: int, words: Words
) -> Iterator[Row]:
    """The highest and lowest entries; of each of these rows its own."""
    mean = (matrix.A.mean(0) @ matrix.B.mean(1)).item()
    square = (matrix.norm() ** 2).item() / matrix.ldim**2
    deviation = max(square - mean**2, 0.0) ** 0.5
    every = torch.arange(matrix.ldim, device=matrix.A.device)
    listed = [(every, matrix)] if rows is None else []
    listed += [(row[None], matrix[row[None]]) for row in (() if rows is None else rows)]
    for names, entries in listed:
        for sign, (values, at, columns) in zip((1, -1), extremes(entries, top), strict=True):
            for place, value in enumerate(values.tolist(), start=1):
                row, column = int(names[at[place - 1]]), int(columns[place - 1])
                first, second = words([row, column])
                yield {
                    "pair": f"{first} → {second}",
                    kind.row: first,
                    kind.column: second,
                    "place": sign * place,
                    "value": value,
                    "deviations": (value - mean) / deviation if deviation else 0.0,
                }


def _diagonal(matrix: FactoredMatrix, rows: Tensor | None) -> pd.DataFrame:
    """In which share of rows the token's own entry is among the k highest, and by chance."""
    n = matrix.rdim
    rows = torch.arange(n, device=matrix.A.device) if rows is None else rows
    ranks = diagonal_ranks(matrix, rows)
    steps = [m * 10**power for power in range(9) for m in (1, 2, 5)]
    places = [*(k for k in steps if k < n), n]
    columns = {"within": [f"top {k}" for k in places], "k": places, "tokens": len(rows)}
    shares = [(ranks <= k).double().mean().item() for k in places]
    of_head = {"matrix": "this head", **columns, "value": shares, "mean_rank": ranks.mean().item()}
    chance = {
        "matrix": "random",
        **columns,
        "value": [k / n for k in places],
        "mean_rank": (n + 1) / 2,
    }
    both: pd.DataFrame = pd.concat([pd.DataFrame(of_head), pd.DataFrame(chance)], ignore_index=True)
    return both


def _eigenvalues(matrix: FactoredMatrix, kind: Kind) -> pd.DataFrame:
    """All of them but the zeros, largest first."""
    values = eigenvalues(matrix)
    order = values.abs().argsort(descending=True, stable=True)
    values = values[order]
    shuffled = eigenvalues(matrix[:, _shuffled(matrix.rdim)])
    frame: pd.DataFrame = pd.DataFrame(
        {
            "eigenvalue": [f"λ{i}" for i in range(1, len(values) + 1)],
            "value": values.abs().tolist(),
            "real": values.real.tolist(),
            "imaginary": values.imag.tolist(),
            kind.score: trace_share(values).item(),
            "control": trace_share(shuffled).item(),
        }
    )
    return frame


def _directions(matrix: FactoredMatrix, kind: Kind, top: int, words: Words) -> Iterator[Row]:
    """The largest singular directions, each from both of its ends."""
    U, S, V = matrix.svd()
    shares = S.square() / S.square().sum().clamp(min=torch.finfo(S.dtype).tiny)
    for i in range(min(top, len(S))):
        peak = V[:, i].abs().argmax()
        turn = 1 if V[peak, i] >= 0 else -1  # the same sign on every machine
        for name, sign in (("+", turn), ("-", -turn)):
            read = [
                words((sign * side[:, i]).topk(min(MOST_READ, len(side))).indices.tolist())
                for side in (U, V)
            ]
            ends = [" ".join(token.strip() or repr(token) for token in side[:2]) for side in read]
            row: Row = {
                "reading": f"{i + 1}{name} {' → '.join(ends)}",
                "direction": i + 1,
                "sign": name,
            }
            row |= {"value": S[i].item(), "share": shares[i].item()}
            for side, tokens in zip((kind.row, kind.column), read, strict=True):
                row |= {f"{side}_{place}": token for place, token in enumerate(tokens, start=1)}
            yield row


def _heads(model: HookedModel, circuit: TokenCircuit) -> pd.DataFrame:
    """One number for each head, and the same where it can only be chance."""
    scores = trace_share(circuit.eigenvalues()).flatten().tolist()
    order = _shuffled(len(circuit.right)).to(circuit.right.device)
    control = trace_share(circuit.eigenvalues(order)).flatten().tolist()
    heads: list[Component] = components.all_heads(model.cfg)
    frame: pd.DataFrame = pd.DataFrame(
        {
            "component": list(map(str, heads)),
            "layer": [head.layer for head in heads],
            "head": [head.head for head in heads],
            "value": scores,
            "control": control,
            "spread": circuit.spread().flatten().tolist(),
        }
    )
    return frame


def _shuffled(n: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(0))
