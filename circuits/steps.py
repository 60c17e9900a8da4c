"""The steps of a forward pass, in order: what each is called, where its values pass, what it does.

The walkthrough computes these, its terminal view explains them, and its page shows them by stages.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One thing that is computed.

    Attributes:
        name: in results; in a block the layer follows, ln1.0.
        site: the hook site that has the values, or the part of the model that gives them; in a
            block without the block's own name.
        does: in a few words.
        title: of its picture; without it, the name.
        square: whether it is [head, query, key]; all others are [position, ...].
    """

    name: str
    site: str
    does: str
    title: str = ""
    square: bool = False


@dataclass(frozen=True)
class Stage:
    """What a page shows at once: the steps of one kind, which has its text in the template.

    Of a sum, the terms come first; ``before`` stands for the stream that enters the block.
    """

    kind: str
    name: str
    steps: tuple[str, ...]


_STREAM = "residual stream x"
_NORM = "the stream, its mean taken away, at a common size"
_SCALED = "the same, scaled and shifted"
BEFORE = (
    Step("tokens", "hook_tokens", "the text as numbers"),
    Step("embed", "hook_embed", "each token's row of the embedding", "token embedding e"),
    Step("pos_embed", "hook_pos_embed", "each position's row", "position embedding π"),
    Step("resid_pre", "hook_resid_pre", "their sum: the residual stream", _STREAM),  # of block 0
)
BLOCK = (
    Step("ln1_normalized", "ln1.hook_normalized", _NORM, "normalized x̂"),
    Step("ln1", "ln1", _SCALED, "scaled and shifted y"),
    Step("q", "attn.hook_q", "queries: what is looked for", "queries"),
    Step("k", "attn.hook_k", "keys: what is found by it", "keys"),
    Step("v", "attn.hook_v", "values: what is passed on", "values"),
    Step("scores", "attn.hook_attn_scores", "query times key: how well they match", "scores", True),
    Step(
        "pattern",
        "attn.hook_pattern",
        "softmax of the scores: who looks where",
        "attention pattern",
        True,
    ),
    Step("z", "attn.hook_z", "values, weighted by the pattern", "weighted values z"),
    Step("attn_out", "hook_attn_out", "projection of all heads' values", "attention's output o"),
    Step("resid_mid", "hook_resid_mid", "added to the stream", _STREAM),
    Step("ln2_normalized", "ln2.hook_normalized", _NORM, "normalized x̂"),
    Step("ln2", "ln2", _SCALED, "scaled and shifted y"),
    Step("pre", "mlp.hook_pre", "how well each neuron's pattern matches", "neurons before GELU, u"),
    Step("post", "mlp.hook_post", "GELU: how strongly it fires", "neurons after GELU, g"),
    Step("mlp_out", "hook_mlp_out", "what the neurons write", "the MLP's output m"),
    Step("resid_post", "hook_resid_post", "added to the stream", _STREAM),
)
AFTER = (
    Step("ln_final", "ln_final", "the stream, normalized", "normalized y"),
    Step("logits", "unembed.hook_out", "compared with every token"),
    Step("probabilities", "softmax", "softmax of the logits"),
    Step("next", "choice", "the choice"),
)
STEPS = {step.name: step for step in (*BEFORE, *BLOCK, *AFTER)}

STAGES_BEFORE = (
    Stage("tokens", "tokens", ("tokens",)),
    Stage("embed", "token embedding", ("embed",)),
    Stage("pos_embed", "position embedding", ("pos_embed",)),
    Stage("sum", "sum", ("embed", "pos_embed", "resid_pre")),
)
STAGES_OF_BLOCK = (
    Stage("ln1", "LayerNorm", ("ln1_normalized", "ln1")),
    Stage("qkv", "queries, keys, values", ("q", "k", "v")),
    Stage("scores", "scores", ("scores",)),
    Stage("pattern", "softmax", ("pattern",)),
    Stage("z", "weighted values", ("z",)),
    Stage("attn_out", "projection", ("attn_out",)),
    Stage("resid_mid", "add", ("before", "attn_out", "resid_mid")),
    Stage("ln2", "LayerNorm", ("ln2_normalized", "ln2")),
    Stage("pre", "MLP in", ("pre",)),
    Stage("post", "GELU", ("post",)),
    Stage("mlp_out", "MLP out", ("mlp_out",)),
    Stage("resid_post", "add", ("resid_mid", "mlp_out", "resid_post")),
)
STAGES_AFTER = (
    Stage("ln_final", "last LayerNorm", ("ln_final",)),
    Stage("logits", "logits", ("logits",)),
    Stage("softmax", "probabilities", ("probabilities",)),
    Stage("next", "next token", ("next",)),
)
