"""The door for code that was written for TransformerLens' ``HookedTransformer``.

``from circuits.transformer_lens import HookedTransformer`` runs it on GPT-2-family models, with its
defaults: `from_pretrained` folds and centers, hooks stay until they are removed, every weight is a
parameter under TransformerLens' name. What cannot be done here says so in a sentence.

Read in this order: `hook_points` and `root` (hooks that stay), `config`, `components` and `model`,
`processing` and `loading` (weights), `tokenizer` and `text`, `cache`, `kv_cache` and `generation`;
then the modules of functions `utils`, `patching`, `head_detector` and `evals`; `modules` lets code
that imports ``transformer_lens`` run unedited.
"""

from circuits.factored import FactoredMatrix
from circuits.transformer_lens import evals, head_detector, patching, utils
from circuits.transformer_lens.cache import ActivationCache
from circuits.transformer_lens.config import HookedTransformerConfig
from circuits.transformer_lens.hook_points import HookPoint
from circuits.transformer_lens.kv_cache import HookedTransformerKeyValueCache
from circuits.transformer_lens.model import HookedTransformer
from circuits.transformer_lens.modules import register, stand_in
from circuits.transformer_lens.root import HookedRootModule
from circuits.transformer_lens.slices import Slice

__all__ = [
    "ActivationCache",
    "FactoredMatrix",
    "HookPoint",
    "HookedRootModule",
    "HookedTransformer",
    "HookedTransformerConfig",
    "HookedTransformerKeyValueCache",
    "Slice",
    "evals",
    "head_detector",
    "patching",
    "stand_in",
    "utils",
]

register(__name__)
