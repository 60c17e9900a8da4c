"""Where written values come from: a reference set, and what methods read of it.

Shapes: b prompts, p positions; what passes a site is [b p ...], or [b h q k] for patterns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from circuits.errors import CircuitsError
from circuits.interventions.base import Into, Method, Runs, get_method
from circuits.precision import wide

if TYPE_CHECKING:
    from circuits.model import HookedModel
    from circuits.prompts import Prompts

TOKENS_AT_ONCE = 2**11
Kind = tuple[str | None, int]  # a prompt's template and number of tokens


@dataclass(frozen=True, eq=False)
class Source:
    """Where the values come from that are written.

    `method` is one of `circuits.interventions.METHODS`, asked about the run on `tokens` [b p], of
    which `mask` [b p] marks the real ones. Which prompts these have to be, the method says
    (`Method.needs`). ``position-mean`` takes the mean over those of the prompt's own length, and
    where the set's `templates` [b] are given, of its own template: at the same position another
    sentence has something else. `seed` is what random numbers are drawn from.

    Raises:
        CircuitsError: for an unknown method, or an empty set.
    """

    method: str
    tokens: Tensor
    mask: Tensor
    seed: int = 0
    templates: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        get_method(self.method)
        if not self.mask.any():
            raise CircuitsError(
                f"the reference set for {self.method!r} is empty; give at least one prompt whose "
                "values can be taken"
            )

    @cached_property
    def rule(self) -> Method:
        """The method itself."""
        return get_method(self.method)

    @property
    def kinds(self) -> list[Kind]:
        """The template and the length of each prompt: of one kind, positions mean the same."""
        return _kinds(self.templates, self.mask)

    def kinds_of(self, prompts: Prompts) -> list[Kind]:
        """The same of these prompts, as far as the set tells its own apart.

        Raises:
            CircuitsError: when the set has templates and the prompts do not.
        """
        if self.templates is None:
            return _kinds(None, prompts.mask)
        if prompts.templates is None:
            raise CircuitsError(
                f"the prompts of {prompts.task!r} have no templates, and those of the reference "
                "set have; give them to both"
            )
        return _kinds(prompts.templates, prompts.mask)

    def require_alike(self, kinds: Iterable[Kind]) -> None:
        """Refuse kinds of which the set has not several prompts.

        Raises:
            CircuitsError: when it has fewer than two.
        """
        known = Counter(self.kinds)
        for template, length in kinds:
            if (n := known[template, length]) < 2:
                of = "" if template is None else f" of the template {template!r}"
                both = "" if template is None else " and template"
                raise CircuitsError(
                    f"a mean by position is over prompts of one length{both}, and of {length} "
                    f"tokens{of} the reference set has {n} prompts; give two or more of each "
                    f"length{both}, or choose the method 'mean'"
                )


def _kinds(templates: Sequence[str] | None, mask: Tensor) -> list[Kind]:
    labels: Sequence[str | None] = templates or [None] * len(mask)
    return list(zip(labels, mask.sum(1).tolist(), strict=True))


@torch.inference_mode()
def run_sites(model: HookedModel, tokens: Tensor, mask: Tensor, sites: Iterable[str]) -> Runs:
    """What passes these sites when the model reads `tokens` [b p], real where `mask` says so."""
    wanted = sorted(set(sites))
    if not wanted:
        return {}
    options: dict[str, Any] = {"attention_mask": mask, "return_type": None}
    if not passes_layers(wanted):
        options["stop_at_layer"] = 0
    return dict(model.run_with_cache(tokens, names_filter=wanted, **options)[1])


def passes_layers(sites: Iterable[str]) -> bool:
    """Whether any of these sites is behind the entry into the first layer."""
    return not {*sites} <= {"hook_embed", "hook_pos_embed"}


class Reference:
    """A reference set as its method reads it, once, and what the method then writes.

    The set is read a few rows at a time, of `at_once` tokens; methods keep only its statistics,
    taken in float32 at least. What is written is rounded to the precision of what it replaces.

    Attributes:
        source: the set and the method.
        sites: where values are written.
        write: from the prompts that are written into to the values.
    """

    def __init__(
        self,
        model: HookedModel,
        source: Source,
        sites: Iterable[str],
        at_once: int = TOKENS_AT_ONCE,
    ) -> None:
        self.source, self.sites, self._model = source, sorted(sites), model
        self._at_once = max(1, at_once // source.tokens.shape[1])
        with torch.inference_mode():
            self.write = source.rule.read(self)

    def values(self, prompts: Prompts, rows: slice, other: Runs | None = None) -> Runs:
        """What is written in these prompts, which are those `rows` of the sweep's: [b or 1 ...].

        `other` is what passed in these rows of the set, for a method that needs ``rows``.
        """
        kinds = self.source.kinds_of(prompts) if self.source.rule.needs == "alike" else []
        return self.write(Into(prompts.mask, rows.start, kinds, other or {}))

    def token(self) -> Runs:
        """What passes at the set's first token, [1 1 ...]: the shapes of what is written."""
        return run_sites(
            self._model, self.source.tokens[:1, :1], self.source.mask[:1, :1], self.sites
        )

    @property
    def n_real(self) -> int:
        """How many real tokens the set has."""
        return int(self.source.mask.sum())

    def real(self) -> Iterator[tuple[str, Tensor]]:
        """The values at the real tokens, [n ...], some rows of the set after others; wide."""
        tokens, mask = self.source.tokens, self.source.mask.bool()
        for first in range(0, len(mask), self._at_once):
            rows = slice(first, first + self._at_once)
            for site, values in run_sites(
                self._model, tokens[rows], mask[rows], self.sites
            ).items():
                yield site, wide(values[mask[rows]])

    def mean(self) -> dict[str, Tensor]:
        """The mean over all real tokens, [1 1 ...]; wide."""
        total: dict[str, Tensor] = {}
        for site, values in self.real():
            share = values.sum(0)[None, None] / self.n_real
            total[site] = total[site] + share if site in total else share
        return total

    def of_kind(self, kind: Kind) -> Iterator[tuple[str, Tensor, int]]:
        """The values in the prompts of this kind, [n p ...], some after others; wide.

        With each comes how many prompts of this kind there are.
        """
        alike = [other == kind for other in self.source.kinds]
        rows = torch.tensor(alike, device=self.source.mask.device)
        tokens = self.source.tokens[rows, : kind[1]]
        for some in tokens.split(self._at_once):
            passed = run_sites(self._model, some, torch.ones_like(some).bool(), self.sites)
            for site, values in passed.items():
                yield site, wide(values), len(tokens)

    def rounded(self, value: Tensor) -> Tensor:
        """The value in the model's own precision."""
        return value.to(self._model.W_E.dtype)
