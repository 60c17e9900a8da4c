"""A model starts, ends and pads its texts with its checkpoint's own tokens, and keeps them."""

from __future__ import annotations

import codecs
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lens_twin import IGNORE_DEPRECATION
from random_models import TINY, randomized
from typer.testing import CliRunner

from circuits import adapt, load, save
from circuits.analyses.logit_lens import logit_lens
from circuits.analyses.ov import ov
from circuits.architectures import HookedGPT2
from circuits.checkpoints import checksum, describe
from circuits.cli import app
from circuits.config import ModelConfig
from circuits.errors import TokenError
from circuits.tokenizer import END_OF_TEXT, TIKTOKEN_FILES, Roles, Tokenizer

MINI = Path(__file__).parents[1] / "circuits" / "models" / "mini"
GPT2 = Path(__file__).parents[2] / "shared" / "gpt2_bpe"
TEXT = "the cat sat on the mat"
START, STOP, PAD = 8192, 8193, 8194

needs_gpt2 = pytest.mark.skipif(not GPT2.is_dir(), reason="GPT-2's vocabulary is not at hand")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    """Mini as a user of transformers leaves it who has added tokens: model, tokenizer, folder."""
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(MINI)
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    tokenizer.add_special_tokens(named)
    tokenizer.add_tokens(["COVID", "COVID-19"])
    model = transformers.GPT2LMHeadModel.from_pretrained(MINI, dtype=torch.float32)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        model.transformer.wte.weight[START:] = 0
    for config in (model.config, model.generation_config):
        config.bos_token_id, config.eos_token_id, config.pad_token_id = (
            START,
            [STOP, START - 1],
            PAD,
        )
    folder = tmp_path_factory.mktemp("theirs")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer, folder


def loss(model: Any, tokenizer: Any) -> float:
    ids = [tokenizer.bos_token_id, *tokenizer.encode(TEXT, add_special_tokens=False)]
    tokens = torch.tensor([ids])
    with torch.no_grad():
        return float(model(tokens, labels=tokens).loss)


@pytest.mark.slow
def test_the_loss_is_that_of_the_checkpoints_own_start_token(
    theirs: tuple[Any, Any, Path], tmp_path: Path
) -> None:
    model, tokenizer, folder = theirs
    right = pytest.approx(loss(model, tokenizer), abs=1e-3)
    assert right == 12.3035
    first = load(folder)
    for ours in (first, load(save(first, tmp_path / "again"))):
        with torch.no_grad():
            assert float(ours(TEXT, return_type="loss")) == right
            other = [[START - 1, *ours.tokenizer.encode(TEXT)]]  # with <|endoftext|> before it
            assert float(ours(other, return_type="loss")) == pytest.approx(6.03, abs=0.05)
        assert ours.roles == Roles(START, (STOP, START - 1), PAD)
        assert ours.to_tokens("COVID-19")[0].tolist() == [START, 8196]


@pytest.mark.slow
def test_saved_and_loaded_nothing_changes(theirs: tuple[Any, Any, Path], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model, tokenizer, folder = theirs
    once = save(load(folder), tmp_path / "once")
    twice = save(load(once), tmp_path / "twice")
    files = [{path.name: path.read_bytes() for path in f.iterdir()} for f in (once, twice)]
    assert files[0] == files[1]
    for text in (TEXT, "COVID-19 <pad>COVID</s>"):
        again = transformers.AutoTokenizer.from_pretrained(once)
        assert again.encode(text, add_special_tokens=False) == tokenizer.encode(
            text, add_special_tokens=False
        )
    reread = transformers.GPT2LMHeadModel.from_pretrained(once)
    assert loss(reread, again) == pytest.approx(loss(model, tokenizer), abs=1e-4)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "vocab_size"):
        assert getattr(reread.config, name) == getattr(model.config, name), name
    assert reread.generation_config.eos_token_id == [STOP, START - 1]


def test_generation_ends_at_every_end(theirs: tuple[Any, Any, Path]) -> None:
    model = load(theirs[2])
    for end in model.tokenizer.eos_ids:
        written = model.generate(TEXT, max_new_tokens=5, do_sample=False, return_type="tokens")
        favored = torch.zeros(model.cfg.d_vocab)
        favored[end] = 1e6
        hook = ("unembed.hook_out", lambda value, hook, push=favored: value + push)
        ended = model.generate(
            TEXT, max_new_tokens=5, do_sample=False, return_type="tokens", fwd_hooks=[hook]
        )
        assert ended[0].tolist() == [*written[0, :-5].tolist(), end]


def test_info_and_provenance_say_them(theirs: tuple[Any, Any, Path]) -> None:
    done = CliRunner().invoke(app, ["info", str(theirs[2]), "--json"])
    said = json.loads(done.stdout)
    assert (said["bos_token"], said["bos_id"]) == ("<s>", START)
    assert (said["eos_tokens"], said["eos_ids"]) == (["</s>", END_OF_TEXT], [STOP, START - 1])
    assert (said["pad_token"], said["pad_id"]) == ("<pad>", PAD)
    about = logit_lens(load(theirs[2]), TEXT).provenance
    assert (about.bos_id, about.eos_ids) == (START, [STOP, START - 1])


@pytest.mark.filterwarnings(IGNORE_DEPRECATION)
def test_objects_in_memory_agree(theirs: tuple[Any, Any, Path]) -> None:
    lens = pytest.importorskip("transformer_lens")
    sizes = {"n_layers": 1, "n_heads": 2, "d_model": 8, "d_head": 4, "d_mlp": 9, "n_ctx": 16}
    shape = {"act_fn": "gelu_new", "normalization_type": "LN", "device": "cpu", "seed": 0}
    cfg = lens.HookedTransformerConfig(**sizes, **shape, d_vocab=len(theirs[1]) + 1, model_name="x")
    hooked = lens.HookedTransformer(cfg)
    hooked.tokenizer = theirs[1]  # has one end
    native, adapted = load(hooked), adapt(hooked)
    for model in (native, adapted):
        assert model.roles == Roles(START, (STOP,), PAD)
        assert model.to_tokens("COVID-19")[0].tolist() == [START, 8196]
        assert model.to_str_tokens(torch.tensor([8196, 8197])) == ["COVID-19", "<|unused_8197|>"]
        assert model.to_string([8196, 8197, START]) == "COVID-19<|unused_8197|><s>"
    assert load(theirs[0]).roles == Roles(START, (STOP, START - 1), PAD)


def test_roles_without_a_vocabulary_are_kept(tmp_path: Path) -> None:
    roles = {"bos_token_id": 5, "eos_token_id": [6, 7], "pad_token_id": 8}
    folder = save(randomized(TINY), tmp_path / "given")
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | roles))
    model = load(folder)
    assert model.roles == Roles(5, (6, 7), 8)
    again = json.loads((save(model, tmp_path / "saved") / "config.json").read_text())
    assert again == json.loads(config.read_text())
    assert describe(model).to_dict()["eos_ids"] == [6, 7]


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tiktoken has GPT-2's vocabulary in its cache."""
    folder = tmp_path / "tiktoken"
    folder.mkdir()
    for file, key in TIKTOKEN_FILES.items():
        shutil.copy(GPT2 / file, folder / key)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(folder))


def english_sized(folder: Path, n_vocab: int = 50257, **config: object) -> Path:
    """A folder with a model of GPT-2's vocabulary size, and no vocabulary."""
    cfg = ModelConfig(n_layers=1, n_heads=1, d_model=2, n_ctx=8, d_vocab=n_vocab)
    save(HookedGPT2.random(cfg), folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


@needs_gpt2
@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize(
    ("config", "file", "speaks"),
    [
        ({}, None, False),
        ({"_name_or_path": "someone/gpt2-small-portuguese"}, None, False),
        ({"_name_or_path": "./gpt2"}, None, False),
        ({"_name_or_path": "gpt2"}, None, True),
        ({"_name_or_path": "openai-community/gpt2"}, None, True),
        ({"_name_or_path": "gpt2"}, "vocab.txt", False),
        ({"_name_or_path": "gpt2"}, "spiece.model", False),
        ({"_name_or_path": "gpt2", "tokenizer_class": "BertTokenizer"}, None, False),
    ],
)
def test_english_is_spoken_only_where_it_is_said(
    tmp_path: Path, config: dict[str, object], file: str | None, speaks: bool
) -> None:
    folder = english_sized(tmp_path / "x", **config)
    if file is not None:
        (folder / file).write_text("x")
    model = load(folder)
    assert (model.tokenizer is not None) == speaks
    if not speaks:
        with pytest.raises(TokenError, match=r"no tokenizer; give token ids, .* no vocabulary"):
            model(TEXT)


@needs_gpt2
@pytest.mark.usefixtures("cached")
def test_objects_speak_english_only_where_it_is_said() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"n_layer": 1, "n_head": 1, "n_embd": 2, "n_positions": 8}
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
    assert load(theirs).tokenizer is None
    assert load(theirs).roles == Roles(50256, (50256,))
    theirs.config._name_or_path = "gpt2"
    theirs.config.pad_token_id = 50256
    model = load(theirs)
    assert model.to_tokens("Hello world").tolist() == [[50256, 15496, 995]]
    assert model.roles == Roles(50256, (50256,), 50256)


@needs_gpt2
@pytest.mark.usefixtures("cached")
def test_gpt2_with_tokens_of_its_own(tmp_path: Path) -> None:
    folder = english_sized(tmp_path / "x", 50259, _name_or_path="gpt2")
    settings = {"bos_token": "<s>", "pad_token": {"content": "<pad>", "lstrip": True}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    model = load(folder)
    assert model.to_tokens("Hello <pad>").tolist() == [[50257, 15496, 50258]]
    assert model.roles == Roles(50257, (50256,), 50258)


def test_every_id_of_a_larger_model_has_a_name() -> None:
    letters = Tokenizer.characters("abc ", [END_OF_TEXT])
    cfg = ModelConfig(n_layers=1, n_heads=2, d_model=8, n_ctx=9, d_vocab=6)
    model = randomized(cfg, dtype=torch.float32)
    model.tokenizer = letters
    assert model.to_single_str_token(5) == "<|unused_5|>"
    with torch.no_grad():
        model.W_E.zero_()
        model.W_E[5] = 1
        model.ln_final.b.fill_(1)  # the last id is what every logit favors
    assert model.generate("ab", max_new_tokens=2, do_sample=False).endswith("<|unused_5|>" * 2)
    seen = logit_lens(model, "ab", top=6).frame
    assert "<|unused_5|>" in set(seen["token"])
    assert "<|unused_5|>" in str(ov(model, "a0.h0", top=6).frame)


def test_a_larger_vocabulary_than_the_model_is_refused() -> None:
    model = randomized(TINY)
    letters = "".join(map(chr, range(40, 40 + TINY.d_vocab)))
    with pytest.raises(TokenError, match="has 1 tokens more than the model's 31"):
        model.tokenizer = Tokenizer.characters(f"{letters}é")
    with pytest.raises(TokenError, match="start token .* has the id 31"):
        model.tokenizer = Tokenizer.characters(letters, ["<s>"])
    with pytest.raises(TokenError, match=r"takes a circuits\.Tokenizer or None, not a builtins"):
        model.tokenizer = "gpt2"
    model.tokenizer = Tokenizer.characters(letters, ["<pad>"])
    assert model.tokenizer.n_vocab == TINY.d_vocab
    assert model.tokenizer.pad_id is None


def test_files_that_an_editor_has_marked(tmp_path: Path) -> None:
    """A mark of UTF-8 before the text (BOM), which JSON's own reader refuses."""
    for name in ("mini", "sort-abc"):
        folder = tmp_path / name
        shutil.copytree(MINI.parent / name, folder)
        marked = [path for path in folder.iterdir() if path.suffix in (".json", ".txt")]
        assert {"config.json"} < {path.name for path in marked}
        for path in marked:
            path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
        model, expected = load(folder), load(name)
        assert model.require_tokenizer().checksum == expected.require_tokenizer().checksum
        assert (model.roles, checksum(model)) == (expected.roles, checksum(expected))


def test_nesting_beyond_all_measure(tmp_path: Path) -> None:
    for file in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (tmp_path / file).write_text("[" * 100_000)
    with pytest.raises(TokenError, match="tokenizer_config.json is not valid JSON"):
        Tokenizer.from_folder(tmp_path)
