"""The experiments of the folder experiments/: each runs, and says what it found."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from word_model import word_model

from circuits.alignment import Text
from circuits.analyses.logit_lens import logit_lens
from circuits.architectures import HookedGPT2
from circuits.checkpoints import load
from circuits.config import ModelConfig
from circuits.errors import CircuitsError
from circuits.experiment import experiments, script
from circuits.tuned_lens import TunedLens, stages


@pytest.mark.parametrize("name", experiments())
@pytest.mark.slow
def test_an_experiment_says_what_it_is(name: str) -> None:
    module = script(name)
    assert "?" in module.__doc__.split("\n\n")[0]
    assert experiments()[name] == module.CLAIM
    assert module.CLAIM.endswith(".")
    assert f"circuits run {name}" in module.__doc__


@pytest.mark.slow
def test_residual_stream_is_taken_apart() -> None:
    module = script("residual_stream")
    found = module.run(load("mini"), seed=1, quick=True)
    assert found.holds
    assert [check.ci_low is not None for check in found.checks if check.control] == [True, True]
    erased = found.tables["erasure"].frame
    assert len(erased) == 18 * 17 / 2
    assert erased["control"].abs().max() < 0.3
    ranks = found.tables["ranks"].frame
    assert ranks["after"].tolist()[:4] == ["embed", "pos", "a0", "m0"]
    assert ranks["value"].between(1, 256).all()
    assert ranks["value"][2] < ranks["value"][1]  # a0 narrows what enters block 0
    assert len(found.tables["spaces"].frame) == 2 * 64
    left = found.tables["embedding"].frame.set_index("along")
    own = left.loc[module.ALL].set_index("after")
    factors = erased[erased["earlier"] == "embed"].set_index("later")["value"]
    assert own["adds"][factors.index].tolist() == pytest.approx(factors.tolist())
    assert own["value"].tolist() == pytest.approx(own["adds"].cumsum().tolist())
    assert (left.loc[[module.ALL, module.OTHERS, module.ONCE]].groupby("along").size() == 18).all()
    once, others = (left.loc[name].set_index("after") for name in (module.ONCE, module.OTHERS))
    assert own["adds"]["m0"] < min(once["adds"]["m0"], others["adds"]["m0"])
    virtual = found.tables["virtual"].frame
    assert virtual.groupby("reads").size().to_dict() == {
        "queries": 8 * 9,  # two embeddings and what 0 to 7 blocks before write
        "keys": 8 * 9,
        "values": 8 * 9,
        "MLPs": 8 * 10,
    }
    assert virtual["score"].between(0, 1).all()
    assert virtual["value"].max() > 50
    assert (virtual["value"].abs() > 10 * virtual["control"].abs()).sum() > len(virtual) / 10


def test_an_embedding_that_stays_is_not_written_back() -> None:
    module = script("residual_stream")
    mini = load("mini")
    cfg = ModelConfig(2, 4, 32, d_vocab=mini.cfg.d_vocab, n_ctx=64)
    untrained = HookedGPT2.random(cfg, tokenizer=mini.tokenizer)
    found = module.run(untrained, quick=True)
    checks = {check.says: check for check in found.checks}
    assert not checks["the stream after m0, in lengths of the embedding"].holds
    assert not checks["m0 adds along the embedding"].holds
    assert all(check.holds for check in found.checks if check.control)
    assert found.tables["virtual"].frame["value"].abs().max() < 10  # percent
    with pytest.raises(CircuitsError, match="choose a larger model"):
        module.run(HookedGPT2.random(ModelConfig(1, 2, 16, d_vocab=8, n_ctx=8)))


def test_what_is_added_along_an_embedding_is_counted_in_embeddings() -> None:
    embed = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    parts = torch.stack([embed, -2 * embed, torch.tensor([[5.0, 3.0], [5.0, -3.0]])])
    found = script("residual_stream").along(parts, embed)
    assert found.flatten().tolist() == pytest.approx([1, 1, 1, -1, -2, 1, -1, 0, 10**0.5])


def test_effective_rank_counts_equal_directions() -> None:
    rank = script("residual_stream").effective_rank
    assert rank(torch.tensor([2.0, 2.0, 2.0, 0.0])) == pytest.approx(3)
    assert rank(torch.tensor([1.0, 0.0])) == pytest.approx(1)


@pytest.mark.slow
def test_memories_are_read_by_layer() -> None:
    module = script("memories")
    found = module.run(load("mini"), seed=1, quick=True)
    assert found.holds
    explained = found.tables["explained"].frame.pivot(index="by", columns="layer", values="value")
    assert (explained.loc["shuffled"].abs() < 0.02).all()
    assert explained.loc["last token", 0] > 0.4 > explained.loc["prediction", 0]
    triggers = found.tables["triggers"].frame
    assert (triggers["value"] > triggers["control"]).all()
    examples = found.tables["examples"].frame
    assert len(examples) == 8 * module.EXAMPLES
    assert examples["value"].between(0, module.TRIGGERS).all()
    assert set(found.tables["effects"].frame["n"]) == {module.COUNTED}


@pytest.mark.slow
def test_memories_are_not_found_in_random_weights() -> None:
    mini = load("mini")
    cfg = ModelConfig(2, 4, 32, d_vocab=mini.cfg.d_vocab, n_ctx=64)
    untrained = HookedGPT2.random(cfg, tokenizer=mini.tokenizer)
    module = script("memories")
    checks = {check.says: check for check in module.run(untrained, quick=True).checks}
    assert not checks["m1: explained variance, last token minus prediction"].holds
    assert not checks["m1: what follows is promoted by the value"].holds


def test_variance_is_between_groups() -> None:
    between = script("memories").between
    groups = torch.tensor([0, 0, 1, 1, 2])  # the last is alone, and says nothing
    values = torch.tensor([[1.0, 1.0], [1.0, 2.0], [3.0, 1.0], [3.0, 2.0], [9.0, 9.0]])
    # within: 0 and 0.5; in all: mean squares 4 / 3 and 1 / 3
    assert between(values, groups).tolist() == pytest.approx([1, -0.5])


def test_pairs_of_triggers_are_counted() -> None:
    shared = script("memories").shared
    assert shared(torch.tensor([[1, 1], [1, 2], [1, 3]])).tolist() == [1, 0]
    assert shared(torch.tensor([[1], [1], [2]])).tolist() == pytest.approx([1 / 3])


@pytest.mark.slow
def test_sorting_is_counting_and_an_untrained_model_does_not_sort() -> None:
    module, model = script("sorting"), load("sort-abc")
    found = module.run(model, seed=0, quick=True)
    assert [c.says for c in found.checks if not c.holds] == []
    letters = found.tables["letters"].frame.set_index(["model", "written"])["value"]
    assert letters["as it is"].tolist() == [1] * 6
    assert letters["counts for layer 0"].min() > 0.95
    assert letters["both"].mean() > 0.95
    assert letters["best guess"].mean() < 0.85
    heads = found.tables["counts"].frame.groupby("from")["value"].min()
    assert heads["heads of layer 0"] > 0.95
    assert heads["heads, untrained"] > 0.9  # even attention counts by itself
    assert 0.9 < found.tables["attention"].frame["value"].mean() < 1.2
    harm = found.tables["head_ablations"].frame.set_index("component")
    assert harm["value"].idxmin() == "a0.h1"
    assert harm.loc["a1.h0":, "value"].abs().max() < 0.1  # no later head is needed
    counted = found.tables["head_counts"].frame.set_index(["counts", "component"])["value"]
    assert counted["the word's"].min() > 0.8 > 0.1 > counted["another word's"].max()
    looks = found.tables["head_looks"].frame.set_index(["letters", "component"])["value"]
    assert looks["next letter, in the word"].idxmax() == "a1.h0"

    random = HookedGPT2.random(model.cfg, seed=3, tokenizer=model.tokenizer)
    failed = [c for c in module.run(random, seed=0, quick=True).checks if not c.holds]
    assert any(c.control for c in failed)
    assert any("counts for layer 0" in c.says for c in failed)


def test_counts_of_words() -> None:
    module = script("sorting")
    data = module.Words(load("sort-abc"), seed=0)
    assert len(data.groups.unique()) == 28
    for group in data.groups.unique():
        assert len(data.folds[data.groups == group].unique()) == 1  # counts are held out whole
    assert module.best_guess(data, 0).tolist() == [0] * 729
    shift = data.fitted(data.counts[:, :2], data.counts[:, 2:])
    assert (shift - data.counts[:, 2:]).abs().max() < 0.05  # the third follows from the two
    draw = torch.Generator().manual_seed(0)
    partners = module.others(data, 3, draw)
    has = partners >= 0
    assert (data.answers[partners, 3] != data.answers[:, 3])[has].all()
    assert (data.answers[partners, 2] == data.answers[:, 2])[has].all()


@pytest.mark.slow
def test_causal_graphs_are_found_where_they_are() -> None:
    module = script("causal_graph")
    found = module.run(load("sort-abc"), seed=0, quick=True)
    assert [c.says for c in found.checks if c.control and not c.holds] == []
    assert [c.says for c in found.checks if not c.holds] == []
    ioi = found.tables["ioi"].frame.set_index(["variable", "component"])["value"]
    assert ioi["s", "a1.h1@END"] == ioi["io", "a2.h0@END"] == 1
    assert any("the best of" in c.says and c.value < 0.1 for c in found.checks)
    counts = found.tables["counts"].frame
    assert not counts["illusion"].any()
    assert (counts.loc[counts["subspace"] == "dormant", "value"] == 0).all()
    assert found.tables["neurons"].frame["illusion"].all()


@pytest.mark.slow
def test_both_graphs_sort_every_word() -> None:
    module = script("causal_graph")
    for word in itertools.product(range(3), repeat=6):
        in_order = sorted(word)
        for place in range(6):
            roles = {"OUTPUT": 5, "END": 5 + place}
            text = Text((*word, *in_order[:place]), roles)
            assert {module.graph(name).says(text) for name in "abc"} == {in_order[place]}


def test_sources_agree_with_what_is_written() -> None:
    module = script("causal_graph")
    base = Text((0, 2, 1, 0, 1, 2, 0, 0, 1), {"OUTPUT": 5, "END": 8})
    graph, rng = module.graph("c"), np.random.default_rng(0)
    made = [graph.source(base, base, rng) for _ in range(200)]
    counts = {list(tokens[:6]).count(2) for tokens in made if tokens is not None}
    assert counts == {0, 1, 2, 3}  # with two A's, four C's would leave no B, which is written


@pytest.mark.slow
def test_training_to_sort_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = script("train_sort")
    monkeypatch.setattr(module, "QUICK_STEPS", 30)
    found = module.run(load("sort-abc"), seed=1, quick=True)
    assert [c.holds for c in found.checks] == [False, True, True]  # not learned in thirty steps
    curve = found.tables["curve"].frame
    assert curve["step"].unique().tolist() == [1, 10, 20, 30]
    assert set(curve["which"]) == {"words trained on", "words held out"}
    assert not capsys.readouterr().out


@pytest.mark.slow
def test_induction_heads_are_found_and_traced() -> None:
    found = script("induction_heads").run(load("mini"), seed=1, quick=True)
    assert found.holds
    ways = found.tables["routes"].frame.set_index(["way", "to", "input"])["value"]
    through = ways.pop(("through the MLP", "induction heads", "keys"))
    assert through > 0.5
    assert ways.abs().max() < 0.1
    without = found.tables["scores"].frame.groupby("without")["value"].max()
    assert without["a0.h6"] < 0.1 < 0.9 < without["nothing"]
    costs = found.tables["redundancy"].frame.set_index(["ablated", "how many"])
    assert costs.loc[("induction heads", "2"), "ways"] == 6
    assert costs.loc[("other heads", "4"), "most"] < costs.loc[("induction heads", "3"), "least"]


@pytest.mark.slow
def test_built_by_the_textbook_no_mlp_is_between_and_no_head_can_be_spared() -> None:
    found = script("induction_heads").run(load("compiled"), quick=True)
    fails = [check.says for check in found.checks if not check.holds]
    assert fails == [
        "heads of layer 1 that do induction",
        "cost without one, a1.h0",
        "a0.h0 through the MLP to their keys",
        "a0.h0 directly to their keys",
    ]


@pytest.mark.slow
def test_paths_begin_at_the_effective_embedding() -> None:
    found = script("framework").run(load("mini"), seed=1, quick=True)
    assert found.holds
    frame = found.tables["copying"].frame.set_index(["copying", "component"])
    copying, control = frame["value"], frame["control"]
    assert copying["raw embedding", "a1.h0"] < -0.5 < 0.9 < copying["effective embedding", "a1.h0"]
    assert copying["in context", "a1.h0"] > control["in context", "a1.h0"] + 0.5
    matching = found.tables["matching"].frame.set_index(["way", "writer"])["value"]
    assert matching["through the MLP", "a0.h6"].min() > 0.5 > 0.1 > matching["directly"].max()
    assert len(found.tables["bigrams"].frame) == 20


def test_a_table_of_bigrams_is_read_right() -> None:
    model = load("compiled")  # its unembedding is its embedding: the raw path repeats each letter
    texts = torch.randint(1, model.cfg.d_vocab, (3, 9), generator=torch.Generator().manual_seed(0))
    rows = script("framework").direct_table(model, texts, 0).frame.set_index(["path", "measure"])
    twice = (texts[:, 1:] == texts[:, :-1]).double().mean()
    assert rows.loc[("text", "itself on top"), "value"] == pytest.approx(float(twice))
    assert rows["value"].between(0, 1).all()


@pytest.mark.slow
def test_a_few_heads_find_the_indirect_object(monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("ioi")
    monkeypatch.setattr(module, "QUICK_N", 24)
    monkeypatch.setattr(module, "QUICK_DRAWS", 4)
    found = module.run(load("mini"), seed=1, quick=True)
    assert [c.says for c in found.checks if c.control and not c.holds] == []
    look = found.tables["circuit"].frame.drop_duplicates("component")
    assert set(look["group"]) == {"name movers", "giver readers", "others"}
    sets = found.tables["sets"].frame.set_index("set")["value"]
    assert sets["circuit"] > 0.75 > 0.5 > sets["random heads"]  # few prompts, wide intervals
    assert sets["without circuit"] < 0.2 < 0.9 < sets["without heads at S2"]
    curve = found.tables["faithfulness"].frame
    assert curve[curve["heads"] == 64]["value"].tolist() == pytest.approx([1, 1])  # all heads
    estimates = found.tables["estimates"].frame
    assert len(estimates) == 64
    assert estimates["value"].corr(estimates["exact"]) > 0.5
    patched = found.tables["patching"].frame.set_index(["layer", "position"])["share"]
    assert patched[7, "END"] > 0.9 > 0.1 > patched[7, "IO"]
    edges = found.tables["edges"].frame.set_index(["sender", "to"])["value"]
    assert edges["a0.h6", "m0"] < -4
    rule = found.tables["rule"].frame.set_index(["prompts", "over"])["share"]
    assert rule["as asked", "the giver"] == 1
    assert rule[module.ONCE, "the giver"] > 0.9 > 0.25 > abs(rule[module.ONCE, "the third"])
    assert rule[module.OTHER, "the giver"] > 0.9 > 0.25 > abs(rule[module.OTHER, "S"])
    assert rule[module.TWICE, "S"] < 0  # the name that comes twice, and does not give


def test_untrained_heads_find_no_indirect_object() -> None:
    found = script("ioi").run(word_model(), seed=0, quick=True)
    assert not found.holds


def test_heads_are_named_by_what_they_look_at() -> None:
    named = script("ioi").named
    assert named({"IO": 0.6, "S1": 0.2, "S2": 0.1, "S2+1": 0.1}) == "name movers"
    assert named({"IO": 0.1, "S1": 0.2, "S2": 0.1, "S2+1": 0.6}) == "giver readers"
    assert named({"IO": 0.3, "S1": 0.3, "S2": 0.3, "S2+1": 0.1}) == "others"


@pytest.mark.slow
def test_words_take_over_where_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("forward_pass")
    monkeypatch.setattr(module, "QUICK_STEPS", 10)
    monkeypatch.setattr(module, "QUICK_TRAINING", 8)
    found = module.run(load("mini"), seed=1, quick=True)
    assert [c.says for c in found.checks if c.control and not c.holds] == []
    by_says = {c.says: c for c in found.checks}
    assert by_says["second copies, layers 1 and 2, logit lens"].value > 0.5
    settled = found.tables["settled"].frame
    assert (settled.loc[settled["stage"] == "m7", "value"] == 1).all()
    assert (settled.groupby(["kind", "lens"])["value"].diff().dropna() >= 0).all()
    far = found.tables["distance"].frame.pivot_table(index="stage", columns="lens", values="value")
    assert (far["tuned lens"] <= far["logit lens"] + 1e-6).all()  # even after ten steps
    pushes = found.tables["pushes"].frame.set_index(["kind", "component"])["value"]
    assert pushes["second copy", "a1"] > 2 * pushes["text", "a1"] > 0
    story = found.tables["story"].frame
    assert story.drop_duplicates("position")["after"].tolist()[-3:] == [" Your", " foot", " has"]
    assert set(found.tables["followed"].frame["target"]) == {" has", " a", " two", " four"}


@pytest.mark.slow
def test_the_lens_of_an_experiment_is_that_of_the_analysis() -> None:
    module, model = script("forward_pass"), load("mini")
    tokens = model.to_tokens(module.STORY)
    prompts = module.of_text(model, tokens)
    place, kl = module.look(model, prompts, TunedLens.untrained(model))
    frame = logit_lens(model, module.STORY, positions="all").frame
    frame = frame[frame["position"] >= module.SKIPPED]
    names = [stage.name for stage in stages(model)]
    taken = frame[frame["takes_over"]].sort_values("position")["stage"]
    assert [names[i] for i in place[0].tolist()] == taken.tolist()
    table = frame.pivot_table(index="stage", columns="position", values="kl").loc[names]
    assert torch.tensor(table.to_numpy()).allclose(kl[:, 0].double(), atol=1e-3)


@pytest.mark.slow
def test_mini_was_trained_to_have_its_heads() -> None:
    module = script("train_mini")
    found = module.run(load("mini"), seed=1, quick=True)
    assert [c.says for c in found.checks if not c.holds] == []
    scores = found.tables["heads"].frame.set_index(["kind", "weights"])["value"]
    assert scores["induction", "trained"] > 0.9 > 0.1 > scores["induction", "untrained"]
    log = found.tables["log"].frame
    assert log.groupby("what")["million tokens"].max().eq(27.496448).all()


@pytest.mark.slow
def test_an_untrained_mini_has_no_such_heads() -> None:
    module, mini = script("train_mini"), load("mini")
    untrained = HookedGPT2(mini.cfg, mini.tokenizer)
    module.init_weights(untrained, seed=1)
    checks = module.run(untrained, quick=True).checks
    assert not any(c.holds for c in checks if c.says.startswith("trained"))


@pytest.mark.slow
def test_fine_tuning_is_learned_and_shuffled_labels_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = script("fine_tuning")
    monkeypatch.setattr(module, "WAYS", module.WAYS[:1])  # in full; the others take minutes
    monkeypatch.setattr(module, "QUICK_STEPS", {**module.QUICK_STEPS, module.INSTRUCTIONS: 2})
    monkeypatch.setattr(module, "LOOKED_AT", 4)
    found = module.run(load("mini"), seed=1, quick=True)
    holds = {check.says: check.holds for check in found.checks}
    assert holds["gives or receives, full: right, held out"]
    assert not holds["instructions, full: right, held out"], "2 steps teach nothing"
    assert all(check.holds for check in found.checks if check.control)
    parts = found.tables["carriers"].frame
    assert len(parts) == 2 + 64 + 8 + 8 + 1
    assert len(found.tables["effects"].frame) == 64


def test_shuffled_answers_keep_their_prompts() -> None:
    module, mini = script("fine_tuning"), load("mini")
    for seen, _ in (module.givers(mini, 0), module.instructions(mini, 0)):
        other = module.shuffled(seen, 1)
        assert [row.ids[:6] for row in other.rows] == [row.ids[:6] for row in seen.rows]
        changed = [a != b for a, b in zip(other.rows, seen.rows, strict=True)]
        assert sum(changed) / len(changed) > 0.3
