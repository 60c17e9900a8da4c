"""The forward pass of a decoder whose blocks are made of the steps of this room.

Shapes: b batch, p position; d = d_model, v = d_vocab.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.modules.module import _has_any_global_hook

from circuits.batch import Batch, causal_mask, key_positions
from circuits.config import ModelConfig
from circuits.hooks import HookPoint
from circuits.inputs import ModelInput
from circuits.kv_cache import KVCache
from circuits.model.attention import Places
from circuits.model.block import Block, Unembed
from circuits.model.hooked import HookedModel
from circuits.model.norm import Norm
from circuits.sites import every_site

_HOUSE = __name__.partition(".")[0] + "."
Visit = Callable[[str, Tensor], Tensor]  # from a site and the value there to the value that goes on


class Transformer(HookedModel):
    """A decoder: an embedding, blocks, a norm and an unembedding.

    An architecture's ``__init__`` sets `hook_tokens`, `W_E`, `blocks`, `ln_final` and `unembed`
    (and what `embed` needs), and then calls `name_sites`. It is run by the fast engine.
    """

    hook_tokens: HookPoint  # [b p]

    if TYPE_CHECKING:

        @property
        def blocks(self) -> Sequence[Block]:
            """The layers, made of steps."""

        @property
        def ln_final(self) -> Norm:
            """The norm before the unembedding."""

        @property
        def unembed(self) -> Unembed:
            """The way from what `ln_final` writes to the logits."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self._cfg = cfg

    def name_sites(self) -> None:
        """Tell every hook point of the model its site, and list them in the order of the pass."""
        points = {
            f"{path}.{name}".removeprefix("."): point
            for path, module in self.named_modules()
            for name, point in vars(module).items()
            if isinstance(point, HookPoint)
        }
        order = {site: i for i, site in enumerate(every_site(self._cfg.n_layers))}
        self.hook_dict = {
            site: points[site] for site in sorted(points, key=lambda s: order.get(s, len(order)))
        }
        for site, point in self.hook_dict.items():
            point.name, point.run = site, self.run

    @property
    def cfg(self) -> ModelConfig:
        """The shape of the model, with the device and precision its weights have now."""
        stored = self.stored_embedding
        device, dtype = stored.device, stored.dtype
        if (self._cfg.device, self._cfg.dtype) != (device, dtype):
            self._cfg = replace(self._cfg, device=device, dtype=dtype)
        return self._cfg

    @property
    def stored_embedding(self) -> Tensor:
        """[v d], a row for each token as the model stores it."""
        return self.W_E

    @property
    def steps_add_up(self) -> bool:
        """Whether each layer adds to the stream what its steps write: the fast engine needs that.

        Not where a norm stands between (Gemma 2), and not where queries and keys read more than
        the stream.
        """
        cfg = self.cfg
        added = cfg.positional_embedding_type in ("standard", "rotary")
        return added and not cfg.post_norms

    @abstractmethod
    def embed(self, tokens: Tensor, where: slice | Tensor, visit: Visit) -> Float[Tensor, "b p d"]:
        """What enters the first block: `tokens` [b p] stand at `where`, the same for all or [b p].

        What passes a site goes through `visit`.
        """

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
        """One pass through these layers and their sites: see `HookedModel.pass_through`."""
        x = self._enter(batch) if resid is None else resid
        before = KVCache() if past is None else past
        with before.continued(layers, len(batch.tokens)):
            places = self._places(batch, before)
            for i in layers:
                x = self.blocks[i](x, places, None if past is None else past.of(i))
        if stop:
            return x
        return self.unembed(self.ln_final(x)) if logits else None

    def next_logits(self, given: ModelInput, past: KVCache | None) -> Float[Tensor, "b v"]:
        """As `HookedModel.next_logits`; a token more of each prompt by the plain steps alone.

        They compute the same. For small models, checking input and asking hooks takes as long.
        """
        step = None
        if past is not None and isinstance(given, Tensor) and given.shape == (past.n_rows, 1):
            step = self.stepper(past)
        return super().next_logits(given, past) if step is None else step(cast(Tensor, given))

    def stepper(self, past: KVCache) -> Callable[[Tensor], Tensor] | None:
        """As `HookedModel.stepper`."""
        if not (past.layers and self.is_bare()):
            return None
        n_rows, layers = past.n_rows, range(len(self.blocks))
        blocks = [block.stepper(past.of(i), n_rows) for i, block in enumerate(self.blocks)]
        ln_final, unembed = self.ln_final, self.unembed.prepared(n_rows)
        positions = torch.arange(self.cfg.n_ctx, device=self.stored_embedding.device)
        past.require_fit(layers, n_rows)

        def step(tokens: Tensor) -> Tensor:
            n_past, past.whole = past.n_past, False
            if isinstance(n_past, int):
                where: slice | Tensor = slice(n_past, n_past + 1)
                places = Places(positions[where], positions[: n_past + 1])
            else:
                where = n_past[:, None]
                places = self._places(Batch(tokens, None, where), past)
            x = self.embed(tokens, where, lambda site, value: value)[:, 0]
            for block in blocks:
                x = block(x, places)
            past.whole = True
            return unembed(ln_final.plain(x))

        return step

    def is_bare(self) -> bool:
        """Whether a pass runs the package's own steps, and nobody watches any of them."""
        if self.run.watchers or _has_any_global_hook():
            return False
        parts = [self, self.ln_final, self.unembed, *self.blocks]
        parts += [part for block in self.blocks for part in block._modules.values() if part]
        return not any(
            each._forward_hooks
            or each._forward_pre_hooks
            or "forward" in vars(each)
            or not type(each).__module__.startswith(_HOUSE)
            for each in parts
        )

    def _enter(self, batch: Batch) -> Float[Tensor, "b p d"]:
        """What enters the first block."""
        tokens = self.hook_tokens(batch.tokens)
        return self.embed(tokens, batch.where, lambda site, value: self.hook_dict[site](value))

    def _places(self, batch: Batch, past: KVCache) -> Places:
        """Where this pass's queries stand, and its keys after those of the past."""
        n_query = batch.tokens.shape[1]
        n_key, device = past.n_tokens + n_query, batch.tokens.device
        real = past.extend_mask(batch.mask, batch.tokens)
        mask = causal_mask(n_query, n_key, real, device)
        return Places(batch.positions, key_positions(real, n_key, device), mask)
