"""What sentences with names and series of words say about heads: who moves which token where.

Shapes: l layer, h head, b prompt, q query, k key, d d_model, e d_head, s items of a series.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import einsum, rearrange
from torch import Tensor

from circuits.cache import Cache
from circuits.decompose import through_ln
from circuits.errors import CircuitsError, TokenError
from circuits.head_kinds.judging import are_clear
from circuits.head_kinds.kinds import KINDS
from circuits.head_kinds.random_tokens import Scores, numbers, start_tokens, to_logits
from circuits.memory import in_pieces
from circuits.model import HookedModel
from circuits.padding import all_real
from circuits.precision import wide
from circuits.prompts import Example, Prompts, assemble
from circuits.qk_ov import ROUNDING, product_scales
from circuits.tokenizer import Tokenizer

TOP = 5  # a head that copies a name has it among so many tokens (Wang et al. 2022)
ROLES = ("IO", "S1", "S2", "END")
SERIES = (
    "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "January February March April May June July August September October November December",
    "one two three four five six seven eight nine ten eleven twelve",
    "first second third fourth fifth sixth seventh eighth ninth tenth",
    "1 2 3 4 5 6 7 8 9 10 11 12",
    "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z",
    "a b c d e f g h i j k l m n o p q r s t u v w x y z",
)
LEAST_PAIRS = 5  # of neighbors that are single tokens; with fewer a score says nothing
NO_MOVERS = "no head is clearly a name mover, whose attention such a head would shift"
SHOWN = 3  # items of a series in a prompt that asks for the next one
_LAST_SCALE = "ln_final.hook_scale"
_KEPT = ("hook_pattern", "hook_v", "hook_k", "ln1.hook_scale", _LAST_SCALE)


def check_ioi(prompts: Prompts) -> Prompts:
    """These prompts, if the scores of name movers can be taken on them.

    Raises:
        CircuitsError: naming what they lack.
    """
    lacking = [role for role in ROLES if role not in prompts.roles]
    named = ("answers", "distractors", "corrupted")
    lacking += [name for name in named if getattr(prompts, name) is None]
    if lacking:
        raise CircuitsError(
            f"the prompts of {prompts.task!r} have no {', '.join(lacking)}; scores of name movers "
            f"need the roles {', '.join(ROLES)}, answers, distractors and corrupted twins"
        )
    return prompts


@dataclass(frozen=True, eq=False)
class _Run:
    """One run over the prompts, read at END: what each head looks at, and what it finds there.

    `looks` [l b h k] is attention from END, `values` [l b k h e] what is there.
    """

    cache: Cache
    prompts: Prompts
    looks: Tensor
    values: Tensor

    @classmethod
    def of(cls, model: HookedModel, prompts: Prompts, tokens: Tensor) -> _Run:
        _, cache = model.run_with_cache(
            tokens,
            attention_mask=prompts.mask,
            names_filter=lambda name: name.endswith(_KEPT),
            return_type=None,
        )
        rows, end = torch.arange(len(tokens)), prompts.roles["END"]
        layers = range(model.cfg.n_layers)
        looks = torch.stack([wide(cache["pattern", layer][rows, :, end]) for layer in layers])
        values = torch.stack([wide(cache["v", layer]) for layer in layers])
        return cls(cache, prompts, looks, values)

    def wrote(self, model: HookedModel, role: str) -> Tensor:
        """What the heads move from this role to END: [l b h d]."""
        rows, at = torch.arange(len(self.prompts)), self.prompts.roles[role]
        weight, values = self.looks[:, rows, :, at], self.values[:, rows, at]
        weight = rearrange(weight, "b l h -> l b h")  # two index tensors apart come first
        return weight[..., None] * _through_outputs(model, values)

    def wrote_in_all(self, model: HookedModel) -> Tensor:
        """What the heads write at END, from wherever they look: [l b h d]."""
        z = einsum(self.looks, self.values, "l b h k, l b k h e -> l b h e")
        return _through_outputs(model, z)

    def end_scale(self, site: str) -> Tensor:
        """LayerNorm's scale at END: [b 1]."""
        rows, end = torch.arange(len(self.prompts)), self.prompts.roles["END"]
        return wide(self.cache[site][rows, end])


def _through_outputs(model: HookedModel, values: Tensor) -> Tensor:
    """Each head's values, by way of its W_O: [l b h e] -> [l b h d]."""
    wrote = [
        einsum(value, wide(block.attn.W_O), "b h e, h e d -> b h d")
        for value, block in zip(values, model.blocks, strict=True)
    ]
    return torch.stack(wrote)


def name_scores(
    model: HookedModel, prompts: Prompts, memory: str | None = None
) -> dict[str, Scores | str]:
    """Name-mover, name-copier, S-inhibition and negative scores; `prompts` as `check_ioi` wants.

    name-mover: what all that a head writes at END directly adds to the logit difference IO - S;
    what it moves from IO there, attention times value, has to add to it, too. name-copier: what it
    moves from IO adds to the logit of IO, or from S1 and S2 to that of S, whichever is less in the
    mean over prompts; the control is what the same adds to the other name's logit. negative: what
    it moves from IO and S1 takes from the logits of the names it comes from; all that it writes has
    to take from IO - S, too. s-inhibition: what it moves from S2 to END adds to the name movers'
    attention scores of IO less those of S1, averaged over all heads that are clearly name movers,
    weighted by their scores; why there is none, where no head is. LayerNorms' scales are held.
    """
    assert prompts.corrupted is not None
    every = _both_runs(model, prompts, slice(None)) if memory is None else None

    def runs(rows: slice) -> Sequence[_Run]:
        return every or _both_runs(model, prompts, rows)

    def direct_of(rows: slice) -> tuple[Tensor, ...]:
        clean, twin = runs(rows)
        direct = [_of_io_over_s(model, *about) for about in ((clean, None), (twin, None))]
        moved = _of_io_over_s(model, clean, "IO")
        return (*direct, moved, *_copied(model, clean), *_suppression(model, clean))

    def all_of(measure: Callable[[slice], tuple[Tensor, ...]]) -> list[Tensor]:
        """Each [l b h]."""
        pieces = in_pieces(memory, len(prompts), measure, "what heads write in one prompt takes")
        return [torch.cat(each, 1) for each in zip(*pieces, strict=True)]

    direct, without, moved, io, s, s_by_io, io_by_s, same, other = all_of(direct_of)
    # Which name a head looks at may depend on the prompt, so that in each it copies only one.
    io_less = io.mean(1, keepdim=True) < s.mean(1, keepdim=True)
    copied = torch.where(io_less, io, s), torch.where(io_less, s_by_io, io_by_s)
    movers = _scores(direct, without, also=moved)
    scores: dict[str, Scores | str] = {
        "name-mover": movers,
        "name-copier": _scores(*copied),
        "s-inhibition": NO_MOVERS,
        "negative": _scores(same, other, also=-direct),
    }
    clear = torch.as_tensor(are_clear(KINDS["name-mover"], movers), device=direct.device)
    if clear.any():
        weights = torch.where(clear, direct.mean(1), 0.0)  # [l h]
        shifted = all_of(lambda rows: tuple(_inhibition(model, run, weights) for run in runs(rows)))
        scores["s-inhibition"] = _scores(*shifted)
    return scores


def _scores(value: Tensor, control: Tensor, also: Tensor | None = None) -> Scores:
    """[l b h] each"""
    value, control = (rearrange(x, "l b h -> l h b") for x in (value, control))
    beside = None if also is None else numbers(rearrange(also, "l b h -> l h b"))
    return Scores(numbers(value), numbers(control), beside)


def _of_io_over_s(model: HookedModel, run: _Run, role: str | None) -> Tensor:
    """[l b h], in logits: what is moved from this role, or written in all, adds to IO - S.

    Of the clean prompts' names in either run.
    """
    prompts = run.prompts
    assert prompts.answers is not None
    assert prompts.distractors is not None
    direction = (to_logits(model, prompts.answers) - to_logits(model, prompts.distractors)).T
    wrote = run.wrote_in_all(model) if role is None else run.wrote(model, role)
    return einsum(wrote, direction, "l b h d, b d -> l b h") / run.end_scale(_LAST_SCALE)


def _both_runs(model: HookedModel, prompts: Prompts, rows: slice) -> tuple[_Run, _Run]:
    """Some of the prompts, and their twins."""
    some = prompts.subset(rows)
    assert some.corrupted is not None
    return _Run.of(model, some, some.tokens), _Run.of(model, some, some.corrupted)


def _copied(model: HookedModel, run: _Run) -> tuple[Tensor, ...]:
    """[l b h], in logits: by how much IO and S are raised, and the other name by either."""
    moved = {"IO": run.wrote(model, "IO"), "S1": run.wrote(model, "S1") + run.wrote(model, "S2")}
    same, other = _on_names(model, run, moved)
    return (*same, *other)


def _suppression(model: HookedModel, run: _Run) -> tuple[Tensor, Tensor]:
    """[l b h], in logits: what the moved names lose; what the other name loses, as control"""
    moved = {role: run.wrote(model, role) for role in ("IO", "S1")}
    same, other = _on_names(model, run, moved)
    return -torch.stack(same).sum(0), -torch.stack(other).sum(0)


def _on_names(
    model: HookedModel, run: _Run, moved: Mapping[str, Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """What is moved from IO and from S1 [l b h d] adds to that name's logit, and to the other's."""
    rows = torch.arange(len(run.prompts))
    scale = run.end_scale(_LAST_SCALE)[..., None]
    same: list[Tensor] = []
    other: list[Tensor] = []
    for role, twin in (("IO", "S1"), ("S1", "IO")):
        for out, name in ((same, role), (other, twin)):
            tokens = run.prompts.tokens[rows, run.prompts.roles[name]]
            unembed = to_logits(model, tokens).T
            out.append(einsum(moved[role] / scale, unembed, "l b h d, b d -> l b h"))
    return same, other


def _inhibition(model: HookedModel, run: _Run, weights: Tensor) -> Tensor:
    """[l b h], in nats of attention score; not a number where scores are no products"""
    wrote, scales = run.wrote(model, "S2"), product_scales(model)
    if scales is None:
        return torch.full_like(wrote[..., 0], torch.nan)
    rows, roles = torch.arange(len(run.prompts)), run.prompts.roles
    total = torch.zeros_like(wrote[..., 0])
    for layer in range(1, model.cfg.n_layers):
        block, keys = model.blocks[layer], wide(run.cache["k", layer])
        apart = (keys[rows, roles["IO"]] - keys[rows, roles["S1"]]) / scales[layer]
        # What a query's residual stream has to hold for the movers of this layer to turn to IO.
        wanted = einsum(weights[layer], wide(block.attn.W_Q), apart, "h, h d e, b h e -> b d")
        wanted = through_ln(model, wanted.T, layer).T
        wanted = wanted / run.end_scale(f"blocks.{layer}.ln1.hook_scale")
        total[:layer] += einsum(wrote[:layer], wanted, "l b h d, b d -> l b h")
    return total / weights.sum().clamp(min=1e-30)


def name_copying(
    model: HookedModel, prompts: Prompts, *, opposite: bool = False, memory: str | None = None
) -> Scores:
    """How often a head would write a name that it looked at: the share of names in its top 5.

    What enters layer 1 at IO and S1 (in layer 0: the embedding) goes through each head's values and
    outputs as if it were attended to, then through the final LayerNorm and the unembedding (Wang et
    al. 2022). Each name is asked once, where it first comes: [l h names], for a name that comes
    again says little new. Control: the prompt's other name. With `opposite`, the share of names
    that a head would take away: in the top 5 of the opposite of what it writes.
    """
    rows, at = torch.arange(len(prompts)), [prompts.roles[role] for role in ("IO", "S1")]
    sites = ["blocks.0.hook_resid_pre", "blocks.0.hook_resid_post"]

    def enters(some: slice) -> list[Tensor]:
        """What enters layers 0 and 1 at IO and at S1, [role b d] each."""
        options = {"names_filter": sites, "stop_at_layer": 1, "attention_mask": prompts.mask[some]}
        _, cache = model.run_with_cache(prompts.tokens[some], **options)
        here = rows[: len(prompts.tokens[some])]
        return [torch.stack([cache[site][here, where[some]] for where in at]) for site in sites]

    pieces = in_pieces(memory, len(prompts), enters, "what enters layer 1 in one prompt takes")
    streams = [torch.cat(each, 1).flatten(0, 1) for each in zip(*pieces, strict=True)]
    io, s = (prompts.tokens[rows, where] for where in at)
    names, others = torch.cat([io, s]), torch.cat([s, io])
    first = {int(name): i for i, name in reversed([*enumerate(names.tolist())])}
    asked = torch.tensor(sorted(first.values()), device=names.device)

    def hits(rows: slice) -> list[Tensor]:
        """Whether the names and the others are written: [l b h] each."""
        some, by_layer = asked[rows], []
        for layer in range(model.cfg.n_layers):
            wrote = _through_heads(model, layer, streams[min(layer, 1)][some])
            wrote = -wrote if opposite else wrote
            by_layer.append(_among_top(model, wrote, (names[some], others[some])))
        return [torch.stack(each) for each in zip(*by_layer, strict=True)]

    every = in_pieces(memory, len(asked), hits, "what heads would write of a name takes")
    return _scores(*(torch.cat(each, 1) for each in zip(*every, strict=True)))


def _among_top(model: HookedModel, wrote: Tensor, tokens: Sequence[Tensor]) -> list[Tensor]:
    """Whether these tokens [b] are in the top 5 of what heads wrote [b h d]: [b h] for each.

    Among as many, or more, that are as high as it, a token is not: of a head that writes nothing
    all are. Logits that differ by mere rounding are as high.
    """
    hits = []
    for head in range(wrote.shape[1]):  # a vocabulary's logits for one head at a time
        logits = model.unembed(model.ln_final.plain(wrote[:, head])[:, None])[:, 0]
        rounding = ROUNDING * logits.abs().amax(-1, keepdim=True)
        asked = [logits.gather(1, each[:, None]) for each in tokens]
        hits.append([((logits >= each - rounding).sum(-1) <= TOP).float() for each in asked])
    return [torch.stack(each, 1) for each in zip(*hits, strict=True)]


def _through_heads(model: HookedModel, layer: int, stream: Tensor) -> Tensor:
    """What each head writes where it looks at nothing but this stream: [b d] -> [b h d]."""
    block = model.blocks[layer]
    values = einsum(block.ln1.plain(stream), block.attn.W_V, "b d, h d e -> b h e") + block.attn.b_V
    wrote: Tensor = einsum(values, block.attn.W_O, "b h e, h e d -> b h d")
    return wrote


def series(model: HookedModel) -> list[list[int]]:
    """The runs of days, months, numbers, letters ... that are single tokens: ids, two or more."""
    tokenizer = model.tokenizer
    runs: list[list[int]] = []
    if tokenizer is None:
        return runs
    for words in SERIES:
        run: list[int] = []
        for word in [*words.split(), ""]:
            token = _token(tokenizer, word) if word else None
            if token is not None:
                run.append(token)
                continue
            runs += [run] if len(run) > 1 else []
            run = []
    return runs


def _token(tokenizer: Tokenizer, word: str) -> int | None:
    """The word as one token, after a space or without."""
    for text in (f" {word}", word):
        with suppress(TokenError):
            return tokenizer.single_token(text)
    return None


def successors(model: HookedModel, runs: Sequence[Sequence[int]]) -> Scores:
    """How often a head writes the next item of a series: the share where it is raised most.

    Each item is read alone, after the start token; what enters layer 1 goes through each head's
    values and outputs, and the next item's logit is compared with those of the series' others
    (Gould et al. 2023, arXiv 2312.09230). Control: the series in a random order, its expectation.
    """
    values, controls = [], []
    for run in runs:
        items = torch.tensor(run, device=model.W_E.device)
        unembed = to_logits(model, items)
        start = torch.tensor([start_tokens(model)] * len(items), dtype=torch.long)
        alone = torch.cat([start.to(items.device), items[:, None]], 1)
        every = all_real(alone)
        embedded = model(alone, attention_mask=every, stop_at_layer=0)[:, -1]
        after = model(alone, attention_mask=every, stop_at_layer=1)[:, -1]
        for layer in range(model.cfg.n_layers):
            wrote = _through_heads(model, layer, after if layer else embedded)
            logits = einsum(wide(wrote), unembed, "s h d, d t -> s h t")[:-1]
            # One that others equal, but for rounding, is not raised most.
            ahead = logits.amax(-1, keepdim=True) - ROUNDING * logits.abs().amax(-1, keepdim=True)
            is_best = (logits >= ahead) & ((logits >= ahead).sum(-1, keepdim=True) == 1)
            where = torch.arange(len(run) - 1)
            values.append(is_best[where, :, where + 1].double())
            other = is_best.any(-1) & ~is_best[where, :, where]
            controls.append(other.double() / (len(run) - 1))
    n_layers = model.cfg.n_layers

    def stacked(parts: list[Tensor]) -> Tensor:
        return torch.stack([torch.cat(parts[layer::n_layers]) for layer in range(n_layers)])

    return _scores(stacked(values), stacked(controls))


def series_prompts(
    model: HookedModel, runs: Sequence[Sequence[int]], n: int, seed: int
) -> Prompts | None:
    """Three items of a series and the fourth as answer, at most n; None if no series is so long."""
    places = [(run, i) for run in runs for i in range(len(run) - SHOWN)]
    if not places:
        return None
    drawn = np.random.default_rng(seed).permutation(len(places))[:n]
    tokenizer, start = model.require_tokenizer(), start_tokens(model)
    examples = [
        Example(
            tokenizer.decode(run[i : i + SHOWN]),
            [*start, *run[i : i + SHOWN]],
            answer=run[i + SHOWN],
            distractor=run[i + SHOWN - 1],
        )
        for run, i in (places[k] for k in sorted(drawn.tolist()))
    ]
    about: dict[str, Any] = {"metric": "logit_diff", "prepend_bos": bool(start), "seed": seed}
    return assemble(model, examples, task="successor", **about)
