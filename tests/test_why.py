"""A score is the sum over pairs of parts, exactly, and the compiled heads look for what they do."""

from __future__ import annotations

import json
import math
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import TINY, random_tokens, randomized, seeds, tiny_configs
from typer.testing import CliRunner
from word_model import word_model

from circuits.analyses.why import why
from circuits.architectures import HookedGPT2
from circuits.checkpoints import checksum
from circuits.checkpoints.compiled import build
from circuits.cli import app
from circuits.components import Component
from circuits.config import ModelConfig
from circuits.errors import CircuitsError, TokenError
from circuits.hooks import HookPoint
from circuits.prompts import Prompts, make

PROMPT = "When Mary and John gave the"
IOI = "aAbBcdeBfg."  # A is token 2, B 4 and 8; the end 11


@pytest.fixture(scope="module")
def compiled() -> HookedGPT2:
    return build().double()


def some_prompts(cfg: ModelConfig, seed: int) -> Prompts:
    """Three random prompts, one of them shorter."""
    n_pos = min(cfg.n_ctx, 6)
    tokens = random_tokens(cfg, 3, n_pos, seed)
    lengths = torch.tensor([n_pos, max(n_pos - 1, 2), n_pos])
    mask = torch.arange(n_pos) < lengths[:, None]
    return Prompts(
        task="random",
        texts=("a", "b", "c"),
        tokens=tokens,
        mask=mask,
        targets=torch.full_like(tokens, -1),
        roles={"FIRST": torch.zeros_like(lengths), "END": lengths - 1},
        metric="kl",
        prepend_bos=False,
    )


def scores(model: HookedGPT2, prompts: Prompts, layer: int, head: int) -> list[torch.Tensor]:
    """The head's scores at END, of the keys that it sees, prompt by prompt."""
    site = f"blocks.{layer}.attn.hook_attn_scores"
    _, cache = model.run_with_cache(prompts.tokens, attention_mask=prompts.mask, names_filter=site)
    ends = prompts.roles["END"].tolist()
    return [cache[site][i, head, end, : end + 1].detach() for i, end in enumerate(ends)]


def pairs(frame: pd.DataFrame) -> pd.DataFrame:
    """The values as a grid."""
    grid: pd.DataFrame = frame.pivot(index="query_part", columns="key_part", values="value")
    return grid


# --- identities -----------------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    cfg=tiny_configs(),
    seed=seeds,
    top=st.sampled_from([1, 3, 100]),
    positions=st.sampled_from([None, "roles"]),
    against=st.sampled_from([None, "mean", "END"]),
)
def test_the_pairs_sum_to_the_score(
    cfg: ModelConfig, seed: int, top: int, positions: Any, against: Any
) -> None:
    model = randomized(cfg, seed=seed % 1000)
    prompts = some_prompts(cfg, seed)
    layer, head = seed % cfg.n_layers, seed % cfg.n_heads
    options: dict[str, Any] = {"top": top, "positions": positions, "against": against}
    frame = why(
        model, Component("head", layer, head), task=prompts, key="FIRST", query="END", **options
    ).frame
    real = scores(model, prompts, layer, head)
    expected = torch.stack([row[0] for row in real])
    if against == "mean":
        expected = torch.stack([row[0] - row[1:].mean() for row in real])
    elif against == "END":
        expected = torch.stack([row[0] - row[-1] for row in real])
    whole = float(expected.mean())
    tolerance = 1e-9 * max(1.0, float(frame["value"].abs().sum()))
    assert frame["value"].sum() == pytest.approx(whole, abs=tolerance)
    assert frame["total"].iloc[0] == pytest.approx(whole, abs=tolerance)
    assert frame["score"].iloc[0] == pytest.approx(float(torch.stack([r[0] for r in real]).mean()))
    weights = [float(row.softmax(0)[0]) for row in real]
    assert frame["weight"].iloc[0] == pytest.approx(sum(weights) / 3)


def test_in_single_precision_too(mini: HookedGPT2) -> None:
    for head in ("a1.h0", "a5.h5", "a7.h7"):
        for against in (None, "mean"):
            frame = why(mini, head, task="ioi", n=4, query="END", against=against).frame
            assert frame["value"].sum() == pytest.approx(frame["total"].iloc[0], abs=1e-4)


def test_a_pair_is_what_its_parts_say(words: HookedGPT2) -> None:
    frame = why(words, "a1.h1", PROMPT, query=-2, key=3, top=99).frame
    grid = pairs(frame)
    assert set(grid.index) == {"a0.h0", "a0.h1", "m0", "embed", "pos", "bias"}
    with torch.no_grad():
        _, cache = words.run_with_cache(PROMPT)
        ln, attn = words.blocks[1].ln1, words.blocks[1].attn
        n = len(words.to_tokens(PROMPT)[0])

        def read(part: torch.Tensor, at: int, W: torch.Tensor) -> torch.Tensor:
            x = part[0, at]
            return (x - x.mean()) / cache["scale", 1, "ln1"][0, at] * ln.w @ W[1]

        heads = cache.stack_head_results(1)
        parts = {"a0.h1": heads[1], "m0": cache["mlp_out", 0], "pos": cache["pos_embed"]}
        biases = words.blocks[0].attn.b_O.expand(1, n, -1)
        for name, part in parts.items():
            q = read(part, n - 2, attn.W_Q)
            for other, theirs in parts.items():
                expected = float(q @ read(theirs, 3, attn.W_K)) / math.sqrt(words.cfg.d_head)
                assert grid.at[name, other] == pytest.approx(expected, abs=1e-12)
            k = read(biases, 3, attn.W_K) + ln.b @ attn.W_K[1] + attn.b_K[1]
            expected = float(q @ k) / math.sqrt(words.cfg.d_head)
            assert grid.at[name, "bias"] == pytest.approx(expected, abs=1e-12)


def test_positions_sum_to_their_head(words: HookedGPT2) -> None:
    whole = pairs(why(words, "a1.h0", PROMPT, key=4, top=99).frame)
    n = len(words.to_tokens(PROMPT)[0])
    apart = pairs(why(words, "a1.h0", PROMPT, key=4, top=99, positions="indices").frame)
    for head in ("a0.h0", "a0.h1"):
        rows = apart.loc[[f"{head}<v>@{i}" for i in range(n)]].sum()
        keys = [f"{head}<v>@{i}" for i in range(n)]
        assert rows["m0"] == pytest.approx(whole.at[head, "m0"], abs=1e-12)
        assert rows[keys].sum() == pytest.approx(whole.at[head, head], abs=1e-12)
    # A key at 4 has read nothing later.
    assert apart["a0.h0<v>@5"].abs().max() == 0


def test_all_parts_are_listed_or_summed_up(words: HookedGPT2) -> None:
    whole = pairs(why(words, "a1.h0", PROMPT, top=99).frame)
    short = pairs(why(words, "a1.h0", PROMPT, top=2).frame)
    assert short.shape == (3, 3)
    named = [name for name in short.index if name != "other"]
    keys = [name for name in short.columns if name != "other"]
    assert short.loc[named, keys].to_numpy() == pytest.approx(
        whole.loc[named, keys].to_numpy(), abs=1e-12
    )
    rest = whole.drop(index=named).drop(columns=keys).to_numpy().sum()
    assert short.at["other", "other"] == pytest.approx(rest, abs=1e-12)
    sizes = whole.abs().sum(axis=1).sort_values(ascending=False)
    assert set(named) == set(sizes.index[:2])


def test_what_is_the_same_for_all_keys_cancels(words: HookedGPT2) -> None:
    frame = why(words, "a0.h0", PROMPT, against="mean", top=99).frame
    # In the first layer the bias is ln1's and b_K, without any scale.
    assert pairs(frame)["bias"].abs().max() < 1e-12
    assert set(frame["key_part"]) == {"embed", "pos", "bias"}


def test_a_difference_of_scores_is_a_ratio_of_weights(words: HookedGPT2) -> None:
    found = [
        why(words, "a1.h1", PROMPT, key=one, against=other).frame.iloc[0]
        for one, other in ((2, 5), (5, 2))
    ]
    ratio = math.log(found[0]["weight"] / found[1]["weight"])
    assert found[0]["total"] == pytest.approx(ratio, abs=1e-12)
    assert found[1]["total"] == pytest.approx(-ratio, abs=1e-12)


# --- known answers --------------------------------------------------------------------------------


def test_the_compiled_induction_head_reads_the_previous_token_head(compiled: HookedGPT2) -> None:
    found = why(compiled, "a1.h0", "cdefgcde")
    first = found.top(1).frame.iloc[0]
    assert (first["query_part"], first["key_part"]) == ("embed", "a0.h0")
    assert first["value"] == pytest.approx(30, abs=1e-2)
    assert first["weight"] > 0.999999
    assert "from 'e' (8) at 'f' (4)" in found.title
    # What a0.h0 wrote there came from the token before.
    split = why(compiled, "a1.h0", "cdefgcde", positions="indices", top=3).top(1).frame.iloc[0]
    assert (split["query_part"], split["key_part"]) == ("embed", "a0.h0<v>@3")


def test_the_compiled_name_mover_is_told_what_to_avoid(compiled: HookedGPT2) -> None:
    raw = why(compiled, "a2.h0", IOI).top(1).frame.iloc[0]
    assert (raw["query_part"], raw["key_part"]) == ("embed", "embed")
    assert (raw["value"], raw["score"]) == pytest.approx((30, 30), abs=1e-2)
    # Both are names; that one is not to be named is what a1.h1 wrote.
    rather = why(compiled, "a2.h0", IOI, against=4).top(1).frame.iloc[0]
    assert (rather["query_part"], rather["key_part"]) == ("a1.h1", "embed")
    assert rather["value"] == pytest.approx(60, abs=1e-2)
    assert rather["share"] == pytest.approx(1, abs=1e-3)
    inhibition = why(compiled, "a1.h1", IOI).top(1).frame.iloc[0]
    assert (inhibition["query_part"], inhibition["key_part"]) == ("embed", "a0.h1")


def test_mini_name_movers_are_told_too(mini: HookedGPT2) -> None:
    options: dict[str, Any] = {"query": "END", "key": "IO", "against": "S1"}
    frame = why(mini, "a5.h5", task="ioi", n=30, **options).frame
    first = frame.loc[frame["value"].idxmax()]
    assert first["ci_low"] > 0
    assert first["query_part"].startswith("a")  # a head, not the token itself
    assert first["key_part"] == "m0"
    assert frame["weight"].iloc[0] > 0.5


def test_what_a_head_tells_an_mlp_is_the_mlps(mini: HookedGPT2) -> None:
    prompts = make("repeated", mini, 5)
    frame = why(mini, "a1.h0", task=prompts, query=40, key=16, against="mean").frame
    grid = pairs(frame)
    assert frame["weight"].iloc[0] > 0.9
    assert grid.at["m0", "m0"] > 0.9 * frame["total"].iloc[0]
    # a0.h6 itself adds little, and without it nothing is left: m0 passes on what it said.
    assert grid["a0.h6"].abs().max() < 0.1 * frame["total"].iloc[0]
    weights = []

    def silence(z: torch.Tensor, hook: HookPoint) -> None:
        z[:, :, 6] = 0

    def keep(pattern: torch.Tensor, hook: HookPoint) -> None:
        weights.append(float(pattern[:, 0, 40, 16].mean()))

    with torch.no_grad(), mini.hooks([("blocks.0.attn.hook_z", silence), ("pattern1", keep)]):
        mini(prompts.tokens)
    assert weights[0] < 0.1


# --- what can be asked ----------------------------------------------------------------------------


def test_the_key_is_where_it_looks_most(words: HookedGPT2) -> None:
    with torch.no_grad():
        _, cache = words.run_with_cache(PROMPT)
    best = int(cache["pattern", 1][0, 0, -1].argmax())
    chosen = why(words, "a1.h0", PROMPT)
    named = why(words, "a1.h0", PROMPT, key=best)
    assert chosen.frame["value"].tolist() == named.frame["value"].tolist()
    assert f"({best})? (tiny)" in chosen.title


def test_roles_and_intervals(words: HookedGPT2) -> None:
    prompts = make("ioi", words, 6)
    options: dict[str, Any] = {"query": "END", "key": "IO", "against": "S2"}
    found = why(words, "a1.h0", task=prompts, **options)
    assert (found.frame["n"] == 6).all()
    assert (found.frame["ci_low"] <= found.frame["value"]).all()
    assert "from END at IO, rather than at S2? (ioi, tiny)" in found.title
    split = why(words, "a1.h0", task=prompts, positions="roles", top=99, **options).frame
    assert "a0.h1<v>@S1" in set(split["query_part"])
    assert "a0.h1<v>@other" in set(split["query_part"])


def test_half_precision_is_taken_apart_as_it_is() -> None:
    frame = why(word_model().to(torch.bfloat16), "a1.h0", PROMPT).frame
    assert frame["value"].sum() == pytest.approx(frame["score"].iloc[0], abs=0.1)


def test_another_kind_of_score_is_refused() -> None:
    model = randomized(TINY)
    real = model.blocks[1].attn.hook_attn_scores

    class Halved(torch.nn.Module):
        watched, watchers = True, real.watchers

        def forward(self, scores: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = real(scores / 2)
            return out

    model.blocks[1].attn.hook_attn_scores = Halved()  # type: ignore[assignment]
    with pytest.raises(CircuitsError, match="cannot be taken apart"):
        why(model, "a1.h0", task=some_prompts(TINY, 0))


def test_the_model_is_left_as_it_was(words: HookedGPT2) -> None:
    before = checksum(words)
    first = why(words, "a1.h0", PROMPT, positions="indices", against="mean").to_json()
    assert checksum(words) == before
    assert not [name for name, hook in words.hook_dict.items() if hook.watched]
    assert why(words, "a1.h0", PROMPT, positions="indices", against="mean").to_json() == first


@pytest.mark.parametrize(
    ("head", "options", "message"),
    [
        ("a9.h0", {}, "no layer 9: tiny has layers 0 to 1"),
        ("a0.h7", {}, "no head 7"),
        ("m0", {}, "m0 is no head"),
        ("a0.h0<q>", {}, "is no head"),
        ("5.3", {}, "did you mean 'a5.h3'"),
        ("a0.h0", {"prompt": None}, "give a prompt, or a task"),
        ("a0.h0", {"query": 99}, "no position 99 in prompt 0"),
        ("a0.h0", {"key": -99}, "no position -99"),
        ("a0.h0", {"key": "IO"}, "no position 'IO'"),
        ("a0.h0", {"query": 2, "key": 3}, "after the query in prompt 0"),
        ("a0.h0", {"query": 2, "against": 3}, "after the query in prompt 0"),
        ("a0.h0", {"query": 0, "against": "mean"}, "sees one position only"),
        ("a0.h0", {"key": 1, "against": 1}, "compared with itself"),
        ("a0.h0", {"against": "mea"}, "no position 'mea'"),
        ("a0.h0", {"top": 0}, "top=0"),
        ("a0.h0", {"positions": "index"}, "positions='index'"),
        ("a0.h0", {"task": "ioi"}, "name different prompts"),
        ("a0.h0", {"n": 3}, "only a task's prompts are drawn"),
    ],
)
def test_what_cannot_be_asked(
    words: HookedGPT2, head: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(CircuitsError, match=message):
        why(words, head, **{"prompt": PROMPT, **options})


def test_prompts_of_any_writing(words: HookedGPT2) -> None:
    for text in ("", "\N{OWL}", "\u05e9\u05dc\u05d5\u05dd"):
        frame = why(words, "a1.h0", text).frame
        assert frame["value"].sum() == pytest.approx(frame["score"].iloc[0], abs=1e-9)
    with pytest.raises(TokenError, match="reads at most 128"):
        why(words, "a1.h0", " and" * 128)


def test_the_figure_is_a_grid_of_parts(words: HookedGPT2) -> None:
    axes = why(words, "a1.h0", PROMPT, top=2).plot().axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()][-1] == "other"
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("query_part", "key_part")


def test_on_the_command_line() -> None:
    args = ["why", "a2.h0", IOI, "--model", "compiled"]
    out = CliRunner().invoke(app, args, prog_name="circuits").stdout
    assert "score 30.000, attention >99.9%" in out
    assert "--against mean" in out
    done = CliRunner().invoke(app, [*args, "--against", "4"], prog_name="circuits")
    assert "the difference taken apart: +59.99" in done.stdout
    line = next(line for line in done.stdout.splitlines() if "100.0%" in line)
    assert line.split()[:2] == ["a1.h1", "embed"]
    table = CliRunner().invoke(app, [*args, "--key", "2", "--json"], prog_name="circuits").stdout
    assert "--key 2" in json.loads(table)["provenance"]["command"]
