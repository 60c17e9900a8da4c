"""What neurons do on a text that is read piece by piece: contexts, kinds of tokens, an overview.

Whatever is kept has a size of its own, so a text may be of any length. The start token, at which
neurons behave unlike anywhere else, is left out.

Shapes: b windows, p positions, m neurons, c classes of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuits.analyses._text import TextFile, averaged
from circuits.components import Component
from circuits.intervals import SHARE
from circuits.model import HookedModel
from circuits.padding import all_real
from circuits.registry import Progress
from circuits.sweep.moments import Moments

CLASSES = ("word", "inside", "digits", "marks", "space", "special", "part")
SAMPLED = 1000  # tokens drawn from the text, for control and quantiles


def class_of(text: str) -> str:
    r"""Of which class is a token? Its text decides.

    >>> [class_of(text) for text in (" cat", "ing", " 17", ",", "\n", "\ufffd")]
    ['word', 'inside', 'digits', 'marks', 'space', 'part']
    """
    if "\ufffd" in text:
        return "part"  # of a character
    bare = text.strip()
    if not bare:
        return "space"
    if bare[0].isalpha():
        return "word" if text[0].isspace() else "inside"
    return "digits" if bare[0].isnumeric() else "marks"


def classes_of(model: HookedModel) -> Tensor:
    """The class of every token of the vocabulary, as an index into CLASSES [v]."""
    tokenizer = model.require_tokenizer()
    names = [class_of(tokenizer.decode([i])) for i in range(model.cfg.d_vocab)]
    for token in tokenizer.roles.ids.intersection(tokenizer.special.values()):
        names[token] = "special"
    return torch.tensor([CLASSES.index(name) for name in names], device=model.W_E.device)


def activations(
    text: TextFile, layers: Sequence[int], progress: Progress | None
) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Each batch's tokens [b p] and every layer's activations [b p m], without start tokens."""
    model, n_start, size = text.model, len(text.start), text.n_bytes
    sites = [f"blocks.{layer}.mlp.hook_post" for layer in layers]
    for tokens, done in text:
        with torch.inference_mode():
            _, cache = model.run_with_cache(
                tokens,
                attention_mask=all_real(tokens),  # documents end anywhere in a window
                names_filter=sites,
                stop_at_layer=max(layers) + 1,
            )
        yield tokens, [cache[site][:, n_start:].float() for site in sites]
        if progress is not None:
            progress(done, size)


@dataclass(frozen=True)
class Context:
    """One place in the text: a window's tokens, the position, and the activation there."""

    window: int
    position: int
    tokens: tuple[int, ...]
    activation: float
    key: float = 0.0  # a random number, by which places are drawn


@dataclass
class Contexts:
    """The places where a neuron is most active, one a window, and places drawn at random."""

    n_best: int
    rng: np.random.Generator
    best: list[Context] = field(default_factory=list)
    drawn: list[Context] = field(default_factory=list)
    n_tokens: int = 0
    n_windows: int = 0

    def add(self, tokens: Tensor, found: NDArray[np.float32], n_start: int) -> None:
        """These windows [b p], and the neuron's activations in them [b p - start]."""
        rows = [tuple(ids) for ids in tokens.tolist()]

        def context(row: int, column: int, key: float = 0.0) -> Context:
            number, position = self.n_windows + row, column + n_start
            return Context(number, position, rows[row], float(found[row, column]), key)

        columns = found.argmax(1).tolist()
        self.best += [context(row, column) for row, column in enumerate(columns)]
        # Earlier windows come first where activations tie.
        self.best = sorted(self.best, key=lambda c: -c.activation)[: self.n_best]
        keys = self.rng.random(found.shape)
        most = self.drawn[-1].key if len(self.drawn) == SAMPLED else 1.0
        for row, column in zip(*np.nonzero(keys < most), strict=True):
            self.drawn.append(context(int(row), int(column), float(keys[row, column])))
        self.drawn = sorted(self.drawn, key=lambda c: c.key)[:SAMPLED]
        self.n_tokens += found.size
        self.n_windows += len(found)


def contexts(
    text: TextFile, neuron: Component, n_best: int, seed: int, progress: Progress | None
) -> Contexts:
    """Where in the text is the neuron most active, and where at random places?"""
    assert neuron.layer is not None
    kept = Contexts(n_best, np.random.default_rng(seed))
    for tokens, (found,) in activations(text, [neuron.layer], progress):
        kept.add(tokens, found[:, :, neuron.neuron].cpu().numpy(), len(text.start))
    return kept


@dataclass
class ByClass:
    """Mean activation and share of positive ones in each class of tokens, window by window."""

    kinds: Tensor
    draws: bool = False  # whether each mean has the numbers that it is of
    value: dict[str, Moments] = field(default_factory=dict)
    active: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)

    def add(self, tokens: Tensor, found: Tensor, n_start: int) -> None:
        """These windows [b p], and the activations of one or several neurons in them [b p m]."""
        mean = found.double().mean(-1)
        positive = (found > 0).double().mean(-1)
        kinds = self.kinds[tokens[:, n_start:]]
        masks = {"all": torch.ones_like(kinds, dtype=torch.bool)}
        masks |= {name: kinds == i for i, name in enumerate(CLASSES)}
        for name, mask in masks.items():
            counts = mask.sum(1)
            having = counts > 0
            if not bool(having.any()):
                continue
            means = ((mean * mask).sum(1) / counts)[having].cpu().numpy()
            block = averaged(means[None], draws=self.draws)
            self.value[name] = self.value[name].merge(block) if name in self.value else block
            share = float((positive * mask).sum())
            self.active[name] = self.active.get(name, 0.0) + share
            self.tokens[name] = self.tokens.get(name, 0) + int(counts.sum())

    def rows(self) -> list[dict[str, Any]]:
        """A row for each class that occurs, and one for all tokens."""
        found = []
        for name in (*CLASSES, "all"):
            if name in self.value:
                row: dict[str, Any] = {"class": name}
                row |= {k: v.item(1) for k, v in self.value[name].interval().items()}
                row |= {"active": self.active[name] / self.tokens[name]}
                found.append(row | {"tokens": self.tokens[name]})
        return found


def by_class(
    text: TextFile,
    layers: Sequence[int],
    neuron: int | None,
    progress: Progress | None,
    *,
    draws: bool,
) -> list[list[dict[str, Any]]]:
    """Activation by class of token, for each layer: of one neuron, or the mean over all."""
    kinds = classes_of(text.model)
    kept = [ByClass(kinds, draws) for _ in layers]
    only = slice(None) if neuron is None else slice(neuron, neuron + 1)
    for tokens, found in activations(text, layers, progress):
        for one, acts in zip(kept, found, strict=True):
            one.add(tokens, acts[:, :, only], len(text.start))
    return [one.rows() for one in kept]


class Overview:
    """What all neurons of a layer do: how often active, how peaked, on which class of tokens."""

    def __init__(self, kinds: Tensor, d_mlp: int, *, draws: bool) -> None:
        self.kinds, self.draws = kinds, draws
        self.active: Moments | None = None
        self.powers = np.zeros((4, d_mlp))  # sums of the activation to the power of 1 to 4
        self.by_class = np.zeros((len(CLASSES), d_mlp))
        self.counts = np.zeros(len(CLASSES))
        self.most = np.full(d_mlp, -np.inf)
        self.most_at = np.zeros(d_mlp, dtype=np.int64)  # the token there

    def add(self, tokens: Tensor, acts: Tensor, n_start: int) -> None:
        """These windows [b p], and the layer's activations in them [b p m]."""
        shares = (acts > 0).double().mean(1).T.cpu().numpy()
        block = averaged(shares, SHARE, draws=self.draws)
        self.active = block if self.active is None else self.active.merge(block)
        ids = tokens[:, n_start:].flatten()
        flat = acts.flatten(0, 1)
        power = flat
        for i in range(4):
            self.powers[i] += power.double().sum(0).cpu().numpy()
            power = power * flat
        kinds = torch.nn.functional.one_hot(self.kinds[ids], len(CLASSES)).to(flat.dtype)
        self.by_class += (kinds.T @ flat).double().cpu().numpy()
        self.counts += kinds.sum(0).double().cpu().numpy()
        best = flat.max(0)
        values = best.values.double().cpu().numpy()
        new = values > self.most
        self.most[new] = values[new]
        self.most_at[new] = ids[best.indices].cpu().numpy()[new]

    def columns(self) -> dict[str, NDArray[Any]]:
        """Everything that is known of each neuron, [m] each."""
        assert self.active is not None
        n = self.counts.sum()
        m1, m2, m3, m4 = self.powers / n
        variance = np.maximum(m2 - m1**2, 0)
        fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
        with np.errstate(divide="ignore", invalid="ignore"):
            peaked = np.where(variance > 0, fourth / variance**2 - 3, 0.0)
            own = self.by_class / self.counts[:, None]
            rest = (self.powers[0] - self.by_class) / (n - self.counts)[:, None]
            contrast = np.where(variance > 0, (own - rest) / np.sqrt(variance), 0.0)
        # A class of few tokens stands out by chance.
        contrast[self.counts < max(10, n / 1000)] = -np.inf
        kind = contrast.argmax(0)
        found = {name: column[1:] for name, column in self.active.interval().items()}
        found |= {"mean": m1, "std": np.sqrt(variance), "maximum": self.most, "peaked": peaked}
        found["class"] = np.array(CLASSES)[kind]
        found["contrast"] = np.nan_to_num(contrast.max(0), neginf=0.0)
        found["token"] = self.most_at
        return found


def overview(
    text: TextFile, layers: Sequence[int], progress: Progress | None, *, draws: bool
) -> list[dict[str, NDArray[Any]]]:
    """The columns of all neurons, layer by layer."""
    model = text.model
    kinds = classes_of(model)
    kept = [Overview(kinds, model.cfg.d_mlp, draws=draws) for _ in layers]
    for tokens, found in activations(text, layers, progress):
        for one, acts in zip(kept, found, strict=True):
            one.add(tokens, acts, len(text.start))
    return [one.columns() for one in kept]
