"""A transformer_lens model with the surface of `HookedGPT2`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from circuits.adapter.config import BRIDGE, AdaptedConfig, class_of, config_of
from circuits.adapter.sites import hooked, listening, points_of
from circuits.adapter.vocabulary import TheirTokenizer
from circuits.adapter.weights import AdaptedBlock, AdaptedNorm, AdaptedUnembed
from circuits.batch import as_batch, check_layers, residual_batch
from circuits.errors import CircuitsError
from circuits.hooks import HookPoint, Run
from circuits.inputs import AnyMask, ModelInput
from circuits.model import HookedGPT2


class AdaptedModel(HookedGPT2):
    """Their model, where one of ours is wanted.

    Whatever reads or edits a `HookedGPT2` by its sites, weights and text takes one of these; only
    the forward pass is theirs. `theirs` is the model itself, and `cfg` says how it differs.
    """

    def __init__(self, theirs: nn.Module) -> None:
        nn.Module.__init__(self)  # no weights of our own
        self.theirs: Any = theirs
        self.training = theirs.training
        self._scale = _embedding_scale(theirs)
        self._cfg = config_of(theirs, tied=self._scale == 1 and _is_tied(theirs))
        self.source = f"transformer_lens {class_of(theirs)}"
        given = getattr(theirs, "tokenizer", None)
        self.tokenizer = given and TheirTokenizer(given, name=self._cfg.model_name)
        self.run = Run()
        self._points = points_of(theirs, self._cfg)
        self.hook_dict = {name: HookPoint(name, run=self.run) for name in self._points}

    @property
    def cfg(self) -> AdaptedConfig:
        """The shape of the model, with the device and precision its weights have now."""
        weight, cfg = self.theirs.W_E, cast(AdaptedConfig, self._cfg)
        if (cfg.device, cfg.dtype) != (weight.device, weight.dtype):
            self._cfg = cfg = replace(cfg, device=weight.device, dtype=weight.dtype)
        return cfg

    def forward(
        self,
        given: ModelInput,
        *,
        return_type: str | None = "logits",
        loss_per_token: bool = False,
        attention_mask: AnyMask | None = None,
        start_at_layer: int | None = None,
        stop_at_layer: int | None = None,
        **how: Any,
    ) -> Any:
        """What does the model say next? As `HookedGPT2.forward`, without a key-value cache.

        `how` are `prepend_bos` and `padding_side`.

        Raises:
            TokenError: for input that the vocabulary or the context cannot take.
            CircuitsError: for sites that the model cannot show, and for a key-value cache.
        """
        if how.pop("past_kv_cache", None) is not None:
            raise CircuitsError(
                f"{self.cfg.model_name} keeps no keys and values here; leave past_kv_cache out"
            )
        first, last = check_layers(start_at_layer, stop_at_layer, self.cfg.n_layers)
        if start_at_layer is None:
            batch = as_batch(self, given, attention_mask=attention_mask, **how)
            enters = batch.tokens
        else:
            self._require_start()
            batch = residual_batch(given, attention_mask, self.cfg)
            enters = cast(Tensor, given)
        self.run.facts = batch.positions, batch.mask
        real = torch.ones_like(batch.tokens) if batch.mask is None else batch.mask.long()
        stop = None if stop_at_layer is None else last
        with listening(self.theirs, self.cfg, self._points, self.hook_dict):
            if stop == self.cfg.n_layers and class_of(self.theirs) == BRIDGE:
                return self._final_stream(enters, real, start_at_layer)
            logits = return_type is not None or self._end_watched()
            out = self.theirs(
                enters,
                return_type="logits" if logits else None,
                attention_mask=real,
                start_at_layer=None if start_at_layer is None else first,
                stop_at_layer=stop,
            )
        return out if stop is not None else self._answer(out, batch, return_type, loss_per_token)

    def _final_stream(self, enters: Tensor, real: Tensor, start: int | None) -> Tensor:
        """The stream behind the last block, where a `TransformerBridge` never stops."""
        seen: list[Tensor] = []

        def keep(stream: Tensor) -> Tensor:
            seen.append(stream)
            return stream

        with hooked(self._points[f"blocks.{self.cfg.n_layers - 1}.hook_resid_post"], keep):
            self.theirs(enters, return_type=None, attention_mask=real, start_at_layer=start)
        return seen[0]

    def _require_start(self) -> None:
        if class_of(self.theirs) == BRIDGE and not hasattr(self.theirs, "_setup_start_at_layer"):
            raise CircuitsError(
                f"{self.cfg.model_name} cannot start at a layer: a {BRIDGE} can from "
                "transformer_lens 4.0 on"
            )

    def _end_watched(self) -> bool:
        """Does anybody look at what comes after the blocks?"""
        sites = (name for name in self.hook_dict if name.startswith(("ln_final.", "unembed.")))
        return any(self.hook_dict[name].watched for name in sites)

    @property
    def W_E(self) -> Tensor:  # type: ignore[override]
        """[v d], what each token puts into the stream: a view, or scaled as Gemma's a copy."""
        weight: Tensor = self.theirs.W_E
        scaled: Tensor = weight if self._scale == 1 else weight * self._scale
        return scaled

    @property
    def W_pos(self) -> Tensor:  # type: ignore[override]
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
    def blocks(self) -> list[AdaptedBlock]:  # type: ignore[override]
        """The layers, as plain maps and their weights."""
        return [AdaptedBlock(block, self.cfg) for block in self.theirs.blocks]

    @property
    def ln_final(self) -> AdaptedNorm:  # type: ignore[override]
        """The norm before the unembedding."""
        return AdaptedNorm(self.theirs.ln_final, self.cfg)

    @property
    def unembed(self) -> AdaptedUnembed:  # type: ignore[override]
        """The map from what `ln_final` writes to logits, a soft cap included."""
        return AdaptedUnembed(self.theirs.unembed, self.cfg)

    @property
    def W_U(self) -> Tensor:
        """[d v]"""
        weight: Tensor = self.unembed.W_U
        return weight

    @property
    def b_U(self) -> Tensor:
        """[v]"""
        return self.unembed.b_U

    W_gate = property(lambda self: self._stack("mlp.W_gate"), doc="[l d m], copied")


def _is_tied(theirs: Any) -> bool:
    return theirs.W_U.shape == theirs.W_E.T.shape and torch.equal(theirs.W_U, theirs.W_E.T)


@torch.no_grad()
def _embedding_scale(theirs: Any) -> float:
    """By what is a row of W_E multiplied on its way into the stream? Gemma's are, in a bridge."""
    weight = theirs.W_E[:64]  # a single row may be zeros, as a padding token's
    tokens = torch.arange(len(weight), device=weight.device)
    row, column = divmod(int(weight.abs().argmax()), weight.shape[1])
    return float(theirs.embed(tokens[None])[0, row, column] / weight[row, column])
