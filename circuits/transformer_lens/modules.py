"""The modules that code imports TransformerLens' names from, under TransformerLens' names.

``from circuits.transformer_lens.HookedTransformer import HookedTransformer`` works as
``from transformer_lens.HookedTransformer import …`` did, and `stand_in` makes the second mean the
first, for code that is to stay as it is.
"""

from __future__ import annotations

import sys
from types import ModuleType

from circuits import factored
from circuits.errors import CircuitsError
from circuits.transformer_lens import cache, config, hook_points, kv_cache, loading, model, root

_DOOR = "circuits.transformer_lens"
# What TransformerLens calls, or called, the modules that have another name here.
_RENAMED: dict[str, ModuleType] = {
    "ActivationCache": cache,
    "FactoredMatrix": factored,
    "HookedRootModule": root,
    "HookedTransformer": model,
    "HookedTransformerConfig": config,
    "loading_from_pretrained": loading,
    "past_key_value_caching": kv_cache,
}


def stand_in() -> None:
    """Let ``import transformer_lens`` mean this door from now on, with all that is below it.

    For code that is to run unedited; call it before that code is imported. An entry of
    ``sys.modules`` alone would load what is below a second time, with classes of its own.

    >>> stand_in()  # doctest: +SKIP
    >>> from transformer_lens.hook_points import HookPoint  # doctest: +SKIP

    Raises:
        CircuitsError: when transformer_lens itself has been imported already.
    """
    door = sys.modules[_DOOR]
    if sys.modules.get("transformer_lens", door) is not door:
        raise CircuitsError(
            "transformer_lens itself is imported already; call stand_in() first, before anything "
            "imports it"
        )
    sys.modules["transformer_lens"] = door
    register("transformer_lens")


def register(package: str) -> None:
    """Enter this door's modules as those of `package`, under their names here and there."""
    # TransformerLens had both classes in this module until its version 3.
    vars(hook_points)["HookedRootModule"] = root.HookedRootModule
    below = f"{_DOOR}."
    here = {n.removeprefix(below): m for n, m in sys.modules.items() if n.startswith(below)}
    for name, module in (here | _RENAMED).items():
        sys.modules[f"{package}.{name}"] = module
