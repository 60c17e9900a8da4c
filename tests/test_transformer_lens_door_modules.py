"""What code imports from TransformerLens is at the door; what is not says so, and is listed."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys
from typing import Any

import pytest
import torch
from lens_door import assert_close
from lens_twin import IGNORE_DEPRECATION

import circuits.transformer_lens as door
from circuits.errors import CircuitsError
from circuits.transformer_lens import (
    HookedTransformer,
    HookPoint,
    components,
    modules,
)

pytestmark = [
    pytest.mark.filterwarnings(IGNORE_DEPRECATION),
    pytest.mark.filterwarnings("ignore:The 'utils' module has been deprecated"),
]

# Modules of transformer_lens 3.9 without a counterpart, besides those below `modules.ABSENT`.
NO_MODULE = {
    "config.transformer_bridge_config",
    "utilities.aliases",
    "utilities.architectures",
    "utilities.bridge_components",
    "utilities.heterogeneous_config",
    "utilities.quantization",
    "utilities.tracr",
}
# Names of the other modules that are not here: other architectures, several devices, the hub.
NO_NAME = {
    "FactoredMatrix": {"TensorLike"},
    "HookedTransformer": {
        "DTYPE_FROM_STRING",
        "NON_HF_HOSTED_MODEL_NAMES",
        "POST_NORM_ARCHITECTURES",
        "USE_DEFAULT_VALUE",
    },
    "components.transformer_block": {"POST_NORM_ARCHITECTURES"},
    "config": {"TransformerBridgeConfig"},
    "evals": {"MMLU_ANSWER_LETTERS", "MMLU_SUBJECTS", "make_mmlu_data_loader", "mmlu_eval"},
    "head_detector": {
        "CACHE_WITH_SEQ_LIST_ERR",
        "DET_PAT_NOT_SQUARE_ERR",
        "INVALID_HEAD_NAME_ERR",
        "SEQ_LEN_ERR",
    },
    "hook_points": {"HookIntrospectionMixin"},
    "loading_from_pretrained": {
        "Config",
        "NEED_REMOTE_CODE_MODELS",
        "NON_HF_HOSTED_MODEL_NAMES",
        "POST_NORM_ARCHITECTURES",
        "PYTHIA_CHECKPOINTS",
        "PYTHIA_V0_CHECKPOINTS",
        "convert_hf_model_config",
        "convert_neel_model_config",
        "fill_missing_keys",
        "get_basic_config",
        "make_model_alias_map",
    },
    "utilities": {
        "ModelWithCfg",
        "NonlinearityType",
        "calculate_available_device_cuda_memory",
        "clear_huggingface_cache",
        "count_unique_devices",
        "determine_available_memory_for_available_devices",
        "find_embedding_device",
        "get_best_available_cuda_device",
        "get_rotary_pct_from_config",
        "resolve_device_map",
        "sort_devices_based_on_available_memory",
    },
    "utilities.activation_functions": {"XIELU", "relu2", "xielu"},
    "utilities.attention": {"clamp_qkv"},
    "utilities.hf_utils": {
        "CACHE_DIR",
        "HF_HUB_CACHE",
        "autoconfig_with_remote_post_init_compat",
        "autotokenizer_with_special_token_compat",
        "call_hf_with_retry",
        "enable_hf_numeric_tower",
        "enable_hf_retry",
        "get_hf_token",
        "make_post_init_kwarg_tolerant",
    },
    "utilities.multi_gpu": {
        "MIXED_CPU_GPU_ERROR",
        "cast_floating_params_to_dtype",
        "find_misplaced_modules",
        "is_mixed_cpu_gpu",
        "maybe_cast_floating_params",
    },
    "utils": {"clear_huggingface_cache"},
}
# Modules that versions 1 and 2 had, and code imports from.
EARLIER = {
    "transformer_lens.past_key_value_caching": "HookedTransformerKeyValueCache",
    "transformer_lens.HookedTransformerConfig": "HookedTransformerConfig",
    "transformer_lens.components.mlps.mlp": "MLP",
    "transformer_lens.hook_points": "HookedRootModule",
    "transformer_lens.loading_from_pretrained": "get_official_model_name",
}


def names_of(module: Any) -> set[str]:
    """What a module of theirs defines or, being a package, collects."""
    package, own = hasattr(module, "__path__"), module.__name__
    listed = getattr(module, "__all__", ())
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not inspect.ismodule(value)
        and name not in ("TYPE_CHECKING", "ABC", "T", "MLP")
        and (package or getattr(value, "__module__", own) == own or name in listed)
        and (name.isupper() or callable(value))
    }


@pytest.mark.slow
def test_what_is_missing_is_listed_and_does_not_grow() -> None:
    theirs = pytest.importorskip("transformer_lens")
    no_module: set[str] = set()
    no_name: dict[str, set[str]] = {}
    for info in pkgutil.walk_packages(theirs.__path__, "transformer_lens."):
        name = info.name.removeprefix("transformer_lens.")
        if name.split(".")[0] in modules.ABSENT:
            continue
        here = sys.modules.get(f"circuits.transformer_lens.{name}")
        if here is None:
            no_module.add(name)
        else:
            missing = names_of(importlib.import_module(info.name)) - {*dir(here)}
            known = NO_NAME.get(name, set())
            known = known | (NO_NAME["utilities"] if name.startswith("utilities.") else set())
            if missing - known:
                no_name[name] = missing - known
    assert no_module <= NO_MODULE
    assert not no_name


def test_the_whole_front_of_theirs_is_here_but_for_what_is_listed() -> None:
    theirs = pytest.importorskip("transformer_lens")
    names = {name for name in vars(theirs) if not name.startswith("_")}
    assert names - {*vars(door)} <= {*modules.ABSENT}


def run(code: str) -> str:
    stand_in = "import circuits.transformer_lens as door\ndoor.stand_in()\n"
    command = [sys.executable, "-c", stand_in + code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.slow
def test_code_imports_from_the_modules_of_every_version() -> None:
    modern = [f"from {name} import {what}" for name, what in EARLIER.items()]
    modern += [f"import transformer_lens.{name}" for name in modules.RENAMED]
    modern += [
        "import transformer_lens as tl, transformer_lens.utilities as u",
        "from transformer_lens.utilities.devices import get_device",
        "from transformer_lens.components import RMSNorm, GatedMLP, TransformerBlock",
        "from transformer_lens import HookedEncoder, TransformerLensKeyValueCache as K, loading",
        "from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache",
        "assert K is TransformerLensKeyValueCache and tl.utilities is u is tl.utils",
        "assert tl.components.mlps.mlp.MLP is tl.components.MLP",
        "assert tl.utilities.devices.get_device is get_device",
        "assert loading is tl.loading_from_pretrained and callable(tl.train.train)",
        "assert tl.HookedTransformer.__module__ == 'circuits.transformer_lens.model'",
        "print('all there')",
    ]
    assert run("\n".join(modern)).strip() == "all there"


REFUSED = {
    "from transformer_lens.model_bridge import TransformerBridge": "model_bridge",
    "from transformer_lens import TransformerBridgeConfig": "TransformerBridgeConfig",
    "import transformer_lens.tools.analysis": "tools",
    "import transformer_lens as tl; tl.lit": "lit",
    "import transformer_lens.utilities.tracr": "utilities.tracr",
    "import transformer_lens.hook_point": "hook_point",
}


@pytest.mark.slow
def test_what_has_no_counterpart_is_an_import_error_of_a_sentence() -> None:
    tries = [
        f"try:\n    {code}\nexcept ImportError as error:\n    print(error)" for code in REFUSED
    ]
    lines = run("\n".join(tries)).strip().splitlines()
    for name, line in zip(REFUSED.values(), lines, strict=True):
        assert f"transformer_lens.{name} has no counterpart in circuits.transformer_lens" in line


def test_a_misspelled_module_is_named_with_the_nearest() -> None:
    with pytest.raises(ImportError, match="did you mean 'utilities'"):
        modules._Absent().find_spec("transformer_lens.utilitis", None)
    assert modules._Absent().find_spec("torch_lens", None) is None  # type: ignore[func-returns-value]
    with pytest.raises(AttributeError, match="no attribute 'zebra'"):
        door.zebra  # noqa: B018


@pytest.mark.parametrize("name", ["RMSNorm", "GatedMLP", "HookedEncoder"])
def test_another_architecture_is_a_name_that_nothing_is_an_instance_of(name: str) -> None:
    kind: Any = getattr(components, name, None) or getattr(door, name)
    assert not isinstance(HookPoint(), kind)
    for make in (kind, kind.from_pretrained):
        with pytest.raises(CircuitsError, match=f"{name} is part of another architecture"):
            make("bert-base")


@pytest.mark.parametrize("folded", [False, True])
def test_the_parts_of_a_model_are_of_the_classes_that_code_asks_for(folded: bool) -> None:
    load = (
        HookedTransformer.from_pretrained
        if folded
        else (HookedTransformer.from_pretrained_no_processing)
    )
    model = load("mini")
    block = model.blocks[0]
    assert isinstance(block, components.TransformerBlock)
    assert isinstance(block.attn, components.Attention | components.AbstractAttention)
    assert isinstance(block.mlp, components.MLP)
    for norm in (block.ln1, block.ln2, model.ln_final):
        assert isinstance(norm, components.LayerNorm)
        assert isinstance(norm, components.LayerNormPre) == folded


CFG = {"d_model": 16, "d_head": 6, "n_heads": 4, "n_layers": 2, "n_ctx": 12, "d_vocab": 9}
CFG |= {"d_mlp": 20, "act_fn": "gelu_new", "dtype": torch.float64}


@pytest.mark.parametrize(
    "name", ["Attention", "MLP", "LayerNorm", "LayerNormPre", "TransformerBlock", "Unembed"]
)
def test_a_part_alone_computes_what_theirs_does(name: str) -> None:
    theirs = pytest.importorskip("transformer_lens")
    more = (0,) if name == "TransformerBlock" else ()
    normalization = {"normalization_type": "LN"}
    part = getattr(theirs.components, name)(
        theirs.HookedTransformerConfig(**CFG, **normalization, device="cpu"), *more
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in part.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64))
    mine = getattr(components, name)(CFG, *more).to(torch.float64)
    left, unknown = mine.load_state_dict(dict(part.named_parameters()), strict=False)
    assert not unknown
    assert all(key.endswith(("mask", "IGNORE")) for key in left)
    x = torch.randn(2, 5, 16, generator=generator, dtype=torch.float64)
    given = [x] * 3 if name == "Attention" else [x]
    assert_close(mine(*given), part(*given))
    points = {key for key, point in mine.named_modules() if isinstance(point, HookPoint)}
    assert points >= {
        key
        for key, point in part.named_modules()
        if isinstance(point, theirs.hook_points.HookPoint) and not key.endswith(("_in", "_out"))
    } - {"attn.hook_rot_k", "attn.hook_rot_q", "hook_rot_k", "hook_rot_q"}


def test_another_window_than_the_configurations_is_refused() -> None:
    with pytest.raises(CircuitsError, match="attn_type='local'"):
        components.Attention(CFG, "local")
