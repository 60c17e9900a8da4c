"""What TransformerLens calls the models of GPT-2's kin, and what the hub calls them."""

from __future__ import annotations

_NEO = {
    f"tiny-stories-{size}": f"roneneldan/TinyStories-{size}"
    for size in ("1M", "3M", "8M", "28M", "33M")
}
_STANFORD = {
    f"stanford-gpt2-{size}-{letter}": f"stanford-crfm/{name}-gpt2-{size}-x{seed}"
    for size, names in (
        ("small", ("alias-21", "battlestar-49", "caprica-81", "darkmatter-343", "expanse-777")),
        ("medium", ("arwen-21", "beren-49", "celebrimbor-81", "durin-343", "eowyn-777")),
    )
    for letter, (name, seed) in zip("abcde", (n.split("-") for n in names), strict=True)
}
ALIASES = {
    "gpt2-small": "gpt2",
    "distillgpt2": "distilbert/distilgpt2",
    "distilgpt2": "distilbert/distilgpt2",
    "distil-gpt2": "distilbert/distilgpt2",
    "gpt-neo-125M": "EleutherAI/gpt-neo-125M",
    **_NEO,
    **_STANFORD,
}
