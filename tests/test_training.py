"""The parts of a training: the loop, what is trained, what follows from what is learned."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fine_tuning_files import answers, labels
from random_models import randomized
from torch import Tensor

from circuits.architectures import HookedGPT2
from circuits.checkpoints import checksum, load
from circuits.errors import CircuitsError, TokenError
from circuits.training import (
    Change,
    Example,
    Examples,
    Settings,
    Training,
    descend,
    falling,
    of_task,
    prepared,
    read_examples,
    scored,
    slices,
)
from circuits.training.adam import Adam

WHATS = ["a1.h2", "a0", "m1", "m0.n3", "last 1", "layers 0,1", "attention", "mlp", "embed", "pos"]


def trained(change: Change, steps: int = 2) -> HookedGPT2:
    """The model after some steps on sequences at random."""
    cfg, draw = change.base.cfg, torch.Generator().manual_seed(5)
    rows = []
    for _ in range(6):
        tokens = torch.randint(cfg.d_vocab, (7,), generator=draw).tolist()
        rows.append(Example(tuple(tokens[:-1]), tuple(tokens[1:])))
    some = Examples("texts", "random", tuple(rows))
    training = Training(change, some, some, Settings(steps, 0.01, 3))
    return training.model(training.run())


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("what", WHATS)
@pytest.mark.parametrize("method", ["full", "lora"])
def test_what_is_not_named_stays_bit_for_bit(what: str, method: str) -> None:
    if method == "lora" and what in ("embed", "pos"):
        pytest.skip("LoRA changes matrices of the layers")
    model = randomized()
    before = checksum(model)
    after = trained(prepared(model, what, method, 2, 0))  # type: ignore[arg-type]
    assert checksum(model) == before, "the model that was given is another one"
    chosen, changed = slices(model, what), dict(after.named_parameters())
    for name, old in model.named_parameters():
        new = changed[name].detach()
        if name not in chosen:
            assert torch.equal(old, new), name
            continue
        piece = chosen[name]
        if piece.index is not None:
            others = torch.ones(old.shape[piece.axis], dtype=torch.bool)
            others[piece.index] = False
            rest = others.nonzero()[:, 0]
            kept = (t.index_select(piece.axis, rest) for t in (old, new))
            assert torch.equal(*kept), name
        is_matrix = name.endswith(("W_QKV", "W_O_flat", "W_in", "W_out"))
        moved = not torch.equal(piece.of(old), piece.of(new))
        assert moved == (method == "full" or is_matrix), name


def test_a_head_is_its_queries_keys_values_and_output() -> None:
    model = randomized()
    after = trained(prepared(model, "a1.h2", "full", 0, 0))
    for kind in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_V"):
        old, new = (getattr(each.blocks[1].attn, kind).detach() for each in (model, after))
        moved = [head for head in range(4) if not torch.equal(old[head], new[head])]
        assert moved == [2], kind


@pytest.mark.parametrize("method", ["lora", "adapter"])
def test_training_starts_from_the_model_as_it_is(method: str) -> None:
    model, tokens = randomized(), torch.arange(10)[None]
    start = prepared(model, "all", method, 3, 0).model()  # type: ignore[arg-type]
    assert torch.allclose(model(tokens), start(tokens), rtol=0, atol=1e-12)
    after = trained(prepared(model, "all", method, 3, 0))  # type: ignore[arg-type]
    assert not torch.allclose(model(tokens), after(tokens), rtol=0, atol=1e-3)


def test_adapters_are_new_neurons_and_the_old_ones_stay() -> None:
    model = randomized()
    after = trained(prepared(model, "m1", "adapter", 3, 0))
    assert after.cfg.d_mlp == model.cfg.d_mlp + 3
    old, new = model.cfg.d_mlp, after.blocks[1].mlp
    assert torch.equal(new.W_in[:, :old], model.blocks[1].mlp.W_in)
    assert torch.equal(new.W_out[:old], model.blocks[1].mlp.W_out)
    assert new.W_out[old:].abs().sum() > 0
    assert not after.blocks[0].mlp.W_out[old:].any(), "layer 0 was not named"


def test_lora_adds_a_product_of_its_rank() -> None:
    model = randomized()
    after = trained(prepared(model, "all", "lora", 2, 0), steps=5)
    for layer in range(2):
        change = after.blocks[layer].attn.W_QKV - model.blocks[layer].attn.W_QKV
        assert int(torch.linalg.matrix_rank(change, rtol=1e-6)) == 2


def test_numbers_learned_are_counted() -> None:
    model, cfg = randomized(), randomized().cfg
    inner = cfg.n_heads * cfg.d_head
    head = prepared(model, "a1.h2", "full", 0, 0).n_learned
    assert head == 4 * cfg.d_model * cfg.d_head + 3 * cfg.d_head
    lora = prepared(model, "a1", "lora", 2, 0).n_learned
    assert lora == 2 * (cfg.d_model + 3 * inner) + 2 * (inner + cfg.d_model)
    adapter = prepared(model, "all", "adapter", 3, 0).n_learned
    assert adapter == cfg.n_layers * 3 * (2 * cfg.d_model + 1)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("layers 99", "there is no layer 99: gpt2 has layers 0 to 1"),
        ("a7.h1", "there is no layer 7"),
        ("last 3 layers", "has 2 layers, not 3"),
        ("atention", "did you mean 'attention'?"),
        ("", "nothing was named"),
        ("resid_pre.1", "no weights of its own"),
        ("a1.h2<q>", "no weights of its own"),
        ("readout", "no readout to train"),
        ("layers 1-0", "write layers as 2,5 or 2-5"),
    ],
)
def test_what_is_not_there_is_an_error(what: str, says: str) -> None:
    model = randomized()
    with pytest.raises(CircuitsError, match=says.replace("?", r"\?")):
        slices(model, what)


@pytest.mark.parametrize(
    ("what", "method", "size", "says"),
    [
        ("embed", "lora", 2, "what=embed: LoRA changes the matrices"),
        ("attention", "adapter", 2, "beside a whole MLP"),
        ("m0.n1", "adapter", 2, "beside a whole MLP"),
        ("all", "lora", 0, "rank=0"),
        ("all", "adapter", 0, "width=0"),
        ("all", "prefix", 1, "choose full, lora, adapter"),
    ],
)
def test_what_a_method_cannot_change(what: str, method: str, size: int, says: str) -> None:
    with pytest.raises(CircuitsError, match=says):
        prepared(randomized(), what, method, size, 0)  # type: ignore[arg-type]


def test_several_words_mean_all_of_them() -> None:
    model = randomized()
    both = slices(model, ["a1.h2", "a1.h0", "m0"])
    assert both["blocks.1.attn.W_O_flat"].index.tolist() == [*range(6), *range(12, 18)]  # type: ignore[union-attr]
    assert both.keys() == {*slices(model, "a1.h0"), *slices(model, "m0")}
    assert slices(model, "a1.h2, a1.h0").keys() == slices(model, "a1.h2").keys()
    assert slices(model, ["a1.h2", "attention"])["blocks.1.attn.W_QKV"].index is None


def test_examples_learn_the_answer_alone() -> None:
    model = load("sort-abc")
    some = read_examples(model, answers(Path("a.jsonl")))
    assert some.kind == "answers"
    row = some.rows[1]  # AAAB, BAAA
    assert row.ids == (0, 0, 0, 1, 1, 0, 0)
    assert row.targets == (-1, -1, -1, 1, 0, 0, 0)


def test_the_end_token_is_learned_where_there_is_one() -> None:
    model = load("mini")
    Path("a.csv").write_text("prompt,answer\nOnce, upon a\nTwice, upon b\n")
    row = read_examples(model, "a.csv").rows[0]
    assert row.targets[-1] == model.tokenizer.eos_ids[0]  # type: ignore[union-attr]
    assert row.ids[0] == model.tokenizer.bos_id  # type: ignore[union-attr]


def test_texts_alone_are_learned_whole() -> None:
    Path("a.txt").write_text("ABC\nBCA\n")
    some = read_examples(load("sort-abc"), "a.txt")
    assert some.kind == "texts"
    assert (some.rows[0].ids, some.rows[0].targets) == ((0, 1), (1, 2))


def test_a_task_gives_what_it_scores() -> None:
    some = of_task(load("sort-abc"), "sorting", 5, 0)
    assert len(some) == 5
    assert bool(scored(load("sort-abc"), some.rows).right.all())


def test_nothing_that_is_trained_on_is_held_out() -> None:
    rows = [Example((i % 7, 1, 2), (-1, -1, i % 3)) for i in range(40)]
    data = Examples("answers", "some", tuple(rows))
    first, second = data.split(0.3, seed=1)
    assert not {row.ids for row in first.rows} & {row.ids for row in second.rows}
    assert len(first) + len(second) == 40
    assert data.split(0.3, seed=1) == (first, second)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no examples"),
        ('{"prompt":"AB","answer":"B"}\n{"prompt":"AC"}\n', "line 2 of x.jsonl has no answer"),
        ('{"text":"AB","label":"x"}\n{"text":"AC","label":"x"}\n', "nothing to tell apart"),
        ('{"text":"AB","label":"x"}\n{"text":"AC"}\n', "line 2 of x.jsonl has no label"),
        ('{"prompt":"AB","answer":["A","B"]}\n', "has a list of answers"),
        ('{"prompt":"AAAAAAAAAAA","answer":"AAA"}\n', "13 tokens, its answer"),
        ('{"text":"A"}\n', "a single token"),
        ('{"label":"x"}\n', "lacks the field 'clean'"),
        ('{"prompt":"AB","answer":"\\ud83d"}\n', "half a character"),
    ],
)
def test_files_that_cannot_be_learned_from(text: str, says: str) -> None:
    Path("x.jsonl").write_text(text)
    with pytest.raises((CircuitsError, TokenError), match=says):
        read_examples(load("sort-abc"), "x.jsonl")


def test_labels_that_nothing_teaches() -> None:
    some = read_examples(load("sort-abc"), labels(Path("x.jsonl")))
    assert some.labels == ("few", "many")
    Path("y.jsonl").write_text('{"text":"AB","label":"mnay"}\n')
    with pytest.raises(CircuitsError, match="are few, many; did you mean 'many'"):
        read_examples(load("sort-abc"), "y.jsonl", some.labels)
    rows = (Example((0,), (-1,), 0), Example((1,), (-1,), 1))
    with pytest.raises(CircuitsError, match="no example that is trained on has the label"):
        Examples("labels", "x", rows, some.labels).split(0.5, 0)


def test_batches_see_every_example_before_any_twice() -> None:
    rows = tuple(Example((i % 3, i // 3 % 3), (1, 2)) for i in range(9))
    data = Examples("texts", "x", rows)
    change = prepared(load("sort-abc"), "m0", "full", 0, 0)
    training = Training(change, data, data, Settings(9, 0.1, 2, seed=3))
    seen = [row for step in range(9) for row in training._batch(step)]
    assert sorted(seen[:9], key=str) == sorted(rows, key=str) == sorted(seen[9:], key=str)
    assert seen[:9] != seen[9:]


def test_rates_fall() -> None:
    cosine, line = falling(2.0, 10, shape="cosine"), falling(2.0, 10, last=0.1)
    assert cosine(0) == line(0) == 2.0
    assert cosine(5) == pytest.approx(1.0)
    assert line(10) == pytest.approx(0.2)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.8, 0.95)])
def test_adam_is_that_of_torch_bit_for_bit(betas: tuple[float, float]) -> None:
    def trained(make: Callable[..., Any]) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        weights = [torch.randn(4, 3, generator=generator).requires_grad_() for _ in range(3)]
        target = torch.randn(4, 3, generator=generator)
        optimizer = make(weights, betas=betas)

        def gradients(step: int) -> float:
            loss = sum((w.sin() - target).square().sum() for w in weights[: 1 + step % 2])
            loss.backward()
            return loss.item()

        losses = [loss for _, loss in descend(optimizer, gradients, range(20), falling(0.1, 20))]
        moments = [optimizer.state[weights[0]][name] for name in ("step", "exp_avg", "exp_avg_sq")]
        assert weights[2] not in optimizer.state  # which never had a gradient
        return [torch.tensor(losses), *weights, *moments]

    theirs = trained(partial(torch.optim.AdamW, weight_decay=0.0))
    for ours, its in zip(trained(Adam), theirs, strict=True):
        assert torch.equal(ours, its)
