"""LoRA and adapters as small files: written, read, merged; and read by peft, and its own by us."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from fine_tuning_files import answers, labels
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from circuits.analyses.fine_tune import fine_tune
from circuits.analyses.logit_lens import logit_lens
from circuits.architectures import HookedGPT2
from circuits.checkpoints import checksum, load, save
from circuits.checkpoints.adapters import CONFIG, WEIGHTS
from circuits.cli import app
from circuits.errors import CheckpointError

TOKENS = torch.tensor([[0, 1, 2, 2, 1, 0, 0], [2, 2, 0, 1, 1, 0, 2]])
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*it is kept as model.readouts"),
    # Of peft and transformers.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def trained(method: str, what: Any = "all", *, classes: bool = False, **options: Any) -> Path:
    """The folder of what sort-abc learned."""
    file = labels(Path("x.jsonl")) if classes else answers(Path("x.jsonl"))
    given = {"file": file, "steps": 6, "what": what, "method": method, "rank": 3, "width": 5}
    fine_tune(load("sort-abc"), "tuned", **{**given, **options})
    return Path("tuned/adapter")


@pytest.mark.parametrize("method", ["lora", "adapter"])
@pytest.mark.parametrize("what", ["all", "last 2 layers"])
def test_the_small_files_make_the_same_model(method: str, what: str) -> None:
    folder = trained(method, what)
    whole, both = load("tuned"), load("sort-abc", adapter=folder)
    assert checksum(whole) == checksum(both) != checksum(load("sort-abc"))
    small = (folder / WEIGHTS).stat().st_size
    assert small < Path("tuned/model.safetensors").stat().st_size
    assert both.source == f"bundled sort-abc with {folder}"


@pytest.mark.parametrize("method", ["lora", "adapter"])
def test_a_readout_comes_with_them(method: str) -> None:
    folder = trained(method, classes=True)
    both = load("sort-abc", adapter=folder)
    assert both.readouts["score"].labels == ("few", "many")
    assert checksum(both) == checksum(load("tuned"))


@pytest.mark.parametrize("what", ["all", "attention", ["a0.h1", "m2.n7", "a2"]])
def test_peft_reads_lora_and_its_sum_is_ours(what: Any) -> None:
    """Unmerged, as peft computes it, and merged, as we do: the same to 1e-6 of the logits."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    folder = trained("lora", what, steps=30)
    save(load("sort-abc"), "base")
    base = transformers.GPT2LMHeadModel.from_pretrained("base")
    theirs = peft.PeftModel.from_pretrained(base, str(folder)).eval().double()
    ours = load("sort-abc", dtype="float64", adapter=folder)
    with torch.no_grad():
        logits = theirs(TOKENS).logits
    assert torch.allclose(logits, ours(TOKENS), rtol=0, atol=1e-6)
    assert not torch.allclose(logits, load("sort-abc", dtype="float64")(TOKENS), atol=1e-3)


def test_peft_reads_a_classifier() -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    folder = trained("lora", classes=True)
    save(load("sort-abc"), "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a new head, which peft fills
        base = transformers.GPT2ForSequenceClassification.from_pretrained("base", num_labels=2)
        theirs = peft.PeftModel.from_pretrained(base, str(folder)).eval()
    ours = load("sort-abc", adapter=folder)
    resid = ours(TOKENS, stop_at_layer=3)
    expected = ours.readouts["score"](ours.ln_final(resid))[:, -1]
    theirs.config.pad_token_id = None
    with torch.no_grad():
        logits = torch.cat([theirs(row[None]).logits for row in TOKENS])
    assert torch.allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize("rslora", [False, True])
def test_we_read_what_peft_wrote(rslora: bool) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    save(load("sort-abc"), "base")
    base = transformers.GPT2LMHeadModel.from_pretrained("base")
    config = peft.LoraConfig(
        r=4, lora_alpha=10, target_modules=["c_attn", "c_fc"], use_rslora=rslora,
        fan_in_fan_out=True, init_lora_weights=False,
    )  # fmt: skip
    theirs = peft.get_peft_model(base, config).eval().double()
    theirs.save_pretrained("theirs")
    ours = load("base", adapter="theirs", dtype="float64")
    with torch.no_grad():
        assert torch.allclose(theirs(TOKENS).logits, ours(TOKENS), rtol=0, atol=1e-6)


def test_on_the_command_line_and_in_the_provenance() -> None:
    folder = trained("lora")
    words = ["logit-lens", "ABCABC", "--top", "2", "--model", "sort-abc"]
    words += ["--adapter", str(folder), "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    command = json.loads(done.stdout)["provenance"]["command"]
    assert command == f"circuits logit-lens ABCABC --top 2 --model sort-abc --adapter {folder}"
    found = logit_lens(load("sort-abc", adapter=folder), "ABCABC", top=2)
    assert found.provenance.command == command


def _config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / CONFIG).read_text()) | changes
    (folder / CONFIG).write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"use_dora": True}, "use_dora=True"),
        ({"peft_type": "IA3"}, "of the type 'IA3'; LORA and PARALLEL_ADAPTER"),
        ({"r": 0}, "r=0"),
        ({"rank_pattern": {"c_fc": 3}}, "rank_pattern"),
    ],
)
def test_what_is_not_understood_is_an_error(changes: dict[str, Any], says: str) -> None:
    folder = trained("lora")
    _config(folder, **changes)
    with pytest.raises(CheckpointError, match=says):
        load("sort-abc", adapter=folder)


def test_files_that_are_not_whole() -> None:
    with pytest.raises(CheckpointError, match="lacks adapter_config.json"):
        load("sort-abc", adapter="nowhere")
    folder = trained("lora")
    tensors = load_file(folder / WEIGHTS)
    first = next(iter(tensors))
    save_file({n: t for n, t in tensors.items() if n != first}, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match="only one of LoRA's two"):
        load("sort-abc", adapter=folder)
    save_file(tensors | {first: tensors[first] * torch.inf}, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match="finite"):
        load("sort-abc", adapter=folder)


@pytest.mark.parametrize("method", ["lora", "adapter"])
def test_another_model_is_refused_or_remarked(method: str) -> None:
    folder = trained(method)
    with pytest.raises(CheckpointError, match="load it with the model that it was trained on"):
        load("mini", adapter=folder)
    save(HookedGPT2.random(load("sort-abc").cfg, tokenizer=load("sort-abc").tokenizer), "other")
    with pytest.warns(UserWarning, match="trained on sort-abc with other weights"):
        load("other", adapter=folder)
