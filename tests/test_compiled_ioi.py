"""The hand-compiled model's indirect-object circuit: every edge of it, and no other, matters."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import reference_gpt2
import torch
from einops import rearrange
from ground_truth import (
    END_AT,
    HEADS,
    IO_AT,
    LARGE,
    S1_AT,
    S2_AT,
    SMALL,
    TRUE_EDGES,
    ablated,
    logit_diff,
    mini_ioi,
    patterns,
    zero,
)
from torch import Tensor

from circuits.architectures import HookedGPT2
from circuits.checkpoints import compiled
from circuits.errors import CircuitsError
from circuits.hooks import HookPoint
from circuits.metrics import get_metric
from circuits.prompts import make


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def small() -> HookedGPT2:
    return compiled.build(**SMALL, n_layers=3)


@pytest.fixture(scope="module", params=[SMALL, LARGE], ids=["V27", "V60"])
def model(request: pytest.FixtureRequest) -> HookedGPT2:
    return compiled.build(**request.param, n_layers=3)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_indirect_object(model: HookedGPT2, seed: int) -> None:
    clean, _ = mini_ioi(model, seed)
    attention = patterns(model, clean)
    assert attention[0, 1][S2_AT, S1_AT] >= 0.9999996
    assert attention[1, 1][END_AT, S2_AT] >= 0.9999996
    assert attention[2, 0][END_AT, IO_AT] >= 0.9999996
    logits = model(clean)
    assert logit_diff(logits, clean) == pytest.approx(9.99989, abs=5e-5)
    if model.cfg.d_vocab == 27:
        probability = logits[0, END_AT].softmax(-1)[clean[0, IO_AT]]
        assert float(probability) == pytest.approx(0.9988, abs=5e-5)


def test_direct_logit_attribution_names_the_name_mover(model: HookedGPT2) -> None:
    clean, _ = mini_ioi(model)
    _, cache = model.run_with_cache(clean, names_filter=lambda n: n.endswith("hook_result"))
    w_u = model.unembed.W_U
    direction = w_u[:, clean[0, IO_AT]] - w_u[:, clean[0, S1_AT]]
    for layer, head in HEADS:
        result = cache["result", layer][0, END_AT, head]
        share = float(result @ direction) / 10
        assert share == pytest.approx(1.0 if (layer, head) == (2, 0) else 0.0, abs=1e-4)


@pytest.mark.parametrize(("layer", "head"), HEADS)
def test_zero_ablation_of_the_indirect_object(model: HookedGPT2, layer: int, head: int) -> None:
    clean, _ = mini_ioi(model)
    effects = {(0, 1): -10 / 3, (1, 1): -10 / 3, (2, 0): 0.0}
    found = logit_diff(ablated(model, clean, layer, head), clean)
    assert found == pytest.approx(effects.get((layer, head), 10.0), abs=1e-3)


@pytest.mark.parametrize("layer_head", [(0, 1), (1, 1)])
def test_uninhibited_name_mover_looks_at_all_names(
    small: HookedGPT2, layer_head: tuple[int, int]
) -> None:
    clean, _ = mini_ioi(small)
    layer, head = layer_head
    with small.hooks(fwd_hooks=[(f"blocks.{layer}.attn.hook_z", zero(head))]):
        row = patterns(small, clean)[2, 0][END_AT, [IO_AT, S1_AT, S2_AT]]
    assert row.tolist() == pytest.approx([1 / 3] * 3, abs=1e-4)


def test_corrupted_prompt_has_no_preference(model: HookedGPT2) -> None:
    clean, corrupted = mini_ioi(model)
    assert logit_diff(model(corrupted), clean) == pytest.approx(0.0, abs=1e-3)


def writer_outputs(model: HookedGPT2, tokens: Tensor) -> dict[str, Tensor]:
    """What each part adds to the residual stream, [p d], by name: emb, 0.0, 0.1, ..."""
    names = lambda n: n == "blocks.0.hook_resid_pre" or n.endswith("hook_result")  # noqa: E731
    _, cache = model.run_with_cache(tokens, names_filter=names)
    heads = {f"{lay}.{h}": cache["result", lay][0, :, h] for lay, h in HEADS}
    return {"emb": cache["resid_pre", 0][0], **heads}


def readers_after(layer: int) -> list[tuple[str, str, int | None]]:
    """(name, site, head) of every input that a part of `layer` (-1: the embedding) can reach."""
    heads = [
        (f"{lay}.{head}.{qkv}", f"blocks.{lay}.hook_{qkv}_input", head)
        for lay, head in HEADS
        if lay > layer
        for qkv in "qkv"
    ]
    return [*heads, ("out", "blocks.2.hook_resid_post", None)]


def noise_edge(
    model: HookedGPT2, clean: Tensor, delta: Tensor, site: str, head: int | None
) -> Tensor:
    """Path patching of one edge: only this reader sees the writer's corrupted output."""

    def hook(value: Tensor, hook: HookPoint) -> None:
        (value if head is None else value[:, :, head]).add_(delta)

    logits: Tensor = model.run_with_hooks(clean, fwd_hooks=[(site, hook)])
    return logits


@pytest.mark.slow
def test_noising_every_edge_finds_exactly_the_six_true_ones(small: HookedGPT2) -> None:
    clean, corrupted = mini_ioi(small)
    before, after = writer_outputs(small, clean), writer_outputs(small, corrupted)
    found = {}
    for writer in before:
        layer = -1 if writer == "emb" else int(writer[0])
        delta = after[writer] - before[writer]
        for reader, site, head in readers_after(layer):
            logits = noise_edge(small, clean, delta, site, head)
            found[f"{writer}->{reader}"] = logit_diff(logits, clean)
    assert len(found) == 12 + 60 + 108 + 13
    expected = {edge: TRUE_EDGES.get(edge, 10.0) for edge in found}
    assert set(TRUE_EDGES) <= set(expected)
    assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("edge", TRUE_EDGES)
def test_true_edges_at_the_larger_size(model: HookedGPT2, edge: str) -> None:
    clean, corrupted = mini_ioi(model, seed=5)
    writer, reader = edge.split("->")
    delta = writer_outputs(model, corrupted)[writer] - writer_outputs(model, clean)[writer]
    site, head = {name: (site, head) for name, site, head in readers_after(-1)}[reader]
    found = logit_diff(noise_edge(model, clean, delta, site, head), clean)
    assert found == pytest.approx(TRUE_EDGES[edge], abs=1e-3)


# --- the soft variant ---------------------------------------------------------------------------


def query_gradient(beta: float) -> float:
    """How strongly does the logit difference respond to the name mover's query input?"""
    model = compiled.build(**SMALL, n_layers=3, beta=beta)
    clean, _ = mini_ioi(model)
    grads: list[Tensor] = []
    hook = ("blocks.2.hook_q_input", lambda grad, hook: grads.append(grad.clone()))
    with torch.enable_grad(), model.hooks(bwd_hooks=[hook]):
        logits = model(clean)
        (logits[0, END_AT, clean[0, IO_AT]] - logits[0, END_AT, clean[0, S1_AT]]).backward()
    return float(rearrange(grads[0], "b p h d -> (b p h d)").norm())


def test_gradients_vanish_at_beta_30_and_live_at_beta_4() -> None:
    assert query_gradient(30.0) < 1e-3 < 1.0 < query_gradient(4.0)


def test_soft_variant_has_exact_numbers_too() -> None:
    model = compiled.build(**SMALL, n_layers=3, beta=4.0)
    exact = {name: w.double().numpy() for name, w in model.state_dict().items()}
    for seed in range(3):
        clean, corrupted = mini_ioi(model, seed)
        for tokens, expected in ((clean, 5.9654), (corrupted, 0.6560)):
            oracle = reference_gpt2.logits(tokens[0].tolist(), exact, model.cfg.n_heads)
            assert logit_diff(model(tokens), clean) == pytest.approx(expected, abs=2e-4)
            assert logit_diff(torch.from_numpy(oracle[None]), clean) == pytest.approx(
                expected, abs=2e-4
            )


# --- the task -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("d_vocab", "n_ctx", "n_templates"), [(11, 6, 2), (14, 12, 5), (27, 32, 8)]
)
def test_prompts_of_the_task(d_vocab: int, n_ctx: int, n_templates: int) -> None:
    model = compiled.build(d_vocab=d_vocab, n_ctx=n_ctx, n_layers=3)
    prompts = make("compiled-ioi", model, 4 * n_templates)
    assert prompts.templates is not None
    assert prompts.corrupted is not None
    assert prompts.answers is not None
    assert prompts.distractors is not None
    assert len({*prompts.templates}) == n_templates
    for row, template in enumerate(prompts.templates):
        ids = prompts.tokens[row][prompts.mask[row]].tolist()
        twin = prompts.corrupted[row][prompts.mask[row]].tolist()
        at = {role: int(where[row]) for role, where in prompts.roles.items()}
        io, s = int(prompts.answers[row]), int(prompts.distractors[row])
        assert {io, s} <= {*compiled.NAMES}
        assert (ids[0], ids[-1], len(ids)) == (compiled.BOS, compiled.END, len(template) + 1)
        assert ids.count(io) == 1
        assert [i for i, token in enumerate(ids) if token == s] == [at["S1"], at["S2"]]
        assert (ids[at["IO"]], at["END"]) == (io, len(ids) - 1)
        fillers = [token for token in ids if token > max(compiled.NAMES)]
        assert len({*fillers}) == len(fillers) == template.count("_")
        assert [i for i in range(len(ids)) if ids[i] != twin[i]] == [at["S2"]]
        assert twin[at["S2"]] in {*compiled.NAMES} - {io, s}
        assert model.tokenizer is not None
        assert model.tokenizer.encode(prompts.texts[row]) == ids[1:]


def test_the_task_is_drawn_with_its_seed(small: HookedGPT2) -> None:
    prompts, same, other = (make("compiled-ioi", small, 24, seed) for seed in (0, 0, 1))
    assert prompts.checksum == same.checksum != other.checksum
    assert len({*prompts.texts}) == 24
    assert prompts.population is not None
    assert "these 8 templates" in prompts.population


def test_the_model_solves_the_task_and_not_its_twins(model: HookedGPT2) -> None:
    prompts = make("compiled-ioi", model, 16)
    assert prompts.corrupted is not None
    difference = get_metric("logit_diff")
    assert difference(model(prompts.tokens), prompts).tolist() == pytest.approx(16 * [10], abs=1e-3)
    twins = difference(model(prompts.corrupted), prompts)
    assert twins.tolist() == pytest.approx(16 * [0], abs=2e-3)


def test_the_task_suits_no_other_vocabulary_and_no_short_context(mini: HookedGPT2) -> None:
    with pytest.raises(CircuitsError, match="'compiled-ioi' does not suit mini: it needs the"):
        make("compiled-ioi", mini)
    short = compiled.build(n_ctx=5, n_layers=3)
    with pytest.raises(CircuitsError, match="context has 5 positions, .* sentence has 6"):
        make("compiled-ioi", short)
