"""Interchange finds the compiled model's variables where they are, and exposes an illusion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ground_truth
import numpy as np
import pytest
import torch
from illusion import GRAPH, RUMOR, TRUTH, illusory_model, letters
from lens_twin import IGNORE_DEPRECATION
from torch import Tensor
from typer.testing import CliRunner

from circuits.adapter import adapt
from circuits.alignment import (
    CausalGraph,
    Subspace,
    Text,
    another,
    answered,
    draw,
    graph_of,
    learn,
    read_space,
    share_interval,
    split,
    swapped,
)
from circuits.analyses.interchange import interchange
from circuits.architectures import HookedGPT2
from circuits.checkpoints import checksum, load
from circuits.checkpoints.compiled import build
from circuits.cli import app
from circuits.components import Component, parse
from circuits.errors import CircuitsError
from circuits.prompts import Example, Prompts, assemble, from_texts, make
from circuits.result import Result


@pytest.fixture(scope="module")
def gifts(compiled: HookedGPT2) -> Prompts:
    """Mini-IOI sentences with their roles."""
    places = (ground_truth.IO_AT, ground_truth.S1_AT, ground_truth.S2_AT, ground_truth.END_AT)
    roles = dict(zip(("IO", "S1", "S2", "END"), places, strict=True))
    rows = [ground_truth.mini_ioi(compiled, seed)[0][0].tolist() for seed in range(12)]
    examples = [Example("", row, row[2], row[4], roles=roles) for row in rows]
    return assemble(compiled, examples, task="ioi", metric="logit_diff", prepend_bos=True)


def accuracies(result: Result, column: str = "value") -> dict[str, float]:
    return dict(zip(result.frame["component"], result.frame[column], strict=True))


@pytest.mark.parametrize(("site", "variable"), [("a1.h1@END", "s"), ("a2.h0@END", "io")])
def test_a_variable_lives_where_it_was_put(
    compiled: HookedGPT2, gifts: Prompts, site: str, variable: str
) -> None:
    row = interchange(compiled, task=gifts, component=site, variable=variable).frame.iloc[0]
    assert row[["value", "kept", "both", "clean"]].tolist() == [1, 1, 1, 1]
    assert row[["n", "n_kept", "places"]].tolist() == [12, 12, 12]
    assert row["ci_low"] == pytest.approx(0.757, abs=1e-3)
    assert row["control"] < 0.2


def test_it_lives_nowhere_else(compiled: HookedGPT2, gifts: Prompts) -> None:
    asked: dict[str, Any] = {"task": gifts, "variable": "s", "what": "head", "positions": "roles"}
    found = accuracies(interchange(compiled, **asked))
    assert found.pop("a1.h1@END") == 1
    assert found.pop("a2.h0@END") > 0.5  # downstream, and undone where the source's IO is no name
    assert set(found.values()) == {0.0}


def test_a_site_that_only_breaks_the_answer_does_not_keep_it(
    compiled: HookedGPT2, gifts: Prompts
) -> None:
    """What the head writes is a token, not a position: a strange one does not tell which of two."""
    row = interchange(compiled, task=gifts, component="a1.h1@END", variable="position").frame.loc[0]
    assert row["kept"] < 0.5
    assert row["both"] < 0.6


@pytest.mark.slow
def test_induction_is_previous_then_copied(compiled: HookedGPT2) -> None:
    found = interchange(compiled, what="head", n=8).frame
    assert found["variable"].unique().tolist() == ["current", "previous", "copied"]
    best = found[(found["value"] > 0.9) & (found["kept"] > 0.9)]
    assert best[["variable", "component"]].values.tolist() == [
        ["previous", "a0.h0"],
        ["copied", "a1.h0"],
    ]
    queries = accuracies(interchange(compiled, variable="current", what="q", n=8))
    assert queries.pop("a1.h0<q>") == 1
    assert set(queries.values()) == {0.0}
    stream = interchange(compiled, variable="current", n=8).frame
    at_end = stream[stream["position"] == "END"]["value"].tolist()
    assert at_end[:2] == [1, 1]  # until the induction head has read it
    assert at_end[2] < 1  # from there on it is what was copied that counts


def test_sorting_has_the_letter_at_the_end() -> None:
    found = interchange(load("sort-abc"), variable="letter", n=40)
    assert accuracies(found)["resid_pre.2@END"] == 1
    assert accuracies(found)["resid_pre.0@END"] < 0.3
    assert found.frame["clean"].tolist() == [1.0] * 6


def test_a_sweep_equals_whole_runs_with_a_hook(words: HookedGPT2) -> None:
    prompts = make("ioi", words, 4)
    pairs = draw(graph_of("ioi"), prompts, "io", seed=0)
    expected = []
    for row in range(len(pairs)):
        tokens, source = (t[row : row + 1] for t in (pairs.prompts.tokens, pairs.sources))
        at = int(pairs.prompts.roles["S2"][row])
        _, cache = words.run_with_cache(source)
        hook = _writing(cache["resid_pre", 1], at)
        logits = words.run_with_hooks(tokens, fwd_hooks=[("blocks.1.hook_resid_pre", hook)])
        assert pairs.candidates is not None
        end = int(pairs.prompts.roles["END"][row])
        said = pairs.candidates[logits[0, end, pairs.candidates].argmax()]
        expected.append(bool(said == pairs.predicted[row]))
    found = interchange(
        words, task="ioi", n=4, variable="io", component="resid_pre.1@S2"
    ).frame.iloc[0]
    assert found["value"] == np.mean(np.array(expected)[pairs.moved])
    assert found["both"] == np.mean(expected)


def _writing(value: Tensor, at: int) -> Callable[[Tensor, Any], None]:
    def hook(current: Tensor, hook: Any) -> None:
        current[:, at] = value[:, at]

    return hook


def test_swapping_a_whole_site_is_swapping_all_its_directions(words: HookedGPT2) -> None:
    pairs = draw(graph_of("ioi"), make("ioi", words, 3), "io", seed=0)
    for name in ("resid_pre.1@END", "a0.h1", "m1@END", "embed@S2", "resid_post.0"):
        at = Subspace(parse(name))
        all_of_it = torch.eye(at.width(words), dtype=torch.float64)
        assert torch.equal(swapped(words, pairs, at), swapped(words, pairs, at, all_of_it))


def test_pairs_are_what_the_graph_says(gifts: Prompts) -> None:
    graph = graph_of("ioi")
    for variable in graph.variables:
        pairs = draw(graph, gifts, variable, seed=1)
        assert pairs.moved.tolist() == [True, False] * 12
        for row in range(len(pairs)):
            roles = {role: int(at[row]) for role, at in pairs.prompts.roles.items()}
            base, source = (
                Text(tuple(tokens[row].tolist()), roles)
                for tokens in (pairs.prompts.tokens, pairs.sources)
            )
            assert base.tokens != source.tokens
            swap = {variable: graph.run(source)[variable]}
            assert graph.says(base, swap) == int(pairs.predicted[row])
            assert graph.says(base) == int(pairs.base[row])


def test_a_graph_follows_its_variables() -> None:
    text = Text((0, 5, 6, 5), {"IO": 2, "S1": 1, "S2": 3, "END": 3})
    graph = graph_of("ioi")
    assert graph.run(text) == {"s": 5, "position": 0, "io": 6}
    assert graph.says(text, {"s": 6}) == graph.says(text, {"position": 1}) == 5
    assert graph.says(text, {"s": 9}) is None
    copies = Text((0, 5, 6, 7, 5, 6, 7), {"SECOND": 4, "END": 6})
    induction = graph_of("repeated")
    assert induction.says(copies) == 5
    assert induction.says(copies, {"current": 5}) == 6
    assert induction.says(copies, {"previous": (0, 7, 5, 6)}) == 6
    six = Text((1, 0, 2, 1, 0, 1, 0, 0), {"OUTPUT": 5, "END": 7})
    assert graph_of("sorting").run(six) == {"a": 2, "b": 3, "letter": 1}
    assert graph_of("sorting").says(six, {"a": 3}) == 0


def test_another_prompt_is_a_source_if_it_is_built_alike() -> None:
    rng = np.random.default_rng(0)
    one, two, three = (
        Text((1, 2), {"END": 1}),
        Text((3, 4), {"END": 1}),
        Text((3, 4, 5), {"END": 2}),
    )
    assert another(one, two, rng) == (3, 4)
    assert another(one, three, rng) is None


def test_a_model_that_says_nothing_answers_nothing() -> None:
    logits, candidates = torch.tensor([[2.0, 2.0], [2.0, 1.0]]), torch.tensor([7, 9])
    for answer, right in ((7, [0, 1]), (9, [0, 0])):
        assert answered(logits, torch.tensor([answer] * 2), candidates).tolist() == right


def test_an_illusion_is_exposed() -> None:
    model = illusory_model()
    asked: dict[str, Any] = {"task": letters(model), "graph": GRAPH, "variable": "sign"}
    found = interchange(model, component="m0", rank=1, **asked).frame.set_index("subspace")
    assert found["value"].to_dict() == {
        "whole": 0,  # what the MLP writes is read by nobody
        "learned": 1,
        "read": 0,
        "dormant": 0,
        "random": 0,
    }
    assert found["illusion"].all()
    assert 0.1 < found["share_read"].iloc[0] < 0.9


def test_what_is_read_and_told_is_no_illusion() -> None:
    for honest, site in ((True, "m0"), (False, "embed"), (False, "resid_mid.0@END")):
        model = illusory_model(honest=honest)
        asked: dict[str, Any] = {"task": letters(model), "graph": GRAPH, "variable": "sign"}
        found = interchange(model, component=site, rank=1, **asked).frame.set_index("subspace")
        assert found.loc[["whole", "learned", "read"], "value"].tolist() == [1, 1, 1]
        assert not found["illusion"].any()


def test_what_is_read_is_the_row_space_of_the_readers(compiled: HookedGPT2) -> None:
    model = illusory_model()
    after_mlp = read_space(model, Subspace(parse("m0")))
    assert torch.allclose(after_mlp @ (after_mlp.T @ TRUTH), TRUTH, atol=1e-6)
    assert torch.allclose(after_mlp.T @ RUMOR, torch.zeros(1), atol=1e-6)
    assert read_space(model, Subspace(parse("m0"), neurons=True)).shape == (32, 0)
    honest = illusory_model(honest=True)
    assert read_space(honest, Subspace(parse("m0"), neurons=True)).shape == (32, 1)
    # Of the compiled name mover's query: END, INH of eight names, and the resting place.
    query = [parse("a2.h0<q>")]
    assert read_space(compiled, Subspace(parse("resid_pre.2")), query).shape[1] == 10
    assert read_space(compiled, Subspace(parse("a1.h1")), query).shape[1] == 8
    both = split(torch.eye(8)[:, :3], after_mlp)
    assert both.read.shape == (8, 1)
    assert both.read.T @ both.read == pytest.approx(1)


def test_a_subspace_is_orthonormal_and_the_same_for_a_seed(words: HookedGPT2) -> None:
    pairs = draw(graph_of("ioi"), make("ioi", words, 6), "io", seed=0)
    at = Subspace(Component("resid_pre", 1, position="END"))
    basis = learn(words, pairs, at, 3, steps=3)
    assert torch.allclose(basis.T @ basis, torch.eye(3, dtype=torch.float64), atol=1e-9)
    assert torch.equal(basis, learn(words, pairs, at, 3, steps=3))
    assert not torch.equal(basis, learn(words, pairs, at, 3, steps=3, seed=1))


@pytest.mark.slow
def test_the_soft_compiled_model_has_names_in_a_subspace(gifts: Prompts) -> None:
    soft = build(n_layers=3, beta=4.0)
    asked: dict[str, Any] = {"task": gifts, "variable": "s", "component": "a1.h1@END"}
    found = interchange(soft, rank=8, **asked).frame.set_index("subspace")
    assert found.loc["whole", "value"] == 1
    assert found.loc["learned", "value"] > found.loc["random", "value"]
    assert not found["illusion"].any()


def test_intervals_of_shares() -> None:
    none = share_interval(np.zeros(0))
    assert none["n"] == 0
    assert np.isnan(none["value"])
    half = share_interval(np.array([0.0, 1.0] * 50))
    assert (half["ci_low"], half["ci_high"]) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert half["stderr"] == pytest.approx(np.std([0, 1] * 50, ddof=1) / 10)


def test_the_model_is_left_as_it_was_and_bytes_are_the_same(words: HookedGPT2) -> None:
    before = checksum(words)
    grads = [weight.requires_grad for weight in words.parameters()]
    subspace = {"variable": "io", "component": "m1@END", "rank": 1, "steps": 2}
    for asked in ({"variable": "s"}, subspace):
        kind: dict[str, Any] = {"task": "ioi", "n": 6, **asked}
        first = interchange(words, **kind).to_json()
        assert interchange(words, **kind).to_json() == first
    assert checksum(words) == before
    assert [weight.requires_grad for weight in words.parameters()] == grads
    assert all(weight.grad is None for weight in words.parameters())
    assert not [name for name, hook in words.hook_dict.items() if hook.watched]


def test_progress_goes_to_the_end(words: HookedGPT2) -> None:
    seen: list[tuple[int, int]] = []
    interchange(words, task="ioi", n=2, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (1000, 1000)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"variable": "positon"}, "it has s, position, io; did you mean 'position'"),
        ({"component": "resid_pre.99@END"}, "there is no layer 99"),
        ({"component": "a0.h7"}, "there is no head 7"),
        ({"component": "m0@S3"}, "no position 'S3'"),
        ({"component": "m0@120"}, "no position 120"),
        ({"component": "L0H1"}, "did you mean 'a0.h1'"),
        ({"component": "m0->m1"}, "is an edge"),
        ({"component": "m0", "what": "head"}, "leave out what and positions"),
        ({"what": "heads"}, "did you mean 'head'"),
        ({"task": "ioii"}, "no causal graph is known for 'ioii'.*did you mean 'ioi'"),
        ({"task": "pronoun"}, "no causal graph is known for 'pronoun'"),
        ({"task": "sorting"}, "'sorting' does not suit tiny"),
        ({"n": 0}, "n=0 prompts"),
        ({"rank": 1}, "a subspace is searched for at one site"),
        ({"rank": 0, "component": "m0"}, "rank=0: m0 has 8 dimensions"),
        ({"rank": 9, "component": "m0"}, "rank=9: m0 has 8 dimensions"),
        ({"rank": 1, "component": "m0", "steps": 0}, "steps=0"),
        ({"rank": 1, "component": ["m0", "m1"]}, "a subspace is of one site"),
        ({"rank": 1, "component": "a0.h0<q>"}, "has no subspace to swap"),
        ({"rank": 1, "component": "a0.h0", "neurons": True}, "a0.h0 has no neurons"),
        ({"rank": 1, "component": "m1", "reader": "a0.h0"}, "does not come after m1"),
        ({"rank": 1, "component": "m0", "reader": "resid_pre.1"}, "is no reader"),
        ({"reader": "m1"}, "reader is about a subspace; give its rank"),
        ({"component": "m1@S1"}, "changed nothing"),
        ({"rank": 1, "component": "m1@S1", "variable": "s"}, "changes the logits even a little"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_asked(words: HookedGPT2, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(CircuitsError, match=message):
        interchange(words, **{"task": "ioi", "n": 4, **asked})


def test_prompts_and_graph_have_to_fit(words: HookedGPT2) -> None:
    prompts = from_texts(words, ["When Mary gave", "👋 שלום"])
    with pytest.raises(CircuitsError, match="no causal graph is known for 'prompt'"):
        interchange(words, task=prompts)
    with pytest.raises(CircuitsError, match="asks for the position 'S2', and the prompts have END"):
        interchange(words, task=prompts, graph=graph_of("ioi"))
    silent = CausalGraph("prompt", {"answer": lambda text, known: None})
    with pytest.raises(CircuitsError, match="says nothing of prompt 0 .'When Mary gave'"):
        interchange(words, task=prompts, graph=silent)
    constant = CausalGraph("prompt", {"answer": lambda text, known: 7})
    with pytest.raises(CircuitsError, match="no source prompt was found whose 'answer' changes"):
        interchange(words, task=prompts, graph=constant)
    longer = CausalGraph("prompt", {"answer": lambda *_: 7}, lambda base, *_: [1, *base.tokens])
    with pytest.raises(CircuitsError, match="sites are swapped token for token"):
        interchange(words, task=prompts, graph=longer)
    with pytest.raises(CircuitsError, match="at least one variable"):
        CausalGraph("prompt", {})
    with pytest.raises(CircuitsError, match="only a task's prompts are drawn"):
        interchange(words, task=prompts, n=3)


@pytest.mark.slow
def test_the_command_line() -> None:
    base = ["interchange", "--model", "compiled", "--task", "repeated", "-n", "8"]
    shown = CliRunner().invoke(app, [*base, "--variable", "previous", "--what", "head"])
    assert "Where does previous live? (interchange, compiled)" in shown.stdout
    assert shown.stdout.index("a0.h0") < shown.stdout.index("a0.h1")
    assert "8 pairs move the answer, 8 keep it" in shown.stdout
    site = ["--variable", "current", "--component", "resid_pre.1@END", "--rank", "2"]
    shown = CliRunner().invoke(app, [*base, *site, "--steps", "2"])
    assert "Does current live at resid_pre.1@END? (rank 2, compiled)" in shown.stdout
    assert "No subspace was found" in shown.stdout


def test_figures(words: HookedGPT2) -> None:
    sweep = interchange(words, task="ioi", n=2).plot()
    titles = [axes.get_title(loc="left") for axes in sweep.axes]
    assert [title for title in titles if title] == ["s", "position", "io"]
    one = interchange(words, task="ioi", n=2, component="m1@END").plot()
    assert [label.get_text() for label in one.axes[0].get_yticklabels()] == ["s", "position", "io"]


@pytest.mark.filterwarnings(IGNORE_DEPRECATION)
def test_a_gate_reads_too() -> None:
    lens = pytest.importorskip("transformer_lens")
    model = adapt(
        lens.HookedTransformer(
            lens.HookedTransformerConfig(
                n_layers=1,
                d_model=12,
                n_ctx=8,
                d_head=2,
                n_heads=1,
                d_mlp=3,
                d_vocab=5,
                act_fn="silu",
                gated_mlp=True,
                normalization_type="RMS",
                device="cpu",
            )
        )
    )
    at = Subspace(parse("resid_mid.0"))
    assert read_space(model, at, [parse("m0")]).shape == (12, 6)
    assert read_space(model, at).shape == (12, 10)  # four more: five logits, but for their mean
