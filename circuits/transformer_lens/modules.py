"""The modules that code imports TransformerLens' names from, under TransformerLens' names.

``from circuits.transformer_lens.HookedTransformer import HookedTransformer`` works as
``from transformer_lens.HookedTransformer import …`` did, and `stand_in` makes the second mean the
first, for code that is to stay as it is. Both the modules of its version 2 and of 3 are there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any

from circuits import factored
from circuits.errors import CircuitsError, nearest
from circuits.transformer_lens import (
    cache,
    components,
    config,
    elsewhere,
    hook_points,
    kv_cache,
    loading,
    model,
    names,
    root,
    svd_interpreter,
    train,
    utils,
)

_DOOR = "circuits.transformer_lens"
_UTILITIES = (
    *("activation_functions", "addmm", "attention", "attribute_utils", "cache"),
    *("components_utils", "defaults_utils", "devices", "exploratory_utils", "gpu_utils"),
    *("hf_utils", "initialization_utils", "library_utils", "lm_utils", "logits_utils", "matrix"),
    *("multi_gpu", "parameter_swap", "slice", "tensors", "tokenize_utils", "typed_module_list"),
)
_COMPONENTS = (
    *("abstract_attention", "attention", "embed", "layer_norm", "layer_norm_pre", "mlps"),
    *("mlps.mlp", "pos_embed", "transformer_block", "unembed"),
    *("bert_block", "bert_embed", "bert_mlm_head", "bert_nsp_head", "bert_pooler"),
    *("grouped_query_attention", "mlps.gated_mlp", "mlps.moe", "rms_norm", "rms_norm_pre"),
    *("t5_attention", "t5_block", "token_typed_embed"),
)
# What TransformerLens calls, or called, modules that have another name here.
RENAMED: dict[str, ModuleType] = {
    "ActivationCache": cache,
    "FactoredMatrix": factored,
    "HookedRootModule": root,
    "HookedTransformer": model,
    "HookedTransformerConfig": config,
    "SVDInterpreter": svd_interpreter,
    "cache.key_value_cache": kv_cache,
    "cache.key_value_cache_entry": kv_cache,
    "config.hooked_transformer_config": config,
    "config.transformer_lens_config": config,
    "loading_from_pretrained": loading,
    "past_key_value_caching": kv_cache,
    "supported_models": names,
    "train": train,
    "utilities": utils,
    **{f"utilities.{name}": utils for name in _UTILITIES},
    **{f"components.{name}": components for name in _COMPONENTS},
    **dict.fromkeys(elsewhere.MODELS, elsewhere),
}
# Names that TransformerLens has, or had, in a module whose namesake here has them elsewhere.
_ALSO: list[tuple[ModuleType, ModuleType, Sequence[str]]] = [
    (hook_points, root, ("HookedRootModule",)),
    (model, cache, ("ActivationCache",)),
    (config, utils, ("SOFTCAP_DISABLED", "SUPPORTED_ACTIVATIONS")),
    (components, hook_points, ("HookPoint",)),
]
# What has no counterpart here: other engines, formats, architectures and analyses.
ABSENT = (
    *("TransformerBridgeConfig", "benchmarks", "conversion_utils", "factories", "lit"),
    *("model_bridge", "pretrained", "tools", "weight_processing"),
)


class _Absent(MetaPathFinder):
    """Says in a sentence that there is no such module below ``transformer_lens``."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        """Nothing: it is asked after all others, and raises for a name below the package."""
        package, _, name = fullname.partition(".")
        if package == "transformer_lens":
            raise ModuleNotFoundError(_sentence(name), name=fullname)


def stand_in() -> None:
    """Let ``import transformer_lens`` mean this door from now on, with all that is below it.

    For code that is to run unedited; call it before that code is imported. An entry of
    ``sys.modules`` alone would load what is below a second time, with classes of its own. What
    TransformerLens has and this door has not is an ImportError that says so.

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
    if not any(isinstance(finder, _Absent) for finder in sys.meta_path):
        sys.meta_path.append(_Absent())


def register(package: str) -> None:
    """Enter this door's modules as those of `package`, under their names here and there."""
    for module, home, extra in _ALSO:
        vars(module).update({name: vars(home)[name] for name in extra})
    vars(components).update({name: elsewhere.CLASSES[name] for name in elsewhere.COMPONENTS})
    vars(elsewhere).update(elsewhere.CLASSES)
    below = f"{_DOOR}."
    here = {n.removeprefix(below): m for n, m in sys.modules.items() if n.startswith(below)}
    for name, module in (here | RENAMED).items():
        sys.modules[f"{package}.{name}"] = module
        parent, _, last = name.rpartition(".")
        package_of_it = RENAMED.get(parent) or here.get(parent) or sys.modules[_DOOR]
        vars(package_of_it).setdefault("__path__", [])  # where a module here is a package there
        vars(package_of_it).setdefault(last, module)


def absent(name: str) -> Any:
    """What the door answers for a name that it does not have.

    Raises:
        ImportError: for a name of TransformerLens' without a counterpart, in a sentence.
        AttributeError: for any other.
    """
    if name in ABSENT:
        raise ImportError(_sentence(name), name=f"{_DOOR}.{name}")
    raise AttributeError(f"module {_DOOR!r} has no attribute {name!r}")


def _sentence(name: str) -> str:
    near = nearest(name, RENAMED)
    return (
        f"transformer_lens.{name} has no counterpart in circuits.transformer_lens, which stands in "
        f"for what code for GPT-2-family models of class HookedTransformer imports{near}"
    )
