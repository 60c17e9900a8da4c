"""How does the model get from the text to the next token, number by number?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuits.batch import one_prompt
from circuits.cache import Cache
from circuits.errors import CircuitsError
from circuits.generation import stream
from circuits.model import HookedModel
from circuits.registry import analysis
from circuits.result import Result, provenance
from circuits.steps import BLOCK, STEPS

DEFAULT_MODEL = "sort-abc"  # small enough to show every number
MOST_TOKENS = 64  # prompt and new tokens: more rows cannot be read
MOST_NUMBERS = 700_000  # in a result, which makes a page of less than 5 MB
TOP = 10  # tokens whose logits are kept
Row = dict[str, str | int | float | None]
DIGITS = 5
MEANINGS = {
    "step": "which pass: 0 reads the prompt, each further one the token written before",
    "stage": "what is computed, and in which block: ln1.0, q.0, scores.0 ...",
    "layer": "the block; empty outside of the blocks",
    "site": "the hook site that has these values, or the part of the model that gives them",
    "shape": "of the new values: positions and dimensions; of attention: heads, queries, keys",
    "value": "Euclidean norm of the newest position's values, all columns and heads",
    "values": "the values as JSON: as many columns as the result keeps; null where masked",
    "labels": "tokens that belong to the values, as JSON",
}
_START = tuple((name, STEPS[name].site) for name in ("embed", "pos_embed"))
_BLOCK = tuple((step.name, step.site) for step in BLOCK)  # without a dot: sites of the block
_ATTENTION = tuple(step.name for step in BLOCK if step.square)


@analysis
def walkthrough(
    model: HookedModel,
    prompt: str,
    *,
    steps: int = 6,
    temperature: float = 0.0,
    seed: int = 0,
) -> Result:
    """How does the model get from the text to the next token, number by number?

    Everything that one forward pass computes, in order: tokens, embeddings, and in every block
    LayerNorm, queries, keys and values, scores, softmax, weighted values, projection, residual
    stream and MLP; then logits, probabilities, and the choice of the next token, with which the
    next pass begins. With --html, a page to step through. Later passes hold only the new position:
    a token never looks at later ones, so what was computed stays. Wide tensors of large models are
    cut to their first columns. On the command line the model is `sort-abc` unless another is named.

    $ circuits walkthrough CBABBC --html walkthrough.html
    $ circuits walkthrough "Once upon a time" --model mini --steps 4 --html walkthrough.html

    Args:
        prompt: The text to read (on a command line after -- if it begins with a dash).
        steps: How many tokens to write.
        temperature: Below 1 more cautious, above 1 more daring; 0 takes the likeliest token.
        seed: The same seed draws the same tokens.

    Raises:
        CircuitsError: for no steps, or more tokens than can be shown or read.

    >>> from circuits.checkpoints import load
    >>> walk = walkthrough(load("sort-abc"), "CBABBC")
    >>> "".join(json.loads(t)[0] for t in walk.frame.loc[walk.frame["stage"] == "next", "labels"])
    'ABBBCC'
    """
    _require_middle(model)
    if steps < 1:
        raise CircuitsError(f"steps={steps}: let the model write at least one token")
    read = one_prompt(model, prompt)[0].tolist()
    most = min(MOST_TOKENS, model.cfg.n_ctx + 1)  # the last one is written, and not read
    if len(read) + steps > most:
        raise CircuitsError(
            f"the prompt has {len(read)} tokens, and steps={steps} are to be written; a "
            f"walkthrough of {model.cfg.model_name} shows at most {most} in all: shorten the "
            "prompt, or lower steps"
        )
    written = _write(model, read, steps, temperature, seed)
    with torch.inference_mode():
        frame = pd.DataFrame(_rows(_Walk.of(model, read, written, temperature)))
    return Result(
        frame.astype({"layer": "Int64"}),
        unit="norm",
        title=f"Every step of {model.cfg.model_name}",
        provenance=provenance(model, "walkthrough"),
        axes=("stage", "step"),
        view="heatmap",
        meanings=MEANINGS,
    )


def _require_middle(model: HookedModel) -> None:
    if not model.cfg.has_middle:
        raise CircuitsError(
            f"a walkthrough goes through attention and then the MLP, and {model.cfg.model_name} "
            f"has {'no MLPs' if model.cfg.attn_only else 'both side by side'}; look at the sites "
            "of model.run_with_cache instead"
        )


def _write(
    model: HookedModel, read: list[int], steps: int, temperature: float, seed: int
) -> list[int]:
    options: dict[str, Any] = {"temperature": temperature, "seed": seed}
    options["stop"] = model.require_tokenizer().eos_ids
    made = stream(model, [read], max_new_tokens=steps, **options)
    return [int(step.tokens[0]) for step in made]


@dataclass(frozen=True, eq=False)
class _Walk:
    """All that is told: one run over prompt and new tokens gives every pass, by causality."""

    model: HookedModel
    cache: Cache
    logits: Tensor  # [p v]
    tokens: Sequence[int]  # those that were read, and the last one written
    n_prompt: int
    temperature: float
    width: int  # columns that are kept of each tensor

    @classmethod
    def of(
        cls, model: HookedModel, read: list[int], written: list[int], temperature: float
    ) -> _Walk:
        tokens = [*read, *written]
        layers = range(model.cfg.n_layers)
        names = [site for _, site in _START]
        names += [f"blocks.{i}.{site}" for i in layers for _, site in _BLOCK if "hook" in site]
        names.append("blocks.0.hook_resid_pre")
        known = [name for name in names if name in model.hook_dict]
        inputs = {"input_ids": [tokens[:-1]], "attention_mask": [[1] * (len(tokens) - 1)]}
        logits, cache = model.run_with_cache(inputs, names_filter=known)
        width = _width(model, len(tokens) - 1)
        return cls(model, cache, logits[0], tokens, len(read), temperature, width)

    def positions(self, step: int) -> slice:
        """The positions that this pass reads."""
        return slice(0 if step == 0 else self.n_prompt + step - 1, self.n_prompt + step)


def _width(model: HookedModel, n: int) -> int:
    """How many columns of each tensor there is room for, of n positions."""
    cfg, width = model.cfg, 1 << 14
    squares = 2 * cfg.n_layers * cfg.n_heads * n * (n + 1)
    while True:
        d, inner = min(cfg.d_model, width), min(cfg.n_heads * cfg.d_head, width)
        each = cfg.n_layers * (8 * d + 4 * inner + 2 * min(cfg.d_mlp, width)) + 4 * d
        if n * each + squares <= MOST_NUMBERS or width == 16:
            return width
        width //= 2


def _rows(walk: _Walk) -> Iterator[Row]:
    """One row for each pass and tensor, in the order of computation."""
    names = walk.model.require_tokenizer().token_strings
    for step in range(len(walk.tokens) - walk.n_prompt):
        where = walk.positions(step)
        ids = walk.tokens[where]
        # The norm of ids would say nothing.
        read: Row = {"shape": str(len(ids)), "value": np.nan, "values": _text(np.array(ids))}
        read["labels"] = _json(names(ids))
        yield _named(step, "tokens", None, "hook_tokens") | read
        for name, layer, site, values in _tensors(walk):
            new = _new(name, values, where)
            told: Row = {"values": _text(_cut(walk, name, new)), "labels": ""}
            yield _named(step, name, layer, site) | _measured(name, new) | told
        yield from _ends(walk, step)


def _named(step: int, name: str, layer: int | None, site: str) -> Row:
    stage = name if layer is None else f"{name}.{layer}"
    return {"step": step, "stage": stage, "layer": layer, "site": site}


def _measured(name: str, values: NDArray[np.float64] | NDArray[np.int64]) -> Row:
    last = values[:, -1] if name in _ATTENTION else values[-1]
    norm = float(np.sqrt(np.square(last[np.isfinite(last)]).sum()))
    return {"shape": " × ".join(map(str, values.shape)), "value": norm}


def _tensors(walk: _Walk) -> Iterator[tuple[str, int | None, str, Tensor]]:
    """Name, layer, site and values of all positions, up to the final LayerNorm."""
    model, cache = walk.model, walk.cache
    for name, site in _START:
        if site in cache:
            yield name, None, site, cache[site][0]
    yield "resid_pre", 0, "blocks.0.hook_resid_pre", cache["resid_pre", 0][0]
    stream_ = cache["resid_pre", 0][0]
    for layer, block in enumerate(model.blocks):
        inputs = {"ln1": stream_, "ln2": cache["resid_mid", layer][0]}
        for name, short in _BLOCK:
            site = f"blocks.{layer}.{short}"
            if name in inputs:
                yield name, layer, site, getattr(block, name).plain(inputs[name])
            elif site in cache:
                yield name, layer, site, cache[site][0]
        stream_ = cache["resid_post", layer][0]
    yield "ln_final", None, "ln_final", model.ln_final.plain(stream_)


def _new(name: str, values: Tensor, where: slice) -> NDArray[np.float64]:
    """The part that this pass adds."""
    new = values[:, where, : where.stop] if name in _ATTENTION else values[where]
    numbers: NDArray[np.float64] = new.double().cpu().numpy()
    return numbers


def _cut(walk: _Walk, name: str, new: NDArray[np.float64]) -> NDArray[np.float64]:
    """The columns that are kept; of every head as many."""
    if name in _ATTENTION:
        return new
    if new.ndim == 3:
        return new[..., : max(1, walk.width // new.shape[1])]
    return new[:, : walk.width]


def _ends(walk: _Walk, step: int) -> Iterator[Row]:
    """Logits, probabilities and choice at the last position, for the likeliest tokens."""
    logits = walk.logits[walk.n_prompt + step - 1].double()
    probs = (logits / (walk.temperature or 1.0)).softmax(-1)
    best = logits.topk(min(TOP, len(logits))).indices
    chosen = torch.tensor([walk.tokens[walk.n_prompt + step]])
    names = walk.model.require_tokenizer().token_strings
    for name, site, values, tokens in (
        ("logits", "unembed.hook_out", logits, best),
        ("probabilities", "softmax", probs, best),
        ("next", "choice", probs, chosen),
    ):
        every = values.cpu().numpy()[None]
        told: Row = {"values": _text(every[0, tokens.cpu()])}
        told["labels"] = _json(names(tokens.tolist()))
        yield _named(step, name, None, site) | _measured(name, every) | told


def _json(labels: Sequence[str]) -> str:
    return json.dumps(labels, ensure_ascii=False)


def _text(values: NDArray[np.float64] | NDArray[np.int64]) -> str:
    """Nested lists as JSON; null for what is masked."""
    flat = [f"{x:.{DIGITS}g}" if np.isfinite(x) else "null" for x in values.ravel().tolist()]
    for n in values.shape[:0:-1]:
        flat = [f"[{','.join(flat[i : i + n])}]" for i in range(0, len(flat), n)]
    return f"[{','.join(flat)}]"
