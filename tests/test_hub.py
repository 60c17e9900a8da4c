"""The Hugging Face hub: what is downloaded, what is taken from the cache, and what is said."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from checkpoint_files import SHAPE, config_of, released, single, write_folder
from decoder_models import decoder
from fake_hub import FakeHub, commit_of, serving
from typer.testing import CliRunner

import circuits
from circuits.checkpoints import available, bundled_models, checksum, hub, load, pull
from circuits.cli import app
from circuits.errors import CheckpointError, CircuitsError
from circuits.tokenizer import END_OF_TEXT, Tokenizer
from circuits.transformer_lens import HookedTransformer
from circuits.tuned_lens import TunedLens

NAME = "someone/tiny"


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with two revisions of a model, and an empty cache."""
    from huggingface_hub import constants

    first = write_folder(tmp_path / "main", config_of(SHAPE), released(single(seed=1)))
    Tokenizer.characters("abc", [END_OF_TEXT]).save(first)
    (first / "pytorch_model.bin").write_bytes(b"a pickle")
    (first / "README.md").write_text("a card")
    second = write_folder(tmp_path / "v2", config_of(SHAPE), released(single(seed=2)), n_shards=2)
    folders = {(NAME, "main"): first, (NAME, "v2"): second}
    folders[hub._repo("gpt2"), "main"] = first
    with serving(FakeHub(folders)) as fake:
        template = fake.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", fake.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield fake


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No network, and a cache that is empty so far."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_cache(cache: Path, repo: str, folder: Path, branch: str = "main") -> Path:
    """What an earlier download has left."""
    home, commit = cache / f"models--{repo.replace('/', '--')}", commit_of(repo, branch)
    for part in ("refs", "blobs", "snapshots"):
        (home / part).mkdir(parents=True, exist_ok=True)
    (home / "refs" / branch).write_text(commit)
    snapshot = home / "snapshots" / commit
    snapshot.mkdir()
    for path in folder.iterdir():
        blob = home / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        blob.write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(blob)
    return snapshot


def test_download_once(remote: FakeHub, tmp_path: Path) -> None:
    model = load(NAME)
    assert checksum(model) == checksum(single(seed=1))
    assert model.to_tokens("cab").tolist() == [[3, 2, 0, 1]]
    assert model.cfg.model_name == NAME
    assert sorted(remote.served) == ["config.json", "merges.txt", "model.safetensors", "vocab.json"]
    sha256 = hashlib.sha256((tmp_path / "main" / "model.safetensors").read_bytes()).hexdigest()
    assert model.source == f"hub {NAME}@{commit_of(NAME, 'main')} sha256:{sha256}"
    remote.folders.clear()
    assert checksum(load(NAME)) == checksum(model)


def test_revision(remote: FakeHub) -> None:
    assert pull(NAME, "v2").name == commit_of(NAME, "v2")
    assert "model.safetensors.index.json" in remote.served
    for revision in ("v2", commit_of(NAME, "v2")):
        model = load(NAME, revision=revision)
        assert checksum(model) == checksum(single(seed=2))
        assert model.source == f"hub {NAME}@{commit_of(NAME, 'v2')}"
        assert model.revision == revision
    with pytest.raises(CheckpointError, match="has no revision 'v3'"):
        load(NAME, revision="v3")


def test_an_answer_says_which_revision_it_is_about(remote: FakeHub) -> None:
    about = circuits.composition(load(NAME, revision="v2")).provenance
    assert about.command.endswith(f"--model {NAME} --revision v2")
    assert "--revision" not in circuits.composition(load(NAME)).provenance.command


def test_released_sizes_need_no_owner(remote: FakeHub) -> None:
    folder = pull("gpt2")
    assert folder.parents[1].name == "models--openai-community--gpt2"
    assert load("gpt2").cfg.model_name == "gpt2"
    assert pull("124M") == folder
    assert load("124M").cfg.model_name == "gpt2"


def test_available(remote: FakeHub) -> None:
    pull(NAME)
    pull(NAME, "v2")
    found = {m.revision: m for m in available() if m.kind == "hub cache"}
    assert found.keys() == {commit_of(NAME, branch) for branch in ("main", "v2")}
    assert {m.name for m in found.values()} == {NAME}
    assert all(m.n_bytes > 10_000 for m in found.values())
    assert all(m.name in bundled_models() for m in available() if m.kind != "hub cache")


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"model_type": "opt"}, "of type 'opt'"), ({"activation_function": "elu"}, "'elu'")],
)
def test_other_architectures_are_not_downloaded(
    remote: FakeHub, tmp_path: Path, changes: dict[str, str], said: str
) -> None:
    (tmp_path / "main" / "config.json").write_text(json.dumps(config_of(SHAPE, **changes)))
    with pytest.raises(CheckpointError, match=said):
        load(NAME)
    assert remote.served == ["config.json"]


def test_pickled_weights_where_there_are_no_safetensors(remote: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "main" / "model.safetensors").unlink()
    torch.save(released(single(seed=1)), tmp_path / "main" / "pytorch_model.bin")
    model = load(NAME)
    assert checksum(model) == checksum(single(seed=1))
    assert "pytorch_model.bin" in remote.served
    sha256 = hashlib.sha256((tmp_path / "main" / "pytorch_model.bin").read_bytes()).hexdigest()
    assert model.source.endswith(f"sha256:{sha256}")
    assert [m.name for m in available() if m.kind == "hub cache"] == [NAME]
    remote.folders.clear()
    assert checksum(load(NAME)) == checksum(model)


def test_other_formats_are_not_downloaded(remote: FakeHub, tmp_path: Path) -> None:
    for path in (tmp_path / "main").glob("*model*"):
        path.unlink()
    (tmp_path / "main" / "tf_model.h5").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        load(NAME)
    assert remote.served == []


def test_missing_shard(remote: FakeHub, tmp_path: Path) -> None:
    next((tmp_path / "v2").glob("model-00002*")).unlink()
    with pytest.raises(CheckpointError, match="lacks files of its weights"):
        load(NAME, revision="v2")


def test_no_model_at_all(remote: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "main" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"is no model: it has no config\.json"):
        load(NAME)
    with pytest.raises(
        CheckpointError, match=r"neither this folder nor the hub has .*'some/thing'"
    ):
        load("some/thing")
    with pytest.raises(CheckpointError, match="'gtp2' is no model of the hub; name gpt2, "):
        pull("gtp2")
    remote.gated.add(NAME)
    with pytest.raises(CheckpointError, match="is gated"):
        load(NAME)


def test_offline_says_how_to_get_it(offline: Path) -> None:
    for name in ("gpt2", NAME):
        with pytest.raises(CheckpointError) as caught:
            load(name)
        said = str(caught.value)
        assert all(part in said for part in (f"`circuits pull {name}`", str(offline), "bundled"))
        assert "\n" not in said
    assert [m for m in available() if m.kind == "hub cache"] == []


def test_what_is_advised_is_what_was_asked_for(
    remote: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that is copied from a message means the same revision."""
    words = f"`circuits pull {NAME} --revision v2`"
    next((tmp_path / "v2").glob("model-00002*")).unlink()
    said = [said_of(lambda: pull(NAME, "v2")), said_of(lambda: load(NAME, revision="v2"))]
    monkeypatch.setattr(hub, "_files", lambda *_: 1 / 0)  # as no network does
    said += [said_of(lambda: pull(NAME, "v2")), said_of(lambda: load(NAME, revision="v2"))]
    said.append(said_of(lambda: HookedTransformer.from_pretrained(NAME, revision="v2")))
    assert all(words in message for message in said), said
    with_value = {"checkpoint_value": 100}
    message = said_of(lambda: HookedTransformer.from_pretrained(NAME, **with_value))
    assert f"`circuits pull {NAME} --revision checkpoint-100`" in message
    assert f"`circuits pull {NAME}`" in said_of(lambda: pull(NAME))
    for args in (["info", NAME], ["pull", NAME], ["logit-lens", "A", "--model", NAME]):
        done = CliRunner().invoke(app, [*args, "--revision", "v2"], prog_name="circuits")
        assert words in done.stderr, args


def test_a_lens_is_read_with_the_model_it_is_of(remote: FakeHub, tmp_path: Path) -> None:
    lens, width = tmp_path / "lens.safetensors", ["--context", "6", "-n", "10", "--steps", "1"]
    asked = ["tune-lens", str(lens), "--model", NAME, "--revision", "v2", *width]
    done = CliRunner().invoke(app, asked, prog_name="circuits")
    assert f"--lens {lens} --model {NAME} --revision v2" in " ".join(done.stdout.split())
    other = load(NAME, revision="main")
    said = said_of(lambda: TunedLens.load(lens, other))
    assert f"circuits tune-lens NEW --model {NAME} --revision main" in said


def said_of(ask: Callable[[], object]) -> str:
    """The message of the error that this raises."""
    with pytest.raises(CircuitsError) as caught:
        ask()
    return str(caught.value)


@pytest.mark.parametrize("repo", ["gpt2", "openai-community/gpt2"])
def test_the_cache_is_enough(offline: Path, tmp_path: Path, repo: str) -> None:
    folder = write_folder(tmp_path / "a", config_of(SHAPE), released(single()))
    snapshot = write_cache(offline, repo, folder)
    assert checksum(load("gpt2")) == checksum(single())
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="is not in the hub's cache"):
        load("gpt2")


def test_other_models_in_the_cache_are_not_listed(offline: Path, tmp_path: Path) -> None:
    tensors = released(single())
    write_cache(offline, NAME, write_folder(tmp_path / "a", config_of(SHAPE), tensors))
    llama = write_folder(tmp_path / "b", config_of(SHAPE, model_type="opt"), tensors)
    write_cache(offline, "some/llama", llama)
    assert [m.name for m in available() if m.kind == "hub cache"] == [NAME]


def test_a_pythia_has_many_revisions(offline: Path, tmp_path: Path) -> None:
    shape = {
        "model_type": "gpt_neox",
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "hidden_size": 16,
        "intermediate_size": 20,
        "max_position_embeddings": 48,
        "vocab_size": 31,
        "rotary_pct": 0.5,
    }
    models = [decoder("pythia", d_head=4, seed=seed, dtype=torch.float32) for seed in (1, 2)]
    for step, model in enumerate(models):
        names = model.released_names()
        tensors = {names[name]: weight.detach() for name, weight in model.named_parameters()}
        tensors["gpt_neox.layers.0.attention.bias"] = torch.ones(1, 1, 48, 48)
        folder = write_folder(tmp_path / str(step), shape, tensors)
        write_cache(offline, "EleutherAI/pythia", folder, f"step{step}")
    for step, model in enumerate(models):
        loaded = load("EleutherAI/pythia", revision=f"step{step}")
        assert checksum(loaded) == checksum(model)
        assert loaded.revision == f"step{step}"
