"""One grammar for naming the parts of a model, used by flags, tables, labels and file names.

====================  ====================================================
``a5.h3``, ``a5``     head 3 of layer 5; the whole attention layer 5
``m7``, ``m7.n12``    the MLP of layer 7; its neuron 12
``embed``, ``pos``    the token embedding; the position embedding
``resid_pre.6``       the residual stream before layer 6 (also ``mid``, ``post``)
``logits``            the output
``a5.h3<q>``          what the head's query reads (also ``k``, ``v``)
``a5.h3<pattern>``    the head's attention pattern
``...@END``           at one position only: a role, or an index (``@3``, ``@-1``)
``a5.h3->m7<...>``    an edge: what the sender gives to the receiver
====================  ====================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

from circuits.config import ModelConfig
from circuits.errors import CircuitsError, nearest

Kind = Literal[
    "head",
    "attn",
    "mlp",
    "neuron",
    "embed",
    "pos",
    "resid_pre",
    "resid_mid",
    "resid_post",
    "logits",
]
Slot = Literal["q", "k", "v", "pattern"]

_SITES: dict[Kind, str] = {
    "head": "blocks.{layer}.attn.hook_z",
    "attn": "blocks.{layer}.hook_attn_out",
    "mlp": "blocks.{layer}.hook_mlp_out",
    "neuron": "blocks.{layer}.mlp.hook_post",
    "embed": "hook_embed",
    "pos": "hook_pos_embed",
    "resid_pre": "blocks.{layer}.hook_resid_pre",
    "resid_mid": "blocks.{layer}.hook_resid_mid",
    "resid_post": "blocks.{layer}.hook_resid_post",
    "logits": "unembed.hook_out",
}
_GRAMMAR = (
    "a5 (an attention layer), a5.h3 (a head), m7 (an MLP), m7.n12 (a neuron), embed, pos, "
    "resid_pre.6 or logits"
)
_COMPONENT = re.compile(
    r"(?:a(?P<attn>\d+)(?:\.h(?P<head>\d+))?|m(?P<mlp>\d+)(?:\.n(?P<neuron>\d+))?"
    r"|(?P<resid>resid_(?:pre|mid|post))\.(?P<layer>\d+)|(?P<only>embed|pos|logits))"
    r"(?:<(?P<slot>[qkv]|pattern)>)?(?:@(?P<at>[^@\s]+))?",
    re.ASCII,
)
_ROLE = re.compile(r"[A-Za-z_][\w+]*|-?\d+", re.ASCII)


@dataclass(frozen=True)
class Component:
    """Which part of a model, through which of its inputs, at which position?

    `slot` narrows a head to what its query, key or value reads, or to its pattern. `position` is a
    role of the prompts (``"END"``, ``"S1+1"``) or an index (of a pattern: the query's); None means
    every position. `neuron` counts within the layer.

    Raises:
        CircuitsError: when the fields do not belong together.

    >>> str(Component("head", 5, 3, slot="q", position="END"))
    'a5.h3<q>@END'
    """

    kind: Kind
    layer: int | None = None
    head: int | None = None
    slot: Slot | None = None
    position: str | int | None = None
    neuron: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in _SITES:
            raise CircuitsError(
                f"there is no kind of component {self.kind!r}; the kinds are {', '.join(_SITES)}"
                f"{nearest(str(self.kind), _SITES)}"
            )
        takes = _takes(self.kind)
        given = {"layer": self.layer, "head": self.head, "neuron": self.neuron}
        if {what for what, number in given.items() if number is not None} != set(takes):
            numbers = ", ".join(f"{what}={number}" for what, number in given.items())
            needs = " and ".join(f"a {what}" for what in takes) or "no number"
            raise CircuitsError(
                f"a component of kind {self.kind!r} takes {needs}; given were {numbers}"
            )
        if self.slot is not None and (self.kind != "head" or self.slot not in get_args(Slot)):
            raise CircuitsError(
                f"<{self.slot}>: only a head has inputs <q>, <k> and <v>, and a <pattern>"
            )
        if self.position is not None and not _ROLE.fullmatch(str(self.position)):
            raise CircuitsError(
                f"@{self.position} is no position; write a role such as @END, or an index: @3, @-1"
            )

    def __str__(self) -> str:
        name = {
            "head": f"a{self.layer}.h{self.head}",
            "attn": f"a{self.layer}",
            "mlp": f"m{self.layer}",
            "neuron": f"m{self.layer}.n{self.neuron}",
        }.get(self.kind, self.kind if self.layer is None else f"{self.kind}.{self.layer}")
        slot = f"<{self.slot}>" if self.slot else ""
        return name + slot + (f"@{self.position}" if self.position is not None else "")

    @property
    def site(self) -> str:
        """The hook site through which it writes or, with a slot, reads.

        Heads share a site, and so do neurons: see `within`.

        >>> Component("head", 5, 3).site, Component("head", 5, 3, slot="k").site
        ('blocks.5.attn.hook_z', 'blocks.5.hook_k_input')
        """
        if self.slot == "pattern":
            return f"blocks.{self.layer}.attn.hook_pattern"
        if self.slot is not None:
            return f"blocks.{self.layer}.hook_{self.slot}_input"
        return _SITES[self.kind].format(layer=self.layer)

    @property
    def within(self) -> tuple[slice | int, ...]:
        """The index that picks its own values from what passes its site.

        It makes [batch, pos, head, ...] a head's [batch, pos, ...], a pattern's [batch, head, q, k]
        its [batch, q, k], and [batch, pos, neuron] a neuron's [batch, pos, 1].

        >>> Component("head", 5, 3).within, Component("mlp", 5).within
        ((slice(None, None, None), slice(None, None, None), 3), ())
        """
        every = slice(None)
        if self.neuron is not None:
            return every, every, slice(self.neuron, self.neuron + 1)
        if self.head is None:
            return ()
        return (every, self.head) if self.slot == "pattern" else (every, every, self.head)

    def at(self, position: str | int | None) -> Component:
        """The same part at this position only, or with None at every position.

        >>> str(Component("mlp", 7).at(-1))
        'm7@-1'
        """
        return replace(self, position=position)


@dataclass(frozen=True)
class Edge:
    """A sender, and a receiver that reads what it writes.

    Raises:
        CircuitsError: when the receiver cannot read the sender, because it comes first.

    >>> str(Edge(Component("head", 2, 2), Component("head", 5, 5, slot="k")))
    'a2.h2->a5.h5<k>'
    """

    sender: Component
    receiver: Component

    def __post_init__(self) -> None:
        if self.sender.slot is not None:
            is_what = "a pattern" if self.sender.slot == "pattern" else "an input"
            raise CircuitsError(
                f"{self.sender} is {is_what} and sends nothing; start the edge at "
                f"{replace(self.sender, slot=None)}"
            )
        if self.receiver.slot == "pattern":
            head = replace(self.receiver, slot=None)
            raise CircuitsError(
                f"{self.receiver} is a pattern and reads nothing; end the edge at {head}<q>, "
                f"{head}<k> or both"
            )
        if _depth(self.sender) >= _depth(self.receiver):
            raise CircuitsError(
                f"there is no edge {self}: {self.receiver} does not come after {self.sender}"
            )

    def __str__(self) -> str:
        return f"{self.sender}->{self.receiver}"


def parse(text: str) -> Component:
    """Which part does this name mean? The inverse of ``str(component)``.

    Raises:
        CircuitsError: when the name is not in the grammar, with the nearest one that is.

    >>> part = parse("a5.h3<q>@END")
    >>> part.layer, part.head, part.slot, part.position
    (5, 3, 'q', 'END')
    """
    match = _COMPONENT.fullmatch(text.strip())
    if match is None:
        raise CircuitsError(
            f"{text!r} names no component; write {_GRAMMAR}, with <q>, <k> or <v> for a head's "
            f"input, <pattern> for its pattern, and @END or @3 for one position{_suggestion(text)}"
        )
    at = match["at"]
    layer = match["attn"] or match["mlp"] or match["layer"]
    kind = match["only"] or match["resid"] or ("mlp" if match["mlp"] else "attn")
    one_of_many = next((what for what in ("head", "neuron") if match[what]), None)
    return Component(
        cast(Kind, one_of_many or kind),
        layer=int(layer) if layer else None,
        head=int(match["head"]) if match["head"] else None,
        slot=cast("Slot | None", match["slot"]),
        position=int(at) if at and re.fullmatch(r"-?\d+", at, re.ASCII) else at,
        neuron=int(match["neuron"]) if match["neuron"] else None,
    )


def parse_edge(text: str) -> Edge:
    """Which edge does this name mean? The inverse of ``str(edge)``.

    Raises:
        CircuitsError: when it is not two components with an arrow between them.

    >>> parse_edge("a5.h3->m7").receiver.site
    'blocks.7.hook_mlp_out'
    """
    ends = text.split("->")
    if len(ends) != 2:
        raise CircuitsError(f"{text!r} names no edge; write it as sender->receiver: 'a5.h3->m7'")
    return Edge(parse(ends[0]), parse(ends[1]))


def check(component: Component, cfg: ModelConfig) -> Component:
    """The same component, if the model has it.

    Raises:
        CircuitsError: naming the layers, heads or positions that there are.

    >>> from circuits.config import GPT2_SIZES
    >>> str(check(parse("a5.h3"), GPT2_SIZES["gpt2"]))
    'a5.h3'
    """
    if component.kind in ("mlp", "neuron") and cfg.attn_only:
        raise CircuitsError(f"there is no {component}: {cfg.model_name} has attention layers only")
    bounds = {
        "layer": (component.layer, cfg.n_layers),
        "head": (component.head, cfg.n_heads),
        "neuron": (component.neuron, cfg.d_mlp),
    }
    for what, (given, n) in bounds.items():
        if given is not None and not 0 <= given < n:
            has = f"{what}s 0 to {n - 1}" if n > 1 else f"only {what} 0"
            where = "" if what == "layer" else " in each layer"
            raise CircuitsError(f"there is no {what} {given}: {cfg.model_name} has {has}{where}")
    if component.kind == "pos" and cfg.positional_embedding_type != "standard":
        raise CircuitsError(
            f"{cfg.model_name} has {cfg.positional_embedding_type} positions, which act inside "
            "attention: nothing is added to the stream for them, so there is no 'pos'"
        )
    if component.kind == "resid_mid" and not cfg.has_middle:
        raise CircuitsError(
            f"there is no {component}: {cfg.model_name} has no stream between attention and MLP"
        )
    at = component.position
    if isinstance(at, int) and not -cfg.n_ctx <= at < cfg.n_ctx:
        raise CircuitsError(
            f"there is no position {at}: {cfg.model_name} reads at most {cfg.n_ctx} tokens"
        )
    return component


def one_head(head: str | Component, cfg: ModelConfig) -> Component:
    """The head of this name: neither another kind of part, nor an input or position of a head.

    Raises:
        CircuitsError: for a name that is no head, or a head that is not there.

    >>> from circuits.config import GPT2_SIZES
    >>> one_head("a5.h3", GPT2_SIZES["gpt2"]).layer
    5
    """
    component = parse(head) if isinstance(head, str) else head
    if component.kind != "head" or component.slot is not None or component.position is not None:
        raise CircuitsError(
            f"{component} is no head: name one, such as a1.h0, without input or position"
        )
    return check(component, cfg)


def all_heads(cfg: ModelConfig) -> list[Component]:
    """Which heads does the model have? In the order of computation.

    >>> [str(c) for c in all_heads(ModelConfig(2, n_heads=2, d_model=8, n_ctx=4, d_vocab=9))]
    ['a0.h0', 'a0.h1', 'a1.h0', 'a1.h1']
    """
    return [Component("head", i, j) for i in range(cfg.n_layers) for j in range(cfg.n_heads)]


def all_mlps(cfg: ModelConfig) -> list[Component]:
    """Which MLPs does the model have? In the order of computation.

    >>> [str(c) for c in all_mlps(ModelConfig(2, n_heads=2, d_model=8, n_ctx=4, d_vocab=9))]
    ['m0', 'm1']
    """
    return [Component("mlp", i) for i in range(cfg.n_layers) if not cfg.attn_only]


def _takes(kind: Kind) -> list[str]:
    """The numbers that tell components of this kind apart."""
    in_a_layer = ["layer"] if "{layer}" in _SITES[kind] else []
    return [*in_a_layer, kind] if kind in ("head", "neuron") else in_a_layer


def _depth(component: Component) -> float:
    """How far along the residual stream it acts. Attention and MLP take one step each."""
    steps: dict[Kind, float] = {
        "embed": -1,
        "pos": -1,
        "resid_pre": -0.5,
        "attn": 0,
        "head": 0,
        "resid_mid": 0.5,
        "mlp": 1,
        "neuron": 1,
        "resid_post": 1.25,
        "logits": float("inf"),
    }
    return 2 * (component.layer or 0) + steps[component.kind]


def _suggestion(text: str) -> str:
    """The name that other notations stand for: 5.3, L5H3, A5.3, attn5, mlp7."""
    numbers = re.findall(r"\d+", text.split("@")[0])
    if re.fullmatch(r"(?:a|l|layer|block|head)?\W*\d+\W*(?:h|head)?\W*\d+", text, re.I):
        return f"; did you mean 'a{numbers[0]}.h{numbers[1]}'?"
    if re.fullmatch(r"(?:m|mlp|l|layer)?\W*\d+\W*(?:n|neuron)\W*\d+", text, re.I):
        return f"; did you mean 'm{numbers[0]}.n{numbers[1]}'?"
    if re.fullmatch(r"mlp\W*\d+", text, re.I):
        return f"; did you mean 'm{numbers[0]}'?"
    if re.fullmatch(r"attn\W*\d+", text, re.I):
        return f"; did you mean 'a{numbers[0]}'?"
    n = numbers[0] if numbers else "0"
    stems = [f"resid_{part}.{n}" for part in ("pre", "mid", "post")]
    return nearest(text, [*stems, "embed", "pos", "logits"], n=1)
