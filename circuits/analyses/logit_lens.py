"""What would each layer say, if it were the last? (nostalgebraist 2020)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from circuits.batch import one_prompt
from circuits.errors import CircuitsError
from circuits.metrics import divergence
from circuits.model import HookedModel
from circuits.padding import all_real
from circuits.registry import analysis
from circuits.result import Result, provenance
from circuits.tuned_lens import Stage, TunedLens, lens_logits, stages

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
    "target": "the token that was asked for",
    "value": "the target's probability at this stage",
    "target_rank": "its place at this stage; 1 is the most likely token",
    "target_logit": "its logit at this stage",
}


@analysis
def logit_lens(
    model: HookedModel,
    prompt: str,
    *,
    positions: Literal["last", "all"] | int = "last",
    top: int = 5,
    token: str | Sequence[str] | None = None,
    lens: str | Path | TunedLens | None = None,
) -> Result:
    """What would each layer say, if it were the last?

    The residual stream after the embeddings and after every attention layer and MLP goes through
    the final LayerNorm and the unembedding: LN(resid) W_U + b_U. Shown are the top tokens, what
    becomes of the final answer, and from which stage on it is on top. The last stage is the model.
    With tokens of your own, their probability, rank and logit are followed through the stages. A
    tuned lens translates each stage before it is read (Belrose et al. 2023; see tune-lens).

    $ circuits logit-lens "When Mary and John went to the garden, John gave a letter to"
    $ circuits logit-lens "Once upon a time" --positions all --figure lens.png
    $ circuits logit-lens "Once upon a time there was" --positions 3 --top 10 --csv
    $ circuits logit-lens "When Mary and John went out, John gave it to" --token " Mary"
    $ circuits logit-lens "Once upon a time" --lens lens.safetensors

    Args:
        prompt: The text to read (on a command line after -- if it begins with a dash).
        positions: After which tokens to predict: the last, all, or one by its index (the start
            token is 0, -1 the last).
        top: How many of the most likely tokens to list.
        token: A token to follow through the stages; repeat it for several.
        lens: A tuned lens of this model, from tune-lens. Without it, the logit lens.

    Raises:
        CircuitsError: for a position that the prompt does not have, a prompt that is too long, and
            another model's lens.

    >>> from circuits.checkpoints import load
    >>> lens = logit_lens(load("compiled"), "aAbBcdeBfg.")
    >>> lens.frame.loc[lens.frame["takes_over"], ["stage", "answer"]].values.tolist()
    [['a2', 'A']]
    """
    if not 1 <= top <= model.cfg.d_vocab:
        raise CircuitsError(f"top={top}: list 1 to {model.cfg.d_vocab} tokens")
    tuned = None if lens is None else _of_this_model(lens, model)
    tokens = one_prompt(model, prompt)
    look = _look(model, tokens, positions, token, top)
    with torch.inference_mode():
        frame = pd.DataFrame(_rows(look, tokens, tuned))
    frame = frame.astype({"layer": "Int64"}).sort_values(["position"], kind="stable")
    followed = ("target", "stage") if len(look.chosen) == 1 else ("position", "target", "stage")
    return Result(
        frame,
        unit="probability",
        title=f"{'Logit' if tuned is None else 'Tuned'} lens on {model.cfg.model_name}",
        provenance=provenance(model, "logit_lens"),
        axes=followed if look.targets else ("stage", "position"),
        view="curves" if look.targets else "lens",
        meanings=MEANINGS | _numbered(top),
    )


def _of_this_model(lens: str | Path | TunedLens, model: HookedModel) -> TunedLens:
    """The lens, read from its file where only that is given, and checked to fit the model."""
    if isinstance(lens, str | Path):
        return TunedLens.load(lens, model)
    lens.check(model)
    return lens


@dataclass(frozen=True)
class _Look:
    """What is looked at: which positions, how many tokens, and which in particular?"""

    model: HookedModel
    chosen: Sequence[int]
    words: Sequence[str]
    top: int
    targets: Sequence[int]


def _look(
    model: HookedModel,
    tokens: Tensor,
    positions: str | int,
    token: str | Sequence[str] | None,
    top: int,
) -> _Look:
    """What is asked for of a prompt's tokens [1 p]."""
    chosen = _chosen(positions, tokens.shape[1])
    words = model.require_tokenizer().token_strings(tokens[0].tolist())
    return _Look(model, chosen, [words[i] for i in chosen], top, _targets(model, token))


def _targets(model: HookedModel, token: str | Sequence[str] | None) -> list[int]:
    """The tokens to follow, each once."""
    texts = [token] if isinstance(token, str) else token or ()
    return list(dict.fromkeys(model.to_single_token(text) for text in texts))


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


def _rows(look: _Look, tokens: Tensor, lens: TunedLens | None) -> list[dict[str, Any]]:
    """One row for each stage and position, or of targets for each of them."""
    model, listed = look.model, stages(look.model)
    _, cache = model.run_with_cache(
        tokens,
        attention_mask=all_real(tokens),
        names_filter=[stage.site for stage in listed],
        pos_slice=list(look.chosen),
        stop_at_layer=model.cfg.n_layers,
    )
    final = lens_logits(model, cache[listed[-1].site])[0].log_softmax(-1)
    rows: list[dict[str, Any]] = []
    for stage in listed:
        stream = cache[stage.site]
        logits = lens_logits(model, stream if lens is None else lens(stage.site, stream))[0]
        rows += _stage_rows(look, stage, logits, final)
    rows = _mark_takeover(rows, len(look.chosen))
    if not look.targets:
        return rows
    return [{**row, **target} for row in rows for target in row.pop("targets")]


def _stage_rows(look: _Look, stage: Stage, logits: Tensor, final: Tensor) -> list[dict[str, Any]]:
    """What this stage says at each position: logits [p v], and the last one's predictions [p v]."""
    names = look.model.require_tokenizer().token_strings
    log_probs, answers = logits.log_softmax(-1), final.argmax(-1)
    numbers, best = _numbers(log_probs, final, answers), log_probs.topk(look.top)
    followed = [_followed(names([token])[0], token, logits) for token in look.targets]
    rows = []
    for i, (position, after) in enumerate(zip(look.chosen, look.words, strict=True)):
        row = {"position": position, "after": after, "stage": stage.name, "site": stage.site}
        row |= {"layer": stage.layer, "answer": names([int(answers[i])])[0]}
        row |= {name: values[i].item() for name, values in numbers.items()}
        for place, token in enumerate(best.indices[i].tolist()):
            row |= {_column("token", place): names([token])[0]}
            row |= {_column("probability", place): float(best.values[i, place].exp())}
        if followed:
            row["targets"] = [
                {name: x if isinstance(x, str) else x[i].item() for name, x in one.items()}
                for one in followed
            ]
        rows.append(row)
    return rows


def _followed(name: str, token: int, logits: Tensor) -> dict[str, Any]:
    """What becomes of one token at each position, given this stage's logits [p v]."""
    ids = torch.full_like(logits[:, 0], token, dtype=torch.long)
    log_probs = logits.log_softmax(-1)
    return {
        "target": name,
        "value": log_probs[:, token].exp(),
        "target_rank": _ranks(log_probs, ids),
        "target_logit": logits[:, token],
    }


def _numbers(log_probs: Tensor, final: Tensor, answers: Tensor) -> Mapping[str, Tensor]:
    """What becomes of the answers [p], given this stage's and the last one's predictions [p v]."""
    return {
        "answer_rank": _ranks(log_probs, answers),
        "answer_probability": log_probs.gather(1, answers[:, None])[:, 0].exp(),
        "entropy": -(log_probs.exp() * log_probs).sum(-1),
        "kl": divergence(final, log_probs),
    }


def _ranks(log_probs: Tensor, ids: Tensor) -> Tensor:
    """The place of one token at each position: [p v], [p] -> [p]; 1 is the most likely."""
    own = log_probs.gather(1, ids[:, None])
    # Equal probabilities are ordered by token id, as argmax orders them.
    before = torch.arange(log_probs.shape[1], device=ids.device) < ids[:, None]
    return ((log_probs > own) | ((log_probs == own) & before)).sum(-1) + 1


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
