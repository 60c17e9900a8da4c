"""What a head would match is the score that the folded model's weights give a pair of tokens."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from random_models import TINY, random_tokens, randomized
from torch import Tensor
from typer.testing import CliRunner

from circuits.analyses.qk import VIEWS, qk
from circuits.architectures import HookedGPT2
from circuits.checkpoints import checksum
from circuits.cli import app
from circuits.components import Component
from circuits.errors import CircuitsError, TokenError
from circuits.qk_ov import position_circuit, qk_circuit, trace_share, typical_scales
from circuits.weights import process

close = partial(torch.testing.assert_close, atol=1e-9, rtol=1e-9)
HEAD = Component("head", 1, 2)


def dense(model: HookedGPT2, head: Component, stream: str) -> Tensor:
    """Scores relative to their row's mean, from weights in which LayerNorm is folded."""
    plain = process(model, random_tokens(model.cfg, 1, 5))[0]
    scale, at = typical_scales(model)[head.layer or 0], (head.layer, head.head)
    x = getattr(plain, stream) / scale
    queries = x @ plain.W_Q[at] + plain.b_Q[at]
    keys = x @ plain.W_K[at] + plain.b_K[at]  # whose bias gives each key the same
    scores = queries @ keys.T / model.cfg.d_head**0.5
    found: Tensor = scores - scores.mean(1, keepdim=True)
    return found


def test_the_matrix_is_that_of_the_folded_model() -> None:
    model = randomized()
    with torch.no_grad():
        close(qk_circuit(model, effective=False).of(HEAD).AB, dense(model, HEAD, "W_E"))
        close(position_circuit(model).of(HEAD).AB, dense(model, HEAD, "W_pos"))


def test_scores_are_the_models_own_where_nothing_else_is_in_the_stream() -> None:
    model = randomized()
    with torch.no_grad():
        model.W_pos.zero_()
        # Embeddings of one length: then ln1 divides all by the same, as the matrix does.
        centered = model.W_E - model.W_E.mean(-1, keepdim=True)
        model.W_E.copy_(centered / centered.norm(dim=-1, keepdim=True))
        tokens = random_tokens(TINY, 1, 9)
        _, cache = model.run_with_cache(tokens)
        matrix = qk_circuit(model, effective=False).of(Component("head", 0, 1)).AB
    scores, seen = cache["attn_scores", 0][0, 1], tokens[0]
    difference = (scores - matrix[seen][:, seen])[-1]  # the last query sees every key
    close(difference, difference[:1].expand(9))  # but for what all keys have, all is there


def test_all_heads_at_once_are_each_by_itself() -> None:
    model = randomized()
    with torch.no_grad():
        circuit = qk_circuit(model, effective=True)
        scores, spread = trace_share(circuit.eigenvalues()), circuit.spread()
        for head in range(4):
            matrix = circuit.of(Component("head", 1, head)).AB
            close(scores[1, head], trace_share(torch.linalg.eigvals(matrix)))
            close(spread[1, head], matrix.square().mean().sqrt())


def test_the_compiled_heads_look_for_what_they_were_written_for(compiled: HookedGPT2) -> None:
    # 0.1 looks for the same token: score 30, but 0 for BOS and among other tokens.
    frame = qk(compiled, "a0.h1", tokens="C", top=1).frame
    assert frame[["query", "key"]].values.tolist()[0] == ["C", "C"]
    assert frame["value"].tolist() == pytest.approx([30 * 26 / 27, -30 / 27], abs=2e-3)
    shares = qk(compiled, "a0.h1", show="diagonal").frame
    assert shares["value"].iloc[0] == pytest.approx(26 / 27)
    scores = qk(compiled).frame.set_index("component")["value"]
    assert scores["a0.h1"] == pytest.approx(1, abs=1e-5)
    assert scores["a0.h0"] == 0  # positions only


def test_the_compiled_positions(compiled: HookedGPT2) -> None:
    previous = qk(compiled, "a0.h0", show="positions").frame.set_index("offset")
    assert previous["best"].loc[[0, 1, 2]].tolist() == [1 / 32, 31 / 32, 0]
    # Query i sees i + 1 keys, one of them with 30.
    expected = [30 - 30 / (i + 1) for i in range(1, 32)]
    assert previous.loc[1, "value"] == pytest.approx(sum(expected) / 31, abs=2e-3)
    assert previous.loc[1, "lowest"] == pytest.approx(15, abs=2e-3)
    assert previous["queries"].tolist() == list(range(32, 0, -1))
    not_self = qk(compiled, "a0.h1", show="positions").frame.set_index("offset")
    assert not_self.loc[0, "lowest"] == pytest.approx(-60 * 31 / 32, abs=4e-3)
    assert not_self["value"].idxmin() == 0


def test_positions_against_a_loop(words: HookedGPT2) -> None:
    with torch.no_grad():
        scores = dense(words, HEAD_0, "W_pos")
    n = len(scores)
    frame = qk(words, "a1.h0", show="positions").frame
    by_hand: list[list[float]] = [[] for _ in range(n)]
    best = [0] * n
    for i in range(n):
        row = scores[i, : i + 1]
        best[i - int(row.argmax())] += 1
        for j in range(i + 1):
            by_hand[i - j].append(float(row[j] - row.mean()))
    assert frame["value"].tolist() == pytest.approx([sum(x) / len(x) for x in by_hand])
    assert frame["highest"].tolist() == pytest.approx([max(x) for x in by_hand])
    assert frame["best"].tolist() == pytest.approx([count / n for count in best])


HEAD_0 = Component("head", 1, 0)


def test_mini_has_a_previous_token_head(mini: HookedGPT2) -> None:
    frame: Any = qk(mini, "a0.h6", show="positions").frame
    assert frame.loc[1, "best"] > 0.95
    assert frame["value"].idxmax() == 1


def test_every_view_has_a_figure_and_a_command(words: HookedGPT2) -> None:
    before = checksum(words)
    for show in VIEWS:
        result = qk(words, "a0.h1", show=show, top=3)  # type: ignore[arg-type]
        assert result.plot().axes
        assert result.provenance.arguments["head"] == "a0.h1"
        assert set(result.frame.columns) <= set(result.meanings)
    assert qk(words).plot().axes
    assert checksum(words) == before


def test_a_head_given_as_an_object_is_recorded_by_its_name(words: HookedGPT2) -> None:
    named, given = qk(words, str(HEAD_0), top=3), qk(words, HEAD_0, top=3)
    assert given.provenance.command.startswith(f"circuits qk {HEAD_0} --top 3")
    assert given.to_json() == named.to_json()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"head": "a99.h0"}, "there is no layer 99"),
        ({"head": "a0.h0", "show": "position"}, "did you mean 'positions'"),
        ({"head": "a1.h0", "show": "positions", "effective": True}, "no effective embedding"),
        ({"head": "a0.h0", "show": "positions", "tokens": " to"}, "leave out tokens"),
        ({"show": "positions"}, "positions belongs to one head"),
        ({"head": "a0.h0", "effective": True}, "before MLP 0 does"),
        ({"head": "a1.h0", "top": -1}, "top=-1"),
    ],
    ids=str,
)
def test_what_cannot_be_asked(words: HookedGPT2, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(CircuitsError, match=message):
        qk(words, **asked)
    with pytest.raises(TokenError):
        qk(words, "a0.h0", tokens="two tokens")


def test_on_the_command_line() -> None:
    run = partial(CliRunner().invoke, app, prog_name="circuits")
    out = run(["qk", "a0.h0", "--model", "compiled", "--show", "positions"]).stdout
    assert "What would a0.h0 match? (compiled)" in out
    assert "96.9%" in out
    assert run(["qk", "--model", "compiled"]).stdout.count("+1.00") >= 1
    wrong = run(["qk", "a0.h0", "--model", "compiled", "--show", "offsets"])
    assert wrong.exit_code == 2
