"""Metrics against formulas written out, from full logits and from the parts they say they read."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from circuits.errors import CircuitsError
from circuits.metrics import METRICS, get_metric
from circuits.prompts import UNSCORED, Prompts

V = 7


@pytest.fixture
def prompts() -> Prompts:
    """Two prompts of 4 and 2 tokens, both with an answer; the first has a second scored token."""
    targets = torch.full((2, 4), UNSCORED)
    targets[0, 1], targets[0, 3], targets[1, 1] = 5, 2, 6
    return Prompts(
        task="by hand",
        texts=("a b c d", "a b"),
        tokens=torch.tensor([[1, 2, 3, 4], [1, 2, 0, 0]]),
        mask=torch.tensor([[True] * 4, [True, True, False, False]]),
        targets=targets,
        roles={"END": torch.tensor([3, 1])},
        metric="logit_diff",
        prepend_bos=False,
        answers=torch.tensor([2, 6]),
        distractors=torch.tensor([0, 1]),
    )


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(2, 4, V, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def clean() -> torch.Tensor:
    return torch.randn(2, 4, V, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_logit_diff_and_accuracy(prompts: Prompts, logits: torch.Tensor) -> None:
    expected = torch.stack([logits[0, 3, 2] - logits[0, 3, 0], logits[1, 1, 6] - logits[1, 1, 1]])
    assert torch.equal(get_metric("logit_diff")(logits, prompts), expected)
    assert torch.equal(get_metric("accuracy")(logits, prompts), (expected > 0).double())


def test_a_draw_is_no_success(prompts: Prompts) -> None:
    assert not get_metric("accuracy")(torch.zeros(2, 4, V), prompts).any()


def test_loss_and_prob_average_over_scored_tokens(prompts: Prompts, logits: torch.Tensor) -> None:
    losses = [F.cross_entropy(logits[i, j], torch.tensor(t)) for i, j, t in [(0, 1, 5), (0, 3, 2)]]
    alone = F.cross_entropy(logits[1, 1], torch.tensor(6))
    torch.testing.assert_close(
        get_metric("loss")(logits, prompts), torch.stack([(losses[0] + losses[1]) / 2, alone])
    )
    shares = [(-loss).exp() for loss in losses]
    torch.testing.assert_close(
        get_metric("prob")(logits, prompts),
        torch.stack([(shares[0] + shares[1]) / 2, (-alone).exp()]),
    )


def test_kl_reads_scored_positions_and_the_end(
    prompts: Prompts, logits: torch.Tensor, clean: torch.Tensor
) -> None:
    def kl(i: int, j: int) -> torch.Tensor:
        p, q = clean[i, j].softmax(-1), logits[i, j].softmax(-1)
        return (p * (p / q).log()).sum()

    value = get_metric("kl")(logits, prompts, clean)
    torch.testing.assert_close(value, torch.stack([(kl(0, 1) + kl(0, 3)) / 2, kl(1, 1)]))
    same = get_metric("kl")(clean, prompts, clean)
    assert torch.equal(same, torch.zeros_like(same))
    unscored = dataclasses.replace(prompts, targets=torch.full((2, 4), UNSCORED))
    torch.testing.assert_close(
        get_metric("kl")(logits, unscored, clean), torch.stack([kl(0, 3), kl(1, 1)])
    )


@pytest.mark.parametrize("name", METRICS)
def test_nothing_else_is_read(
    prompts: Prompts, logits: torch.Tensor, clean: torch.Tensor, name: str
) -> None:
    """Everything that the metric does not claim to read is replaced by NaN."""
    metric = METRICS[name]
    at = metric.positions(prompts)
    assert at.shape == (2, 4)
    assert not (at & ~prompts.mask).any()
    only = torch.full_like(logits, torch.nan)
    only[at] = logits[at]
    if metric.tokens is not None:
        tokens = metric.tokens(prompts)
        only[at] = torch.full_like(only[at], torch.nan).scatter(
            1, tokens, logits[at].gather(1, tokens)
        )
    assert torch.equal(metric(only, prompts, clean), metric(logits, prompts, clean))
    assert torch.equal(
        metric.score(metric.read(only, prompts), prompts, metric.read(clean, prompts)),
        metric(logits, prompts, clean),
    )


@pytest.mark.parametrize("name", METRICS)
def test_half_precision_is_measured_in_full(
    prompts: Prompts, logits: torch.Tensor, name: str
) -> None:
    half = logits.bfloat16()
    value = METRICS[name](half, prompts, half)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, METRICS[name](half.float(), prompts, half.float()))


@pytest.mark.parametrize("name", ["kl", "logit_diff", "loss", "prob", "prob_diff"])
def test_gradients_flow(
    prompts: Prompts, logits: torch.Tensor, clean: torch.Tensor, name: str
) -> None:
    logits.requires_grad_()
    METRICS[name](logits, prompts, clean).sum().backward()
    assert logits.grad is not None
    read = logits.grad.any(-1)
    assert torch.equal(read, METRICS[name].positions(prompts))


def test_better_is_better(prompts: Prompts) -> None:
    perfect = F.one_hot(prompts.targets.clamp(min=0), V) * 9.0
    poor = torch.zeros(2, 4, V)
    for metric in METRICS.values():
        better, worse = metric(perfect, prompts, perfect), metric(poor, prompts, perfect)
        assert bool(((better - worse) * (1 if metric.higher_is_better else -1) > 0).all())


def test_what_the_prompts_lack(prompts: Prompts, logits: torch.Tensor) -> None:
    bare = dataclasses.replace(prompts, answers=None, distractors=None)
    with pytest.raises(CircuitsError, match=r"which 'by hand' does not have; .* fit: ") as said:
        get_metric("logit_diff")(logits, bare)
    fitting = str(said.value).partition("fit: ")[2].split(", ")
    lacking = [m.name for m in METRICS.values() if {"distractors", "sets"} & {*m.needs}]
    assert fitting == [name for name in METRICS if name not in lacking]
    assert {"kl", "loss", "prob"} <= {*fitting}
    unscored = dataclasses.replace(prompts, targets=torch.full((2, 4), UNSCORED))
    with pytest.raises(CircuitsError, match=r"loss needs scored tokens"):
        get_metric("loss")(logits, unscored)
    half = prompts.targets.clone()
    half[1] = UNSCORED
    with pytest.raises(CircuitsError, match=r"in every prompt"):
        get_metric("loss")(logits, dataclasses.replace(prompts, targets=half))
    with pytest.raises(CircuitsError, match=r"kl compares with the clean run"):
        get_metric("kl")(logits, prompts)


def test_answer_and_distractor_must_differ(prompts: Prompts, logits: torch.Tensor) -> None:
    same = dataclasses.replace(prompts, distractors=torch.tensor([0, 6]))
    for name in ("logit_diff", "accuracy"):
        with pytest.raises(CircuitsError, match=r"the same token \(6\) in prompt 1 \('a b'\)"):
            get_metric(name)(logits, same)
    assert get_metric("prob")(logits, same).shape == (2,)


def test_sets_of_tokens(prompts: Prompts, logits: torch.Tensor) -> None:
    probs = logits[[0, 1], [3, 1]].softmax(-1)
    pair = get_metric("prob_diff")(logits, prompts)
    torch.testing.assert_close(
        pair, torch.stack([probs[0, 2] - probs[0, 0], probs[1, 6] - probs[1, 1]])
    )
    right = torch.tensor([[1, 2], [6, UNSCORED]])
    wrong = torch.tensor([[0, UNSCORED, UNSCORED], [1, 2, 5]])
    several = dataclasses.replace(prompts, answer_sets=right, distractor_sets=wrong)
    expected = [probs[0, [1, 2]].sum() - probs[0, 0], probs[1, 6] - probs[1, [1, 2, 5]].sum()]
    torch.testing.assert_close(get_metric("prob_diff")(logits, several), torch.stack(expected))
    wrong[1, 2] = 6
    for name in ("prob_diff", "logit_diff", "accuracy"):
        alone = dataclasses.replace(several, answers=None, distractors=None)
        with pytest.raises(CircuitsError, match=r"the same token \(6\) in prompt 1"):
            get_metric(name)(logits, alone)
    with pytest.raises(CircuitsError, match=r"sets of tokens have shape \(2,\); 2 prompts"):
        dataclasses.replace(prompts, answer_sets=torch.tensor([1, 2]))


def of_sets(prompts: Prompts, right: list[list[int]], wrong: list[list[int]]) -> Prompts:
    """The same prompts, of which any of several answers is right, and none is scored by itself."""
    return dataclasses.replace(
        prompts,
        targets=torch.full((2, 4), UNSCORED),
        answers=None,
        distractors=None,
        answer_sets=torch.tensor(right),
        distractor_sets=torch.tensor(wrong),
    )


def test_any_of_several_answers_counts(prompts: Prompts, logits: torch.Tensor) -> None:
    right, wrong = [[1, 2], [6, UNSCORED]], [[0, UNSCORED, UNSCORED], [1, 2, 5]]
    several = of_sets(prompts, right, wrong)
    for row, place in enumerate([3, 1]):
        good, bad = ([t for t in side[row] if t >= 0] for side in (right, wrong))
        at, probs = logits[row, place], logits[row, place].softmax(-1)
        expected = {
            "logit_diff": (probs[good].sum() / probs[bad].sum()).log(),
            "accuracy": torch.tensor(float(at[[*good, *bad]].argmax() < len(good))).double(),
            "loss": -probs[good].sum().log(),
            "prob": probs[good].sum(),
        }
        for name, value in expected.items():
            torch.testing.assert_close(get_metric(name)(logits, several)[row], value)


def test_sets_of_single_tokens_are_single_tokens(prompts: Prompts, logits: torch.Tensor) -> None:
    single = of_sets(prompts, [[2], [6]], [[0], [1]])
    scored = dataclasses.replace(prompts, targets=prompts.targets.clone())
    scored.targets[0, 1] = UNSCORED  # the answer alone
    for name in ("logit_diff", "accuracy", "loss", "prob_diff"):
        metric = get_metric(name)
        assert torch.equal(metric(logits.float(), single), metric(logits.float(), scored)), name
    prob = get_metric("prob")
    torch.testing.assert_close(prob(logits, single), prob(logits, scored))


def test_gradients_flow_through_sets(prompts: Prompts, logits: torch.Tensor) -> None:
    several = of_sets(prompts, [[1, 2], [6, UNSCORED]], [[4, UNSCORED], [1, 5]])
    for name, tokens in {"logit_diff": [{1, 2, 4}, {6, 1, 5}], "loss": [{*range(V)}] * 2}.items():
        at = logits.clone().requires_grad_()
        get_metric(name)(at, several).sum().backward()
        assert at.grad is not None
        assert at.grad.isfinite().all()
        moved = [
            set(at.grad[row, place].nonzero().flatten().tolist()) for row, place in ((0, 3), (1, 1))
        ]
        assert moved == tokens


def test_logits_of_other_prompts(prompts: Prompts, logits: torch.Tensor) -> None:
    with pytest.raises(CircuitsError, match=r"the logits are for \(2, 3\)"):
        get_metric("loss")(logits[:, :3], prompts)


def test_names() -> None:
    assert [metric.name for metric in METRICS.values()] == list(METRICS)
    with pytest.raises(CircuitsError, match=r"no metric 'logit_dif'; .* mean 'logit_diff'"):
        get_metric("logit_dif")
