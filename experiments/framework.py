"""Is this model the sum of paths that its weights spell out, and where do these paths begin?

A transformer without MLPs is a sum of paths, each a product of matrices (Elhage et al. 2021): the
direct path W_E W_U, a table of bigrams; what head reads what token, W_E W_QK W_E^T; what it then
writes, W_E W_OV W_U; and compositions of heads. `mini` has MLPs, and what block 0's writes beside
the token's embedding outweighs it (see the experiment residual_stream): with tied weights, an
embedding that is alone says "this token again". So each path is read twice, from the raw embedding
W_E and from the effective one, W_E + MLP0(ln2(W_E)), and compared with what the model does:

- the direct path with the next tokens of the model's own text;
- the OV circuits' eigenvalues with what heads copy in context, over all heads after layer 0;
- the QK circuit of the induction heads with a previous-token head's output at the key: does a token
  match the key of the token that follows it, before and after the MLP has read that output?

Expected of a model with MLPs was that both readings say the same, one of them with more noise.
Against the claim would speak raw paths that agree with what the model does, effective ones that do
not, and shuffled tokens, other heads, or random weights that do as well.

    circuits run framework
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from circuits.analyses.composition import composition
from circuits.analyses.heads import heads
from circuits.analyses.ov import ov
from circuits.architectures import HookedGPT2
from circuits.cli.experiments import as_command
from circuits.components import Component
from circuits.experiment import Check, Finding, check, interval, own_text, script, table
from circuits.padding import all_real
from circuits.result import Result

CLAIM = (
    "The framework's paths tell what mini does if they begin at the effective embedding, after "
    "block 0's MLP; from the raw one, the direct path repeats its token, and induction heads seem "
    "to avoid what they copy."
)
MODEL = "mini"
NAME = "framework"
TEXTS, QUICK_TEXTS = 64, 24
DRAWS, QUICK_DRAWS = 20, 4  # of random tokens, for the heads' copying in context
MATCHED, GROUPS = 512, 8  # tokens whose keys compete, and how many times they are drawn
SHOWN = 10  # tokens whose bigrams are listed
RAW, EFFECTIVE, SHUFFLED = "raw", "effective", "effective, shuffled"
BELOW, NEXT, ITSELF = "others below the next", "the next on top", "itself on top"
THROUGH, DIRECTLY = "through the MLP", "directly"
COPIES = 0.5  # of a score from -1 to 1 whose control is about 0
CHANCE = 0.1  # of a share whose chance is below 1 %


def run(model: HookedGPT2, *, seed: int = 0, quick: bool = False) -> Finding:
    """Read every path from both embeddings, and compare."""
    texts = own_text(model, QUICK_TEXTS if quick else TEXTS, seed)
    n = QUICK_DRAWS if quick else DRAWS
    card = heads(model, kind=["induction", "previous-token", "copying"], n=n, seed=seed)
    cast = script("induction_heads").chosen(card.frame, model)
    copying = copying_table(model, card.frame, seed)
    tables = {
        "direct": direct_table(model, texts, seed),
        "bigrams": bigram_table(model, texts),
        "copying": copying,
        "matching": matching_table(model, cast.readers, cast.sender, seed),
        "composition": composition(
            model,
            to=[str(head) for head in cast.readers],
            from_=[f"a{cast.sender.layer}.h{i}" for i in range(model.cfg.n_heads)],
        ),
    }
    return Finding(verdict(cast, tables), tables)


def embeddings(model: HookedGPT2) -> dict[str, Tensor]:
    """What a token alone puts into the stream [v d], before and after block 0's MLP."""
    block = model.blocks[0]
    made = block.mlp.plain(block.ln2.plain(model.W_E))
    return {RAW: model.W_E, EFFECTIVE: model.W_E + made}


def direct_table(model: HookedGPT2, texts: Tensor, seed: int) -> Result:
    """How well does each table of bigrams tell the next token, and does it repeat the token?

    With the scale that ln_final really has; biases, a path of their own, are left out.
    """
    order = torch.randperm(model.cfg.d_vocab, generator=torch.Generator().manual_seed(seed))
    now, after = texts[:, :-1], texts[:, 1:]
    with torch.inference_mode():
        options = {"names_filter": ["ln_final.hook_scale"], "attention_mask": all_real(texts)}
        logits, cache = model.run_with_cache(texts, **options)
        scale = cache["ln_final.hook_scale"][:, :-1]
        said = {"whole model": logits[:, :-1]}
        for name, stream in embeddings(model).items():
            for which, read in {name: stream, f"{name}, shuffled": stream[order]}.items():
                x = read[now]
                x = (x - x.mean(-1, keepdim=True)) / scale * model.ln_final.w
                said[which] = x @ model.W_U
        rows = []
        for name, each in said.items():
            right = each.gather(-1, after[..., None])
            measures = {
                BELOW: (each < right).double().mean(-1),
                NEXT: each.argmax(-1) == after,
                ITSELF: each.argmax(-1) == now,
            }
            for measure, values in measures.items():
                about = {"path": name, "measure": measure}
                rows.append(about | interval(values.double().mean(1)))
    usual = after.flatten().bincount().argmax()
    for measure, values in {ITSELF: after == now, NEXT: after == usual}.items():
        about = {"path": "text", "measure": measure}
        rows.append(about | interval(values.double().mean(1)))
    return table(
        model,
        NAME,
        pd.DataFrame(rows),
        "share",
        "What does the direct path say of the model's own text?",
        axes=("measure", "path"),
        view="heatmap",
        meanings={
            "path": "from which embedding to the unembedding; shuffled: that of another token; "
            "text: how often a token comes twice, and how often the most frequent one comes",
            "measure": "share of all tokens with a lower logit than the one that follows (chance: "
            "0.5), or of places where the highest logit is that token's, or the token's own",
        },
    )


def bigram_table(model: HookedGPT2, texts: Tensor) -> Result:
    """What follows the most frequent tokens of the text, and what do the paths say?"""
    words = model.require_tokenizer().token_strings
    now, after = texts[:, :-1].flatten(), texts[:, 1:].flatten()
    counts = now.bincount()
    counts[texts[0, 0]] = 0  # where texts begin
    follows = {token: after[now == token] for token in counts.topk(SHOWN).indices.tolist()}
    rows = []
    with torch.inference_mode():
        for name, stream in embeddings(model).items():
            for token, seen in follows.items():
                x = stream[token] - stream[token].mean()
                top = int((x * model.ln_final.w @ model.W_U).argmax())
                pair = " → ".join(word.replace("\n", "\\n") for word in words([token, top]))
                share = float((seen == top).double().mean())
                rows.append(
                    {
                        "path": name,
                        "bigram": f"“{pair}” ({name})",
                        "value": share,
                        "seen": len(seen),
                    }
                )
    return table(
        model,
        NAME,
        pd.DataFrame(rows),
        "share of the token's places",
        "What comes next by the direct path, and how often does it?",
        axes=("bigram",),
        view="bars",
        meanings={
            "bigram": "a token of the text, and what this path says comes next",
            "seen": "how often the text has the first token",
        },
    )


def copying_table(model: HookedGPT2, card: pd.DataFrame, seed: int) -> Result:
    """Each head's copying: from both embeddings, with random weights, and in context."""
    untrained = HookedGPT2.random(model.cfg, seed=seed)
    after = card[(card["kind"] == "copying") & (card["layer"] > 0)]
    columns = ["component", "layer", "head", "value", "stderr", "ci_low", "ci_high", "n", "control"]
    frames = []
    for name, effective in {RAW: False, EFFECTIVE: True}.items():
        found, other = (ov(one, effective=effective).frame for one in (model, untrained))
        found = found.assign(copying=f"{name} embedding", untrained=other["value"])
        frames.append(found[found["layer"] > 0])
    frames.append(after[columns].assign(copying="in context"))
    return table(
        model,
        NAME,
        pd.concat(frames, ignore_index=True),
        "copying score",
        "Which heads copy? By eigenvalues of their OV circuits, and in context",
        axes=("copying", "layer", "head"),
        view="heatmap",
        meanings={
            "copying": "by the eigenvalues of W_E W_OV W_U, their sum over that of their sizes; or "
            "in context, how much a head raises the logit of what it looks at, and of nothing else "
            "in the prompt (`circuits heads`)",
            "control": "the same with shuffled tokens; in context, of another token",
            "untrained": "the same with random weights",
        },
    )


def matching_table(
    model: HookedGPT2, readers: tuple[Component, ...], sender: Component, seed: int
) -> Result:
    """Does a token's query match the key of the token that came after it?

    At each key stands a token, and what a head of the first layer writes when it looks only at the
    token before. Which of all tokens before has the highest score with a token's own query?
    """
    draw = torch.Generator().manual_seed(seed)
    drawn = [torch.randperm(model.cfg.d_vocab, generator=draw)[:MATCHED] for _ in range(GROUPS)]
    others = [Component("head", sender.layer, i) for i in range(model.cfg.n_heads)]
    rows = []
    with torch.inference_mode():
        for writer in others:
            for way in (THROUGH, DIRECTLY):
                for reader in readers:
                    shares = [matched(model, reader, writer, tokens, way) for tokens in drawn]
                    about = {"way": way, "writer": str(writer), "component": str(reader)}
                    rows.append(about | interval(shares))
    return table(
        model,
        NAME,
        pd.DataFrame(rows),
        "share of tokens",
        f"Does a token match the key after it? Of {MATCHED} tokens, chance {1 / MATCHED:.1g}",
        axes=("way", "writer", "component"),
        view="heatmap",
        meanings={
            "way": "what of the writer's output the key holds: what block 0's MLP makes of it, or "
            "that output itself",
            "writer": "the head that looks at the token before the key",
            "component": "the head whose queries and keys are compared",
        },
    )


def matched(
    model: HookedGPT2, reader: Component, writer: Component, tokens: Tensor, way: str
) -> float:
    """Of which share of the tokens is the highest key that of the place after it?"""
    first, later = model.blocks[0], model.blocks[reader.layer]
    W_V, b_V = (one[writer.head] for one in (first.attn.W_V, first.attn.b_V))
    wrote = (first.ln1.plain(model.W_E[tokens]) @ W_V + b_V) @ first.attn.W_O[writer.head]
    own = model.W_E[tokens] + first.attn.b_O
    next_one = own.roll(1, 0)  # some other token
    said = [first.mlp.plain(first.ln2.plain(x)) for x in (own, next_one, next_one + wrote)]
    key = next_one + said[2] if way == THROUGH else next_one + said[1] + wrote
    sides = []
    for stream, W, b in (
        (own + said[0], later.attn.W_Q, later.attn.b_Q),
        (key, later.attn.W_K, later.attn.b_K),
    ):
        sides.append(later.ln1.plain(stream) @ W[reader.head] + b[reader.head])
    best = (sides[0] @ sides[1].T).argmax(1)
    return float((best == torch.arange(len(tokens))).double().mean())


def verdict(cast: Any, tables: Mapping[str, Result]) -> tuple[Check, ...]:
    """What the claim stands or falls with."""
    copying = tables["copying"].frame.set_index(["copying", "component"]).sort_index()
    raw, effective, context = (
        copying.loc[name] for name in (f"{RAW} embedding", f"{EFFECTIVE} embedding", "in context")
    )
    readers, by_weights = [*map(str, cast.readers)], pd.concat([raw, effective])
    shuffled, random = (by_weights[one].abs().max() for one in ("control", "untrained"))
    direct = tables["direct"].frame.set_index(["path", "measure"]).loc
    usual = float(direct["text", NEXT]["value"])
    return (
        check("raw direct path: the token itself is on top", direct[RAW, ITSELF], above=0.5),
        check("text: the token itself is next", direct["text", ITSELF], below=CHANCE, control=True),
        check("raw direct path: the next token is on top", direct[RAW, NEXT], below=usual),
        check(
            "effective direct path: others below the next token",
            direct[EFFECTIVE, BELOW],
            above=direct[SHUFFLED, BELOW]["ci_high"],
        ),
        check(
            f"effective direct path: the next token is on top (the usual one is: {usual:.3f})",
            direct[EFFECTIVE, NEXT],
            above=usual,
        ),
        check(
            "effective, shuffled: the next token is on top",
            direct[SHUFFLED, NEXT],
            below=usual,
            control=True,
        ),
        Check("raw OV copying of induction heads, highest", raw["value"][readers].max(), below=0),
        Check(
            "effective OV copying of induction heads, lowest",
            effective["value"][readers].min(),
            above=COPIES,
        ),
        correlated(
            "effective OV copying, with that in context",
            effective["value"],
            context["value"],
            above=0.5,
        ),
        correlated(
            "raw OV copying, with that in context", raw["value"], context["value"], below=0.5
        ),
        Check("highest copying with shuffled tokens", shuffled, below=COPIES, control=True),
        Check("highest copying with random weights", random, below=COPIES, control=True),
        *matches(cast, tables["matching"].frame),
    )


def matches(cast: Any, found: pd.DataFrame) -> tuple[Check, ...]:
    """Do queries match keys by way of the MLP, and only those of the previous-token head?"""
    is_sender = found["writer"] == str(cast.sender)
    ways = {way: found[is_sender & (found["way"] == way)] for way in (THROUGH, DIRECTLY)}
    least = ways[THROUGH].loc[ways[THROUGH]["value"].idxmin()]
    most = ways[DIRECTLY].loc[ways[DIRECTLY]["value"].idxmax()]
    others = found[~is_sender]
    other = others.loc[others["value"].idxmax()]
    return (
        check(f"{cast.sender} through the MLP to {least['component']}: matches", least, above=0.5),
        check(f"{cast.sender} directly to {most['component']}: matches", most, below=CHANCE),
        check(
            f"another head, {other['writer']}, to {other['component']}: matches",
            other,
            below=CHANCE,
            control=True,
        ),
    )


def correlated(says: str, x: pd.Series, y: pd.Series, **bounds: float) -> Check:
    """The correlation over heads, with the 95 % interval of Fisher's z."""
    r = float(np.corrcoef(x, y[x.index])[0, 1])
    low, high = np.tanh(np.arctanh(r) + np.array([-1.96, 1.96]) / np.sqrt(len(x) - 3))
    return Check(says, r, "(correlation)", ci_low=low, ci_high=high, n=len(x), **bounds)


if __name__ == "__main__":
    as_command(__file__)
