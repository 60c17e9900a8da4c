"""The methods of `HookedTransformer` that draw, take and rewrite weights, and set flags."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from circuits.architectures import HookedGPT2
from circuits.errors import CircuitsError, brief
from circuits.transformer_lens import processing, utils
from circuits.transformer_lens.components import freeze
from circuits.transformer_lens.config import HookedTransformerConfig
from circuits.transformer_lens.datasets import get_dataset
from circuits.transformer_lens.initialization import (
    calc_fan_in_and_fan_out,
    draw_,
    init_kaiming_normal_,
    init_kaiming_uniform_,
    init_xavier_normal_,
    init_xavier_uniform_,
)
from circuits.transformer_lens.processing import State

if TYPE_CHECKING:
    from circuits.transformer_lens.model import HookedTransformer


def size_by_tokenizer(cfg: HookedTransformerConfig, tokenizer: Any) -> None:
    """Take the size of the vocabulary from the tokenizer where the configuration has none.

    Raises:
        CircuitsError: when neither says it.
    """
    if cfg.d_vocab != -1:
        return
    if tokenizer is None:
        raise CircuitsError("d_vocab is not given, and there is no tokenizer to take it from")
    n_vocab = getattr(tokenizer, "n_vocab", None)
    size = n_vocab or max(tokenizer.get_vocab().values()) + 1
    vars(cfg).update(d_vocab=size, d_vocab_out=size)
    cfg._check_sizes()


def init_weights(self: HookedTransformer) -> None:
    """Draw the matrices as ``cfg.init_mode`` says, from ``cfg.seed`` if it is given."""
    cfg = self.cfg
    modes = ("gpt2", "xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal", "muP")
    if cfg.init_mode not in modes:
        raise CircuitsError(f"init_mode={cfg.init_mode!r}: choose {', '.join(map(repr, modes))}")
    if cfg.seed is not None:
        torch.manual_seed(cfg.seed)
    spread = cfg.initializer_range
    for name, weight in self.named_parameters():
        if "W_" not in name:
            continue
        if cfg.init_mode == "gpt2":
            draw_(weight, normal=spread)
        elif cfg.init_mode == "xavier_uniform":
            init_xavier_uniform_(weight, spread)
        elif cfg.init_mode == "xavier_normal":
            init_xavier_normal_(weight, spread)
        elif cfg.init_mode == "kaiming_uniform":
            init_kaiming_uniform_(weight, gain=spread)
        elif cfg.init_mode == "kaiming_normal":
            init_kaiming_normal_(weight, gain=spread)
        else:
            fan_in = calc_fan_in_and_fan_out(weight)[0]
            draw_(weight, normal=1.0 if "embed" in name else fan_in**-0.5)


def load_state_dict(
    self: HookedTransformer, state_dict: State, strict: bool = True, assign: bool = False
) -> Any:
    """Take these weights, under TransformerLens' names; its masks may be among them or not.

    Raises:
        CircuitsError: for weights under other names, such as those of Hugging Face.
    """
    mine = self.state_dict()
    given = {k: v for k, v in state_dict.items() if not k.endswith(processing.BUFFERS)}
    if not {*given} & {*mine} and given:
        raise CircuitsError(
            f"none of the {len(given)} weights is named as here: {brief(sorted(given)[:3], 300)}; "
            f"names are such as {sorted(mine)[:3]}. HookedTransformer.from_pretrained reads other "
            "formats"
        )
    masks = {k: v for k, v in mine.items() if k.endswith(processing.BUFFERS)}
    return torch.nn.Module.load_state_dict(self, given | masks, strict=strict, assign=assign)


def load_and_process_state_dict(
    self: HookedTransformer,
    state_dict: State,
    fold_ln: bool = True,
    center_writing_weights: bool = True,
    center_unembed: bool = True,
    fold_value_biases: bool = True,
    refactor_factored_attn_matrices: bool = False,
) -> None:
    """Take these weights, under TransformerLens' names, after the chosen steps."""
    state = processing.processed(
        state_dict,
        self.cfg,
        fold_ln=fold_ln,
        center_writing_weights=center_writing_weights,
        center_unembed=center_unembed,
        fold_value_biases=fold_value_biases,
    )
    if refactor_factored_attn_matrices:
        state = processing.refactored(state, self.cfg)
    if fold_ln:
        self.cfg.normalization_type = "LNPre"
        for norm in self.modules():
            if hasattr(norm, "hook_normalized"):
                freeze(norm)  # type: ignore[arg-type]
    mine = self.state_dict()
    self.load_state_dict({name: value for name, value in state.items() if name in mine})


def process_weights_(
    self: HookedTransformer,
    fold_ln: bool = True,
    center_writing_weights: bool = True,
    center_unembed: bool = True,
    refactor_factored_attn_matrices: bool = False,
) -> None:
    """Fold and center this model's own weights, in place."""
    self.load_and_process_state_dict(
        self.state_dict(),
        fold_ln=fold_ln,
        center_writing_weights=center_writing_weights,
        center_unembed=center_unembed,
        refactor_factored_attn_matrices=refactor_factored_attn_matrices,
    )


def fill_missing_keys(self: HookedTransformer, state_dict: State) -> dict[str, Tensor]:
    """These weights, and this model's own where they have none."""
    return {**self.state_dict(), **state_dict}


def fold_layer_norm(
    self: HookedTransformer,
    state_dict: State,
    fold_biases: bool = True,
    center_weights: bool = True,
) -> dict[str, Tensor]:
    """The weights with every LayerNorm's own moved into what reads it."""
    if not (fold_biases and center_weights):
        raise CircuitsError("LayerNorm is folded with its biases and its centering here")
    return processing.processed(state_dict, self.cfg, fold_ln=True)


def center_writing_weights(self: HookedTransformer, state_dict: State) -> dict[str, Tensor]:
    """The weights with nothing written along the all-ones direction."""
    return processing.processed(state_dict, self.cfg, center_writing_weights=True)


def center_unembed(self: HookedTransformer, state_dict: State) -> dict[str, Tensor]:
    """The weights with logits that sum to zero."""
    return processing.processed(state_dict, self.cfg, center_unembed=True)


def fold_value_biases(self: HookedTransformer, state_dict: State) -> dict[str, Tensor]:
    """The weights with the value biases in b_O."""
    return processing.processed(state_dict, self.cfg, fold_value_biases=True)


def refactor_factored_attn_matrices(
    self: HookedTransformer, state_dict: State
) -> dict[str, Tensor]:
    """The weights with even factors: see `processing.refactored`."""
    return processing.refactored(state_dict, self.cfg)


def set_use_attn_result(self: HookedTransformer, use_attn_result: bool) -> None:
    """Whether caches keep, and predicates meet, ``attn.hook_result`` by default."""
    self.cfg.use_attn_result = use_attn_result


def set_use_split_qkv_input(self: HookedTransformer, use_split_qkv_input: bool) -> None:
    """The same of ``hook_q_input``, ``hook_k_input`` and ``hook_v_input``."""
    self.cfg.use_split_qkv_input = use_split_qkv_input


def set_use_hook_mlp_in(self: HookedTransformer, use_hook_mlp_in: bool) -> None:
    """The same of ``hook_mlp_in``."""
    self.cfg.use_hook_mlp_in = use_hook_mlp_in


def set_use_attn_in(self: HookedTransformer, use_attn_in: bool) -> None:
    """The same of ``hook_attn_in``."""
    self.cfg.use_attn_in = use_attn_in


def set_ungroup_grouped_query_attention(
    self: HookedTransformer, ungroup_grouped_query_attention: bool
) -> None:
    """Keep the flag; GPT-2's heads have their own keys and values anyway."""
    self.cfg.ungroup_grouped_query_attention = ungroup_grouped_query_attention


def mps(self: HookedTransformer) -> HookedTransformer:
    """The model on Apple's GPU."""
    return self.to("mps")


def move_model_modules_to_device(self: HookedTransformer) -> None:
    """Move the model to the device that its configuration names."""
    self.to(vars(self)["_cfg"].device)


def load_sample_training_dataset(self: HookedTransformer, **options: Any) -> Any:
    """Texts such as GPT-2 was trained on, from the hub; kept as `dataset`."""
    self.dataset = get_dataset("openwebtext", **options)
    return self.dataset


def sample_datapoint(
    self: HookedTransformer,
    tokenize: bool = False,
    prepend_bos: bool | None = None,
    padding_side: Any = None,
) -> Any:
    """A text of `dataset`, or its tokens, drawn by Python's random numbers."""
    if self.dataset is None:
        self.load_sample_training_dataset()
    text = self.dataset[random.randrange(len(self.dataset))]["text"]
    return self.to_tokens(text, prepend_bos, padding_side) if tokenize else text


def get_pos_offset(self: HookedTransformer, past_kv_cache: Any, batch_size: int) -> int:
    """How many tokens a key-value cache has."""
    return utils.get_pos_offset(past_kv_cache, batch_size)


def get_residual(
    self: HookedTransformer,
    embed: Tensor,
    pos_offset: int,
    prepend_bos: bool | None = None,
    attention_mask: Tensor | None = None,
    tokens: Tensor | None = None,
    return_shortformer_pos_embed: bool = True,
    device: Any = None,
) -> Any:
    """The stream that enters the first block, given what tokens put there; and None."""
    ids = embed[..., 0] if tokens is None else tokens
    positions = self.hook_pos_embed(self.pos_embed(ids, pos_offset, attention_mask))
    return (embed + positions, None) if return_shortformer_pos_embed else embed + positions


def to_house(self: HookedTransformer) -> HookedGPT2:
    """The same model as a `HookedGPT2`, with copies of the weights: what `circuits.save` writes."""
    house = processing.to_house(self.state_dict(), self.cfg)
    house.source = self.source
    if self.tokenizer is not None:
        house.tokenizer = self.require_tokenizer().base
    return house


def n_params_total(self: HookedTransformer) -> int:
    """How many numbers the weights are."""
    return sum(weight.numel() for weight in self.parameters())
