"""The hand-compiled model is built as designed, and its induction circuit does what it should.

The numbers were derived on paper and checked with an independent NumPy program. Tests of detectors,
patching and circuit discovery use this model as their ground truth, so it must be right first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import reference_gpt2
import torch
from ground_truth import HEADS, LARGE, SMALL, ablated, mini_ioi, patterns, repeated
from quick import only
from torch import Tensor

from circuits import weights
from circuits.architectures import HookedGPT2
from circuits.checkpoints import checksum, compiled, load, save
from circuits.errors import CircuitsError


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def small() -> HookedGPT2:
    return compiled.build(**SMALL, n_layers=3)


@pytest.fixture(scope="module", params=only([SMALL], [SMALL, LARGE]), ids=["V27", "V60"])
def model(request: pytest.FixtureRequest) -> HookedGPT2:
    return compiled.build(**request.param, n_layers=3)


def copy_losses(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Loss per token: of the first copy (and the first token of the second), of the rest."""
    loss = torch.nn.functional.cross_entropy(logits[0, :-1], tokens[0, 1:], reduction="none")
    m = tokens.shape[1] // 2
    return loss[: m + 1], loss[m + 1 :]


# --- the construction -------------------------------------------------------------------------


def test_layout_and_sizes(model: HookedGPT2) -> None:
    cfg = model.cfg
    assert not cfg.tied
    assert cfg.d_model == 4 * cfg.d_head
    assert cfg.d_mlp == 4 * cfg.d_model
    assert cfg.model_name == "compiled"
    features = compiled.Features(cfg.d_vocab, cfg.n_ctx)
    assert features.n_used == 4 * cfg.d_vocab + cfg.n_ctx + 4 <= cfg.d_model
    assert cfg.d_head >= cfg.d_vocab + 1 + cfg.n_ctx
    assert torch.equal(features.out, torch.arange(cfg.d_vocab) + features.inh[-1] + 1)
    assert all(not p.any() for name, p in model.named_parameters() if ".mlp." in name)
    assert all(not p.any() for name, p in model.named_parameters() if ".b" in name and p.ndim == 1)


@pytest.mark.parametrize(
    ("layer", "head", "expected"),
    [
        (0, 0, {"Q": {30.0}, "K": {1.0}, "V": {1.0}, "O": {1.0, -1.0}}),
        (0, 1, {"Q": {30.0, 0.015, -60.0}, "K": {1.0}, "V": {0.001, -1.0}, "O": {1.0, -1.0}}),
        (1, 0, {"Q": {30.0, 0.015}, "K": {1.0}, "V": {1.0}, "O": {1.0, -1.0}}),
        (1, 1, {"Q": {30.0, 0.015}, "K": {1.0}, "V": {1.0}, "O": {1.0, -1.0}}),
        (2, 0, {"Q": {30.0, 0.015, -60.0}, "K": {1.0}, "V": {1.0}, "O": {1.0, -1.0}}),
    ],
)
def test_head_weights_hold_only_these_values(
    small: HookedGPT2, layer: int, head: int, expected: dict[str, set[float]]
) -> None:
    attn = small.blocks[layer].attn
    for name, values in expected.items():
        weight = getattr(attn, f"W_{name}")[head].detach().double()
        weight = weight / math.sqrt(small.cfg.d_head) if name == "Q" else weight
        found = weight[weight != 0].unique().tolist()
        assert sorted(found) == pytest.approx(sorted(values), rel=1e-6), f"W_{name}"


def test_all_other_heads_are_zero(small: HookedGPT2) -> None:
    for layer, head in set(HEADS) - {(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)}:
        attn = small.blocks[layer].attn
        assert not any(w[head].any() for w in (attn.W_Q, attn.W_K, attn.W_V, attn.W_O))


def test_layer_norm_is_the_identity(model: HookedGPT2) -> None:
    _, cache = model.run_with_cache(repeated(model))
    resid, normalized = cache["resid_post", 2], cache["ln_final.hook_normalized"]
    assert resid.mean(-1).abs().max() < 1e-6
    assert torch.allclose(normalized * model.ln_final.w, resid, rtol=1e-5, atol=1e-5)
    # The last position carries TOK, POS, PREV, DUP, OUT and five times BAL: 1 - 30 / 4e6.
    scale = math.sqrt(2e6 / model.cfg.d_model) / cache["ln_final.hook_scale"][0, -1, 0]
    assert float(scale) == pytest.approx(0.9999925, abs=2e-7)


def test_writing_weights_are_centered_already(model: HookedGPT2) -> None:
    for writer in (model.W_E, model.W_pos, *(block.attn.W_O for block in model.blocks)):
        assert writer.mean(-1).abs().max() == 0


@pytest.mark.parametrize(
    "process",
    [
        weights.fold_layer_norm,
        weights.center_writing_weights,
        weights.center_unembed,
        weights.fold_value_biases,
        weights.process,
    ],
)
def test_folding_and_centering_change_nothing(
    model: HookedGPT2, process: Callable[..., tuple[HookedGPT2, weights.Certificate]]
) -> None:
    for tokens in (repeated(model), mini_ioi(model)[0]):
        processed, certificate = process(model, tokens)
        assert certificate.max_abs_delta < 1e-5
        first, second = model(tokens).topk(2).values.unbind(-1)
        ties = int((first - second < 1e-5).sum())  # where rounding says which token is likeliest
        assert certificate.argmax_changes <= ties < certificate.n_positions
        if process is weights.center_writing_weights:
            assert torch.equal(processed(tokens), model(tokens))


def test_numpy_oracle_agrees(model: HookedGPT2) -> None:
    exact = {name: w.double().numpy() for name, w in model.state_dict().items()}
    for tokens in (repeated(model), mini_ioi(model)[0]):
        oracle = reference_gpt2.logits(tokens[0].tolist(), exact, model.cfg.n_heads)
        assert torch.allclose(model(tokens)[0].double(), torch.from_numpy(oracle), atol=1e-4)


def test_extra_layers_are_exact_no_ops(small: HookedGPT2) -> None:
    deep = compiled.build(**SMALL)
    assert deep.cfg.n_layers == 6
    assert deep.cfg.n_heads == 4
    tokens = repeated(small)
    assert torch.equal(deep(tokens), small(tokens))
    assert torch.equal(deep(tokens, stop_at_layer=6), deep(tokens, stop_at_layer=3))


def test_loads_by_name_and_survives_a_file(tmp_path: Path) -> None:
    named = load("compiled")
    assert checksum(named) == checksum(compiled.build())
    again = load(save(named, tmp_path / "saved"))
    tokens = repeated(named)
    assert torch.equal(again(tokens), named(tokens))
    assert again.tokenizer.checksum == named.tokenizer.checksum


def test_every_token_is_one_readable_character(model: HookedGPT2) -> None:
    tokenizer = model.tokenizer
    assert tokenizer.bos_id == compiled.BOS
    assert tokenizer.n_vocab == model.cfg.d_vocab
    text = "".join(tokenizer.decode([i]) for i in range(1, model.cfg.d_vocab))
    assert text.startswith(".ABCDEFGHabcdefghijklmnopq"[: model.cfg.d_vocab - 1])
    assert len(set(text)) == len(text) == model.cfg.d_vocab - 1
    assert text.isprintable()
    assert tokenizer.encode("<|endoftext|>" + text) == list(range(model.cfg.d_vocab))


def test_characters_beyond_ascii_still_round_trip() -> None:
    tokenizer = compiled.character_tokenizer(300)
    text = tokenizer.decode(range(1, 300))
    assert len(text) == 299
    assert text.isprintable()
    assert tokenizer.encode(text) == [*range(1, 300)]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"d_head": 59}, "d_head=59 is too small .* at least 60"),
        ({"n_heads": 2}, "d_model=128 is too small .* at least 144"),
        ({"n_layers": 2}, "n_layers=2 is too small .* at least 3"),
        ({"d_vocab": 10}, "d_vocab=10 is too small .* at least 11"),
        ({"d_vocab": 3000, "d_head": 4000}, "d_vocab=3000: every token is one printable character"),
    ],
)
def test_sizes_that_cannot_hold_the_features_are_refused(
    sizes: dict[str, int], message: str
) -> None:
    with pytest.raises(CircuitsError, match=message):
        compiled.build(**sizes)


# --- induction: 0.0 -> 1.0 --------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_attention_on_repeated_tokens(model: HookedGPT2, seed: int) -> None:
    m = 15
    attention = patterns(model, repeated(model, m, seed=seed))
    i = torch.arange(1, 2 * m + 1)
    assert attention[0, 0][i, i - 1].min() >= 1 - 1e-6
    first, second = i[i <= m], i[i > m]
    for head, shift in (((1, 0), m - 1), ((0, 1), m)):
        assert attention[head][second, second - shift].min() >= 0.9999996
        assert attention[head][first, 0].min() >= 0.99999


def test_attention_in_double_precision(small: HookedGPT2) -> None:
    attention = patterns(compiled.build(**SMALL, n_layers=3).double(), repeated(small))
    i = torch.arange(1, 31)
    assert attention[0, 0].dtype == torch.float64
    # 29 other keys at e^-30 each: 1 - 3e-12 for the last query, 1 - 1e-13 for the second.
    assert 1 - attention[0, 0][i, i - 1].min() < 29 * 1.01e-13
    assert 1e-14 < 1 - attention[0, 0][2, 1] < 2e-13


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_loss_and_margin_on_repeated_tokens(model: HookedGPT2, seed: int) -> None:
    tokens = repeated(model, seed=seed)
    logits = model(tokens)
    first, second = copy_losses(logits, tokens)
    v = model.cfg.d_vocab
    assert first.tolist() == pytest.approx([math.log(v)] * 16, abs=1e-3)
    assert second.tolist() == pytest.approx([math.log1p((v - 1) * math.exp(-10))] * 14, abs=1e-5)
    if v == 27:
        assert first.mean() == pytest.approx(3.296, abs=5e-4)
        assert second.mean() == pytest.approx(0.0012, abs=5e-5)
    correct = logits[0, 16:-1].gather(1, tokens[0, 17:, None])
    others = logits[0, 16:-1].scatter(1, tokens[0, 17:, None], -torch.inf)
    assert (correct[:, 0] - others.max(-1).values).tolist() == pytest.approx([10.0] * 14, abs=1e-3)
    assert torch.equal(logits[0, 16:-1].argmax(-1), tokens[0, 17:])  # accuracy 100 %


def test_model_loss_is_the_mean_of_its_tokens(small: HookedGPT2) -> None:
    tokens = repeated(small)
    per_token = small(tokens, return_type="loss", loss_per_token=True)
    assert torch.allclose(torch.cat(copy_losses(small(tokens), tokens)), per_token[0], atol=1e-6)


@pytest.mark.parametrize(("layer", "head"), HEADS)
def test_zero_ablation_on_repeated_tokens(model: HookedGPT2, layer: int, head: int) -> None:
    tokens = repeated(model)
    clean = model(tokens)
    logits = ablated(model, tokens, layer, head)
    if (layer, head) in {(0, 0), (1, 0)}:
        _, second = copy_losses(logits, tokens)
        assert second.tolist() == pytest.approx([math.log(model.cfg.d_vocab)] * 14, abs=1e-3)
        assert not (logits[0, 16:-1].argmax(-1) == tokens[0, 17:]).any()
    else:
        change = torch.cat(copy_losses(logits, tokens)) - torch.cat(copy_losses(clean, tokens))
        assert change.abs().max() < 1e-4


def detection_patterns(tokens: Tensor) -> dict[str, Tensor]:
    """Where the three kinds of head should look, [q k]; BOS is nobody's copy."""
    same = tokens[0, :, None] == tokens[0, None, :]
    duplicate = same.float().tril(-1)
    induction = torch.nn.functional.pad(duplicate[:, :-1], (1, 0)).tril(-1)
    previous = torch.eye(tokens.shape[1]).roll(-1, dims=1).tril(-1)
    return {"previous": previous, "induction": induction, "duplicate": duplicate}


def mul_score(attention: Tensor, pattern: Tensor) -> float:
    return float((attention * pattern).sum() / attention.sum())


@pytest.mark.parametrize(
    ("m", "times", "scores"),
    [(15, 2, (0.968, 0.484, 0.484)), (25, 4, (0.990, 0.7426, 0.7426))],
    ids=["m15x2", "olsson25x4"],
)
def test_mul_scores(m: int, times: int, scores: tuple[float, ...]) -> None:
    model = compiled.build(**(SMALL if times == 2 else LARGE), n_layers=3)
    tokens = repeated(model, m, times)
    attention, n = patterns(model, tokens), tokens.shape[1]
    repeats = m * (times - 1)
    exact = ((n - 1) / n, repeats / n, repeats / n)
    assert exact == pytest.approx(scores, abs=6e-4)
    targets = detection_patterns(tokens)
    heads = {"previous": (0, 0), "induction": (1, 0), "duplicate": (0, 1)}
    for (kind, head), expected in zip(heads.items(), exact, strict=True):
        assert mul_score(attention[head], targets[kind]) == pytest.approx(expected, abs=1e-5)
        others = (mul_score(attention[h], targets[kind]) for h in HEADS if h != head)
        assert max(others) < expected - 0.2


def test_olsson_mass_is_split_evenly_over_the_earlier_targets() -> None:
    model, m = compiled.build(**LARGE, n_layers=3), 25
    attention = patterns(model, repeated(model, m, times=4))
    for repeat in (2, 3, 4):
        queries = (repeat - 1) * m + torch.arange(1, m + 1)
        for earlier in range(1, repeat):
            # The rest, below 101 e^-15, is spread over all other keys.
            share = pytest.approx([1 / (repeat - 1)] * m, abs=3.1e-5)
            assert attention[1, 0][queries, queries - earlier * m + 1].tolist() == share
            assert attention[0, 1][queries, queries - earlier * m].tolist() == share


# --- the weights alone --------------------------------------------------------------------------


def eigenvalue_positivity(model: HookedGPT2, layer: int, head: int) -> float:
    """sum(eigenvalues) / sum(|eigenvalues|) of W_E W_V W_O W_U; 0 when all are 0."""
    attn = model.blocks[layer].attn
    full = model.W_E @ attn.W_V[head] @ attn.W_O[head] @ model.unembed.W_U
    eigenvalues = torch.linalg.eigvals(full.detach().double())
    total = eigenvalues.abs().sum()
    return float(eigenvalues.sum().real / total) if total else 0.0


def test_eigenvalue_positivity(model: HookedGPT2) -> None:
    expected = {(1, 0): 1.0, (2, 0): 1.0}
    for layer, head in HEADS:
        found = eigenvalue_positivity(model, layer, head)
        assert found == pytest.approx(expected.get((layer, head), 0.0), abs=1e-9)


def compositions(model: HookedGPT2, early: tuple[int, int], late: tuple[int, int]) -> list[float]:
    """|W_1 W_2| / (|W_1| |W_2|) of the early head's OV with the late head's Q, K and V side."""
    (l1, h1), (l2, h2) = early, late
    attn1, attn2 = model.blocks[l1].attn, model.blocks[l2].attn
    ov1 = (attn1.W_V[h1] @ attn1.W_O[h1]).detach().double()
    qk2 = (attn2.W_Q[h2] @ attn2.W_K[h2].T).detach().double()
    ov2 = (attn2.W_V[h2] @ attn2.W_O[h2]).detach().double()
    norms = [float(ov1.norm() * w.norm()) for w in (qk2, qk2.T, ov2)]
    products = [float((ov1 @ w).norm()) for w in (qk2, qk2.T, ov2)]
    return [p / n if n else 0.0 for p, n in zip(products, norms, strict=True)]


def test_composition_scores(small: HookedGPT2) -> None:
    expected = {
        ((0, 0), (1, 0)): [0, 0.136, 0],
        ((0, 1), (1, 1)): [0, 0.707, 0],
        ((1, 1), (2, 0)): [0.124, 0, 0],
    }
    for early in HEADS:
        for late in HEADS:
            if early[0] < late[0]:
                found = compositions(small, early, late)
                scores = expected.get((early, late), [0, 0, 0])
                assert found == pytest.approx(scores, abs=5e-4), f"{early} -> {late}"
                assert [f == 0 for f in found] == [s == 0 for s in scores]
