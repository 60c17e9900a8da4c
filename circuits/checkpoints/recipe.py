"""What the hand-compiled model is like: its tokens, its sizes, and which of its heads do what."""

from __future__ import annotations

import math
import string
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from circuits.components import Component, Edge
from circuits.errors import CircuitsError

BOS, END = 0, 1
NAMES = tuple(range(2, 10))
LOGIT_GAIN = 10.0  # G: the logit of a token whose OUT feature is 1

_FILLERS = (
    string.ascii_lowercase
    + string.ascii_uppercase[len(NAMES) :]
    + string.digits
    + string.punctuation.replace(".", "")
    + "".join(chr(code) for code in range(0xC0, 0x250) if chr(code).isalpha())
)
ALPHABET = "." + string.ascii_uppercase[: len(NAMES)] + _FILLERS  # the ids from END on

_ROLES = ("previous_token", "duplicate_token", "induction", "s_inhibition", "name_mover")
_READS = {  # each from the stream, what that one wrote
    "induction": "previous_token",
    "s_inhibition": "duplicate_token",
    "name_mover": "s_inhibition",
}


@dataclass(frozen=True)
class Recipe:
    """What the compiled model is like: its sizes, how sharply it attends, and which heads do what.

    Other heads, other layers and all MLPs are zero, exact no-ops: more layers than three are empty
    ones, wherever no head of the five is placed.

    Attributes:
        d_vocab: number of tokens, at least 11.
        n_ctx: number of positions.
        d_head: at least d_vocab + 1 + n_ctx; d_model is n_heads * d_head.
        n_heads: of each layer.
        n_layers: at least 3.
        beta: the score gap between a match and no match. At 30 attention is exact and its gradient
            vanishes: of the six `effects` a first-order estimate sees the last. At 4, where
            attention is soft, it ranks all six first; from 5 on it misses some again.
        previous_token: the head that notes the token before, for `induction` in a later layer.
        duplicate_token: the head that marks repeated tokens, for `s_inhibition` in a later layer,
            which tells the end which name to avoid, for `name_mover` in a still later one.

    Raises:
        CircuitsError: for sizes that cannot hold the features, heads that are beyond them, the same
            or in the wrong order, and a beta that is not above 0.

    >>> from circuits.components import parse
    >>> recipe = Recipe(n_layers=5, duplicate_token=parse("a1.h3"), name_mover=parse("a4.h2"),
    ...     s_inhibition=parse("a3.h0"))
    >>> ", ".join(map(str, recipe.effects))
    'embed->a1.h3<q>, embed->a3.h0<v>, a1.h3->a3.h0<k>, a3.h0->a4.h2<q>, embed->a4.h2<k>, \
a4.h2->logits'
    """

    d_vocab: int = 27
    n_ctx: int = 32
    d_head: int = 64
    n_heads: int = 4
    n_layers: int = 6
    beta: float = 30.0
    previous_token: Component = field(default=Component("head", 0, 0))
    duplicate_token: Component = field(default=Component("head", 0, 1))
    induction: Component = field(default=Component("head", 1, 0))
    s_inhibition: Component = field(default=Component("head", 1, 1))
    name_mover: Component = field(default=Component("head", 2, 0))

    def __post_init__(self) -> None:
        _check_heads(self)
        _check_sizes(self)
        if not (math.isfinite(self.beta) and self.beta > 0):
            raise CircuitsError(
                f"beta={self.beta}: by how much a match scores above other keys is a finite number "
                "above 0; choose 30 for exact attention, about 4 for soft"
            )

    @property
    def heads(self) -> Mapping[str, Component]:
        """The five heads by what they do."""
        return {role: getattr(self, role) for role in _ROLES}

    @property
    def effects(self) -> Mapping[Edge, float]:
        """Which edges carry "S2 is S", and what each is worth: those of the second circuit.

        By edge, the change of the logit difference between IO and S, 10 in the clean run, when this
        edge alone carries what it does in the run whose S2 is a third name. Any other edge changes
        nothing. Without one of the first four the name mover looks a third each at IO, S1 and S2;
        the last two leave nothing to choose by. This is so for exact attention: to 0.005 at a beta
        of 30, to 0.02 from 20 to 200 (then LayerNorm's rounding shows). A soft head hears a little
        of every key, so there all numbers are others, and other edges matter, too; but at 4 these
        six are still the largest by far (6 to 10, where no other reaches 1), and at 2 they no
        longer are.

        >>> {str(edge): round(effect, 2) for edge, effect in BUNDLED.effects.items()}
        {'embed->a0.h1<q>': -13.33, 'embed->a1.h1<v>': -13.33, 'a0.h1->a1.h1<k>': -13.33, \
'a1.h1->a2.h0<q>': -13.33, 'embed->a2.h0<k>': -10.0, 'a2.h0->logits': -10.0}
        """
        embed, logits = Component("embed"), Component("logits")
        duplicate, inhibition, mover = self.duplicate_token, self.s_inhibition, self.name_mover
        uninhibited = LOGIT_GAIN * (1 / 3 - 2 / 3) - LOGIT_GAIN
        return {
            Edge(embed, replace(duplicate, slot="q")): uninhibited,
            Edge(embed, replace(inhibition, slot="v")): uninhibited,
            Edge(duplicate, replace(inhibition, slot="k")): uninhibited,
            Edge(inhibition, replace(mover, slot="q")): uninhibited,
            Edge(embed, replace(mover, slot="k")): -LOGIT_GAIN,
            Edge(mover, logits): -LOGIT_GAIN,
        }


def _check_heads(recipe: Recipe) -> None:
    """Refuse places that are no heads, are the same, or come before what they read."""
    taken: dict[Component, str] = {}
    for role, place in recipe.heads.items():
        if not _is_head(place):
            raise CircuitsError(
                f"{role}={place} is no whole head; give one as components.parse('a2.h0')"
            )
        if place in taken:
            raise CircuitsError(
                f"{taken[place]} and {role} are both {place}; each takes a head of its own"
            )
        taken[place] = role
    for role, read in _READS.items():
        reader, writer = recipe.heads[role], recipe.heads[read]
        if int(reader.layer or 0) <= int(writer.layer or 0):
            raise CircuitsError(
                f"{role}={reader} cannot read what {read}={writer} writes; place it in a later "
                "layer"
            )


def _is_head(place: Component) -> bool:
    if not isinstance(place, Component) or place.kind != "head":
        return False
    whole = place.slot is None and place.position is None
    return whole and min(int(place.layer or 0), int(place.head or 0)) >= 0


def _check_sizes(recipe: Recipe) -> None:
    v, p, heads = recipe.d_vocab, recipe.n_ctx, recipe.heads
    deepest, last = max(heads.items(), key=lambda item: int(item[1].layer or 0))
    widest, outer = max(heads.items(), key=lambda item: int(item[1].head or 0))
    least = {
        "n_layers": (recipe.n_layers, int(last.layer or 0) + 1, f"{deepest} is {last}"),
        "n_heads": (recipe.n_heads, int(outer.head or 0) + 1, f"{widest} is {outer}"),
        "d_vocab": (v, 11, "BOS, END, eight names and a filler"),
        "n_ctx": (p, 2, "a token and its previous one"),
        "d_head": (recipe.d_head, v + 1 + p, "d_vocab + 1 + n_ctx channels of duplicate_token"),
        "d_model": (
            recipe.n_heads * recipe.d_head,
            4 * v + p + 4,
            "4 * d_vocab + n_ctx + 4 features",
        ),
    }
    for name, (given, minimum, why) in least.items():
        if given < minimum:
            raise CircuitsError(
                f"{name}={given} is too small to compile the circuits: at least {minimum} "
                f"({why}); d_model is n_heads * d_head"
            )
    if v > len(ALPHABET) + 1:
        raise CircuitsError(
            f"d_vocab={v}: every token is one printable character, which suffices for "
            f"at most {len(ALPHABET) + 1} tokens"
        )


BUNDLED = Recipe()  # of the model that is loaded as "compiled"
