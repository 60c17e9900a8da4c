"""What would each layer say, if it were the last? (nostalgebraist 2020)"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from circuits.batch import as_batch
from circuits.errors import CircuitsError
from circuits.model import HookedGPT2
from circuits.registry import analysis, asked
from circuits.result import Result, provenance

MEANINGS = {
    "position": "index of the token after which the prediction is made",
    "after": "that token",
    "stage": "which residual stream is read: after the embeddings, attention layer a0, MLP m0 ...",
    "site": "the hook site of that stream",
    "layer": "the layer it leaves; empty for the embeddings",
    "answer": "what the model says in the end: its most likely token",
    "answer_rank": "the answer's place at this stage; 1 is the most likely token",
    "answer_probability": "the answer's probability at this stage",
    "entropy": "of the distribution at this stage, in nats",
    "kl": "of the final distribution from this stage's, KL(final || stage), in nats",
    "takes_over": "whether the answer is most likely from this stage on, and was not before",
    "token": "most likely token at this stage",
    "probability": "of that token",
}


@analysis
def logit_lens(
    model: HookedGPT2,
    prompt: str,
    *,
    positions: Literal["last", "all"] | int = "last",
    top: int = 5,
) -> Result:
    """What would each layer say, if it were the last?

    The residual stream after the embeddings and after every attention layer and MLP goes through
    the final LayerNorm and the unembedding: LN(resid) W_U + b_U. Shown are the top tokens, what
    becomes of the final answer, and from which stage on it is on top. The last stage is the model.

    $ circuits logit-lens "When Mary and John went to the garden, John gave a letter to"
    $ circuits logit-lens "Once upon a time" --positions all --figure lens.png
    $ circuits logit-lens "Once upon a time there was" --positions 3 --top 10 --csv

    Args:
        prompt: The text to read (on a command line after -- if it begins with a dash).
        positions: After which tokens to predict: the last, all, or one by its index (the start
            token is 0, -1 the last).
        top: How many of the most likely tokens to list.

    Raises:
        CircuitsError: for a position that the prompt does not have, or a prompt that is too long.

    >>> from circuits.checkpoints import load
    >>> lens = logit_lens(load("compiled"), "aAbBcdeBfg.")
    >>> lens.frame.loc[lens.frame["takes_over"], ["stage", "answer"]].values.tolist()
    [['a2', 'A']]
    """
    given = dict(locals())
    if not 1 <= top <= model.cfg.d_vocab:
        raise CircuitsError(f"top={top}: list 1 to {model.cfg.d_vocab} tokens")
    tokens = as_batch(model, prompt).tokens
    chosen = _chosen(positions, tokens.shape[1])
    words = model.require_tokenizer().token_strings(tokens[0].tolist())
    with torch.inference_mode():
        frame = pd.DataFrame(_rows(model, tokens, chosen, words, top))
    frame = frame.astype({"layer": "Int64"}).sort_values(["position"], kind="stable")
    return Result(
        frame,
        unit="probability",
        title=f"Logit lens on {model.cfg.model_name}",
        provenance=provenance(model, "logit_lens", **asked("logit_lens", given)),
        axes=("stage", "position"),
        view="lens",
        meanings=MEANINGS | _numbered(top),
    )


def _chosen(positions: str | int, n: int) -> list[int]:
    if positions == "all":
        return list(range(n))
    index = n - 1 if positions == "last" else positions
    if not isinstance(index, int) or not -n <= index < n:
        raise CircuitsError(
            f"there is no position {positions!r}: the prompt has {n} tokens, so choose last, all, "
            f"or an index from 0 to {n - 1} (negative ones count from the end)"
        )
    return [index % n]


def _stages(model: HookedGPT2) -> Iterator[tuple[str, str, int | None]]:
    """Each stage's name, site and layer, in the order of computation."""
    yield "embed", "blocks.0.hook_resid_pre", None
    for layer in range(model.cfg.n_layers):
        yield f"a{layer}", f"blocks.{layer}.hook_resid_mid", layer
        yield f"m{layer}", f"blocks.{layer}.hook_resid_post", layer


def _rows(
    model: HookedGPT2, tokens: Tensor, chosen: Sequence[int], words: Sequence[str], top: int
) -> list[dict[str, Any]]:
    """One row for each stage and position."""
    stages = list(_stages(model))
    _, cache = model.run_with_cache(
        tokens,
        names_filter=[site for _, site, _ in stages],
        pos_slice=list(chosen),
        stop_at_layer=model.cfg.n_layers,
    )
    final = _log_probs(model, cache[stages[-1][1]])
    answers = final.argmax(-1)
    names = model.require_tokenizer().token_strings
    rows: list[dict[str, Any]] = []
    for stage, site, layer in stages:
        log_probs = _log_probs(model, cache[site])
        numbers = _numbers(log_probs, final, answers)
        best = log_probs.topk(top)
        for i, position in enumerate(chosen):
            row = {"position": position, "after": words[position], "stage": stage, "site": site}
            row |= {"layer": layer, "answer": names([int(answers[i])])[0]}
            row |= {name: values[i].item() for name, values in numbers.items()}
            for place, token in enumerate(best.indices[i].tolist()):
                row |= {_column("token", place): names([token])[0]}
                row |= {_column("probability", place): float(best.values[i, place].exp())}
            rows.append(row)
    return _mark_takeover(rows, len(chosen))


def _log_probs(model: HookedGPT2, stream: Tensor) -> Tensor:
    """The stream of the only prompt, read as the last layer's: [1 p d] -> [p v]."""
    logits: Tensor = model.unembed(model.ln_final(stream))[0]
    is_half = logits.dtype in (torch.float16, torch.bfloat16)
    return (logits.float() if is_half else logits).log_softmax(-1)


def _numbers(log_probs: Tensor, final: Tensor, answers: Tensor) -> Mapping[str, Tensor]:
    """What becomes of the answers [p], given this stage's and the last one's predictions [p v]."""
    own = log_probs.gather(1, answers[:, None])
    # Equal probabilities are ordered by token id, as argmax orders them.
    before = torch.arange(log_probs.shape[1], device=answers.device) < answers[:, None]
    ahead = (log_probs > own) | ((log_probs == own) & before)
    return {
        "answer_rank": ahead.sum(-1) + 1,
        "answer_probability": own[:, 0].exp(),
        "entropy": -(log_probs.exp() * log_probs).sum(-1),
        "kl": (final.exp() * (final - log_probs)).sum(-1),
    }


def _mark_takeover(rows: list[dict[str, Any]], n_positions: int) -> list[dict[str, Any]]:
    """Note at each position from which stage on the answer is on top, to the end."""
    for i in range(n_positions):
        column = rows[i::n_positions]
        behind = [k for k, row in enumerate(column) if row["answer_rank"] > 1]
        first = behind[-1] + 1 if behind else 0
        for k, row in enumerate(column):
            row["takes_over"] = k == first
    return rows


def _column(name: str, place: int) -> str:
    return name if place == 0 else f"{name}_{place + 1}"


def _numbered(top: int) -> dict[str, str]:
    """What the columns of the second and later tokens mean."""
    return {
        _column(name, place): f"{MEANINGS[name]} (number {place + 1})"
        for place in range(1, top)
        for name in ("token", "probability")
    }
