"""Direct logit attribution: the final residual stream as a sum of terms, each read as logits.

Shapes: b prompts, r places where a prediction is read (one or more a prompt), p positions, k terms,
s sources, h heads, e = d_head, d = d_model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from einops import einsum
from torch import Tensor

from circuits.decompose import accumulated_bias, center, require_sums, through_ln
from circuits.errors import CircuitsError
from circuits.hooks import position_axis
from circuits.model import HookedModel
from circuits.precision import wide
from circuits.prompts import Prompts

POS = "hook_pos_embed"
OTHER = "other"
MOST_FLOATS = 2**26  # of the values that are kept at a time


class Term(NamedTuple):
    """A term of the decomposition: its name, what writes it, and from which source."""

    component: str
    writer: str
    layer: int | None = None
    head: int | None = None
    neuron: int | None = None
    source: str | None = None


@dataclass(frozen=True)
class Split:
    """How finely the stream is taken apart.

    `heads` are those taken apart by the `places` that they read from, `neurons` those of each layer
    that stand by themselves.
    """

    what: str
    places: Sequence[str | int] = ()
    heads: frozenset[tuple[int, int]] = frozenset()
    neurons: Mapping[int, Sequence[int]] = field(default_factory=dict)

    def sites(self, model: HookedModel) -> list[str]:
        """The sites that a run has to be watched at."""
        inside = ["attn.hook_z" if self.what == "heads" else "hook_attn_out"]
        inside += [] if model.cfg.attn_only else ["hook_mlp_out"]
        inside += ["attn.hook_pattern", "attn.hook_v"] if self.heads else []
        inside += ["mlp.hook_post"] if self.what == "neurons" else []
        layers = range(model.cfg.n_layers)
        learned = model.cfg.positional_embedding_type == "standard"  # added to the stream
        embeddings = ["hook_embed", *([POS] if learned else [])]
        sites = [f"blocks.{layer}.{site}" for layer in layers for site in inside]
        return [*embeddings, *sites, f"blocks.{layers[-1]}.hook_resid_post"]


@dataclass(frozen=True, eq=False)
class Reading:
    """Where which difference of logits is read, of which stream.

    Attributes:
        prompt: [r], which prompt; `at` [r], which of its positions.
        onto: [r d], the difference of W_U's columns.
        constant: [r], what does not depend on the stream: b_U's difference, LayerNorm's bias.
        stream: [r d], the final residual stream.
    """

    model: HookedModel
    prompt: Tensor
    at: Tensor
    onto: Tensor
    constant: Tensor
    stream: Tensor

    def logits(self, stream: Tensor) -> Tensor:
        """The difference that a stream [... r d] gives, less the constant: [... r]"""
        centered = center(self.model, stream)
        scale = (centered.pow(2).mean(-1) + self.model.cfg.eps).sqrt()
        return (centered * self.direction).sum(-1) / scale

    @property
    def direction(self) -> Tensor:
        """[r d], what `onto` is before LayerNorm, but for its scale."""
        return through_ln(self.model, self.onto.T).T

    @property
    def scale(self) -> Tensor:
        """[r], that of the final LayerNorm."""
        centered = center(self.model, self.stream)
        return (centered.pow(2).mean(-1) + self.model.cfg.eps).sqrt()

    def pushes(self, written: Tensor) -> Tensor:
        """What terms [k r d] add, with LayerNorm's scale held: [k r]"""
        return einsum(written, self.direction, "k r d, r d -> k r") / self.scale

    def per_prompt(self, values: Tensor) -> Tensor:
        """The mean over the places of each prompt: [k r] -> [k b]"""
        n = int(self.prompt.max()) + 1
        total = values.new_zeros(len(values), n).index_add_(1, self.prompt, values)
        return total / self.prompt.bincount(minlength=n)


def unit(prompts: Prompts) -> str:
    """The unit of what is attributed: a logit over the distractor's, or the mean token's."""
    return "logits" if prompts.distractors is not None else "logits above the mean token"


def scored(prompts: Prompts) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The tokens that are asked for, over others: prompts, positions, tokens, others, each [r].

    Raises:
        CircuitsError: when some prompt asks for none.
    """
    if prompts.answers is not None:
        rows = torch.arange(len(prompts), device=prompts.tokens.device)
        if prompts.distractors is not None:
            same = (prompts.answers == prompts.distractors).nonzero().flatten().tolist()
            if same:
                raise CircuitsError(
                    f"answer and distractor are the same token in prompt {same[0]} "
                    f"({prompts.texts[same[0]]!r}), so their difference is always 0; give two"
                )
        return rows, prompts.roles["END"], prompts.answers, prompts.distractors
    if prompts.answer_sets is not None:
        raise CircuitsError(
            f"each prompt of {prompts.task!r} has a list of answers, of which any counts; what is "
            "attributed is the logit of one token, which is a sum over parts, as that of a list is "
            "not; give a single answer, or ablate or patch instead"
        )
    without = (~(prompts.targets >= 0).any(1)).nonzero().flatten().tolist()
    if without:
        raise CircuitsError(
            f"prompt {without[0]} ({prompts.texts[without[0]]!r}) asks for no token, so there is "
            "no logit to attribute; give an answer"
        )
    rows, at = (prompts.targets >= 0).nonzero().unbind(1)
    return rows, at, prompts.targets[rows, at], None


def decomposed(model: HookedModel, prompts: Prompts, split: Split) -> Iterator[dict[Term, Tensor]]:
    """What each term adds to the answers of these prompts, some prompts at a time.

    Yields for each term [3 b]: its push with LayerNorm's scale held, the logit difference less what
    it is without the term, and the difference of the two; first, as ``total``, the whole stream's.
    """
    for prompts_now, values in _runs(model, prompts, split):
        read = _reading(model, prompts_now, values)
        held = read.constant + read.logits(read.stream)
        numbers = {Term("total", "total"): torch.stack([held, held, held * 0])}
        for terms, written in _terms(model, prompts_now, values, read, split):
            pushes = read.pushes(written)
            removed = read.logits(read.stream) - read.logits(read.stream - written)
            if terms[0].component == "bias":
                pushes, removed = pushes + read.constant, removed + read.constant
            rows = torch.stack([pushes, removed, pushes - removed], 1)
            numbers |= dict(zip(terms, rows, strict=True))
        yield {term: read.per_prompt(rows) for term, rows in numbers.items()}


def neuron_pushes(model: HookedModel, prompts: Prompts) -> Iterator[Tensor]:
    """What every neuron adds [layer neuron b], some prompts at a time.

    Raises:
        CircuitsError: for models that norm what an MLP writes before it is added.
    """
    require_sums(model)
    for prompts_now, values in _runs(model, prompts, Split("neurons")):
        read = _reading(model, prompts_now, values)
        pushes = []
        for layer in range(model.cfg.n_layers):
            # Only what they write along the direction: [neuron r], and never [neuron r d].
            toward = wide(model.blocks[layer].mlp.W_out) @ read.direction.T / read.scale
            post = _taken(values, f"blocks.{layer}.mlp.hook_post", read)
            pushes.append(read.per_prompt(toward * post.T))
        yield torch.stack(pushes)


def _runs(
    model: HookedModel, prompts: Prompts, split: Split
) -> Iterator[tuple[Prompts, Mapping[str, Tensor]]]:
    """Some of the prompts, as many as fit, with what passed the sites that are needed."""
    width = prompts.tokens.shape[1]
    cfg = model.cfg
    floats = cfg.n_heads * cfg.d_head + cfg.d_model * 3
    floats += cfg.d_mlp if split.what == "neurons" else 0
    floats += cfg.n_heads * (width + cfg.d_head) if split.heads else 0
    step = max(1, MOST_FLOATS // (floats * width * cfg.n_layers))
    for start in range(0, len(prompts), step):
        some = prompts.subset(slice(start, start + step))
        with torch.inference_mode():
            _, cache = model.run_with_cache(
                some.tokens,
                attention_mask=some.mask,
                names_filter=split.sites(model),
                stop_at_layer=cfg.n_layers,
            )
            yield some, cache


def _reading(model: HookedModel, prompts: Prompts, values: Mapping[str, Tensor]) -> Reading:
    """What is read of this run, and where."""
    rows, at, tokens, others = scored(prompts)
    W_U, b_U = wide(model.W_U), wide(model.b_U)
    other = W_U.mean(1)[:, None] if others is None else W_U[:, others]
    over = b_U.mean() if others is None else b_U[others]
    onto = (W_U[:, tokens] - other).T
    constant = onto @ wide(model.ln_final.b) + b_U[tokens] - over
    stream = wide(values[f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"][rows, at])
    return Reading(model, rows, at, onto, constant, stream)


def _taken(values: Mapping[str, Tensor], site: str, read: Reading) -> Tensor:
    """What passed a site where predictions are read: [r ...]"""
    return wide(values[site].movedim(position_axis(site), 1)[read.prompt, read.at])


def _terms(
    model: HookedModel,
    prompts: Prompts,
    values: Mapping[str, Tensor],
    read: Reading,
    split: Split,
) -> Iterator[tuple[list[Term], Tensor]]:
    """Terms, and what they wrote [k r d]; together they are the stream."""
    yield [Term("embed", "embed")], _taken(values, "hook_embed", read)[None]
    if POS in values:
        yield [Term("pos", "pos")], _taken(values, POS, read)[None]
    sources = _sources(prompts, read, split.places) if split.heads else None
    others = torch.zeros_like(read.stream)
    for layer in range(model.cfg.n_layers):
        if split.what == "heads":
            yield from _heads(model, values, read, split, sources, layer)
        else:
            wrote = _taken(values, f"blocks.{layer}.hook_attn_out", read)
            yield [Term(f"a{layer}", f"a{layer}", layer)], wrote[None]
        if model.cfg.attn_only:
            continue
        wrote = _taken(values, f"blocks.{layer}.hook_mlp_out", read)
        if split.what != "neurons":
            yield [Term(f"m{layer}", f"m{layer}", layer)], wrote[None]
            continue
        others = others + wrote - model.blocks[layer].mlp.b_out
        if chosen := split.neurons.get(layer):
            terms = [Term(f"m{layer}.n{i}", f"m{layer}", layer, None, i) for i in chosen]
            written = _neurons(model, values, read, layer, chosen)
            others = others - written.sum(0)
            yield terms, written
    if split.what == "neurons":
        yield [Term("other neurons", "other neurons")], others[None]
    yield [Term("bias", "bias")], _bias(model, split.what).expand_as(read.stream)[None]


def _bias(model: HookedModel, what: str) -> Tensor:
    """The output biases that no other term has: attention's of heads, MLPs' of neurons. [d]"""
    of_attention = accumulated_bias(model, model.cfg.n_layers, mlp_biases=False)
    if what == "heads":
        return wide(of_attention)
    of_all = accumulated_bias(model, model.cfg.n_layers)
    return wide(of_all - of_attention if what == "neurons" else torch.zeros_like(of_all))


def _heads(
    model: HookedModel,
    values: Mapping[str, Tensor],
    read: Reading,
    split: Split,
    sources: Tensor | None,
    layer: int,
) -> Iterator[tuple[list[Term], Tensor]]:
    """Each head of a layer, as one term or by the places that it read from."""
    W_O = wide(model.blocks[layer].attn.W_O)
    z = _taken(values, f"blocks.{layer}.attn.hook_z", read)
    results = einsum(z, W_O, "r h e, h e d -> h r d")
    for head in range(model.cfg.n_heads):
        name = f"a{layer}.h{head}"
        if sources is None or (layer, head) not in split.heads:
            yield [Term(name, name, layer, head)], results[head][None]
            continue
        pattern = _taken(values, f"blocks.{layer}.attn.hook_pattern", read)[:, head]  # [r k]
        v = wide(values[f"blocks.{layer}.attn.hook_v"])
        v = v[:, :, head * v.shape[2] // model.cfg.n_heads]  # heads may share values
        mixed = einsum(pattern * sources, v[read.prompt], "s r k, r k e -> s r e")
        places = [str(place) for place in split.places] + [OTHER] * (
            len(sources) > len(split.places)
        )
        terms = [Term(f"{name}<v>@{at}", name, layer, head, None, at) for at in places]
        yield terms, mixed @ W_O[head]


def _sources(prompts: Prompts, read: Reading, places: Sequence[str | int]) -> Tensor:
    """Which position counts as which place [s r k], 1 or 0: see `Prompts.places`."""
    return prompts.places(places)[:, read.prompt].to(read.stream.dtype)


def _neurons(
    model: HookedModel,
    values: Mapping[str, Tensor],
    read: Reading,
    layer: int,
    chosen: Sequence[int],
) -> Tensor:
    """What some neurons of a layer wrote: [k r d]"""
    post = _taken(values, f"blocks.{layer}.mlp.hook_post", read)[:, list(chosen)]
    W_out = wide(model.blocks[layer].mlp.W_out[list(chosen)])
    return einsum(post, W_out, "r k, k d -> k r d")
