"""What a head would write is W_E W_V W_O W_U of the folded model, however it is looked at."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
import torch
from random_models import random_tokens, randomized
from torch import Tensor
from typer.testing import CliRunner
from word_model import letter_model

from circuits.analyses.ov import ov
from circuits.architectures import HookedGPT2
from circuits.checkpoints import checksum
from circuits.cli import app
from circuits.components import Component
from circuits.errors import CircuitsError, TokenError
from circuits.factored import FactoredMatrix
from circuits.head_kinds import eigenvalue_copying
from circuits.qk_ov import eigenvalues, ov_circuit, trace_share, typical_scales
from circuits.qk_ov import token_circuits as _weights
from circuits.weights import process

close = partial(torch.testing.assert_close, atol=1e-9, rtol=1e-9)
HEAD = Component("head", 1, 1)


def folded(model: HookedGPT2) -> HookedGPT2:
    return process(model, random_tokens(model.cfg, 1, 5))[0]


def dense(model: HookedGPT2, head: Component, embed: Tensor | None = None) -> Tensor:
    """The same by the textbook, from weights in which LayerNorm is folded."""
    plain, scales = folded(model), typical_scales(model)
    at = head.layer, head.head
    OV = plain.W_V[at] @ plain.W_O[at]
    embed = plain.W_E if embed is None else embed - embed.mean(-1, keepdim=True)
    matrix: Tensor = embed @ OV @ plain.W_U / (scales[head.layer or 0] * scales[-1])
    return matrix


def test_the_matrix_is_that_of_the_folded_model() -> None:
    model = randomized()
    for head in (Component("head", 0, 3), HEAD):
        with torch.no_grad():
            matrix = ov_circuit(model, effective=False).of(head).AB
            close(matrix, dense(model, head))
            close(matrix, ov_circuit(folded(model), effective=False).of(head).AB)


def test_the_effective_embedding_is_what_mlp_0_makes_of_a_token() -> None:
    model = randomized()
    with torch.no_grad():
        block = model.blocks[0]
        alone = model.W_E[:, None]  # [token, 1 position, d]: no other token, no position
        embed = (alone + block.mlp(block.ln2(alone)))[:, 0]
        close(ov_circuit(model, effective=True).of(HEAD).AB, dense(model, HEAD, embed))


def test_all_heads_at_once_are_each_by_itself() -> None:
    model = randomized()
    with torch.no_grad():
        circuit = ov_circuit(model, effective=False)
        scores, spread = trace_share(circuit.eigenvalues()), circuit.spread()
        for layer in range(2):
            for head in range(4):
                matrix = circuit.of(Component("head", layer, head)).AB
                close(scores[layer, head], trace_share(torch.linalg.eigvals(matrix)))
                close(spread[layer, head], matrix.square().mean().sqrt())


def test_copying_in_the_compiled_model(compiled: HookedGPT2) -> None:
    frame = ov(compiled).frame
    expected = dict.fromkeys(frame["component"], 0.0) | {"a1.h0": 1.0, "a2.h0": 1.0}
    found = dict(zip(frame["component"], frame["value"], strict=True))
    assert found == pytest.approx(expected, abs=1e-5)
    assert frame["control"].abs().max() < 0.01
    for head, score in {"a1.h0": 1.0, "a2.h0": 1.0, "a1.h1": 0.0, "a0.h0": 0.0}.items():
        one = ov(compiled, head, show="eigenvalues").frame
        assert one["copying"].unique() == pytest.approx([score], abs=1e-5)
        assert one["value"].max() == pytest.approx(10 * score, abs=1e-3)


def test_rounding_copies_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(300, 6, generator=generator)).Q
    blind = FactoredMatrix(directions[:, :3], directions[:, 3:].T)  # reads what nobody writes
    assert 0 < blind.eigenvalues.abs().max() < 1e-6
    assert not eigenvalues(blind).any()
    sees = FactoredMatrix(directions[:, :3], 0.01 * directions[:, :3].T)
    close(eigenvalues(sees).real, torch.full((3,), 0.01), atol=1e-6)


def test_the_report_card_and_the_weights_agree(words: HookedGPT2) -> None:
    card = eigenvalue_copying(words, 0).value[..., 0]
    assert ov(words).frame["value"].tolist() == pytest.approx(card.flatten().tolist())


def test_the_diagonal_of_the_compiled_model(compiled: HookedGPT2) -> None:
    shares = ov(compiled, "a1.h0", show="diagonal").frame.set_index(["matrix", "k"])
    assert shares.loc[("this head", 1), "value"] == pytest.approx(26 / 27)  # not BOS
    assert shares.loc[("this head", 1), "mean_rank"] == pytest.approx((26 + 14) / 27)
    assert shares.loc[("random", 5), "value"] == pytest.approx(5 / 27)
    nothing = ov(compiled, "a0.h0", show="diagonal").frame.set_index(["matrix", "k"])
    assert nothing.loc[("this head", 1), "value"] == 0  # of equal entries none is on top
    assert nothing.loc[("this head", 1), "mean_rank"] == 14


def test_pairs_of_the_compiled_model(compiled: HookedGPT2) -> None:
    own, other = 10 * 26 / 27, -10 / 27  # relative to the row's mean
    frame = ov(compiled, "a2.h0", tokens=["C", "d"], top=1).frame
    assert frame[["source", "place"]].values.tolist() == [["C", 1], ["C", -1], ["d", 1], ["d", -1]]
    assert frame["destination"].tolist()[::2] == ["C", "d"]
    assert frame["value"].tolist() == pytest.approx([own, other] * 2, abs=1e-3)
    every = ov(compiled, "a2.h0", top=26).frame
    assert (every["source"] == every["destination"]).sum() == 26
    assert every["value"].head(26).tolist() == pytest.approx([own] * 26, abs=1e-3)
    silent = ov(compiled, "a0.h0", top=1).frame
    assert silent[["value", "deviations"]].values.tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("chunk", [1, 1000, 2**24])
def test_pairs_and_ranks_are_those_of_the_whole_matrix(
    words: HookedGPT2, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(_weights, "CHUNK", chunk)
    with torch.no_grad():
        matrix = dense(words, HEAD)
    frame = ov(words, "a1.h1", top=20).frame
    ordered = matrix.flatten().sort(descending=True).values
    assert frame["value"].head(20).tolist() == pytest.approx(ordered[:20].tolist())
    assert frame["value"].tail(20).tolist() == pytest.approx(ordered.flip(0)[:20].tolist())
    assert frame["place"].tolist() == [*range(1, 21), *range(-1, -21, -1)]
    z = (ordered[:20] - matrix.mean()) / matrix.std(correction=0)
    assert frame["deviations"].head(20).tolist() == pytest.approx(z.tolist())
    ranks = 1 + (matrix > matrix.diagonal()[:, None]).sum(1)
    shares = ov(words, "a1.h1", show="diagonal").frame
    assert shares["mean_rank"].iloc[0] == pytest.approx(ranks.double().mean().item())
    own = shares[shares["matrix"] == "this head"]
    for k, share in zip(own["k"], own["value"], strict=True):
        assert share == pytest.approx((ranks <= k).double().mean().item())
    some = ov(words, "a1.h1", show="diagonal", tokens=[" to", " and"]).frame.iloc[0]
    ids = [words.to_single_token(token) for token in (" to", " and")]
    assert (some["tokens"], some["mean_rank"]) == (2, ranks[ids].double().mean().item())


def test_directions_are_singular_vectors_read_as_tokens(words: HookedGPT2) -> None:
    with torch.no_grad():
        U, S, Vh = torch.linalg.svd(dense(words, HEAD))
    frame = ov(words, "a1.h1", show="directions", top=2).frame
    assert frame["value"].tolist() == pytest.approx(S[[0, 0, 1, 1]].tolist())
    assert frame["share"].iloc[0] == pytest.approx((S[0] ** 2 / S.square().sum()).item())
    for i in (0, 1):
        rows = frame[frame["direction"] == i + 1]
        for turn in (1, -1):
            ends = [(turn * side).argmax() for side in (U[:, i], Vh[i])]
            names = [words.to_single_str_token(int(end)) for end in ends]
            assert names in rows[["source_1", "destination_1"]].values.tolist()


def test_every_view_has_a_figure_and_a_command(words: HookedGPT2) -> None:
    before = checksum(words)
    for show, axis in {"pairs": "logits", "directions": "logits", "eigenvalues": "real"}.items():
        result = ov(words, "a0.h1", show=show, top=3)  # type: ignore[arg-type]
        assert result.plot().axes[0].get_xlabel() == axis
        assert set(result.frame.columns) <= set(result.meanings)
        assert result.provenance.command.startswith(f"circuits ov a0.h1 --show {show} --top 3")
    assert ov(words, Component("head", 0, 1), show="diagonal").plot().axes
    every = ov(words)
    assert every.view == "heatmap"
    assert every.plot().axes
    assert len(ov(words, effective=True).frame) == 2  # the heads of layer 1
    assert checksum(words) == before
    assert not [name for name, hook in words.hook_dict.items() if hook.watched]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"head": "a99.h0"}, "there is no layer 99"),
        ({"head": "a0.h9"}, "there is no head 9"),
        ({"head": "m0"}, "m0 is no head"),
        ({"head": "a0.h0<q>"}, "is no head"),
        ({"head": "a0.h0@3"}, "is no head"),
        ({"head": "5.3"}, "did you mean 'a5.h3'"),
        ({"head": "a0.h0", "show": "pears"}, "did you mean 'pairs'"),
        ({"head": "a0.h0", "show": "positions"}, "there is no view 'positions'"),
        ({"head": "a0.h0", "top": 0}, "top=0"),
        ({"show": "pairs"}, "pairs belongs to one head"),
        ({"tokens": " to"}, "tokens belongs to one head"),
        ({"head": "a0.h0", "show": "directions", "tokens": " to"}, "are of the whole matrix"),
        ({"head": "a0.h0", "effective": True}, "before MLP 0 does"),
    ],
    ids=str,
)
def test_what_cannot_be_asked(words: HookedGPT2, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(CircuitsError, match=message):
        ov(words, **asked)


@pytest.mark.parametrize("text", ["", "to and", "😀", "שלום"])
def test_a_source_is_one_token(words: HookedGPT2, text: str) -> None:
    with pytest.raises(TokenError):
        ov(words, "a0.h0", tokens=["a", text])


def test_models_of_few_tokens() -> None:
    letters = letter_model()
    assert len(ov(letters, "a0.h0").frame) == 2 * 3 * 3  # each of its entries at both ends
    assert len(ov(letters, "a0.h1", show="directions").frame) == 6  # 3 tokens have 3 directions
    with pytest.raises(CircuitsError, match="before MLP 0"):
        ov(letters, effective=True)


@pytest.mark.slow
def test_mini_has_heads_that_copy(mini: HookedGPT2) -> None:
    # a1.h0 is one of its induction heads: it copies what MLP 0 makes of a token.
    frame = ov(mini, "a1.h0", show="diagonal", effective=True).frame
    own, chance = frame.iloc[0], frame[frame["matrix"] == "random"].iloc[0]
    assert own["value"] > 0.25
    assert own["mean_rank"] < 200
    assert chance["value"] == 1 / mini.cfg.d_vocab
    every = ov(mini, effective=True).frame.set_index("component")
    assert every.loc["a1.h0", "value"] > 0.5


def test_on_the_command_line() -> None:
    run = partial(CliRunner().invoke, app, prog_name="circuits")
    out = run(["ov", "a1.h0", "--model", "compiled", "--tokens", "C", "--top", "2"]).stdout
    assert "What would a1.h0 write? (compiled)" in out
    assert "+9.629" in out
    out = run(["ov", "--model", "compiled"]).stdout
    assert "+1.00" in out
    assert "copying: sum of eigenvalues" in out
    views = {"diagonal": "mean rank", "eigenvalues": "copying score", "directions": "share"}
    for show, words_ in views.items():
        done = run(["ov", "a2.h0", "--model", "compiled", "--show", show])
        assert done.exit_code == 0
        assert words_ in done.stdout
    args = ["ov", "a1.h0", "--model", "compiled", "--show", "diagonal", "--json"]
    first = run(args)
    assert json.loads(first.stdout)["rows"][0]["value"] == 0.962963
    assert run(args).stdout == first.stdout
