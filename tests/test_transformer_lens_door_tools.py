"""The door's modules of functions, and this package's questions, on a model of the door."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from lens_door import TEXTS, TOKENS, assert_close, their_model, twin
from lens_twin import IGNORE_DEPRECATION
from torch import Tensor

import circuits
from circuits.transformer_lens import HookedTransformer, evals, head_detector, patching, utils

transformer_lens = pytest.importorskip("transformer_lens")
pytestmark = [
    pytest.mark.filterwarnings(IGNORE_DEPRECATION),
    pytest.mark.filterwarnings("ignore:The 'utils' module:DeprecationWarning"),
]
assert_near = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5, check_dtype=False)


@pytest.fixture(scope="module")
def theirs() -> Any:
    return their_model()


@pytest.fixture(scope="module")
def ours(theirs: Any) -> HookedTransformer:
    return twin(theirs)


@pytest.fixture(scope="module")
def mini() -> HookedTransformer:
    return HookedTransformer.from_pretrained_no_processing("mini")


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in dir(patching) if n.startswith("get_act_patch")])
def test_patching_is_theirs(name: str, ours: HookedTransformer, theirs: Any) -> None:
    from transformer_lens import patching as originals

    clean, corrupted = TOKENS[:1, :4], TOKENS[1:, :4]

    def metric(logits: Tensor) -> Tensor:
        return logits[0, -1, 3] - logits[0, -1, 5]

    mine, other = (
        getattr(module, name)(model, corrupted, model.run_with_cache(clean)[1], metric)
        for module, model in ((patching, ours), (originals, theirs))
    )
    assert mine.shape == other.shape
    assert_near(mine, other)


def test_patching_takes_a_table(ours: HookedTransformer) -> None:
    clean, corrupted = TOKENS[:1, :4], TOKENS[1:, :4]
    given = (ours, corrupted, ours.run_with_cache(clean)[1], lambda logits: logits[0, -1, 3])
    every, table = patching.get_act_patch_mlp_out(*given, return_index_df=True)
    some = patching.generic_activation_patch(
        *given, patching.layer_pos_patch_setter, "mlp_out", index_df=table[2:5]
    )
    assert_close(some, every.flatten()[2:5])


@pytest.mark.parametrize("pattern", head_detector.HEAD_NAMES)
def test_head_detector_is_theirs(pattern: str, ours: HookedTransformer, theirs: Any) -> None:
    from transformer_lens import head_detector as originals

    for options in ({}, {"exclude_bos": True}, {"error_measure": "abs"}):
        mine = head_detector.detect_head(ours, "went to went to", pattern, **options)
        other = originals.detect_head(theirs, "went to went to", pattern, **options)
        assert_near(mine, other, atol=6e-4, rtol=0)  # theirs rounds to three digits
    made = f"get_{pattern}_detection_pattern"
    tokens = torch.tensor([[1, 5, 6, 5, 6, 5]])
    assert_near(getattr(head_detector, made)(tokens), getattr(originals, made)(tokens))


def test_utils_are_theirs(ours: HookedTransformer, theirs: Any) -> None:
    from transformer_lens import utils as originals

    logits = theirs(TOKENS).detach()
    mask = torch.tensor([[0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
    torch.manual_seed(0)
    weight = torch.randn(3, 4, 4)
    for name, *given in (
        ("lm_cross_entropy_loss", logits, TOKENS, mask),
        ("lm_cross_entropy_loss", logits, TOKENS, None, True),
        ("lm_accuracy", logits, TOKENS),
        ("get_corner", logits),
        ("remove_batch_dim", logits[:1]),
        ("transpose", logits),
        ("get_offset_position_ids", 2, mask),
        ("get_cumsum_along_dim", TOKENS, 1, True),
        ("repeat_along_head_dimension", logits, 3),
        *((name, logits) for name in ("gelu_new", "gelu_fast", "solu")),
        *((name, weight[0]) for name in ("is_square", "is_lower_triangular")),
        ("calc_fan_in_and_fan_out", weight),
        ("get_act_name", "pattern", 3),
        ("get_act_name", "nothing", 3),
        ("filter_dict_by_prefix", {"a.b": 1, "c": 2}, "a"),
    ):
        mine, other = (getattr(m, name)(*given) for m in (utils, originals))
        if isinstance(other, Tensor):
            assert_close(mine, other, msg=lambda text, name=name: f"{name}: {text}")
        else:
            assert mine == other, name
    for options in ({}, {"top_k": 3}, {"top_p": 0.7}, {"repetition_penalty": 1.5}):
        drawn = []
        for module in (utils, originals):
            torch.manual_seed(1)
            drawn.append(module.sample_logits(logits[:, -1], tokens=TOKENS, **options).tolist())
        assert drawn[0] == drawn[1]
    for index in (2, (1, 4), (0, 5, 2), [0, 3], None):
        assert_close(utils.Slice(index).apply(logits, 1), originals.Slice(index).apply(logits, 1))


def test_prompts_are_tested_in_writing(
    mini: HookedTransformer, capsys: pytest.CaptureFixture[str]
) -> None:
    utils.test_prompt("Once upon a", "time", mini)
    said = capsys.readouterr().out
    assert "Tokenized answer: [' time']" in said
    assert "Ranks of the answer tokens: [(' time', 0)]" in said


def test_quick_evaluations_run(mini: HookedTransformer) -> None:
    torch.manual_seed(0)
    loss = evals.induction_loss(mini, batch_size=2, subseq_len=20)
    assert 0 < loss < 12
    assert evals.sanity_check(mini, "Once upon a time there was a dog.") < 5
    data = evals.IOIDataset(mini.tokenizer, num_samples=4, symmetric=True, seed=0)
    result = evals.ioi_eval(mini, data)
    assert {*result} == {"Logit Difference", "Accuracy"}
    rows = [{"tokens": mini.to_tokens("Once upon a time")}]
    assert evals.evaluate_on_dataset(mini, rows) == pytest.approx(
        mini("Once upon a time", return_type="loss").item()
    )


def test_texts_become_rows_of_tokens(mini: HookedTransformer) -> None:
    datasets = pytest.importorskip("datasets")
    from transformer_lens import utils as originals

    texts = datasets.Dataset.from_dict({"text": ["Once upon a time", "there was a dog"] * 4})
    options = {"max_length": 9, "num_proc": None}
    mine = utils.tokenize_and_concatenate(texts, mini.tokenizer, **options)["tokens"]
    other = originals.tokenize_and_concatenate(texts, mini.tokenizer, **options)["tokens"]
    assert torch.stack([*mine]).equal(torch.stack([*other]))


@pytest.mark.slow
def test_the_questions_of_this_package_take_a_model_of_the_door(mini: HookedTransformer) -> None:
    house = circuits.load("mini")
    for ask in (
        lambda m: circuits.ablate(m, all_heads=True, task="repeated", n=4),
        lambda m: circuits.qk(m, "a1.h0"),
        lambda m: circuits.patch(m, what="head", task="repeated", n=2),
        lambda m: circuits.attribute(m, task="repeated", n=2),
    ):
        mine, other = ask(mini).frame, ask(house).frame
        values = (torch.tensor(f["value"].to_numpy(dtype=float)) for f in (mine, other))
        torch.testing.assert_close(*values, atol=1e-4, rtol=1e-3)


def test_a_copy_is_a_model_of_its_own(ours: HookedTransformer) -> None:
    twin_of_ours = copy.deepcopy(ours)
    twin_of_ours.add_hook("hook_embed", lambda value, hook: value * 0)
    twin_of_ours.blocks[0].attn.W_Q.data.zero_()
    assert not torch.allclose(twin_of_ours(TOKENS), ours(TOKENS))
    assert not ours.list_hooks()
    assert ours.to(torch.float32)(TEXTS).dtype == torch.float32
    ours.to(torch.float64)
