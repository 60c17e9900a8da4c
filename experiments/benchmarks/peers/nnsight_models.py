"""nnsight: Hugging Face's model, read and edited inside a ``with model.trace(...)`` block.

Interventions that start at the same layer share one batch of invokes; `logits_to_keep` unembeds the
last position only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from nnsight.modeling.transformers import TransformersModel
from torch import Tensor

from experiments.benchmarks.items import Given


def load(folder: Path) -> TransformersModel:
    model = TransformersModel(str(folder), task="text-generation", dispatch=True)
    model.requires_grad_(False)
    model.generation_config.eos_token_id = None  # all new tokens are wanted
    return model


def prepare(model: TransformersModel, item: str) -> None:
    """Attention patterns exist only in the plain implementation; the fused one is faster."""
    model.set_attn_implementation("eager" if item == "full_cache" else "sdpa")


_LAYERS = {"gpt2": ("transformer", "h"), "gpt_neox": ("gpt_neox", "layers")}


def blocks_of(model: TransformersModel) -> Any:
    """The layers, whatever the architecture calls them."""
    body, layers = _LAYERS.get(model.config.model_type, ("model", "layers"))
    return getattr(getattr(model, body), layers)


def way_out(model: TransformersModel, block: Any) -> Any:
    """The product of what heads mix with W_O."""
    kind = model.config.model_type
    if kind == "gpt2":
        return block.attn.c_proj
    return block.attention.dense if kind == "gpt_neox" else block.self_attn.o_proj


def logit_diff(logits: Tensor, given: Given) -> Tensor:
    rows = torch.arange(len(given.tokens))
    last = logits[:, -1]
    return (last[rows, given.answers] - last[rows, given.distractors]).mean()


@torch.no_grad()
def forward(model: TransformersModel, given: Given) -> Tensor:
    with model.trace(torch.from_numpy(given.tokens), use_cache=False):
        logits = model.output.logits.save()
    return logits  # noqa: RET504, a traced block cannot return


@torch.no_grad()
def last_logits(model: TransformersModel, given: Given) -> Tensor:
    with model.trace(torch.from_numpy(given.tokens), use_cache=False, logits_to_keep=1):
        logits = model.output.logits.save()
    return logits[:, -1]


@torch.no_grad()
def full_cache(model: TransformersModel, given: Given) -> list[Tensor]:
    with model.trace(torch.from_numpy(given.tokens), use_cache=False):
        cache: dict[str, Any] = {}
        for i, block in enumerate(model.transformer.h):
            cache[f"{i}.resid_pre"] = block.input
            cache[f"{i}.ln1"] = block.ln_1.output
            cache[f"{i}.qkv"] = block.attn.c_attn.output
            cache[f"{i}.z"] = block.attn.c_proj.input
            cache[f"{i}.attn_out"], cache[f"{i}.pattern"] = block.attn.output
            cache[f"{i}.resid_mid"] = block.ln_2.input
            cache[f"{i}.ln2"] = block.ln_2.output
            cache[f"{i}.pre"] = block.mlp.c_fc.output
            cache[f"{i}.post"] = block.mlp.act.output
            cache[f"{i}.mlp_out"] = block.mlp.output
            cache[f"{i}.resid_post"] = block.output
        cache["logits"] = model.output.logits
        cache.save()
    last = len(model.transformer.h) - 1
    return [cache[f"{last}.{name}"] for name in ("pattern", "z", "resid_post")]


@torch.no_grad()
def ablate_heads(model: TransformersModel, given: Given) -> Tensor:
    tokens, n_heads = torch.from_numpy(given.tokens), model.config.num_attention_heads
    size = model.config.hidden_size // n_heads
    rows = []
    for block in blocks_of(model):
        values = []
        with model.trace(use_cache=False, logits_to_keep=1) as tracer:
            for head in range(n_heads):
                with tracer.invoke(tokens):
                    way_out(model, block).input[:, :, head * size : (head + 1) * size] = 0
                    values.append(logit_diff(model.output.logits, given).save())
        rows.append(torch.stack(values))
    return torch.stack(rows)


@torch.no_grad()
def patch_residual(model: TransformersModel, given: Given) -> Tensor:
    corrupted = torch.from_numpy(given.corrupted)
    with model.trace(torch.from_numpy(given.tokens), use_cache=False, logits_to_keep=1):
        clean = [block.input for block in blocks_of(model)].save()
    rows = []
    for block, stream in zip(blocks_of(model), clean, strict=True):
        values = []
        with model.trace(use_cache=False, logits_to_keep=1) as tracer:
            for position in range(corrupted.shape[1]):
                with tracer.invoke(corrupted):
                    block.input[:, position] = stream[:, position]
                    values.append(logit_diff(model.output.logits, given).save())
        rows.append(torch.stack(values))
    return torch.stack(rows)


@torch.no_grad()
def patch_heads(model: TransformersModel, given: Given) -> Tensor:
    corrupted, n_heads = torch.from_numpy(given.corrupted), model.config.num_attention_heads
    size = model.config.hidden_size // n_heads
    with model.trace(torch.from_numpy(given.tokens), use_cache=False, logits_to_keep=1):
        clean = [way_out(model, block).input for block in blocks_of(model)].save()
    rows = []
    for block, z in zip(blocks_of(model), clean, strict=True):
        values = []
        with model.trace(use_cache=False, logits_to_keep=1) as tracer:
            for head in range(n_heads):
                own = slice(head * size, (head + 1) * size)
                with tracer.invoke(corrupted):
                    way_out(model, block).input[:, :, own] = z[:, :, own]
                    values.append(logit_diff(model.output.logits, given).save())
        rows.append(torch.stack(values))
    return torch.stack(rows)


def attribution(model: TransformersModel, given: Given) -> Tensor:
    tokens, corrupted = torch.from_numpy(given.tokens), torch.from_numpy(given.corrupted)
    blocks, n_heads = model.transformer.h, model.config.n_head
    with torch.no_grad():  # noqa: SIM117, a traced block starts on a line of its own
        with model.trace(tokens, use_cache=False, logits_to_keep=1):
            clean = [block.attn.c_proj.input for block in blocks].save()
    with model.trace(corrupted, use_cache=False, logits_to_keep=1):
        # The weights are frozen (see `load`), so the graph begins with the first layer's z.
        first = blocks[0].attn.c_proj.input
        first.requires_grad_()
        seen = [first, *[block.attn.c_proj.input for block in blocks[1:]]]
        grads = torch.autograd.grad(logit_diff(model.output.logits, given), seen)
        effects = [
            ((there - here.detach()) * grad).unflatten(-1, (n_heads, -1)).sum((0, 1, 3))
            for there, here, grad in zip(clean, seen, grads, strict=True)
        ].save()
    return torch.stack(effects)


@torch.no_grad()
def logit_lens(model: TransformersModel, given: Given) -> Tensor:
    body = model.transformer
    with model.trace(torch.from_numpy(given.tokens), use_cache=False, logits_to_keep=1):
        states = [block.input for block in body.h]
        states.append(body.h[-1].output)
        states = torch.cat(states)
        top = model.lm_head(body.ln_f(states)).log_softmax(-1).amax(-1).save()
    return top  # noqa: RET504


@torch.no_grad()
def generate(model: TransformersModel, given: Given) -> Tensor:
    tokens = torch.from_numpy(given.tokens)
    with model.generate(tokens, max_new_tokens=given.new, do_sample=False) as tracer:
        out = tracer.result.save()
    return out[0, tokens.shape[1] :]
