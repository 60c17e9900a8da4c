"""What `utils.test_prompt` writes: the rank of an answer, and what the model thinks likely."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch


def report(
    model: Any,
    prompt: str,
    answer: str | Sequence[str],
    *,
    prepend_bos: bool | None,
    space: bool,
    details: bool,
    top_k: int,
) -> Iterator[str]:
    """The lines. Of several answers only the first token of each is compared."""
    answers = [answer] if isinstance(answer, str) else list(answer)
    answers = [f" {a}" if space and not a.startswith(" ") else a for a in answers]
    start = model.to_tokens(prompt, prepend_bos=prepend_bos)[0].tolist()
    split = [model.to_tokens(a, prepend_bos=False)[0].tolist() for a in answers]
    several = len(answers) > 1
    split = [ids[:1] for ids in split] if several else split
    words = [model.to_str_tokens(torch.tensor(ids)) for ids in split]
    if details:
        yield f"Tokenized prompt: {model.to_str_tokens(prompt, prepend_bos=prepend_bos)}"
        yield f"Tokenized answer{'s' if several else ''}: {words if several else words[0]}"
    with torch.no_grad():
        logits = model(torch.tensor([start + split[0]], device=model.cfg.device))[0]
    ranks = []
    for step in range(len(split[0])):
        scores = logits[len(start) + step - 1]
        probs, order = scores.softmax(-1), scores.argsort(descending=True)
        place = {int(token): i for i, token in enumerate(order.tolist())}
        step_ranks = [
            (text[step], place[ids[step]]) for text, ids in zip(words, split, strict=True)
        ]
        ranks.append(step_ranks)
        if not details:
            continue
        yield f"Performance on answer token{'s' if several else ''}:"
        for (text, rank), ids in zip(step_ranks, split, strict=True):
            token = ids[step]
            yield f"Rank: {rank: <8} {_line(scores, probs, token)} Token: |{text}|"
        for i, token in enumerate(order[:top_k].tolist()):
            text = model.to_single_str_token(token)
            yield f"Top {i}th token. {_line(scores, probs, token)} Token: |{text}|"
    yield f"Ranks of the answer tokens: {ranks[0] if several else [row[0] for row in ranks]}"


def _line(scores: torch.Tensor, probs: torch.Tensor, token: int) -> str:
    return f"Logit: {float(scores[token]):5.2f} Prob: {float(probs[token]):6.2%}"
