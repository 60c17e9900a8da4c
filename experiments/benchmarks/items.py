"""What is measured: each task, its size, and the tokens that everybody gets.

Nothing here needs more than NumPy, for this file is read in every peer's environment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.benchmarks.edges import Edges

Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class Shape:
    """How large is the model?"""

    layers: int
    heads: int
    width: int
    hidden: int
    context: int
    vocabulary: int
    kind: str = "gpt2"

    @classmethod
    def of(cls, config: dict[str, Any]) -> Shape:
        """From a Hugging Face ``config.json``."""
        if config["model_type"] != "gpt2":
            return cls(
                layers=config["num_hidden_layers"],
                heads=config["num_attention_heads"],
                width=config["hidden_size"],
                hidden=config["intermediate_size"],
                context=config["max_position_embeddings"],
                vocabulary=config["vocab_size"],
                kind=config["model_type"],
            )
        return cls(
            layers=config["n_layer"],
            heads=config["n_head"],
            width=config["n_embd"],
            hidden=config.get("n_inner") or 4 * config["n_embd"],
            context=config["n_positions"],
            vocabulary=config["vocab_size"],
        )

    @property
    def parameters(self) -> int:
        """How many weights are there? (tied ones counted once)"""
        block = 4 * self.width**2 + 2 * self.width * self.hidden + self.hidden + 9 * self.width
        embeddings = (self.vocabulary + self.context) * self.width
        return embeddings + self.layers * block + 2 * self.width


@dataclass(frozen=True)
class Given:
    """What a task is about: `batch` prompts of `length` tokens, and what is asked of them.

    `tokens` and `corrupted` [b p] differ everywhere; `answers` and `distractors` [b] are compared
    after the last token; `new` tokens are to be generated.
    """

    tokens: Tokens
    corrupted: Tokens
    answers: Tokens
    distractors: Tokens
    new: int

    @classmethod
    def draw(cls, shape: Shape, batch: int, length: int, new: int = 0, seed: int = 0) -> Given:
        """Uniformly random tokens; the same everywhere for the same seed.

        Before generation the second half repeats the first: a trained model goes on with it,
        where after noise it would say one token for ever, however it counts positions.
        """
        room = shape.context - new if shape.context > new else shape.context // 2
        length = min(length, room)
        rng = np.random.default_rng(seed)
        tokens = rng.integers(shape.vocabulary, size=(batch, length))
        if new:
            tokens[:, length - length // 2 :] = tokens[:, : length // 2]
        shift = rng.integers(1, shape.vocabulary, size=(batch, length))
        answers = rng.integers(shape.vocabulary, size=batch)
        return cls(
            tokens=tokens,
            corrupted=(tokens + shift) % shape.vocabulary,
            answers=answers,
            distractors=(answers + 1) % shape.vocabulary,
            new=min(new, shape.context - length),
        )

    def to_json(self) -> dict[str, Any]:
        """As lists, for the way to another process."""
        return {
            name: value if isinstance(value, int) else value.tolist()
            for name, value in vars(self).items()
        }

    @classmethod
    def from_json(cls, sent: dict[str, Any]) -> Given:
        """What `to_json` gave."""
        arrays = {n: np.array(v) for n, v in sent.items() if n != "new"}
        return cls(**arrays, new=sent["new"])


@dataclass(frozen=True)
class Item:
    """One row of the table.

    `function` is what the peers' files call it. `where` says who times it: a worker, a worker that
    loads the checkpoint anew, or a fresh process.
    """

    name: str
    title: str
    function: str
    batch: int = 1
    length: int = 8
    new: int = 0
    where: str = "worker"

    def given(self, shape: Shape) -> Given:
        """The prompts of this task for a model of this shape, cut to its context."""
        return Given.draw(shape, self.batch, self.length, self.new)

    def label(self, shape: Shape) -> str:
        """The title with the sizes as they are for this model."""
        given = self.given(shape)
        batch, length = given.tokens.shape
        return self.title.format(
            size=f"{batch}×{length}",
            heads=shape.layers * shape.heads,
            states=shape.layers + 1,
            edges=f"{len(Edges(shape.layers, shape.heads)):,}",
            length=length,
            new=given.new,
        )


ITEMS = (
    Item("forward", "forward {size}, all logits", "forward", 8, 64),
    Item("forward_long", "forward {size}, all logits", "forward", 1, 1024),
    Item("last_logits", "forward {size}, last position's logits", "last_logits", 8, 64),
    Item("full_cache", "forward {size}, all sites cached", "full_cache", 8, 64),
    Item("ablate_heads", "zero-ablate each of {heads} heads, {size}", "ablate_heads", 8, 32),
    Item("patch_residual", "patch resid_pre, layer × position, {size}", "patch_residual", 2, 16),
    Item("patch_heads", "patch z, layer × head, {size}", "patch_heads", 2, 16),
    Item("attribution", "attribution patching on z, {size}", "attribution", 8, 32),
    Item("edges_eap", "score all {edges} edges by EAP, {size}", "edges_eap", 8, 32),
    Item("edges_eap_ig", "the same by EAP-IG, 5 steps, {size}", "edges_eap_ig", 8, 32),
    Item("edges_exact", "patch each of {edges} edges, {size}", "edges_exact", 2, 16),
    Item("circuit_alone", "run one circuit alone, {size}", "circuit_alone", 8, 32),
    Item("circuit_curve", "faithfulness of ten sizes, {size}", "circuit_curve", 8, 32),
    Item("logit_lens", "logit lens, {states} states × {length} tokens", "logit_lens", 1, 64),
    Item("generate", "generate {length} + {new} tokens", "generate", 1, 32, 64),
    Item("load", "load the checkpoint", "load", where="loading"),
    Item("first_logits", "load, and the first logits", "last_logits", where="loading"),
    Item("import", "import, fresh process", "import", where="process"),
    Item("import_ready", "import what loads a model", "import_ready", where="process"),
)
