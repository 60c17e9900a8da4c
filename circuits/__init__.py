"""Find out which parts of a GPT-2 do what.

>>> import circuits
>>> model = circuits.load()
>>> tokens = model.to_tokens("Once upon a time")
>>> _, cache = model.run_with_cache(tokens)
>>> cache["pattern", 5].shape == (1, model.cfg.n_heads, *2 * tokens.shape[1:])
True

Every question is a function, by the name of its command: ``circuits.ablate(model, layer=5,
head=3)``. All names are imported when they are first used: `import circuits` alone is quick, and
does not import torch.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

__version__ = "0.1.0"

# Large tensors in huge pages: a cache of all sites then costs 1.05 of a plain pass, not 1.2, as
# hardly anything waits for fresh pages. torch reads this when it first allocates, on Linux alone.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

# The module of every public name, but for the questions. Editors and mypy read __init__.pyi.
_HOME = {
    "adapter": ["adapt"],
    "cache": ["Cache"],
    "circuit": ["Circuit", "graph", "published"],
    "checkpoints": ["bundled_models", "checksum", "load", "save"],
    "components": ["Component"],
    "config": ["GPT2_SIZES", "ModelConfig"],
    "explorer.opening": ["explore"],
    "errors": ["CheckpointError", "CircuitsError", "SiteError", "TokenError"],
    "factored": ["FactoredMatrix"],
    "backend": ["packed"],
    "architectures": ["HookedGPT2"],
    "model": ["HookedModel"],
    "result": ["Provenance", "Result"],
    "sites": ["get_act_name"],
    "tokenizer": ["Tokenizer"],
}


# The questions: a function of its own name in each file of `analyses`.
_QUESTIONS = sorted(path.stem for path in Path(__file__).parent.glob("analyses/[!_]*.py"))

__all__ = sorted([*(name for names in _HOME.values() for name in names), *_QUESTIONS])


def __getattr__(name: str) -> object:
    home = f"analyses.{name}" if name in _QUESTIONS else None
    for module, names in _HOME.items():
        home = module if name in names else home
    if home is None:
        from circuits.errors import nearest

        raise AttributeError(f"circuits has no {name!r}{nearest(name, __all__)}")
    value: object = getattr(import_module(f"circuits.{home}"), name)
    globals()[name] = value  # found without this function the next time
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
