"""Code that imports TransformerLens' names from TransformerLens' modules finds the door's."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from typing import Any

import pytest
import torch

from circuits.transformer_lens import HookedTransformer, HookedTransformerConfig, HookPoint

IMPORTS = """
from transformer_lens import HookedTransformerKeyValueCache as A, HookPoint as P, patching, utils
from transformer_lens.ActivationCache import ActivationCache
from transformer_lens.FactoredMatrix import FactoredMatrix
from transformer_lens.HookedRootModule import HookedRootModule as R
from transformer_lens.HookedTransformer import HookedTransformer
from transformer_lens.HookedTransformerConfig import HookedTransformerConfig
from transformer_lens.hook_points import HookedRootModule, HookPoint
from transformer_lens.past_key_value_caching import HookedTransformerKeyValueCache
import transformer_lens as tl
import transformer_lens.patching as p
import transformer_lens.utils as u
"""
SAME = """
assert tl.HookedTransformer is HookedTransformer and tl.FactoredMatrix is FactoredMatrix
assert tl.ActivationCache is ActivationCache
assert tl.HookedTransformerConfig is HookedTransformerConfig
assert R is HookedRootModule and P is HookPoint and A is HookedTransformerKeyValueCache
assert u is utils and p is patching
cfg = dict(d_model=8, d_head=4, n_layers=1, n_ctx=4, d_vocab=9, act_fn="gelu_new")
model = tl.HookedTransformer(HookedTransformerConfig.from_dict(cfg))
assert isinstance(model.blocks[0].hook_mlp_in, HookPoint) and isinstance(model, HookedRootModule)
"""
STAND_IN = "import circuits.transformer_lens as door\ndoor.stand_in()\n"


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_door_stands_in_with_all_that_is_below_it() -> None:
    done = run(STAND_IN + IMPORTS + SAME + "assert tl is door\ndoor.stand_in()\n")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_same_modules_are_below_the_door() -> None:
    turned = IMPORTS.replace("transformer_lens", "circuits.transformer_lens") + SAME
    done = run(turned + "import sys\nassert 'transformer_lens' not in sys.modules\n")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_it_does_not_push_out_the_original() -> None:
    code = "import sys, types\nsys.modules['transformer_lens'] = types.ModuleType('x')\n" + STAND_IN
    done = run(code)
    assert "CircuitsError: transformer_lens itself is imported already" in done.stderr


def silence(value: Any, hook: Any) -> Any:
    return value * 0


@pytest.mark.parametrize("given", [silence, partial(silence)], ids=["function", "partial"])
def test_torch_lists_say_which_function_is_hooked(given: Any) -> None:
    point = HookPoint()
    point.add_hook(given)
    point.add_hook(given, dir="bwd")
    for handles in (point.fwd_hooks, point.bwd_hooks):
        hooks = handles[0].hook.hooks_dict_ref()
        assert all("silence" in hook.__name__ for hook in hooks.values())


def test_a_model_without_words_has_its_sites() -> None:
    cfg = {"n_layers": 1, "d_model": 1, "n_ctx": 1, "d_head": 1, "act_fn": "gelu", "d_vocab": 0}
    model = HookedTransformer(HookedTransformerConfig.from_dict(cfg))
    assert isinstance(model.blocks[0].hook_mlp_in, HookPoint)
    assert model.W_E.shape == torch.Size([0, 1])
