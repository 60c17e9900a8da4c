"""Other formats: nanoGPT's file, and models of transformers and transformer_lens in memory."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import reference_gpt2
import torch
from checkpoint_files import SHAPE, TOKENS, nanogpt_checkpoint, single
from lens_twin import IGNORE_DEPRECATION, lens_twin
from random_models import TINY, randomized

from circuits.architectures import HookedGPT2
from circuits.checkpoints import checksum, load
from circuits.config import ModelConfig
from circuits.errors import CheckpointError
from circuits.tokenizer import END_OF_TEXT, Tokenizer

# nanoGPT's MLPs are always four times as wide as the stream, and use the exact GELU.
NANO = replace(SHAPE, d_mlp=64, act_fn="gelu")
NANO_UNTIED = replace(NANO, tied=False)


WRAPPERS = ["", "_orig_mod.", "module.", "_orig_mod.module.", "module._orig_mod."]


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_nanogpt(tmp_path: Path, wrapper: str) -> None:
    model = single(NANO)
    file = tmp_path / "ckpt.pt"
    torch.save(nanogpt_checkpoint(model, wrapper=wrapper), file)
    for path in (file, tmp_path):
        loaded = load(path)
        assert checksum(loaded) == checksum(model)
        assert torch.equal(loaded(TOKENS), model(TOKENS))
        assert loaded.source == f"nanoGPT {file}"
        assert not loaded.cfg.default_prepend_bos
        assert all(parameter.is_contiguous() for parameter in loaded.parameters())


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_nanogpt_as_the_formula_says(tmp_path: Path, wrapper: str, bias: bool, tied: bool) -> None:
    """Both ways to train it, in every wrapping, against the NumPy model with the exact GELU."""
    model = without_biases(single(NANO if tied else NANO_UNTIED), but_the_head=bias)
    checkpoint = nanogpt_checkpoint(model, wrapper=wrapper, bias=bias)
    torch.save(checkpoint, tmp_path / "ckpt.pt")
    loaded = load(tmp_path)
    assert (loaded.cfg.tied, checksum(loaded)) == (tied, checksum(model))
    names = load(tmp_path, dtype="float64").state_dict()
    weights = {name: tensor.numpy() for name, tensor in names.items()}
    expected = reference_gpt2.logits(TOKENS[0].tolist(), weights, NANO.n_heads, gelu=exact_gelu)
    with torch.no_grad():
        np.testing.assert_allclose(loaded(TOKENS)[0].numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
def test_nanogpt_of_which_only_the_head_was_kept(tmp_path: Path, bias: bool) -> None:
    """As `safetensors.torch.save_model` keeps one of two tied tensors."""
    model = single(NANO) if bias else without_biases(single(NANO))
    checkpoint = nanogpt_checkpoint(model, bias=bias)
    del checkpoint["model"]["_orig_mod.transformer.wte.weight"]
    torch.save(checkpoint, tmp_path / "ckpt.pt")
    assert checksum(load(tmp_path)) == checksum(model)


def without_biases(model: HookedGPT2, *, but_the_head: bool = False) -> HookedGPT2:
    """The same with all biases 0, or the head's alone."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.split(".")[-1].startswith("b" if not but_the_head else "b_U"):
                parameter.zero_()
    return model


def exact_gelu(x: np.ndarray) -> np.ndarray:
    """x times the normal distribution function, as nanoGPT's `nn.GELU()`."""
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def test_nanogpt_may_be_overwritten_while_it_is_in_use(tmp_path: Path) -> None:
    file = tmp_path / "ckpt.pt"
    torch.save(nanogpt_checkpoint(single(NANO)), file)
    loaded = load(file)
    file.write_bytes(b"")
    assert checksum(loaded) == checksum(single(NANO))


def test_nanogpt_with_a_vocabulary_beside_it(tmp_path: Path) -> None:
    """The vocabulary is padded to the model's, and no pickle is looked at."""
    torch.save(nanogpt_checkpoint(single(NANO)), tmp_path / "ckpt.pt")
    (tmp_path / "meta.pkl").write_bytes(b"no pickle at all")
    Tokenizer.characters("abc", [END_OF_TEXT]).save(tmp_path)
    loaded = load(tmp_path / "ckpt.pt")
    assert loaded.cfg.default_prepend_bos
    assert loaded.to_tokens("cab").tolist() == [[3, 2, 0, 1]]
    assert loaded.to_single_str_token(30) == "<|unused_30|>"


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_object(tied: bool) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_layer=2,
        n_head=4,
        n_embd=16,
        n_positions=12,
        vocab_size=31,
        tie_word_embeddings=tied,
        bos_token_id=0,
        eos_token_id=0,
    )
    theirs = transformers.GPT2LMHeadModel(config).double().eval()
    loaded = load(theirs)
    assert (loaded.cfg.tied, loaded.cfg.dtype) == (tied, torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(loaded(TOKENS), theirs(TOKENS).logits, atol=1e-12, rtol=0)
        before = checksum(loaded)
        theirs.transformer.wte.weight.fill_(0)
    assert checksum(loaded) == before
    assert load(theirs.half()).cfg.dtype == torch.float32
    config.add_cross_attention = True
    with pytest.raises(CheckpointError, match="add_cross_attention"):
        load(theirs)


@pytest.mark.parametrize("name", ["GPT2Model", "GPTNeoModel", "GPTNeoForSequenceClassification"])
@pytest.mark.filterwarnings("ignore:.*has a head besides the vocabulary's")
def test_other_classes_of_transformers_and_what_torch_puts_around_them(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"num_layers": 2, "num_heads": 2, "max_position_embeddings": 12}
    sizes |= {"attention_types": [[["global", "local"], 1]], "window_size": 3, "pad_token_id": 0}
    sizes = {"n_layer": 2, "n_head": 2, "n_positions": 12} if name == "GPT2Model" else sizes
    kind = "GPT2Config" if name == "GPT2Model" else "GPTNeoConfig"
    ends = {"vocab_size": 31, "hidden_size": 16, "bos_token_id": 0, "eos_token_id": 0}
    theirs = getattr(transformers, name)(getattr(transformers, kind)(**sizes, **ends)).eval()
    body = getattr(theirs, "transformer", theirs)
    with torch.no_grad():
        expected = body(TOKENS).last_hidden_state @ body.wte.weight.T
        for given in (
            theirs,
            torch.compile(theirs, backend="eager"),
            torch.nn.DataParallel(theirs),
        ):
            torch.testing.assert_close(load(given)(TOKENS), expected, atol=1e-5, rtol=0)


def test_transformers_and_folder_have_one_checksum(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_layer=1, n_head=2, n_embd=8, n_positions=4, vocab_size=9, bos_token_id=0, eos_token_id=0
    )
    theirs = transformers.GPT2LMHeadModel(config)
    theirs.save_pretrained(tmp_path)
    assert checksum(load(theirs)) == checksum(load(tmp_path))


@pytest.mark.filterwarnings(IGNORE_DEPRECATION)
class TestTransformerLens:
    """`HookedTransformer` as it comes, and after each of its own ways to process weights."""

    STEPS = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
    PROCESSED = (
        {},
        {"fold_ln": True},
        {"center_writing_weights": True, "center_unembed": True},
        {"fold_value_biases": True},
        {"fold_ln": True, "center_writing_weights": True, "refactor_factored_attn_matrices": True},
    )

    @pytest.mark.parametrize("process", PROCESSED, ids=lambda p: "+".join(p) or "raw")
    @pytest.mark.parametrize("tied", [True, False])
    def test_same_logits(self, process: dict[str, bool], tied: bool) -> None:
        pytest.importorskip("transformer_lens")
        cfg = ModelConfig(2, 4, d_model=16, d_head=6, d_mlp=20, n_ctx=12, d_vocab=31, tied=tied)
        model = randomized(cfg)
        theirs = lens_twin(model)
        if process:
            off = dict.fromkeys(self.STEPS, False)
            theirs.load_and_process_state_dict(theirs.state_dict(), **(off | process))
        loaded = load(theirs)
        with torch.no_grad():
            torch.testing.assert_close(loaded(TOKENS), theirs(TOKENS), atol=1e-9, rtol=1e-9)
        assert loaded.cfg.dtype == torch.float64
        if not process:
            assert loaded.cfg.tied == tied
            assert checksum(loaded) == checksum(model)

    def test_its_own_tokenizer(self, tmp_path: Path) -> None:
        pytest.importorskip("transformer_lens")
        transformers = pytest.importorskip("transformers")
        letters = Tokenizer.characters("abc", [END_OF_TEXT])
        letters.save(tmp_path)
        theirs = lens_twin(randomized(TINY))
        assert load(theirs).tokenizer is None
        theirs.tokenizer = transformers.GPT2TokenizerFast.from_pretrained(tmp_path)
        tokenizer = load(theirs).tokenizer
        assert tokenizer is not None
        assert tokenizer.encode("cab<|endoftext|>") == [2, 0, 1, 3]

    @pytest.mark.parametrize(
        ("setting", "value"),
        [
            ("act_fn", "solu_ln"),
            ("normalization_type", "RMS"),
            ("positional_embedding_type", "rotary"),
            ("parallel_attn_mlp", True),
            ("attn_scale", 1.0),
            ("output_logits_soft_cap", 30.0),
            ("n_key_value_heads", 2),
            ("d_vocab_out", 5),
        ],
    )
    def test_other_mathematics_is_refused(self, setting: str, value: object) -> None:
        pytest.importorskip("transformer_lens")
        theirs = lens_twin(randomized(TINY))
        setattr(theirs.cfg, setting, value)
        with pytest.raises(CheckpointError, match=r"not GPT-2's mathematics|is no GPT-2"):
            load(theirs)
