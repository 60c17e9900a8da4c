"""Claim: the trained `mini` has the circuits its model card says, measured on the file that ships.

Turns a finished (or unfinished) run of `train_mini.py` into the bundled folder: float16 weights,
vocabulary, the metrics of every evaluated step, and a model card whose figures are all measured
here, on the float16 file as a user loads it:

    python experiments/finish_mini.py --corpus FOLDER_WITH_TEXT --run runs/mini
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from mini_data import (
    END,
    ENDINGS,
    HELD_OUT_NAMES,
    NAMES,
    OPENINGS,
    RARE_NAMES,
)
from mini_metrics import head_scores, ioi_gaps, repeats, token_losses
from torch import Tensor
from train_mini import (
    ADAM_LR,
    CFG,
    DECAY_SHARE,
    PHASES,
    ROWS,
    SEED,
    WARMUP_STEPS,
    MasterWeights,
    init_weights,
    load_prose,
)

from circuits.architectures import HookedGPT2
from circuits.checkpoints import load, save
from circuits.hooks import HookFn
from circuits.prompts import make
from circuits.prompts.ioi import TEMPLATES
from circuits.tokenizer import Tokenizer

REPEAT_LENGTH, REPEAT_ROWS, IOI_PROMPTS, VALIDATION_ROWS = 50, 100, 600, 400
KINDS = ("prose", "repeats", "pairs", "stories", "years")
DISCOUNT = 0.75  # of the Kneser-Ney bigram


def export(run: Path, out: Path) -> None:
    """Write the run's master weights, rounded to float16, as a loadable folder."""
    model = HookedGPT2(CFG, Tokenizer.from_folder(run))
    init_weights(model, SEED)
    weights = MasterWeights(model)
    weights.load(torch.load(run / "state.pt", map_location="cpu", weights_only=True))
    for own in ("MODEL_CARD.md", "metrics.jsonl"):  # `save` replaces nothing but checkpoints
        (out / own).unlink(missing_ok=True)
    save(model, out, dtype=torch.float16)
    shutil.copy(run / "metrics.jsonl", out / "metrics.jsonl")


def bigram_loss(train: np.ndarray, valid: np.ndarray, n_vocab: int) -> float:
    """Nats per token of an interpolated Kneser-Ney bigram: the line a transformer has to beat."""
    pairs = Counter(zip(train[:-1].tolist(), train[1:].tolist(), strict=True))
    first, second = np.array(list(pairs)).T
    count = np.array(list(pairs.values()))
    continuation = np.bincount(second, minlength=n_vocab) + 1e-3  # unseen tokens: almost nothing
    continuation = continuation / continuation.sum()
    totals = np.bincount(first, weights=count, minlength=n_vocab)
    followers = np.bincount(first, minlength=n_vocab)
    losses = []
    for a, b in zip(valid[:-1].tolist(), valid[1:].tolist(), strict=True):
        total = totals[a]
        if total:
            seen = max(pairs.get((a, b), 0) - DISCOUNT, 0.0)
            p = (seen + DISCOUNT * followers[a] * continuation[b]) / total
        else:
            p = continuation[b]
        losses.append(-np.log(p))
    return float(np.mean(losses))


def without(heads: list[int]) -> list[tuple[str, HookFn]]:
    """Hooks that remove these heads, numbered layer by layer."""

    def remove(head: int) -> HookFn:
        def zero(z: Tensor, hook: object) -> None:
            z[:, :, head] = 0

        return zero

    places = [divmod(i, CFG.n_heads) for i in heads]
    return [(f"blocks.{layer}.attn.hook_z", remove(head)) for layer, head in places]


def name_of(head: int) -> str:
    return f"a{head // CFG.n_heads}.h{head % CFG.n_heads}"


def name_mover_scores(model: HookedGPT2) -> Tensor:
    """Direct logit attribution [layer, head] of each head to logit(IO) - logit(S)."""
    prompts = make("ioi", model, IOI_PROMPTS // 6, 3, names=HELD_OUT_NAMES)
    _, cache = model.run_with_cache(prompts.tokens)
    by_head = cache.logit_attrs(cache.stack_head_results(), prompts.answers, prompts.distractors)
    ends = prompts.roles["END"][None, :, None].expand(len(by_head), -1, 1)
    return by_head.gather(2, ends).mean((1, 2)).view(CFG.n_layers, CFG.n_heads)


@torch.no_grad()
def measure(folder: Path, train: np.ndarray, valid: np.ndarray) -> dict[str, float | str]:
    """Every acceptance figure, on the float16 file as it loads."""
    model = load(str(folder))
    end = model.to_single_token(END)
    rows = torch.from_numpy(valid[: VALIDATION_ROWS * 255].astype(np.int64)).view(-1, 255)
    rows = torch.cat([torch.full((len(rows), 1), end), rows], 1)
    losses = token_losses(model, rows)
    n = REPEAT_LENGTH
    repeated, control = repeats(model, n, REPEAT_ROWS, end)
    copy_losses = token_losses(model, repeated)
    first, second = copy_losses[:, :n].mean(), copy_losses[:, n + 1 :].mean()
    scores, controls = head_scores(model, repeated, n), head_scores(model, control, n)
    gaps = ioi_gaps(model, IOI_PROMPTS, HELD_OUT_NAMES, seed=2)
    found: dict[str, float | str] = {
        "validation loss, nats per token": losses.mean().item(),
        "Kneser-Ney bigram on the same tokens": bigram_loss(
            train, rows[:, 1:].flatten().numpy(), CFG.d_vocab
        ),
        "ICL score: mean loss of tokens 200-250 minus tokens 20-70": (
            losses[:, 200:250].mean() - losses[:, 20:70].mean()
        ).item(),
        "loss on the first copy of random repeats": first.item(),
        "loss on the second copy": second.item(),
        "first minus second": (first - second).item(),
        "heads with induction score >= 0.5": int((scores["induction"] >= 0.5).sum()),
        "IOI, held-out names and templates: share IO > S": (gaps > 0).float().mean().item(),
        "IOI: mean logit difference": gaps.mean().item(),
        "IOI with names that the prose hardly has: share IO > S": (
            (ioi_gaps(model, IOI_PROMPTS, RARE_NAMES, seed=2) > 0).float().mean().item()
        ),
    }
    for name in ("previous", "duplicate", "induction"):
        for i in strongest(scores[name], 3):
            found[f"{name} score of {name_of(i)}"] = scores[name].flatten()[i].item()
            found[f"{name} score of {name_of(i)}, control on unrepeated tokens"] = (
                controls[name].flatten()[i].item()
            )
    return found | what_breaks(model, repeated, scores)


def strongest(scores: Tensor, n: int) -> list[int]:
    return scores.flatten().argsort(descending=True)[:n].tolist()


def what_breaks(
    model: HookedGPT2, repeated: Tensor, scores: dict[str, Tensor]
) -> dict[str, float | str]:
    """The loss on repeats and the IOI logit difference without the heads that should matter."""
    induction = strongest(scores["induction"], int((scores["induction"] >= 0.9).sum()))
    removed = {
        f"the strongest induction head, {name_of(induction[0])}": induction[:1],
        f"all induction heads >= 0.9, {', '.join(map(name_of, induction))}": induction,
    }
    previous = strongest(scores["previous"], 1)
    removed[f"the strongest previous-token head, {name_of(previous[0])}"] = previous
    found: dict[str, float | str] = {}
    for name, heads in removed.items():
        with model.hooks(without(heads)):
            losses = token_losses(model, repeated)[:, REPEAT_LENGTH + 1 :]
        found[f"second-copy loss without {name}"] = losses.mean().item()
    attributions = name_mover_scores(model)
    mover = strongest(attributions, 1)
    name = f"the strongest name mover, {name_of(mover[0])}"
    found[f"direct logit attribution of {name}"] = attributions.max().item()
    with model.hooks(without(mover)):
        gaps = ioi_gaps(model, IOI_PROMPTS, HELD_OUT_NAMES, seed=2)
    found[f"IOI logit difference without {name}"] = gaps.mean().item()
    found[f"IOI share IO > S without {name}"] = (gaps > 0).float().mean().item()
    return found


def how_it_was_made(n_tokens: int, sources: str) -> str:
    """The card's part on data and recipe."""
    phases = "\n".join(
        f"| {step:,} | "
        + " | ".join(f"{shares.get(kind, 0):.0%}" for kind in KINDS)
        + f" | {lr} | {decay} |"
        for step, (shares, lr, decay) in PHASES.items()
    )
    return f"""## Data

| from step | {" | ".join(KINDS)} | Muon's learning rate | weight decay |
{"|---" * (len(KINDS) + 3)}|
{phases}

- prose: public-domain books, {sources}. First published in 1926 or earlier; from Project Gutenberg
  and Standard Ebooks texts collected by mlschmitt/classic-books-markdown and GITenberg, and story
  texts of FairytaleQA (Apache-2.0). The prose itself is not part of this package. Old-fashioned
  attitudes of the period remain in it.
- repeats: a segment of random tokens (or, one time in four, of prose) repeated to the end of the
  context; the first copy of random tokens is no target. From step 5,000 half of the random
  segments draw from the whole vocabulary, the others, and all before, from its most frequent part.
- pairs: random pairs of tokens, again and again in another order; the second of each is a target.
- stories: {len(OPENINGS)} openings x {len(ENDINGS)} endings, our own, about two or three of
  {len(NAMES)} names or of any words. Steps before 4,000 drew from 24 fixed stories, steps before
  5,500 from 26 openings and 24 endings, and steps before 3,500 from names alone.
- years: "The war lasted from the year 1732 to the year 1745.", our own.

## Recipe

`experiments/train_mini.py`, seed {SEED}: {ROWS} sequences of {CFG.n_ctx} tokens a step,
{n_tokens:,} tokens in all; bfloat16 with float32 master weights; Muon on matrices
(each head's query, key and value apart); AdamW on the rest, {ADAM_LR}; {WARMUP_STEPS} steps of
warm-up, then constant, then linear to zero over the last {DECAY_SHARE:.0%}. Weights start larger
than GPT-2's, positions sinusoidal. The phases were set while the run went on, by what the metrics
showed, and its length too: from step 4,500 to 5,000 it was planned to end 500 steps earlier, so the
learning rates were a little lower there. A new run of the script follows the same phases from the
start, with the stories and repeats as they are now, and need not give the same weights."""


def model_card(found: dict[str, float | str], metrics: list[dict[str, float]], sources: str) -> str:
    """The card: data, recipe, curve and figures, generated from the run."""
    figures = "\n".join(
        f"| {name} | {value:.4g} |" if isinstance(value, float) else f"| {name} | {value} |"
        for name, value in found.items()
    )
    columns = [
        *("tokens", "validation_loss", "first_copy_loss", "second_copy_loss", "best_previous"),
        *("best_duplicate", "best_induction", "icl_score", "ioi_accuracy"),
    ]
    curve = "\n".join(
        "| "
        + " | ".join(f"{line[c]:,}" if c == "tokens" else f"{line[c]:.3f}" for c in columns)
        + " |"
        for line in metrics
    )
    return f"""# mini

A GPT-2 small enough to ship and large enough for previous-token, induction and name-mover heads.
It is a subject for study, not a writer.

{CFG.n_layers} layers x {CFG.n_heads} heads, d_model {CFG.d_model}, context {CFG.n_ctx}, vocabulary
{CFG.d_vocab} (byte-level BPE, GPT-2's pattern), {CFG.n_params:,} parameters, float16.

This file is generated by `experiments/finish_mini.py` from the run; do not edit it.

## Measured on this file

| figure | value |
|---|---|
{figures}

Scores are mean attention on start token + r + r, r = {REPEAT_LENGTH} random tokens, {REPEAT_ROWS}
sequences: from query i to i-1 (previous, all queries), i-n (duplicate) and i-n+1 (induction), both
from the second copy. The control is the same positions on unrepeated tokens, where a previous-token
head should and the other kinds should not score. IOI:
{IOI_PROMPTS} prompts from {len(HELD_OUT_NAMES)} names and {len(TEMPLATES)} templates that
no training story used. The prose has each of the names more than 100 times; with the
{len(RARE_NAMES)} held-out names that it has 33 times at most the model cannot know them, as the
table says. Heads that do the same back each other up: see what breaks without one and without all.
The bigram line is an interpolated Kneser-Ney model of the same tokenized prose.

{how_it_was_made(metrics[-1]["tokens"], sources)}

## Curve

| {" | ".join(columns)} |
|{"---|" * len(columns)}
{curve}

The same figures, with controls, are in `metrics.jsonl`. The IOI column up to step 5,500 mixes in
the {len(RARE_NAMES)} names that the prose hardly has.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True, help="folder of train*, valid* text")
    parser.add_argument("--run", type=Path, default=Path("runs/mini"), help="folder of the run")
    default = Path(__file__).parents[1] / "circuits" / "models" / "mini"
    parser.add_argument("--out", type=Path, default=default, help="where the model goes")
    args = parser.parse_args()
    export(args.run, args.out)
    tokenizer = Tokenizer.from_folder(args.run)
    train, valid = (load_prose(args.corpus, tokenizer, p, args.run) for p in ("train", "valid"))
    metrics = [json.loads(line) for line in (args.out / "metrics.jsonl").read_text().splitlines()]
    found = measure(args.out, train, valid)
    sources = f"{len(train):,} training and {len(valid):,} validation tokens"
    card = model_card(found, metrics, sources)
    (args.out / "MODEL_CARD.md").write_text(card, encoding="utf-8")
    print(card)


if __name__ == "__main__":
    main()
