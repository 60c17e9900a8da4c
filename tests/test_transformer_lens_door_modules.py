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
from lens_door import assert_close, twin
from lens_models import lens_model
from lens_twin import IGNORE_DEPRECATION

import circuits.transformer_lens as door
from circuits.errors import CheckpointError, CircuitsError
from circuits.transformer_lens import (
    HookedTransformer,
    HookedTransformerConfig,
    HookPoint,
    SVDInterpreter,
    components,
    loading,
    modules,
    utils,
)
from circuits.transformer_lens.train import HookedTransformerTrainConfig, train

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


def test_singular_vectors_are_theirs_but_for_their_signs() -> None:
    theirs = pytest.importorskip("transformer_lens")
    original = lens_model("gpt2", dtype=torch.float32)
    model = twin(original)
    for given in ({"vector_type": "OV", "head_index": 1}, {"vector_type": "w_in"}):
        options: dict[str, Any] = given | {"layer_index": 1, "num_vectors": 3}
        wanted = theirs.SVDInterpreter(original).get_singular_vectors(**options)
        mine = SVDInterpreter(model).get_singular_vectors(**options)
        signs = (mine * wanted).sum((0, 1), keepdim=True).sign()
        torch.testing.assert_close(mine * signs, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"vector_type": "ov"}, "vector_type='ov': choose OV"),
        ({"vector_type": "OV"}, "give head_index"),
        ({"vector_type": "w_in", "layer_index": 9}, "layer_index=9: choose 0 to 1"),
        ({"vector_type": "w_in", "num_vectors": 99}, "num_vectors=99: choose 1 to 16"),
    ],
)
def test_singular_vectors_that_are_not_there_say_so(given: dict[str, Any], message: str) -> None:
    model = HookedTransformer(HookedTransformerConfig(**CFG))
    with pytest.raises(CircuitsError, match=message):
        SVDInterpreter(model).get_singular_vectors(**{"layer_index": 0} | given)


@pytest.mark.parametrize("optimizer", ["Adam", "SGD"])
def test_training_takes_their_steps(optimizer: str, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = pytest.importorskip("transformer_lens")
    original = lens_model("gpt2")
    model = twin(original)
    rows = [{"tokens": torch.tensor([1, 4, 2, 7, i])} for i in range(4)]
    options: dict[str, Any] = {"num_epochs": 2, "batch_size": 2, "device": "cpu", "lr": 0.01}
    options |= {"optimizer_name": optimizer, "warmup_steps": 2, "max_grad_norm": 1.0}
    theirs.train.train(original, theirs.train.HookedTransformerTrainConfig(**options), rows)
    train(model, HookedTransformerTrainConfig(**options), rows)
    assert "Epoch 2 Samples 2 Step 0 Loss" in capsys.readouterr().out
    assert_close(model.state_dict()["blocks.1.attn.W_Q"], original.blocks[1].attn.W_Q.data)


def test_training_says_what_it_does_not_do() -> None:
    config = HookedTransformerTrainConfig(num_epochs=1, batch_size=1, wandb=True)
    with pytest.raises(CircuitsError, match="nothing is sent anywhere"):
        train(None, config, [])


def test_models_are_known_by_theirs_names() -> None:
    names = pytest.importorskip("transformer_lens.loading_from_pretrained")
    known = {alias.lower() for alias in names.make_model_alias_map()}
    for alias, official in loading.ALIASES.items():
        if alias.lower() in known and "distil" not in official:  # which has moved on the hub
            assert names.get_official_model_name(alias) == official
    steps, label = loading.get_checkpoint_labels("stanford-gpt2-small-a")
    assert (steps, label) == names.get_checkpoint_labels("stanford-gpt2-small-a")
    with pytest.raises(CheckpointError, match="did you mean 'gpt2-small'"):
        loading.get_official_model_name("gpt2-smal")
    with pytest.raises(CheckpointError, match="no checkpoints of its training"):
        loading.get_checkpoint_labels("gpt2")


def test_a_checkpoint_of_training_is_known_by_its_index(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str, **where: Any) -> Any:
        asked.append((name, where["revision"]))
        raise CheckpointError("nothing here")

    monkeypatch.setattr(loading.checkpoints, "load", load)
    for index in (0, -1):
        with pytest.raises(CheckpointError):
            HookedTransformer.from_pretrained("stanford-gpt2-small-a", checkpoint_index=index)
    name = "stanford-crfm/alias-gpt2-small-x21"
    assert asked == [(name, "checkpoint-0"), (name, "checkpoint-400000")]
    with pytest.raises(CircuitsError, match="choose 0 to 608"):
        HookedTransformer.from_pretrained("stanford-gpt2-small-a", checkpoint_index=9999)
    with pytest.raises(CheckpointError, match="no name of a GPT-2"):
        HookedTransformer.from_pretrained("mini", checkpoint_index=0)


def test_a_model_is_described_before_it_is_loaded() -> None:
    cfg = loading.get_pretrained_model_config("mini", fold_ln=True)
    model = HookedTransformer.from_pretrained("mini")
    told_by_the_tokenizer = {"tokenizer_prepends_bos": False}
    assert cfg.to_dict() | told_by_the_tokenizer == model.cfg.to_dict()
    assert loading.get_num_params_of_pretrained("mini") == model.cfg.n_params
    state = loading.get_pretrained_state_dict("mini", cfg)
    again = HookedTransformer(cfg)
    again.load_and_process_state_dict(state)
    assert_close(again.blocks[3].attn.W_O, model.blocks[3].attn.W_O)


def test_the_functions_of_their_utilities_compute_what_theirs_do() -> None:
    theirs = pytest.importorskip("transformer_lens.utilities")
    addmm = importlib.import_module("transformer_lens.utilities.addmm")
    attention = importlib.import_module("transformer_lens.utilities.attention")
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    x, w, b = draw(2, 3, 8), draw(4, 8, 5), draw(4, 5)
    close = torch.testing.assert_close
    close(utils.batch_addmm(b[0], w[0], x), addmm.batch_addmm(b[0], w[0], x))
    close(utils.simple_attn_linear(x, w, b), attention.simple_attn_linear(x, w, b))
    by_head = draw(2, 3, 4, 8)
    wanted = attention.complex_attn_linear(by_head, w, b)
    close(utils.complex_attn_linear(by_head, w, b), wanted)
    logits = draw(9)
    frame, expected = utils.logits_to_df(logits, top_k=4), theirs.logits_to_df(logits, top_k=4)
    assert list(frame.columns) == list(expected.columns)
    close(torch.tensor(frame.to_numpy()), torch.tensor(expected.to_numpy()))
    close(utils.apply_softcap(x, 3.0), theirs.apply_softcap(x, 3.0))
    for name in ("gelu_new", "gelu_fast", "relu", "silu", "solu", "gelu_pytorch_tanh"):
        given = utils.SUPPORTED_ACTIVATIONS[name](x)
        close(given, theirs.SUPPORTED_ACTIVATIONS[name](x), atol=1e-5, rtol=1e-5)


def test_a_parameter_is_another_for_a_while() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    with utils.temporarily_swap_parameter(weight, torch.zeros(2)):
        assert weight.sum() == 0
    assert weight.sum() == 2
    with (
        pytest.raises(CircuitsError, match="both have to be the same"),
        utils.temporarily_swap_parameter(weight, torch.zeros(3)),
    ):
        pass
