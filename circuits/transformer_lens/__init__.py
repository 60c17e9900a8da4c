"""The door for code that was written for TransformerLens' ``HookedTransformer``.

``from circuits.transformer_lens import HookedTransformer`` runs it on GPT-2-family models, with its
defaults: `from_pretrained` folds and centers, hooks stay until they are removed, every weight is a
parameter under TransformerLens' name. What cannot be done here says so in a sentence.

Read in this order: `hook_points` and `root` (hooks that stay), `config`, `components` and `model`,
`processing`, `loading` and `methods` (weights), `tokenizer` and `text`, `cache`, `kv_cache`,
`generation` and `options`; then the modules of functions `utils` (from `axes`, `activations`,
`devices`, `products`, ...), `patching`, `head_detector`, `evals` and `train`; `modules` lets code
that imports ``transformer_lens`` run unedited, `elsewhere` has the names of other architectures.
"""

from circuits.factored import FactoredMatrix
from circuits.transformer_lens import (
    components,
    evals,
    head_detector,
    hook_points,
    loading,
    patching,
    utils,
)
from circuits.transformer_lens.cache import ActivationCache
from circuits.transformer_lens.config import HookedTransformerConfig
from circuits.transformer_lens.elsewhere import CLASSES, MODELS
from circuits.transformer_lens.hook_points import HookPoint
from circuits.transformer_lens.kv_cache import (
    HookedTransformerKeyValueCache,
    HookedTransformerKeyValueCacheEntry,
    TransformerLensKeyValueCache,
    TransformerLensKeyValueCacheEntry,
)
from circuits.transformer_lens.model import HookedTransformer
from circuits.transformer_lens.modules import absent, register, stand_in
from circuits.transformer_lens.root import HookedRootModule
from circuits.transformer_lens.slices import Slice
from circuits.transformer_lens.svd_interpreter import SVDInterpreter

__all__ = [
    "ActivationCache",
    "FactoredMatrix",
    "HookPoint",
    "HookedRootModule",
    "HookedTransformer",
    "HookedTransformerConfig",
    "HookedTransformerKeyValueCache",
    "HookedTransformerKeyValueCacheEntry",
    "SVDInterpreter",
    "Slice",
    "TransformerLensKeyValueCache",
    "TransformerLensKeyValueCacheEntry",
    "components",
    "evals",
    "head_detector",
    "hook_points",
    "loading",
    "patching",
    "stand_in",
    "utils",
]

register(__name__)
globals().update({name: CLASSES[name] for name in MODELS})
__getattr__ = absent
