"""Tiny random models of Hugging Face in a `TransformerBridge`, built offline, for the tests."""

from __future__ import annotations

import tempfile
from functools import cache
from typing import Any

import torch
from lens_models import WORDS, word_tokenizer

SIZES = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6}
SHAPES = {"Llama": SIZES, "Gemma": SIZES | {"num_key_value_heads": 1}, "Gemma2": SIZES}
SHAPES |= {"GPT2": {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 48}}


def built(shape: str) -> Any:
    """A model of Hugging Face with every weight random; `transformers` has to be installed."""
    import transformers

    kind = f"{shape}LMHeadModel" if shape == "GPT2" else f"{shape}ForCausalLM"
    options = {"vocab_size": len(WORDS), "max_position_embeddings": 48} | SHAPES[shape]
    cfg = getattr(transformers, f"{shape}Config")(architectures=[kind], **options)
    model = getattr(transformers, kind)(cfg).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            norm = 1.0 if weight.ndim == 1 and shape in ("Llama", "GPT2") else 0.0
            weight.copy_(norm + 0.3 * torch.randn(weight.shape, generator=generator))
    return model


@cache
def bridge(shape: str) -> Any:
    """A bridge to it; `transformer_lens` has to be installed."""
    import transformers
    from transformer_lens.model_bridge import TransformerBridge

    with tempfile.TemporaryDirectory() as folder:
        # transformer_lens reads it from there again, to make it add start tokens.
        word_tokenizer().save_pretrained(folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        return TransformerBridge.boot_transformers(
            f"tiny-{shape}", hf_model=built(shape), tokenizer=tokenizer, device="cpu"
        )
