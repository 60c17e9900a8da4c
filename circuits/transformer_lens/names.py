"""What TransformerLens calls the models of GPT-2's kin, and what the hub calls them."""

from __future__ import annotations

from circuits.errors import CheckpointError, nearest

_LETTERS = dict(zip("abcde", ("21", "49", "81", "343", "777"), strict=True))
_CITIES = {
    "small": ("alias", "battlestar", "caprica", "darkmatter", "expanse"),
    "medium": ("arwen", "beren", "celebrimbor", "durin", "eowyn"),
}
_STANFORD = {
    f"stanford-crfm/{name}-gpt2-{size}-x{seed}": [
        f"stanford-gpt2-{size}-{letter}",
        f"{name}-gpt2-{size}-x{seed}",
        f"gpt2-stanford-{size}-{letter}",
    ]
    for size, names in _CITIES.items()
    for name, (letter, seed) in zip(names, _LETTERS.items(), strict=True)
}
_STORIES = {
    f"roneneldan/TinyStories-{kind}{size}": [f"tiny-stories-{kind.lower()}{size}"]
    for kind in ("", "Instruct-")
    for size in ("1M", "3M", "8M", "28M", "33M")
}
_NEO = {
    f"EleutherAI/gpt-neo-{size}": [f"gpt-neo-{size}", f"gpt-neo-{word}", f"neo-{word}"]
    for size, word in (("125M", "small"), ("1.3B", "medium"), ("2.7B", "large"))
}
MODEL_ALIASES: dict[str, list[str]] = {
    "gpt2": ["gpt2-small"],
    "distilbert/distilgpt2": [
        *("distillgpt2", "distill-gpt2", "distil-gpt2", "distilgpt2", "gpt2-xs"),
    ],
    **_NEO,
    **_STORIES,
    **_STANFORD,
}
OFFICIAL_MODEL_NAMES = [*MODEL_ALIASES, "gpt2-medium", "gpt2-large", "gpt2-xl"]
DEFAULT_MODEL_ALIASES = [MODEL_ALIASES.get(name, [name])[0] for name in OFFICIAL_MODEL_NAMES]
ALIASES = {alias: name for name, aliases in MODEL_ALIASES.items() for alias in aliases}

# At which steps of training Stanford's GPT-2s were kept.
STANFORD_CRFM_CHECKPOINTS = [
    *range(0, 100, 10),
    *range(100, 2000, 50),
    *range(2000, 20000, 100),
    *range(20000, 400001, 1000),
]


def get_official_model_name(model_name: str) -> str:
    """What the hub calls a model that is known by an alias.

    >>> get_official_model_name("gpt2-small")
    'gpt2'

    Raises:
        CheckpointError: for a name that is none of GPT-2's kin.
    """
    known = {name.lower(): name for name in OFFICIAL_MODEL_NAMES}
    known |= {alias.lower(): name for alias, name in ALIASES.items()}
    official = known.get(model_name.lower())
    if official is None:
        near = nearest(model_name.lower(), known) or f"; known are {', '.join(known)}"
        raise CheckpointError(
            f"{model_name!r} is no name of a GPT-2-family model that TransformerLens knows{near}"
        )
    return official


def get_checkpoint_labels(model_name: str) -> tuple[list[int], str]:
    """Which checkpoints of its training a model has, and what counts them: ``"step"``.

    Raises:
        CheckpointError: for a model without.
    """
    official = get_official_model_name(model_name)
    if official not in _STANFORD:
        raise CheckpointError(
            f"{model_name!r} has no checkpoints of its training; Stanford's GPT-2s have: "
            f"{', '.join(aliases[0] for aliases in _STANFORD.values())}"
        )
    return STANFORD_CRFM_CHECKPOINTS, "step"
