"""`HookedTransformer`: TransformerLens' class for GPT-2-family models, over this package's steps.

Shapes: b batch, p position, l layer, h head; d = d_model, v = d_vocab.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from circuits.batch import Batch, as_batch, residual_batch
from circuits.errors import CircuitsError, TokenError
from circuits.hooks import HookPoint as HousePoint
from circuits.model import Transformer
from circuits.sites import site_names
from circuits.transformer_lens import directions, generation, loading, methods, text, utils
from circuits.transformer_lens.cache import ActivationCache
from circuits.transformer_lens.components import (
    Embed,
    PosEmbed,
    TransformerBlock,
    Unembed,
    hookable,
    layer_norm,
)
from circuits.transformer_lens.config import HookedTransformerConfig
from circuits.transformer_lens.options import names_of, only_known, require_known
from circuits.transformer_lens.root import HookedRootModule
from circuits.transformer_lens.tokenizer import LensTokenizer, LensVocabulary

# Sites that HookedTransformer has only with a flag; here the flag says what predicates meet.
FLAGS = {
    "hook_result": "use_attn_result",
    "hook_q_input": "use_split_qkv_input",
    "hook_k_input": "use_split_qkv_input",
    "hook_v_input": "use_split_qkv_input",
    "hook_mlp_in": "use_hook_mlp_in",
    "hook_attn_in": "use_attn_in",
    "hook_tokens": "use_hook_tokens",
}


class Output(NamedTuple):
    """What ``return_type="both"`` returns."""

    logits: Tensor
    loss: Tensor


class HookedTransformer(HookedRootModule, Transformer):
    """A GPT-2 with the names, defaults and leniency of TransformerLens' class.

    Hooks stay until `reset_hooks`; texts are padded and losses are counted as there. Every function
    of this package takes it as it takes a `HookedGPT2`. It is in evaluation mode when it is loaded.

    >>> cfg = HookedTransformerConfig(d_model=8, d_head=4, n_layers=1, n_ctx=16, d_vocab=9, seed=0)
    >>> model = HookedTransformer(cfg)
    >>> logits, cache = model.run_with_cache(torch.tensor([[1, 2, 3]]))
    >>> logits.shape, cache["pattern", 0].shape
    (torch.Size([1, 3, 9]), torch.Size([1, 2, 3, 3]))
    """

    tokenizer = LensVocabulary()
    blocks: Any
    dataset: Any = None

    def __init__(
        self,
        cfg: HookedTransformerConfig | Mapping[str, Any],
        tokenizer: Any = None,
        move_to_device: bool = True,
        default_padding_side: str | None = None,
    ) -> None:
        cfg = HookedTransformerConfig.unwrap(cfg)
        methods.size_by_tokenizer(cfg, tokenizer)
        Transformer.__init__(self, cfg)
        pos_embed = PosEmbed(cfg)
        self.embed = Embed(cfg, pos_embed)
        self.hook_embed = HousePoint()
        self.pos_embed, self.hook_pos_embed = pos_embed, HousePoint()
        self.hook_tokens = HousePoint()
        blocks = (TransformerBlock(cfg, i, self.backend) for i in range(cfg.n_layers))
        self.blocks = nn.ModuleList(blocks)
        self.ln_final = layer_norm(cfg)  # type: ignore[misc]
        self.unembed = Unembed(cfg, self.backend)  # type: ignore[misc]
        hookable(self)
        self.setup()
        self.to(cfg.dtype)
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if name.rpartition(".")[2] != "w":
                    weight.zero_()
        if cfg.init_weights:
            self.init_weights()
        if move_to_device:
            self.to(cfg.device)
        if tokenizer is not None:
            self.set_tokenizer(tokenizer, default_padding_side)

    def setup(self) -> None:
        """Name the modules and the sites; call it again after a hook point was replaced."""
        HookedRootModule.setup(self)
        order = {site: i for i, site in enumerate(site_names(self._cfg.n_layers))}
        names = sorted(self.hook_dict, key=lambda name: order.get(name, len(order)))
        self.hook_dict = {name: self.hook_dict[name] for name in names}
        for point in self.hook_dict.values():
            point.run = self.run

    def _shown(self) -> list[str]:
        hidden = tuple(site for site, flag in FLAGS.items() if not getattr(self.cfg, flag))
        return (
            [name for name in self.hook_dict if not name.endswith(hidden)]
            if hidden
            else [*self.hook_dict]
        )

    @property
    def cfg(self) -> Any:
        """The configuration, whose flags may be set."""
        cfg = vars(self)["_cfg"]
        vars(cfg).update(device=self.W_E.device, dtype=self.W_E.dtype)
        return cfg

    embed = property(lambda self: self._modules["embed"], doc="The module with W_E.")
    W_E = property(lambda self: self._modules["embed"].W_E, doc="[v d]")
    W_pos = property(lambda self: self.pos_embed.W_pos, doc="[p d]")
    b_U = property(lambda self: self.unembed.b_U, doc="[v]")
    W_gate = property(lambda self: None, doc="None: GPT-2's MLPs have no gate.")

    @property
    def W_E_pos(self) -> Tensor:
        """What tokens and positions put into the stream, one below the other: [v+p d]."""
        return torch.cat([self.W_E, self.W_pos])

    def input_to_embed(
        self,
        input: Any,
        prepend_bos: bool | None = None,
        padding_side: Any = None,
        attention_mask: Any = None,
        past_kv_cache: Any = None,
    ) -> tuple[Tensor, Tensor, None, Tensor | None]:
        """What enters the first block, the tokens, None, and the mask if there is one."""
        batch = self._batch(input, prepend_bos, padding_side, attention_mask, past_kv_cache)
        return self._enter(batch), batch.tokens, None, batch.mask

    def _batch(
        self, given: Any, prepend_bos: Any, padding_side: Any, mask: Any, past: Any
    ) -> Batch:
        """What is read: padding is masked where a mask is given, on the left, or with a past."""
        n_past = 0 if past is None else past.n_past
        is_text = isinstance(given, str) or (
            isinstance(given, list) and bool(given) and isinstance(given[0], str)
        )
        if is_text:
            tokens = self.to_tokens(given, prepend_bos, padding_side)
        elif isinstance(given, Tensor):
            if given.is_floating_point() or given.dtype == torch.bool:
                raise TokenError(
                    f"tokens are whole numbers, and these are {given.dtype}; a residual stream is "
                    "given with start_at_layer"
                )
            tokens = given.to(self.W_E.device).long()
        else:
            return as_batch(self, given, attention_mask=mask, n_past=n_past)
        tokens = tokens[None] if tokens.ndim == 1 else tokens
        self._require(tokens, n_past)
        side = padding_side or (
            self.require_tokenizer().padding_side if self.tokenizer else "right"
        )
        if mask is None and (side == "left" or past is not None) and self.tokenizer is not None:
            bos = self.cfg.default_prepend_bos if prepend_bos is None else prepend_bos
            mask = utils.get_attention_mask(self.tokenizer, tokens, bos, side)
        real = None if mask is None else torch.as_tensor(mask, device=tokens.device).bool()
        real = real[None] if real is not None and real.ndim == 1 else real
        if real is not None and real.shape != tokens.shape:
            raise TokenError(
                f"attention_mask has shape {tuple(real.shape)}, the tokens {tuple(tokens.shape)}"
            )
        real = None if real is None or bool(real.all()) else real
        return Batch(tokens, real, _where(real, tokens.shape[1], n_past))

    def _require(self, tokens: Tensor, n_past: Any) -> None:
        n = tokens.shape[1] + int(torch.as_tensor(n_past).max())
        if n > self.cfg.n_ctx:
            raise TokenError(
                f"{n} tokens, and {self.cfg.model_name} reads at most {self.cfg.n_ctx}"
            )
        if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.cfg.d_vocab:
            raise TokenError(
                f"a token id is outside of the vocabulary, 0 to {self.cfg.d_vocab - 1}"
            )

    @only_known
    def forward(
        self,
        input: Any,
        return_type: str | None = "logits",
        loss_per_token: bool = False,
        prepend_bos: bool | None = None,
        padding_side: Any = None,
        start_at_layer: int | None = None,
        tokens: Tensor | None = None,
        shortformer_pos_embed: None = None,
        attention_mask: Any = None,
        stop_at_layer: int | None = None,
        past_kv_cache: Any = None,
    ) -> Any:
        """What does the model say next, after each token? As `HookedTransformer.forward` there.

        Without a mask, padding on the right counts in the loss; `attention_mask` leaves it out.

        Raises:
            CircuitsError: for an unknown `return_type`, and a loss without tokens.
        """
        if return_type not in ("logits", "loss", "both", None):
            raise CircuitsError(
                f"return_type={return_type!r}: choose 'logits', 'loss', 'both' or None"
            )
        layers = range(self.cfg.n_layers)[start_at_layer:stop_at_layer]
        past = past_kv_cache.for_a_pass() if hasattr(past_kv_cache, "for_a_pass") else past_kv_cache
        resid = None
        if start_at_layer is None:
            batch = self._batch(input, prepend_bos, padding_side, attention_mask, past)
            tokens, mask = batch.tokens, batch.mask
        else:
            resid, mask = input, attention_mask
            batch = residual_batch(resid, mask, self.cfg, 0 if past is None else past.n_past)
        self.run.facts = batch.positions, batch.mask
        self.pos_embed.padding = batch.mask
        self._mark_replaced()
        stop = stop_at_layer is not None
        wanted = return_type is not None or self.end_watched()
        logits = self.pass_through(batch, resid, layers, stop=stop, logits=wanted, past=past)
        if stop or return_type in (None, "logits"):
            return logits if stop or return_type else None
        if tokens is None:
            raise CircuitsError("a loss needs the tokens; give tokens= with start_at_layer")
        loss = self.loss_fn(cast(Tensor, logits), tokens, mask, loss_per_token)
        return loss if return_type == "loss" else Output(cast(Tensor, logits), loss)

    def end_watched(self) -> bool:
        """Whether a site after the blocks is watched, so that its value has to be computed."""
        ends = (n for n in self.hook_dict if n.startswith(("ln_final.", "unembed.")))
        return any(self.hook_dict[name].watched for name in ends)

    def _mark_replaced(self) -> None:
        """A module that stands where a hook point stood has its value computed."""
        for name in self.hook_dict:
            module: Any = self.get_submodule(name)
            if not hasattr(module, "watched"):
                module.watched = True

    def loss_fn(
        self,
        logits: Tensor,
        tokens: Tensor,
        attention_mask: Tensor | None = None,
        per_token: bool = False,
    ) -> Tensor:
        """The loss on next tokens: see `utils.lm_cross_entropy_loss`."""
        tokens = tokens.to(logits.device)
        return utils.lm_cross_entropy_loss(logits, tokens, attention_mask, per_token)

    def run_with_cache(
        self,
        *model_args: Any,
        return_cache_object: bool = True,
        remove_batch_dim: bool = False,
        **kwargs: Any,
    ) -> tuple[Any, Any]:
        """`forward`, and what passed the sites, as an `ActivationCache` or a dictionary."""
        self._require_options("run_with_cache", kwargs)
        out, cache = HookedRootModule.run_with_cache(
            self, *model_args, remove_batch_dim=remove_batch_dim, **kwargs
        )
        if return_cache_object:
            return out, ActivationCache(cache, self, has_batch_dim=not remove_batch_dim)
        return out, cache

    def run_with_hooks(self, *model_args: Any, **kwargs: Any) -> Any:
        """`forward` with hooks: see `HookedRootModule.run_with_hooks`."""
        self._require_options("run_with_hooks", kwargs)
        return HookedRootModule.run_with_hooks(self, *model_args, **kwargs)

    def _require_options(self, name: str, given: Mapping[str, Any]) -> None:
        if given and type(self).forward is HookedTransformer.forward:
            runs = (getattr(kind, name) for kind in (HookedRootModule, HookedTransformer))
            require_known(name, given, names_of(*runs, HookedTransformer.forward))

    hooks = HookedRootModule.hooks  # type: ignore[assignment]

    def set_tokenizer(self, tokenizer: Any, default_padding_side: str | None = None) -> None:
        """Use this tokenizer, of ``transformers`` or of this package."""
        self.tokenizer = tokenizer
        if default_padding_side is not None:
            self.require_tokenizer().padding_side = default_padding_side
        self.cfg.tokenizer_prepends_bos = False

    def require_tokenizer(self) -> LensTokenizer:
        """The tokenizer, or one clear error when the model was built without."""
        return cast(LensTokenizer, Transformer.require_tokenizer(self))

    def to_tokens(
        self,
        input: Any,
        prepend_bos: bool | None = None,
        padding_side: Any = None,
        move_to_device: bool = True,
        truncate: bool = True,
    ) -> Tensor:
        """Token ids [b p] of a text or texts: see `text.to_tokens`."""
        return text.to_tokens(self, input, prepend_bos, padding_side, move_to_device, truncate)

    def to_string(self, tokens: Any) -> Any:
        """The text of a row of token ids, or of each of several."""
        return text.to_string(self, tokens)

    def to_str_tokens(
        self, input: Any, prepend_bos: bool | None = None, padding_side: Any = None
    ) -> Any:
        """The tokens of a text or a row of ids as strings; lists of them for a list."""
        return text.to_str_tokens(self, input, prepend_bos, padding_side)

    def to_single_token(self, string: str) -> int:
        """The id of a text that is one token; an error that shows the split otherwise."""
        return self.require_tokenizer().base.single_token(string)

    def to_single_str_token(self, int_token: int) -> str:
        """The text of one token id."""
        return self.require_tokenizer().decode([int_token])

    def get_token_position(
        self,
        single_token: Any,
        input: Any,
        mode: str = "first",
        prepend_bos: bool | None = None,
        padding_side: Any = None,
    ) -> int:
        """Where a token stands in a text or a row of ids: see `text.token_position`."""
        return text.token_position(self, single_token, input, mode, prepend_bos)

    tokens_to_residual_directions = directions.tokens_to_residual_directions
    accumulated_bias = directions.accumulated_bias
    all_composition_scores = directions.all_composition_scores
    all_head_labels = directions.all_head_labels
    generate = generation.generate  # type: ignore[assignment]
    generate_stream = generation.generate_stream
    from_pretrained = classmethod(loading.from_pretrained)
    from_pretrained_no_processing = classmethod(loading.from_pretrained_no_processing)
    init_weights = methods.init_weights
    load_state_dict = methods.load_state_dict
    load_and_process_state_dict = methods.load_and_process_state_dict
    process_weights_ = methods.process_weights_
    fill_missing_keys = methods.fill_missing_keys
    fold_layer_norm = methods.fold_layer_norm
    center_writing_weights = methods.center_writing_weights
    center_unembed = methods.center_unembed
    fold_value_biases = methods.fold_value_biases
    refactor_factored_attn_matrices = methods.refactor_factored_attn_matrices
    set_use_attn_result = methods.set_use_attn_result
    set_use_split_qkv_input = methods.set_use_split_qkv_input
    set_use_hook_mlp_in = methods.set_use_hook_mlp_in
    set_use_attn_in = methods.set_use_attn_in
    set_ungroup_grouped_query_attention = methods.set_ungroup_grouped_query_attention
    mps = methods.mps
    move_model_modules_to_device = methods.move_model_modules_to_device
    load_sample_training_dataset = methods.load_sample_training_dataset
    sample_datapoint = methods.sample_datapoint
    get_pos_offset = methods.get_pos_offset
    get_residual = methods.get_residual
    to_house = methods.to_house
    n_params_total = property(methods.n_params_total)


def _where(real: Tensor | None, n: int, n_past: Any) -> slice | Tensor:
    """Each token's position in its prompt: one slice for all prompts, or [b p]."""
    if real is None and isinstance(n_past, int):
        return slice(n_past, n_past + n)
    before = n_past[:, None] if isinstance(n_past, Tensor) else n_past
    if real is None:
        return cast(Tensor, before) + torch.arange(n, device=cast(Tensor, before).device)
    return (real.cumsum(1) - 1 + before).clamp(min=0)
