"""What the architectures of this room have in common: an embedding, blocks, a norm, an unembedding.

Shapes: b batch, p position; d = d_model, v = d_vocab.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import Self

from circuits.architectures.config import DecoderConfig
from circuits.architectures.parts import RowsUnembed
from circuits.architectures.settings import Said
from circuits.errors import CircuitsError
from circuits.hooks import HookPoint
from circuits.model.block import Block, Unembed
from circuits.model.norm import Norm
from circuits.model.transformer import Transformer, Visit
from circuits.tokenizer import Tokenizer


class Decoder(Transformer):
    """A decoder: an architecture says what its blocks and norms are, and what checkpoints call it.

    A new model's matrices are all zero: use `circuits.load`, or `random`.

    Attributes:
        kinds: which types of a ``config.json`` it reads.
        outside: what checkpoints call the weights outside of the blocks, by our names.
        inside: the same of a block's weights, and `layer` what stands before them.
    """

    kinds: ClassVar[tuple[str, ...]]
    layer: ClassVar[str] = "model.layers.{}."
    outside: ClassVar[Mapping[str, str]] = {
        "embedding": "model.embed_tokens.weight",
        "ln_final.stored": "model.norm.weight",
        "unembed.rows": "lm_head.weight",
    }
    inside: ClassVar[Mapping[str, str]]

    embedding: nn.Parameter
    blocks: list[Block]
    ln_final: Norm
    unembed: Unembed
    _cfg: DecoderConfig

    def __init__(self, cfg: DecoderConfig, tokenizer: Tokenizer | None = None) -> None:
        super().__init__(cfg)
        self.embedding = nn.Parameter(torch.zeros(cfg.d_vocab, cfg.d_model))
        self.hook_tokens, self.hook_embed = HookPoint(), HookPoint()
        self.begin()
        blocks = nn.ModuleList(self.block(layer) for layer in range(cfg.n_layers))
        self.blocks = cast(list[Block], blocks)  # a ModuleList does not keep its items' type
        self.ln_final = self.norm()
        self.unembed = self.end()
        self.name_sites()
        self._cfg = replace(cfg, n_weights=sum(weight.numel() for weight in self.parameters()))
        self.tokenizer = tokenizer

    @classmethod
    @abstractmethod
    def shape(cls, said: Said) -> DecoderConfig:
        """The shape that a ``config.json`` describes."""

    @abstractmethod
    def block(self, layer: int) -> Block:
        """A new block of this layer."""

    @abstractmethod
    def norm(self) -> Norm:
        """A new norm of the stream."""

    def begin(self) -> None:
        """Make what comes before the blocks besides the embedding: nothing, mostly."""

    def end(self) -> Unembed:
        """A new unembedding."""
        return RowsUnembed(self._cfg, self.embedding, self.backend)

    def released_names(self) -> dict[str, str]:
        """What checkpoints call each parameter of this model, by our names."""
        names: dict[str, str] = {}
        for ours, _ in self.named_parameters():
            if ours.startswith("blocks."):
                _, layer, inside = ours.split(".", 2)
                names[ours] = self.layer.format(layer) + self.inside[inside]
            else:
                names[ours] = self.outside[ours]
        return names

    @classmethod
    def random(
        cls, cfg: DecoderConfig, *, seed: int = 0, tokenizer: Tokenizer | None = None
    ) -> Self:
        """An untrained model: matrices are normal with standard deviation 0.02, norms 1, biases 0.

        The same seed gives the same weights.
        """
        model = cls(cfg, tokenizer)
        generator = torch.Generator().manual_seed(seed)
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.data = torch.randn(weight.shape, generator=generator) * 0.02
        return model

    def tie(self) -> None:
        """Let the unembedding be the embedding again, after it was exchanged."""
        if self._cfg.tied and isinstance(self.unembed, RowsUnembed):
            self.unembed.rows = self.embedding

    @property
    def stored_embedding(self) -> Tensor:
        """[v d], as the checkpoint has it."""
        return self.embedding

    @property
    def W_E(self) -> Tensor:
        """[v d], what each token puts into the stream; scaled, as Gemma's, it is a copy."""
        scale = self._cfg.embedding_scale
        return self.embedding if scale == 1 else self.embedding * scale

    @property
    def W_pos(self) -> Tensor:
        """There is none.

        Raises:
            CircuitsError: always: positions do not enter the stream.
        """
        raise CircuitsError(
            f"{self.cfg.model_name} has {self.cfg.positional_embedding_type} positions: they act "
            "inside attention, and nothing is added to the residual stream, so there is no W_pos"
        )

    def score_scales(self) -> list[float]:
        """What each layer divides the product of a query and a key by to get their score: [l].

        Raises:
            CircuitsError: where queries and keys are normalized first.
        """
        if self._cfg.use_qk_norm:
            raise CircuitsError(
                f"the attention scores of {self.cfg.model_name} are no products of its queries and "
                "keys (it normalizes them first), so weights alone do not give them; watch "
                "hook_attn_scores instead"
            )
        return super().score_scales()

    def embed(self, tokens: Tensor, where: slice | Tensor, visit: Visit) -> Float[Tensor, "b p d"]:
        """W_E[token]"""
        rows, scale = F.embedding(tokens, self.embedding), self._cfg.embedding_scale
        return visit("hook_embed", rows if scale == 1 else rows * scale)
