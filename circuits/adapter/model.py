"""A transformer_lens model with the surface of `HookedModel`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from circuits.adapter.config import BRIDGE, AdaptedConfig, class_of, config_of
from circuits.adapter.scores import score_scales
from circuits.adapter.sites import hooked, listening, points_of
from circuits.adapter.vocabulary import TheirTokenizer
from circuits.adapter.weights import AdaptedBlock, AdaptedNorm, AdaptedUnembed
from circuits.batch import Batch
from circuits.errors import CircuitsError
from circuits.hooks import HookPoint
from circuits.kv_cache import KVCache
from circuits.model import HookedModel


class AdaptedModel(HookedModel):
    """Their model, with the methods of ours.

    All that reads or edits a `HookedModel` by its sites, weights and text takes one of these; only
    the forward pass is theirs. `theirs` is the model itself, and `cfg` says how it differs.
    """

    def __init__(self, theirs: nn.Module) -> None:
        super().__init__()
        self.theirs: Any = theirs
        self.training = theirs.training
        self._scale = _embedding_scale(theirs)
        self._cfg = config_of(theirs, tied=self._scale == 1 and _is_tied(theirs))
        self.source = f"transformer_lens {class_of(theirs)}"
        tokenizer = getattr(theirs, "tokenizer", None)
        self.tokenizer = tokenizer and TheirTokenizer(tokenizer, name=self._cfg.model_name)
        self._points = points_of(theirs, self._cfg)
        self.hook_dict = {name: HookPoint(name, run=self.run) for name in self._points}

    @property
    def cfg(self) -> AdaptedConfig:
        """The shape of the model, with the device and precision its weights have now."""
        weight, cfg = self.theirs.W_E, self._cfg
        if (cfg.device, cfg.dtype) != (weight.device, weight.dtype):
            self._cfg = cfg = replace(cfg, device=weight.device, dtype=weight.dtype)
        return cfg

    def pass_through(
        self,
        batch: Batch,
        resid: Tensor | None,
        layers: range,
        *,
        stop: bool,
        logits: bool,
        past: KVCache | None,
    ) -> Tensor | None:
        """One pass of their model through our sites: see `HookedModel.pass_through`.

        Raises:
            CircuitsError: for sites that the model cannot show, and for a key-value cache.
        """
        if past is not None:
            raise CircuitsError(
                f"{self.cfg.model_name} keeps no keys and values here; leave past_kv_cache out"
            )
        if resid is not None:
            self._require_start()
        entry, start = (batch.tokens, None) if resid is None else (resid, layers.start)
        real = torch.ones_like(batch.tokens) if batch.mask is None else batch.mask.long()
        with listening(self.theirs, self.cfg, self._points, self.hook_dict):
            if stop and layers.stop == self.cfg.n_layers and class_of(self.theirs) == BRIDGE:
                return self._final_stream(entry, real, start)
            out: Tensor | None = self.theirs(
                entry,
                return_type="logits" if logits else None,
                attention_mask=real,
                start_at_layer=start,
                stop_at_layer=layers.stop if stop else None,
            )
        return out

    def _final_stream(self, entry: Tensor, real: Tensor, start: int | None) -> Tensor:
        """The stream behind the last block, where a `TransformerBridge` never stops."""
        streams: list[Tensor] = []

        def record(stream: Tensor) -> Tensor:
            streams.append(stream)
            return stream

        with hooked(self._points[f"blocks.{self.cfg.n_layers - 1}.hook_resid_post"], record):
            self.theirs(entry, return_type=None, attention_mask=real, start_at_layer=start)
        return streams[0]

    def _require_start(self) -> None:
        if class_of(self.theirs) == BRIDGE and not hasattr(self.theirs, "_setup_start_at_layer"):
            raise CircuitsError(
                f"{self.cfg.model_name} cannot start at a layer: a {BRIDGE} can from "
                "transformer_lens 4.0 on"
            )

    def score_scales(self) -> list[float]:
        """What each layer divides the product of a query and a key by: see `adapter.scores`."""
        return score_scales(self)

    @property
    def W_E(self) -> Tensor:
        """[v d], what each token puts into the stream: a view, or scaled as Gemma's a copy."""
        weight: Tensor = self.theirs.W_E
        scaled: Tensor = weight if self._scale == 1 else weight * self._scale
        return scaled

    @property
    def W_pos(self) -> Tensor:
        """[p d], what each position puts into the stream.

        Raises:
            CircuitsError: where positions do not enter the stream.
        """
        kind = self.cfg.positional_embedding_type
        if kind != "standard":
            raise CircuitsError(
                f"{self.cfg.model_name} has {kind} positions: they act inside attention, and "
                "nothing is added to the residual stream, so there is no W_pos"
            )
        weight: Tensor = self.theirs.W_pos
        return weight

    @property
    def blocks(self) -> list[AdaptedBlock]:
        """The layers, as plain maps and their weights."""
        return [AdaptedBlock(block, self.cfg) for block in self.theirs.blocks]

    @property
    def ln_final(self) -> AdaptedNorm:
        """The norm before the unembedding."""
        return AdaptedNorm(self.theirs.ln_final, self.cfg)

    @property
    def unembed(self) -> AdaptedUnembed:
        """The map from what `ln_final` writes to logits, a soft cap included."""
        return AdaptedUnembed(self.theirs.unembed, self.cfg)


def _is_tied(theirs: Any) -> bool:
    return theirs.W_U.shape == theirs.W_E.T.shape and torch.equal(theirs.W_U, theirs.W_E.T)


@torch.no_grad()
def _embedding_scale(theirs: Any) -> float:
    """What rows of W_E are multiplied by on the way into the stream; not 1 for Gemma's bridge."""
    weight = theirs.W_E[:64]  # a single row may be zeros, as a padding token's
    tokens = torch.arange(len(weight), device=weight.device)
    row, column = divmod(int(weight.abs().argmax()), weight.shape[1])
    return float(theirs.embed(tokens[None])[0, row, column] / weight[row, column])
