"""The residual stream as a sum of named parts, and LayerNorm made explicit.

Every function reads a `Cache` and returns a stack [part, batch, pos, d_model] with its labels. The
labels, and what `layer`, `mlp_input` and `pos_slice` mean, are those of TransformerLens'
``ActivationCache``: parts up to the input of `layer`; None or -1 is the input of the unembedding.

LayerNorm's weight is part of the mathematics here, so attributions on a raw checkpoint are exact;
nothing has to be folded first. Parts are added up, so stacks are in float32 at least, also where
the model's weights are in half precision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from circuits.errors import CircuitsError
from circuits.hooks import take
from circuits.precision import wide

if TYPE_CHECKING:
    from circuits.cache import Cache
    from circuits.model import HookedModel
    from circuits.model.contract import NormWeights

Stack = tuple[Float[Tensor, "part *b_p d"], list[str]]


def accumulated_resid(
    cache: Cache,
    layer: int | None = None,
    *,
    incl_mid: bool = False,
    apply_ln: bool = False,
    pos_slice: Any = None,
    mlp_input: bool = False,
) -> Stack:
    """What has the residual stream become, at the input of each layer? (logit lens)

    Returns [state, b, p, d] and labels ``0_pre, 0_mid, ..., final_post``. With `apply_ln` at the
    last layer, each state goes through the final LayerNorm with statistics of its own.
    """
    end = _layer(cache.model, layer, mlp_input)
    n_layers = cache.model.cfg.n_layers
    names, labels = [], []
    for i in range(end + 1):
        if i == n_layers:
            names.append(("resid_post", n_layers - 1))
            labels.append("final_post")
            continue
        names.append(("resid_pre", i))
        labels.append(f"{i}_pre")
        if (incl_mid and i < end) or (mlp_input and i == end):
            names.append(("resid_mid", i))
            labels.append(f"{i}_mid")
    stack = wide(torch.stack([take(cache[name], pos_slice, -2) for name in names]))
    if apply_ln:
        at_end = end == n_layers
        stack = apply_ln_to_stack(
            cache, stack, end, mlp_input=mlp_input, pos_slice=pos_slice, recompute_ln=at_end
        )
    return stack, labels


def decompose_resid(
    cache: Cache,
    layer: int | None = None,
    *,
    mlp_input: bool = False,
    mode: Literal["all", "mlp", "attn"] = "all",
    apply_ln: bool = False,
    pos_slice: Any = None,
    incl_embeds: bool = True,
) -> Stack:
    """What did each attention and MLP layer, and the embeddings, add to the residual stream?

    Returns [part, b, p, d] and labels ``embed, pos_embed, 0_attn_out, 0_mlp_out, ...``. With the
    default options the parts sum to the residual stream that enters `layer`.
    """
    if mode not in ("all", "mlp", "attn"):
        raise CircuitsError(f"mode={mode!r}; choose 'all', 'mlp' or 'attn'")
    end = _layer(cache.model, layer, mlp_input)
    names: list[tuple[Any, ...]] = [(name,) for name in _embeds(cache.model) if incl_embeds]
    for i in range(end):
        if mode != "mlp":
            names.append(("attn_out", i))
        if mode != "attn" and not cache.model.cfg.attn_only:
            names.append(("mlp_out", i))
    if mlp_input and mode != "mlp":
        names.append(("attn_out", end))
    labels = [name[0] if len(name) == 1 else f"{name[1]}_{name[0]}" for name in names]
    stack = wide(torch.stack([take(cache[name], pos_slice, -2) for name in names]))
    if apply_ln:
        stack = apply_ln_to_stack(cache, stack, end, mlp_input=mlp_input, pos_slice=pos_slice)
    return stack, labels


def stack_head_results(
    cache: Cache,
    layer: int | None = None,
    *,
    incl_remainder: bool = False,
    pos_slice: Any = None,
    apply_ln: bool = False,
) -> Stack:
    """What did each head of the layers before `layer` add to the residual stream?

    Returns [layer * head, b, p, d] and labels ``L0H0, ...``. A head's result is z W_O, without
    b_O. With `incl_remainder` the last row is the rest of the stream.
    """
    end = _layer(cache.model, layer)
    require_sums(cache.model)
    parts: list[Tensor] = []
    labels: list[str] = []
    for i in range(end):
        z = wide(take(cache["z", i], pos_slice, -3))
        W_O = cache.model.blocks[i].attn.W_O.to(z.dtype)  # a cache may be wider than its model
        parts.append(einsum(z, W_O, "... head d_head, head d_head d -> head ... d"))
        labels += [f"L{i}H{h}" for h in range(cache.model.cfg.n_heads)]
    if incl_remainder or not parts:
        resid = cache["resid_post", end - 1] if end else cache["resid_pre", 0]
        resid = wide(take(resid, pos_slice, -2))
    stack = torch.cat(parts) if parts else resid[None][:0]
    if incl_remainder:
        stack = torch.cat([stack, (resid - stack.sum(0))[None]])
        labels.append("remainder")
    if apply_ln:
        stack = apply_ln_to_stack(cache, stack, end, pos_slice=pos_slice)
    return stack, labels


def stack_neuron_results(
    cache: Cache,
    layer: int | None = None,
    *,
    pos_slice: Any = None,
    project_output_onto: Tensor | None = None,
) -> Stack:
    """What did each MLP neuron of the layers before `layer` add to the residual stream?

    Returns [layer * neuron, b, p, d] and labels ``L0N0, ...``; or with `project_output_onto`
    [d, out] the projection [layer * neuron, b, p, out], without the large intermediate. A neuron's
    result is its activation times its row of W_out, without b_out.
    """
    require_sums(cache.model)
    parts: list[Tensor] = []
    labels: list[str] = []
    for i in range(_layer(cache.model, layer)):
        post = wide(take(cache["post", i], pos_slice, -2))
        values: Tensor = cache.model.blocks[i].mlp.W_out.to(post.dtype)
        if project_output_onto is not None:
            values = values @ project_output_onto.to(values.dtype)
        parts.append(einsum(post, values, "... neuron, neuron out -> neuron ... out"))
        labels += [f"L{i}N{n}" for n in range(values.shape[0])]
    if parts:
        return torch.cat(parts), labels
    return wide(take(cache["resid_pre", 0], pos_slice, -2)[None][:0]), labels


def get_full_resid_decomposition(
    cache: Cache,
    layer: int | None = None,
    *,
    mlp_input: bool = False,
    expand_neurons: bool = True,
    apply_ln: bool = False,
    pos_slice: Any = None,
    project_output_onto: Tensor | None = None,
) -> Stack:
    """What is the residual stream made of, to the last part?

    Heads, neurons (or MLP layers), embed, pos_embed and the biases, in this order; they sum to the
    stream that enters `layer`. With `project_output_onto` [d] or [d, out] each part is projected
    (after LayerNorm with `apply_ln`); a single direction drops the last axis.
    """
    end = _layer(cache.model, layer, mlp_input)
    onto = project_output_onto
    matrix = onto[:, None] if onto is not None and onto.ndim == 1 else onto

    def finish(stack: Tensor) -> Tensor:
        if apply_ln:
            stack = apply_ln_to_stack(cache, stack, end, mlp_input=mlp_input, pos_slice=pos_slice)
        return stack if matrix is None else stack @ matrix.to(stack.dtype)

    heads, labels = stack_head_results(cache, end + mlp_input, pos_slice=pos_slice)
    parts = [finish(heads)]
    end_of_mlps = 0 if cache.model.cfg.attn_only else end
    if end_of_mlps and not expand_neurons:
        mlps, mlp_labels = decompose_resid(
            cache, end, mode="mlp", pos_slice=pos_slice, incl_embeds=False
        )
        parts.append(finish(mlps))
        labels += mlp_labels
    elif end_of_mlps:
        if matrix is None:
            neurons, neuron_labels = stack_neuron_results(cache, end, pos_slice=pos_slice)
            parts.append(finish(neurons))
        else:
            # LayerNorm with a held scale is linear, so it moves into the projection: no [.. m d].
            through = matrix
            if apply_ln:
                through = through_ln(cache.model, matrix, end, mlp_input=mlp_input)
            neurons, neuron_labels = stack_neuron_results(
                cache, end, pos_slice=pos_slice, project_output_onto=through
            )
            scale = _scale(cache, end, mlp_input, pos_slice, None) if apply_ln else 1.0
            parts.append(neurons / scale)
        labels += neuron_labels
    shape = take(cache["resid_pre", 0], pos_slice, -2).shape
    bias = accumulated_bias(cache.model, end, mlp_input=mlp_input, mlp_biases=expand_neurons)
    embeds = _embeds(cache.model)
    for name in embeds:
        parts.append(finish(wide(take(cache[name], pos_slice, -2))[None]))
    parts.append(finish(bias.to(parts[-1].dtype).expand(shape)[None]))
    stack = torch.cat(parts)
    labels += [*embeds, "bias"]
    return (stack.squeeze(-1) if onto is not None and onto.ndim == 1 else stack), labels


def apply_ln_to_stack(
    cache: Cache,
    stack: Tensor,
    layer: int | None = None,
    *,
    mlp_input: bool = False,
    pos_slice: Any = None,
    batch_slice: Any = None,
    recompute_ln: bool = False,
) -> Tensor:
    """What does each part contribute to the input of `layer`, after its LayerNorm?

    Centered, divided by the cached scale and multiplied by LayerNorm's weight, so that the parts
    sum to LayerNorm's output less its bias. With `recompute_ln` each row is a complete stream
    and goes through LayerNorm itself. `stack` [part, b, p, d] is already sliced; the scale is
    sliced here.
    """
    end = _layer(cache.model, layer, mlp_input)
    norm = _norm(cache.model, end, mlp_input)
    if batch_slice is not None and cache.has_batch_dim:
        stack = take(stack, batch_slice, 1)
    if recompute_ln:
        return wide(norm.plain(stack.to(norm.w.dtype)))
    scale = _scale(cache, end, mlp_input, pos_slice, batch_slice)
    return center(cache.model, stack) / scale * norm.w


def center(model: HookedModel, stream: Float[Tensor, "*any d"]) -> Float[Tensor, "*any d"]:
    """What LayerNorm divides by its scale: the stream less its mean, which RMSNorm keeps.

    The scale is the root of the mean square of this, eps added.
    """
    return model.ln_final.center(stream)


def through_ln(
    model: HookedModel,
    matrix: Float[Tensor, "d out"],
    layer: int | None = None,
    *,
    mlp_input: bool = False,
) -> Float[Tensor, "d out"]:
    """The matrix that, over the scale, does to the stream what LayerNorm and then `matrix` do.

    LN(x) M = x N / scale + b M, with N = (1 - 11^T / d) diag(w) M: with its scale held, LayerNorm
    is linear.
    """
    end = _layer(model, layer, mlp_input)
    return center(model, (_norm(model, end, mlp_input).w[:, None] * wide(matrix)).T).T


def logit_attrs(
    cache: Cache,
    stack: Tensor,
    tokens: str | int | Tensor,
    incorrect_tokens: str | int | Tensor | None = None,
    *,
    pos_slice: Any = None,
    batch_slice: Any = None,
) -> Tensor:
    """How much does each part raise the logit of `tokens` (over `incorrect_tokens`)?

    Direct logit attribution [part, b, p], in logits, with the final LayerNorm's scale held. Over a
    full decomposition the parts and `logit_bias` sum to the logit (difference).

    Raises:
        CircuitsError: when both sets of tokens are the same, or differ in shape.
    """
    direction = _direction(cache.model, tokens, incorrect_tokens)
    normed = apply_ln_to_stack(cache, stack, None, pos_slice=pos_slice, batch_slice=batch_slice)
    if direction.ndim == 2 and normed.ndim == 4:
        direction = direction[:, None]  # one token a prompt, the same at all its positions
    return (normed * direction).sum(-1)


def logit_bias(
    model: HookedModel,
    tokens: str | int | Tensor,
    incorrect_tokens: str | int | Tensor | None = None,
) -> Tensor:
    """Which part of the logit (difference) is constant: ln_final's bias and b_U? [...]"""
    direction, b_U = _direction(model, tokens, incorrect_tokens), wide(model.b_U)
    bias = b_U[_ids(model, tokens)]
    if incorrect_tokens is not None:
        bias = bias - b_U[_ids(model, incorrect_tokens)]
    return direction @ wide(model.ln_final.b) + bias


def accumulated_bias(
    model: HookedModel, layer: int, *, mlp_input: bool = False, mlp_biases: bool = True
) -> Tensor:
    """What do the output biases of all layers before `layer` add to the residual stream? [d]"""
    total = torch.zeros_like(wide(model.ln_final.b))
    for i in range(layer):
        total = total + model.blocks[i].attn.b_O
        if mlp_biases and not model.cfg.attn_only:
            total = total + model.blocks[i].mlp.b_out
    return total + model.blocks[layer].attn.b_O if mlp_input else total


def _embeds(model: HookedModel) -> list[str]:
    """What enters the stream before the layers: tokens, and learned positions where they exist."""
    standard = model.cfg.positional_embedding_type == "standard"
    return ["embed", "pos_embed"] if standard else ["embed"]


def require_sums(model: HookedModel) -> None:
    """Raise unless the stream is a sum of what heads and neurons write.

    Raises:
        CircuitsError: where a layer's output passes a norm on its way.
    """
    if model.cfg.post_norms:
        raise CircuitsError(
            f"{model.cfg.model_name} normalizes what a layer writes before it is added, so the "
            "stream is no sum of heads or neurons; ask for whole layers, or ablate and patch heads"
        )


def _layer(model: HookedModel, layer: int | None, mlp_input: bool = False) -> int:
    n_layers = model.cfg.n_layers
    end = n_layers if layer is None or layer == -1 else layer
    if not 0 <= end <= n_layers:
        raise CircuitsError(
            f"layer={layer}: the parts up to a layer's input exist for 0 to {n_layers} "
            f"({n_layers}, -1 or None is the unembedding's)"
        )
    if mlp_input and end == n_layers:
        raise CircuitsError(
            f"layer={layer} is the unembedding, and mlp_input=True asks for the input of an MLP; "
            f"choose layer 0 to {n_layers - 1}"
        )
    return end


def _norm(model: HookedModel, layer: int, mlp_input: bool) -> NormWeights:
    if layer == model.cfg.n_layers:
        return model.ln_final
    block = model.blocks[layer]
    return block.ln2 if mlp_input else block.ln1


def _scale(cache: Cache, layer: int, mlp_input: bool, pos_slice: Any, batch_slice: Any) -> Tensor:
    """[b p 1], or without the axes that a slice took"""
    if layer == cache.model.cfg.n_layers:
        scale = cache["ln_final.hook_scale"]
    else:
        scale = cache["scale", layer, "ln2" if mlp_input else "ln1"]
    scale = take(scale, pos_slice, -2)
    return take(scale, batch_slice, 0) if batch_slice is not None else scale


def _ids(model: HookedModel, tokens: str | int | Tensor) -> Tensor:
    ids = torch.as_tensor(model.to_single_token(tokens) if isinstance(tokens, str) else tokens)
    return ids.to(model.W_E.device)


def _direction(
    model: HookedModel, tokens: str | int | Tensor, incorrect: str | int | Tensor | None
) -> Tensor:
    """The direction [... d] of the final residual stream that raises this logit (difference)."""
    ids = _ids(model, tokens)
    direction = wide(model.W_U.T[ids])
    if incorrect is not None:
        others = _ids(model, incorrect)
        if others.shape != ids.shape:
            raise CircuitsError(
                f"tokens have shape {tuple(ids.shape)}, incorrect_tokens {tuple(others.shape)}; "
                "give one incorrect token for each token"
            )
        if bool((ids == others).any()):
            raise CircuitsError("a token equals its incorrect token, so the difference is zero")
        return direction - wide(model.W_U.T[others])
    return direction
