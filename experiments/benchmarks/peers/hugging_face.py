"""Hugging Face's transformers: the model alone, with nothing to look inside."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from experiments.benchmarks.items import Given


def load(folder: Path) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    model.generation_config.eos_token_id = None  # all new tokens are wanted
    return model


@torch.inference_mode()
def forward(model: PreTrainedModel, given: Given) -> Tensor:
    return model(torch.from_numpy(given.tokens), use_cache=False).logits


@torch.inference_mode()
def last_logits(model: PreTrainedModel, given: Given) -> Tensor:
    tokens = torch.from_numpy(given.tokens)
    return model(tokens, use_cache=False, logits_to_keep=1).logits[:, -1]


@torch.inference_mode()
def logit_lens(model: PreTrainedModel, given: Given) -> Tensor:
    tokens = torch.from_numpy(given.tokens)
    body = model.transformer
    *states, final = body(tokens, output_hidden_states=True, use_cache=False).hidden_states
    # The last of the hidden states has been through ln_f already.
    normalized = torch.cat([body.ln_f(torch.cat(states)), final])
    return model.lm_head(normalized).log_softmax(-1).amax(-1)


@torch.inference_mode()
def generate(model: PreTrainedModel, given: Given) -> Tensor:
    tokens = torch.from_numpy(given.tokens)
    mask = torch.ones_like(tokens)
    out = model.generate(tokens, attention_mask=mask, max_new_tokens=given.new, do_sample=False)
    return out[0, tokens.shape[1] :]
