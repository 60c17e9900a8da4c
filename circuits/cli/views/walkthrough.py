"""The walkthrough in a terminal: what is computed, in which order, and what is written."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pandas as pd
from rich.console import RenderableType
from rich.text import Text

from circuits.cli.tables import new_table, number, percent
from circuits.cli.terminal import visible
from circuits.result import Result

STEPS = {
    "tokens": "the text as numbers",
    "embed": "each token's row of the embedding",
    "pos_embed": "each position's row",
    "resid_pre": "their sum: the residual stream",
    "ln1_normalized": "the stream, its mean taken away, at a common size",
    "ln1": "the same, scaled and shifted",
    "q": "queries: what is looked for",
    "k": "keys: what is found by it",
    "v": "values: what is passed on",
    "scores": "query times key: how well they match",
    "pattern": "softmax of the scores: who looks where",
    "z": "values, weighted by the pattern",
    "attn_out": "projection of all heads' values",
    "resid_mid": "added to the stream",
    "ln2_normalized": "the stream, its mean taken away, at a common size",
    "ln2": "the same, scaled and shifted",
    "pre": "how well each neuron's pattern matches",
    "post": "GELU: how strongly it fires",
    "mlp_out": "what the neurons write",
    "resid_post": "added to the stream",
    "ln_final": "the stream, normalized",
    "logits": "compared with every token",
    "probabilities": "softmax of the logits",
    "next": "the choice",
}


def view(result: Result, width: int) -> Iterator[RenderableType]:
    """The steps of the first pass, with one block for all, and the token that each pass writes."""
    frame = result.frame
    first = frame[frame["step"] == 0]
    table = new_table()
    table.add_column("step", no_wrap=True)
    table.add_column("what", no_wrap=True, overflow="ellipsis", max_width=max(width - 45, 20))
    table.add_column("shape", no_wrap=True)
    table.add_column("norm", justify="right", no_wrap=True)
    for row in first[first["layer"].fillna(0) == 0].itertuples(index=False):
        name = str(row.stage).partition(".")[0]
        table.add_row(row.stage, STEPS.get(name, ""), row.shape, number(row.value))
    yield table
    more = int(first["layer"].max())
    if more:
        yield Text(f"{more} more blocks with the same steps as block 0 follow it", style="dim")
    read = "".join(_labels(frame, "tokens", 0))
    for step in range(frame["step"].nunique()):
        token = _labels(frame, "next", step)[0]
        share = json.loads(_cell(frame, "next", step, "values"))[0]
        yield Text.assemble(visible(read), " → ", (visible(token), "bold"), f"  {percent(share)}")
        read += token
    yield Text("every number, step by step: --html FILE", style="dim")


def _labels(frame: pd.DataFrame, stage: str, step: int) -> list[str]:
    labels: list[str] = json.loads(_cell(frame, stage, step, "labels"))
    return labels


def _cell(frame: pd.DataFrame, stage: str, step: int, column: str) -> str:
    return str(frame.loc[(frame["stage"] == stage) & (frame["step"] == step), column].iloc[0])
