"""Tiny random transformer_lens models of several architectures, built offline, for the tests."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import torch

from circuits.prompts.ioi import NAMES, OBJECTS, PLACES, TEMPLATES

START, UNKNOWN = "<s>", "<unk>"
TEMPLATE_WORDS = sorted(set(re.findall(r"\w+|[.,]", re.sub(r"\{\w+\}", "", " ".join(TEMPLATES)))))
WORDS = [START, UNKNOWN, *TEMPLATE_WORDS, *NAMES[:8], *PLACES[:4], *OBJECTS[:4]]
SIZES = {"n_layers": 2, "n_heads": 4, "d_model": 16, "d_head": 6, "d_mlp": 20, "n_ctx": 48}
LLAMA = {
    "act_fn": "silu",
    "normalization_type": "RMS",
    "positional_embedding_type": "rotary",
    "rotary_dim": 6,
    "rotary_adjacent_pairs": False,
    "gated_mlp": True,
    "n_key_value_heads": 2,
    "final_rms": True,
}
SHAPES: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "gemma": LLAMA | {"act_fn": "gelu_new", "n_key_value_heads": 1},
    "gemma2": LLAMA
    | {
        "act_fn": "gelu_new",
        "use_normalization_before_and_after": True,
        "attn_scores_soft_cap": 5.0,
        "output_logits_soft_cap": 3.0,
    },
    "pythia": {
        "act_fn": "gelu",
        "normalization_type": "LN",
        "positional_embedding_type": "rotary",
        "rotary_dim": 2,
        "parallel_attn_mlp": True,
    },
    "attn-only": {"act_fn": None, "normalization_type": "LN", "attn_only": True},
    "gpt2": {"act_fn": "gelu_new", "normalization_type": "LN"},
}


def lens_model(shape: str, *, dtype: torch.dtype = torch.float64, words: bool = True) -> Any:
    """A `HookedTransformer` with every weight random; `transformer_lens` has to be installed."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    sizes = SIZES | {"d_vocab": len(WORDS), "model_name": f"tiny-{shape}", "dtype": dtype}
    cfg = HookedTransformerConfig(**sizes, **SHAPES[shape], device="cpu", seed=0)
    theirs = HookedTransformer(cfg)
    if words:  # not by set_tokenizer, which looks for the files that it came from
        theirs.tokenizer = word_tokenizer()
    randomize(theirs)
    return theirs


def randomize(theirs: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            norm = re.search(r"ln\w*\.w$|norm", name)
            weight.copy_((1.0 if norm else 0.0) + 0.4 * noise)


def state(theirs: Any) -> tuple[object, ...]:
    """Everything that an adapted model has to leave as it was."""
    hooks = [
        (name, len(p.fwd_hooks), len(p._forward_hooks)) for name, p in theirs.hook_dict.items()
    ]
    flags = {k: v for k, v in vars(theirs.cfg).items() if k.startswith(("use_", "ungroup"))}
    weights = {
        name: (w.data_ptr(), float(w.detach().sum())) for name, w in theirs.named_parameters()
    }
    needs = [weight.requires_grad for weight in theirs.parameters()]
    return hooks, flags, weights, needs


@cache
def word_tokenizer() -> Any:
    """One token a word or punctuation mark, and a start token; an object of ``transformers``."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {word: i for i, word in enumerate(WORDS)}
    backend = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"bos_token": START, "eos_token": START, "pad_token": START, "unk_token": UNKNOWN}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)
