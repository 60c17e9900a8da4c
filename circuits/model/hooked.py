"""What every model here offers: sites to read and edit, weights by their names, text in and out.

Shapes: b batch, p position, l layer, h head; d = d_model, e = d_head, m = d_mlp, v = d_vocab.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

from circuits.backend import Backend
from circuits.batch import (
    Batch,
    PaddingSide,
    as_batch,
    check_layers,
    mean_loss,
    residual_batch,
    to_str_tokens,
    to_string,
    token_losses,
)
from circuits.cache import Cache, run_with_cache
from circuits.config import ModelConfig
from circuits.errors import CircuitsError, nearest
from circuits.factored import FactoredMatrix
from circuits.generation import generate
from circuits.hooks import GradHooks, HookPoint, Hooks, Run, WatchedBy, watching
from circuits.inputs import AnyMask, ModelInput
from circuits.kv_cache import KVCache
from circuits.model.contract import BlockWeights, NormWeights, UnembedWeights
from circuits.model.readout import Readout
from circuits.tokenizer import FittedTokenizer, ModelRoles, Tokenizer, no_tokenizer

ReturnType = Literal["logits", "loss", "both"] | None


class HookedModel(nn.Module, ABC):
    """A model that can be read and edited at every step, whatever its architecture.

    Text or tokens go in, logits come out, and every value between passes a site of `hook_dict`.
    Methods known from ``HookedTransformer`` behave as they do there and call the functions of this
    package.

    Attributes:
        source: where the weights come from, for provenance.
        revision: which branch, tag or commit of a hub's model was asked for.
        adapter: the folder of what was learned of it and is part of its weights, or None.
        hook_dict: the hook points by the names of their sites, in the order of the pass.
        run: facts about the pass that is going on, for hooks.
        backend: how products with weight matrices are computed.
        readouts: heads of a fine-tuned checkpoint besides the unembedding, by their names.
    """

    if TYPE_CHECKING:
        # What an architecture has, as parameters and modules or as views of another library's.
        @property
        def cfg(self) -> ModelConfig:
            """The shape of the model, with the device and precision its weights have now."""

        @property
        def W_E(self) -> Tensor:
            """[v d], what each token puts into the stream."""

        @property
        def W_pos(self) -> Tensor:
            """[p d], what each position puts into the stream, where positions enter it."""

        @property
        def blocks(self) -> Sequence[BlockWeights]:
            """The layers."""

        @property
        def ln_final(self) -> NormWeights:
            """The norm before the unembedding."""

        @property
        def unembed(self) -> UnembedWeights:
            """The way from what `ln_final` writes to the logits."""

    tokenizer, roles = FittedTokenizer(), ModelRoles()

    def __init__(self) -> None:
        super().__init__()
        self.source = "built in memory"
        self.revision: str | None = None
        self.adapter: Path | None = None
        self.hook_dict: dict[str, HookPoint] = {}
        self.run = Run()
        self.backend = Backend()
        # A ModuleDict does not keep the type of its items.
        self.readouts = cast(dict[str, Readout], nn.ModuleDict())

    @abstractmethod
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
        """One pass through these layers and their sites.

        It begins with the batch's tokens, or with the stream `resid` [b p d] that enters the first
        of them. Returns the stream behind the last one if it is to `stop` there; else `logits`
        [b p v], or None if they are not asked for.
        """

    def forward(
        self,
        given: ModelInput,
        *,
        return_type: ReturnType = "logits",
        loss_per_token: bool = False,
        prepend_bos: bool | None = None,
        padding_side: PaddingSide = "right",
        attention_mask: AnyMask | None = None,
        start_at_layer: int | None = None,
        stop_at_layer: int | None = None,
        past_kv_cache: KVCache | None = None,
    ) -> Any:
        """What does the model say next, after each token?

        `given` is text, texts, rows of token ids of any lengths, a tensor or array [b p], what a
        tokenizer of transformers returns, or with `start_at_layer` the residual stream [b p d] that
        enters that block. Returns logits [b p v]; the mean loss, or with `loss_per_token` [b p-1],
        in nats; both; or None. With `stop_at_layer=n`, the residual stream [b p d] that enters
        block n. `attention_mask` [b p] marks the real tokens (see `circuits.padding`).

        Raises:
            TokenError: for input that the vocabulary or the context cannot take.
        """
        layers = range(*check_layers(start_at_layer, stop_at_layer, self.cfg.n_layers))
        n_past = 0 if past_kv_cache is None else past_kv_cache.n_past
        if start_at_layer is None:
            resid = None
            batch = as_batch(
                self,
                given,
                prepend_bos=prepend_bos,
                padding_side=padding_side,
                attention_mask=attention_mask,
                n_past=n_past,
            )
        else:
            resid = cast(Tensor, given)
            batch = residual_batch(given, attention_mask, self.cfg, n_past)
        self.run.facts = batch.positions, batch.mask
        stop, logits = stop_at_layer is not None, return_type is not None or self.end_watched()
        out = self.pass_through(batch, resid, layers, stop=stop, logits=logits, past=past_kv_cache)
        return out if stop else self._answer(out, batch, return_type, loss_per_token)

    def next_logits(self, given: ModelInput, past: KVCache | None) -> Tensor:
        """What the model says after the last token: logits [b v], without unembedding the rest."""
        if self.end_watched():
            logits: Tensor = self(given, past_kv_cache=past)
            return logits[:, -1]
        resid = self(given, stop_at_layer=self.cfg.n_layers, past_kv_cache=past)
        return self.unembed(self.ln_final(resid[:, -1:]))[:, 0]

    def stepper(self, past: KVCache) -> Callable[[Tensor], Tensor] | None:
        """What gives these logits of one token more [b 1] each time, and stores it in `past`.

        Made once for many tokens, it is right as long as nobody changes the model, its weights or
        its hooks. None where somebody watches, or where there is no quicker way than a pass.
        """
        return None

    def score_scales(self) -> list[float]:
        """What each layer divides the product of a query and a key by to get their score: [l]."""
        return [self.cfg.score_scale(layer) for layer in range(self.cfg.n_layers)]

    def _answer(
        self, logits: Tensor | None, batch: Batch, return_type: ReturnType, each: bool
    ) -> Any:
        if return_type is None or logits is None:
            return None
        if return_type == "logits":
            return logits
        if return_type not in ("loss", "both"):
            raise CircuitsError(f"return_type={return_type!r}; choose logits, loss, both or None")
        loss = token_losses(logits, batch) if each else mean_loss(logits, batch)
        return (logits, loss) if return_type == "both" else loss

    def end_watched(self) -> bool:
        """Whether a site after the blocks is watched, so that its value has to be computed."""
        sites = (name for name in self.hook_dict if name.startswith(("ln_final.", "unembed.")))
        return any(self.hook_dict[name].watched for name in sites)

    def hooks(
        self, fwd_hooks: Hooks = (), bwd_hooks: GradHooks = ()
    ) -> AbstractContextManager[None]:
        """Hook sites inside a ``with`` block: pairs of (site names, ``fn(value, hook)``).

        Raises:
            SiteError: for unknown sites, and on leaving for hooks that never fired.
        """
        watchers: list[WatchedBy] = [(names, fn, "edit") for names, fn in fwd_hooks]
        watchers += [(names, fn, "grad") for names, fn in bwd_hooks]
        return watching(self.hook_dict, watchers)

    def run_with_hooks(
        self, given: ModelInput, *, fwd_hooks: Hooks = (), bwd_hooks: GradHooks = (), **options: Any
    ) -> Any:
        """`forward` with these hooks, which are gone afterwards. `options` are forward's."""
        with self.hooks(fwd_hooks, bwd_hooks):
            return self(given, **options)

    def run_with_cache(self, given: ModelInput, **options: Any) -> tuple[Any, Cache]:
        """`forward`, and what passed the sites: see `circuits.cache.run_with_cache`."""
        return run_with_cache(self, given, **options)

    def generate(self, given: ModelInput, **options: Any) -> Any:
        """Text that continues the prompt: see `circuits.generation.generate`."""
        return generate(self, given, **options)

    def require_tokenizer(self) -> Tokenizer:
        """The tokenizer, or one clear error when the model was built without."""
        if self.tokenizer is None:
            raise no_tokenizer(self.cfg.model_name)
        return self.tokenizer

    def require_readout(self, name: str) -> Readout:
        """The readout of this name.

        Raises:
            CircuitsError: when there is none, with those that there are.
        """
        if name not in self.readouts:
            has = ", ".join(self.readouts)
            raise CircuitsError(
                f"{self.cfg.model_name} has no readout {name!r}; it has "
                f"{has or 'none, for its checkpoint has no head for classes'}"
                f"{nearest(name, list(self.readouts))}"
            )
        return self.readouts[name]

    def to_tokens(
        self,
        given: ModelInput,
        prepend_bos: bool | None = None,
        padding_side: PaddingSide = "right",
    ) -> Tensor:
        """Token ids [b p]; give `forward` an attention_mask if you pad on the left."""
        return as_batch(self, given, prepend_bos=prepend_bos, padding_side=padding_side).tokens

    def to_string(self, tokens: Any) -> Any:
        """The text of token ids: a string for one row [p], a list of strings for rows [b p]."""
        return to_string(self, tokens)

    def to_str_tokens(self, given: Any, prepend_bos: bool | None = None) -> Any:
        """The tokens of a text or of one row of ids, each as a string; a list of these for more."""
        return to_str_tokens(self, given, prepend_bos)

    def to_single_token(self, text: str) -> int:
        """The id of a text that is exactly one token; an error that shows the split otherwise."""
        return self.require_tokenizer().single_token(text)

    def to_single_str_token(self, token: int) -> str:
        """The text of one token id."""
        return self.require_tokenizer().token_strings([token])[0]

    def tokens_to_residual_directions(self, tokens: str | int | Tensor) -> Tensor:
        """Which direction of the final residual stream raises these tokens' logits? [... d]"""
        ids = torch.tensor(self.to_single_token(tokens)) if isinstance(tokens, str) else tokens
        return self.W_U.T[torch.as_tensor(ids)].squeeze()

    def _stack(self, name: str) -> Tensor:
        return torch.stack([attrgetter(name)(block) for block in self.blocks])

    W_Q = property(lambda self: self._stack("attn.W_Q"), doc="[l h d e], copied")
    W_K = property(lambda self: self._stack("attn.W_K"), doc="[l h d e], copied")
    W_V = property(lambda self: self._stack("attn.W_V"), doc="[l h d e], copied")
    W_O = property(lambda self: self._stack("attn.W_O"), doc="[l h e d], copied")
    b_Q = property(lambda self: self._stack("attn.b_Q"), doc="[l h e], copied")
    b_K = property(lambda self: self._stack("attn.b_K"), doc="[l h e], copied")
    b_V = property(lambda self: self._stack("attn.b_V"), doc="[l h e], copied")
    b_O = property(lambda self: self._stack("attn.b_O"), doc="[l d], copied")
    OV = property(lambda self: FactoredMatrix(self.W_V, self.W_O), doc="[l h d d], factored")
    QK = property(lambda self: FactoredMatrix(self.W_Q, self.W_K.mT), doc="[l h d d], factored")
    W_in = property(lambda self: self._stack("mlp.W_in"), doc="[l d m], copied")
    b_in = property(lambda self: self._stack("mlp.b_in"), doc="[l m], copied")
    W_gate = property(lambda self: self._stack("mlp.W_gate"), doc="[l d m], copied")
    W_out = property(lambda self: self._stack("mlp.W_out"), doc="[l m d], copied")
    b_out = property(lambda self: self._stack("mlp.b_out"), doc="[l d], copied")

    @property
    def W_U(self) -> Tensor:
        """[d v], a view"""
        return self.unembed.W_U

    @property
    def b_U(self) -> Tensor:
        """[v]; zeros when the unembedding has no bias, as GPT-2's."""
        bias = self.unembed.b_U
        return torch.zeros_like(self.W_E[:, 0]) if bias is None else bias
