"""Composition scores are what the dense matrices give, chance is known, and patching decides."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from quick import only
from random_models import TINY, randomized
from random_sweeps import random_prompts
from typer.testing import CliRunner
from word_model import letter_model

from circuits.analyses.composition import composition
from circuits.architectures import HookedGPT2
from circuits.checkpoints import checksum
from circuits.cli import app
from circuits.components import parse, parse_edge
from circuits.config import ModelConfig
from circuits.effects import agreement
from circuits.effects.composition_check import _chosen, _correlation
from circuits.errors import CircuitsError
from circuits.metrics import METRICS
from circuits.prompts.user import Row, from_rows
from circuits.qk_ov import composition_scores
from circuits.weights import center_writing_weights

IOI = Row("the prompt", "aAbBcdeBfg.", "aAbBcdeCfg.", "A", "B")
KNOWN = {  # on the compiled model; every other pair is 0
    "a0.h0->a1.h0<k>": 0.136,
    "a0.h1->a1.h1<k>": 0.707,
    "a1.h1->a2.h0<q>": 0.124,
}


def scores(model: HookedGPT2, column: str = "score", **options: Any) -> dict[str, float]:
    frame = composition(model, **options).frame
    return dict(zip(frame["edge"], frame[column], strict=True))


def test_the_compiled_model_composes_where_it_was_written_to(compiled: HookedGPT2) -> None:
    found = scores(compiled)
    assert len(found) == 3 * (4 * 4 + 8 * 4)
    expected = dict.fromkeys(found, 0.0) | KNOWN
    assert found == pytest.approx(expected, abs=5e-4)
    others = [score for edge, score in found.items() if edge not in KNOWN]
    assert max(others) < 1e-6
    centered = center_writing_weights(compiled, [[1, 2, 3]])[0]
    assert scores(centered) == pytest.approx(found, abs=1e-6)
    z = scores(compiled, "z")
    assert min(z[edge] for edge in KNOWN) > 5
    assert all(not z[edge] > 0 for edge in found if edge not in KNOWN)


def test_scores_are_those_of_the_dense_matrices() -> None:
    model = randomized()
    w = torch.stack([block.ln1.w for block in model.blocks])[:, None, :, None]
    with torch.no_grad():
        W_Q, W_K, W_V = w * model.W_Q, w * model.W_K, w * model.W_V
        W_O = model.W_O - model.W_O.mean(-1, keepdim=True)
        OV, QK = W_V @ W_O, W_Q @ W_K.mT
    for edge, score in scores(model).items():
        sender, receiver = parse_edge(edge).sender, parse_edge(edge).receiver
        a, at = OV[sender.layer, sender.head], (receiver.layer, receiver.head)
        b = {"q": QK[at], "k": QK[at].mT, "v": OV[at]}[str(receiver.slot)]
        assert score == pytest.approx(float((a @ b).norm() / (a.norm() * b.norm())))


@pytest.mark.parametrize("normalization", ["LN", "RMS"])
def test_random_matrices_compose_by_chance(normalization: str) -> None:
    """Mean and deviation over random models are the analytic ones."""
    cfg = ModelConfig(n_layers=2, n_heads=12, d_model=24, d_head=5, n_ctx=4, d_vocab=7)
    model = HookedGPT2.random(cfg).double()
    if normalization == "RMS":  # whose stream is not centered
        object.__setattr__(cfg, "normalization_type", "RMS")
        assert model.cfg.normalization_type == "RMS"
    z, square, baseline, direction_z = [], [], [], []
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for block in model.blocks:
                for weight in (block.attn.W_QKV, block.attn.W_O_flat):
                    weight.normal_(generator=generator)
            for found in composition_scores(model):
                z.append(found.z.flatten())
                direction_z.append(found.direction_z.flatten())
                square.append(found.score.square().flatten())
                baseline.append(found.baseline.square().flatten())
    values, n = torch.cat(z), 6 * 3 * 144
    assert len(values) == n
    assert abs(values.mean()) < 5 / n**0.5
    assert float(values.std()) == pytest.approx(1, abs=0.07)
    assert float(torch.cat(direction_z).std()) == pytest.approx(1, abs=0.05)
    expected = float(torch.cat(baseline).mean())
    assert float(torch.cat(square).mean()) == pytest.approx(expected, rel=0.02)
    assert expected == pytest.approx(1 / 24, rel=0.01)


def test_chance_is_that_of_random_turns() -> None:
    """Against the definition: turn what one head writes, many times, and score again."""
    model = randomized(TINY)
    found = next(iter(composition_scores(model)))
    d, rng = TINY.d_model, np.random.default_rng(0)
    with torch.no_grad():
        w = model.blocks[1].ln1.w[:, None]
        QK = (w * model.W_Q[1, 2]) @ (w * model.W_K[1, 2]).T
        W_O = model.W_O[0, 3] - model.W_O[0, 3].mean(-1, keepdim=True)
        OV = model.blocks[0].ln1.w[:, None] * model.W_V[0, 3] @ W_O
    # Turns of the d - 1 directions in which a centered vector can lie.
    basis = np.linalg.qr(np.column_stack([np.ones(d), rng.standard_normal((d, d - 1))]))[0][:, 1:]
    squares = []
    for _ in range(3000):
        turn = np.linalg.qr(rng.standard_normal((d - 1, d - 1)))[0]
        turned = OV.numpy() @ basis @ turn @ basis.T
        squares.append((np.linalg.norm(turned @ QK.numpy())) ** 2)
    size = float(OV.norm() * QK.norm())
    assert found.baseline[0, 3, 2].item() == pytest.approx(np.mean(squares) ** 0.5 / size, rel=0.02)
    energy = float((OV @ QK).norm()) ** 2
    z = (energy - np.mean(squares)) / np.std(squares)
    assert found.z[0, 3, 2].item() == pytest.approx(z, abs=0.15)


def test_directions_add_up_to_their_pair() -> None:
    model = randomized()
    whole = scores(model, top=999)
    apart = composition(model, subspaces=TINY.d_head, top=999).frame
    assert len(apart) == len(whole) * TINY.d_head
    for edge, rows in apart.groupby("edge"):
        pair = whole[str(edge)]
        assert rows["share"].sum() == pytest.approx(1)
        assert rows["strength"].sum() == pytest.approx(1)
        assert (rows["strength"] * rows["score"] ** 2).sum() == pytest.approx(pair**2)


def test_some_pairs_only(compiled: HookedGPT2) -> None:
    assert list(scores(compiled, to="a1.h0<k>")) == [f"a0.h{i}->a1.h0<k>" for i in range(4)]
    found = composition(compiled, to=["a1.h1", "a2.h0<q>"], from_="a0.h1", slot="q").frame
    assert found["edge"].tolist() == ["a0.h1->a1.h1<q>", "a0.h1->a2.h0<q>"]
    apart = composition(compiled, subspaces=2, top=1)
    assert apart.frame["edge"].tolist() == ["a0.h1->a1.h1<k>"] * 2
    assert apart.frame["share"].tolist() == pytest.approx([1, 0], abs=1e-6)
    assert apart.plot().axes
    every = composition(compiled)
    assert every.axes == ("slot", "sender", "receiver")
    assert every.plot().axes
    for result in (apart, every):
        assert set(result.frame.columns) <= set(result.meanings)


def test_path_patching_decides(compiled: HookedGPT2) -> None:
    found = composition(compiled, check=3, task=from_rows(compiled, [IOI], "ioi"))
    frame: Any = found.frame.set_index("edge")
    assert frame["chosen"].tolist() == ["top"] * 3 + ["random"] * 3
    assert set(frame.index[:3]) == set(KNOWN)
    patched = frame["patched"]
    # The two edges of this task; the third is induction's.
    assert patched["a0.h1->a1.h1<k>"] == pytest.approx(-10 / 3, abs=2e-3)
    assert patched["a1.h1->a2.h0<q>"] == pytest.approx(-10 / 3, abs=2e-3)
    assert patched["a0.h0->a1.h0<k>"] == pytest.approx(10, abs=2e-3)
    assert patched[frame["chosen"] == "random"].tolist() == pytest.approx([10] * 3, abs=2e-3)
    agreement = frame["z"].rank().corr(frame["size"].rank())
    assert frame["agreement"].unique() == pytest.approx([agreement])
    assert 0 < frame["p_value"].iloc[0] <= 1
    assert set(frame["blocks"]) == {"sender"}
    assert found.plot().axes
    assert set(found.frame.columns) <= {*found.meanings, "stderr", "ci_low", "ci_high", "n"}


def test_the_check_has_intervals_and_a_seed(words: HookedGPT2) -> None:
    before = checksum(words)
    asked: dict[str, Any] = {"check": 4, "task": "ioi", "n": 4, "seed": 1}
    found = composition(words, **asked)
    assert (found.frame["ci_low"] <= found.frame["ci_high"]).all()
    assert found.to_json() == composition(words, **asked).to_json()
    assert "--check 4 --task ioi" in found.provenance.command
    assert checksum(words) == before


@pytest.mark.parametrize("check", [None, 3])
def test_heads_given_as_objects_are_recorded_by_their_names(
    words: HookedGPT2, check: int | None
) -> None:
    options: dict[str, Any] = {} if check is None else {"check": check, "task": "ioi", "n": 4}
    readers, writers = [parse("a1.h0<k>"), "a1.h1<k>"], ["a0.h1", parse("a0.h0")]
    found = composition(words, to=readers, from_=writers, **options)
    assert found.provenance.arguments["to"] == ["a1.h0<k>", "a1.h1<k>"]
    assert found.provenance.arguments["from_"] == ["a0.h1", "a0.h0"]
    words_of_it = "--to 'a1.h0<k>' --to 'a1.h1<k>' --from a0.h1 --from a0.h0"
    assert words_of_it in found.provenance.command


def test_the_check_takes_a_metric_object(words: HookedGPT2) -> None:
    options: dict[str, Any] = {"check": 3, "task": "ioi", "n": 4}
    named, given = (
        composition(words, metric=metric, **options) for metric in ("prob", METRICS["prob"])
    )
    assert given.frame.equals(named.frame)


def test_pairs_of_one_reader_are_compared_as_they_are() -> None:
    model = randomized(replace(TINY, n_layers=3))
    prompts = random_prompts(TINY, (7, 7, 7), seed=0)
    asked: dict[str, Any] = {"to": "a2.h1<k>", "check": 2, "task": prompts}
    found = composition(model, **asked).frame
    assert not found["sender"].duplicated().any()
    assert set(found["blocks"]) == {"receiver"}
    assert found["p_value"].iloc[0] > 0
    every_slot = composition(model, **(asked | {"to": "a2.h1", "check": 6})).frame
    assert set(every_slot["blocks"]) == {"sender"}


def test_rank_correlation_is_spearmans() -> None:
    x, y = np.array([1.0, 2, 3, 4]), np.array([[1.0, 3, 2, 4], [4, 3, 2, 1], [2, 2, 2, 2]])
    assert _correlation(x, y)[:2] == pytest.approx([0.8, -1])
    assert np.isnan(_correlation(x, y)[2])


def nulls(n: int, with_sender: bool) -> list[tuple[Any, ...]]:
    """Pairs of 4 senders, 8 each, whose z tells nothing of the effect beyond who sends, if that."""
    rng, found = np.random.default_rng(0), []
    for _ in range(n):
        strong, loud = with_sender * rng.normal(size=(2, 4, 1))
        z, effect = (own + rng.normal(size=(4, 8)) * 0.5 for own in (strong, loud))
        found.append((z.ravel(), np.exp(effect).ravel()))
    return found


@pytest.mark.parametrize("with_sender", only([True], [False, True]))
def test_chance_is_right_where_pairs_share_their_sender(with_sender: bool) -> None:
    senders, all_alike = np.repeat(np.arange(4), 8), np.zeros(32, int)
    rng, false = np.random.default_rng(1), {"within": 0, "whole": 0}
    tables = nulls(1000, with_sender)
    for z, effect in tables:
        false["within"] += agreement(z, effect, senders, rng, 199)[1] <= 0.05
        false["whole"] += agreement(z, effect, all_alike, rng, 199)[1] <= 0.05
    # Two standard errors of a share of 0.05 in 1000 are 0.014.
    assert false["within"] / 1000 == pytest.approx(0.05, abs=0.014)
    if with_sender:  # as if all pairs were independent draws
        assert false["whole"] / 1000 > 0.25


def test_what_z_tells_of_a_senders_readers_is_seen() -> None:
    senders, rng = np.repeat(np.arange(4), 8), np.random.default_rng(0)
    z = rng.normal(size=32)
    found, p_value = agreement(z, np.exp(z + 0.5 * rng.normal(size=32)), senders, rng)
    assert found > 0.7
    assert p_value < 0.001
    assert np.isnan(agreement(z, z, np.arange(32), rng)[1])
    # All 2 * 2 orders of two pairs each: one of four is as good.
    assert agreement(
        np.array([1.0, 2, 3, 4]), np.array([1.0, 2, 3, 4]), np.array([0, 0, 1, 1]), rng
    )[1] == pytest.approx(0.25, abs=0.02)


def test_as_many_of_the_same_senders_are_drawn() -> None:
    names = [(f"a0.h{s}", r) for s in range(4) for r in range(6)]
    z = [10.0 - i if s == "a0.h1" and i < 3 else -i for s, i in names]
    pairs = pd.DataFrame({"sender": [s for s, _ in names], "z": z})
    for seed in range(5):
        drawn = _chosen(pairs, 3, seed)
        assert drawn["sender"].tolist() == ["a0.h1"] * 6
        many = _chosen(
            pairs, 5, seed
        )  # three of a0.h1, two others at the top, if they have as many
        top, random = (many[many["chosen"] == name]["sender"] for name in ("top", "random"))
        assert sorted(random) == sorted(top)
    assert len(_chosen(pairs[pairs["sender"] != "a0.h0"].drop_duplicates("sender"), 2, 0)) == 3


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"to": "a99.h0"}, "there is no layer 99"),
        ({"from_": "a0.h9"}, "there is no head 9"),
        ({"to": "m1"}, "m1 is no head"),
        ({"to": "a1.h0@3"}, "is no head"),
        ({"from_": "a0.h0<q>"}, "is no head"),
        ({"to": "a0.h0"}, "there is no such pair"),
        ({"from_": "a1.h0", "to": "a1.h1"}, "there is no such pair"),
        ({"slot": "z"}, "there is no slot 'z'"),
        ({"subspaces": 0}, "subspaces=0"),
        ({"subspaces": 5}, "a number from 1 to 4"),
        ({"check": 0}, "check=0"),
        ({"top": 0}, "top=0"),
        ({"check": 2, "subspaces": 1}, "leave out subspaces"),
        ({"task": "ioi"}, "task belongs to path patching"),
        ({"check": 3, "task": "iou"}, "did you mean 'ioi'"),
        ({"check": 3, "task": "ioi", "to": "a1.h0<k>"}, "too few to compare"),
    ],
    ids=str,
)
def test_what_cannot_be_asked(words: HookedGPT2, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(CircuitsError, match=message):
        composition(words, **asked)


def test_one_layer_has_no_pairs() -> None:
    with pytest.raises(CircuitsError, match="has one layer"):
        composition(letter_model())


def test_minis_induction_heads_read_its_previous_token_head(mini: HookedGPT2) -> None:
    z = scores(mini, "z", slot="k")
    to_induction = {edge: x for edge, x in z.items() if edge.endswith("->a1.h0<k>")}
    assert max(to_induction, key=lambda edge: to_induction[edge]) == "a0.h6->a1.h0<k>"
    from_previous = {edge: x for edge, x in z.items() if edge.startswith("a0.h6->")}
    assert max(from_previous, key=lambda edge: from_previous[edge]) == "a0.h6->a1.h0<k>"
    assert to_induction["a0.h6->a1.h0<k>"] > 5


def test_on_the_command_line() -> None:
    run = partial(CliRunner().invoke, app, prog_name="circuits")
    out = run(["composition", "--model", "compiled"]).stdout
    assert "read by keys" in out
    assert "0.707" in out
    out = run(["composition", "--model", "compiled", "--subspaces", "1", "--top", "2"]).stdout
    assert "strength" in out
    asked = ["--check", "2", "--task", "repeated", "-n", "2"]
    out = run(["composition", "--model", "compiled", *asked]).stdout
    assert "rank correlation of z and the effect's size" in out
    assert "random pairs" in out
