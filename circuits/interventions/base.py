"""What a method of ablation is: from a reference set to what is written.

Shapes: b prompts, p positions; what passes a site is [b p ...], or [b h q k] for patterns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex

from torch import Tensor

from circuits.catalog import METHOD, Catalog

if TYPE_CHECKING:
    from circuits.interventions.reference import Kind, Reference

Runs = Mapping[str, Tensor]  # what passed the sites of a run, by site
Needs = Literal["nothing", "any", "alike", "rows"]


@dataclass(frozen=True)
class Into:
    """The prompts that are written into.

    Attributes:
        mask: [b p], their real tokens.
        first_row: which of the sweep's prompts is the first of these.
        kinds: each one's template and length, for a method that needs prompts ``alike``.
        other: what passed the sites in the prompts of the set that stand in the same rows, for a
            method that needs ``rows``.
    """

    mask: Tensor
    first_row: int
    kinds: Sequence[Kind]
    other: Runs


Write = Callable[[Into], Runs]  # the values that are written, each broadcasts to [b p ...]


@dataclass(frozen=True)
class Method:
    """What is written instead of what a component computes, and what that takes.

    Attributes:
        name: how it is asked for.
        read: takes what it needs from a reference set, and returns what writes.
        needs: which reference set. ``nothing`` of it but the shapes; ``any`` prompts; prompts
            ``alike`` those that are written into, in length and template; or one prompt for each,
            as long, in the same order (``rows``).
        source: in words, where the values come from. {which} stands for the prompts of the set,
            {n_tokens} for their number, {alike} for how they are alike, {seed} for the seed, and
            {others} for the prompts that are taken row by row.
        drawn: whether random numbers are drawn, which the seed decides.
        copies: whether it writes, of ``rows``, just what passed there.
    """

    name: str
    read: Callable[[Reference], Write]
    needs: Needs
    source: str
    drawn: bool = False
    copies: bool = False

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        """A method with a file of its own goes to other processes by its name."""
        if METHODS.get(self.name) is self:
            return get_method, (self.name,)
        return super().__reduce_ex__(protocol)

    @property
    def row_by_row(self) -> bool:
        """Whether each prompt gets values of its own."""
        return self.drawn or self.writes_patterns

    @property
    def writes_patterns(self) -> bool:
        """Whether a pattern can be written: its values belong to the positions of one prompt."""
        return self.needs in ("alike", "rows")


METHODS: Mapping[str, Method] = (_CATALOG := Catalog[Method](METHOD))


def method(
    *, needs: Needs, source: str, note: str = "", drawn: bool = False, copies: bool = False
) -> Callable[[Callable[[Reference], Write]], Method]:
    """Make what this function reads and writes a method of ablation of its name.

    Alone in a file of `circuits/interventions/` that has its name, it is known everywhere by that
    name, with dashes for underscores. `note` explains it in help texts.
    """

    def made(read: Callable[[Reference], Write]) -> Method:
        name = getattr(read, "__name__", "").replace("_", "-")
        return Method(name, read, needs, source, drawn, copies)

    return made


def get_method(name: str) -> Method:
    """The method of this name.

    Raises:
        CircuitsError: for an unknown name, with the nearest one.
    """
    return _CATALOG.require(name)
