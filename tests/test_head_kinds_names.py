"""A name mover pushes IO over S; what pushes both, or moves no name, is called otherwise."""

from __future__ import annotations

import ground_truth
import pytest
import torch
from torch import Tensor

from circuits.analyses.heads import heads
from circuits.architectures import HookedGPT2
from circuits.checkpoints.compiled import build
from circuits.head_kinds import KINDS, Scores, are_clear
from circuits.head_kinds import names as names
from circuits.prompts import Prompts, make

MOVING = ("name-mover", "name-copier", "negative")
THIRD = 10 / 3
RAISED = 10 * (1 - 1 / 27)  # a logit of 10 over the mean of all 27


def compiled_with(*, inhibited: bool, sign: int) -> HookedGPT2:
    """The name mover 2.0 by hand: told to avoid S or not, and copying names or taking from them."""
    model = build(n_layers=3)
    with torch.no_grad():
        model.blocks[1].attn.W_O[1] *= int(inhibited)
        model.blocks[2].attn.W_O[0] *= sign
    return model


@pytest.mark.parametrize(
    ("inhibited", "sign", "name", "scores", "also"),
    [
        # It looks at IO alone, and copies it.
        (True, 1, "name-mover", (10, 0, -RAISED), (10, -10)),
        # At IO, S1 and S2 alike: from IO come 10/3 for IO - S, from S1 and S2 20/3 against it.
        (
            False,
            1,
            "name-copier",
            (-THIRD, RAISED / 3, -2 / 3 * RAISED),
            (THIRD, THIRD),
        ),
        # At IO alone, and against it.
        (True, -1, "negative", (-10, -RAISED, RAISED), (-10, 10)),
        # Against all names alike: IO gains on S by that, but no name is moved.
        (
            False,
            -1,
            "none",
            (THIRD, -2 / 3 * RAISED, 2 / 3 * RAISED),
            (-THIRD, -THIRD),
        ),
    ],
)
def test_heads_made_by_hand(
    inhibited: bool, sign: int, name: str, scores: tuple[float, ...], also: tuple[float, ...]
) -> None:
    model = compiled_with(inhibited=inhibited, sign=sign)
    prompts = ground_truth.mini_ioi_prompts(model)
    card = heads(model, kind=MOVING, component="a2.h0", ioi=prompts, n=4).frame
    rows = card.set_index("kind").loc[[*MOVING]]
    assert rows["value"].tolist() == pytest.approx(scores, abs=0.01)
    assert rows.loc[["name-mover", "negative"], "also"].tolist() == pytest.approx(also, abs=0.01)
    assert set(rows["name"]) == {name}
    assert rows.index[rows["clear"]].tolist() == ([] if name == "none" else [name])


@pytest.fixture(scope="module")
def of_mini(mini: HookedGPT2) -> dict[str, Scores | str]:
    with torch.inference_mode():
        return names.name_scores(mini, make("ioi", mini, 100, 3))


def clear(of_mini: dict[str, Scores | str], kind: str) -> list[str]:
    scores = of_mini[kind]
    assert isinstance(scores, Scores)
    where = are_clear(KINDS[kind], scores).nonzero()
    return [f"a{layer}.h{head}" for layer, head in zip(*where, strict=True)]


@pytest.mark.slow
def test_mini_heads_that_copy_both_names_are_no_name_movers(
    of_mini: dict[str, Scores | str],
) -> None:
    movers = of_mini["name-mover"]
    assert isinstance(movers, Scores)
    assert movers.also is not None
    for (layer, head), direct, from_io in (
        ((4, 2), 0.05, 0.45),
        ((4, 5), 0.07, 0.37),
        ((5, 0), -0.02, 0.55),
    ):
        assert movers.value[layer, head].mean() == pytest.approx(direct, abs=0.006)
        assert movers.also[layer, head].mean() == pytest.approx(from_io, abs=0.006)
    assert clear(of_mini, "name-mover") == ["a4.h1", "a5.h3", "a5.h5", "a6.h0", "a6.h2", "a6.h3"]
    assert clear(of_mini, "name-copier") == ["a4.h2", "a5.h0"]
    assert clear(of_mini, "negative") == []


@pytest.mark.slow
def test_a_head_that_favors_io_from_elsewhere_moves_no_name(
    of_mini: dict[str, Scores | str],
) -> None:
    """S-inhibition head 1.3 of mini: what it reads at S2 also lowers the logit of S by itself."""
    movers = of_mini["name-mover"]
    assert isinstance(movers, Scores)
    assert movers.also is not None
    assert movers.value[1, 3].mean() == pytest.approx(0.98, abs=0.01)
    assert movers.also[1, 3].mean() == pytest.approx(0, abs=0.01)
    assert clear(of_mini, "s-inhibition") == ["a1.h3"]


def wrote(words: HookedGPT2, prompts: Prompts, layer: int, head: int) -> dict[str, Tensor]:
    """What one head moves from each place to END, and in all: [b d], in loops."""
    _, cache = words.run_with_cache(prompts.tokens, attention_mask=prompts.mask)
    found: dict[str, list[Tensor]] = {role: [] for role in ("IO", "S1", "S2", "all")}
    for row in range(len(prompts)):
        end = int(prompts.roles["END"][row])
        moved = [
            cache["pattern", layer][row, head, end, key]
            * (cache["v", layer][row, key, head] @ words.blocks[layer].attn.W_O[head])
            for key in range(end + 1)
        ]
        for role in ("IO", "S1", "S2"):
            found[role].append(moved[int(prompts.roles[role][row])])
        found["all"].append(sum(moved[1:], moved[0]))
    return {role: torch.stack(rows) for role, rows in found.items()}


def raised(words: HookedGPT2, prompts: Prompts, moved: Tensor, tokens: Tensor) -> list[float]:
    """By how much this raises these tokens' logits over the mean logit, ln_final's scale held."""
    _, cache = words.run_with_cache(prompts.tokens, attention_mask=prompts.mask)
    found = []
    for row in range(len(prompts)):
        x = moved[row] - moved[row].mean()
        x = x / cache["ln_final.hook_scale"][row, int(prompts.roles["END"][row])]
        logits = (x * words.ln_final.w) @ words.W_U
        found.append(float(logits[tokens[row]] - logits.mean()))
    return found


def test_scores_are_what_a_loop_over_prompts_finds(words: HookedGPT2) -> None:
    prompts, (layer, head) = make("ioi", words, 3), (1, 1)
    assert prompts.answers is not None
    assert prompts.distractors is not None
    io, s = prompts.answers, prompts.distractors
    with torch.inference_mode():
        scores = names.name_scores(words, prompts)
        moved = wrote(words, prompts, layer, head)
        moved["S"] = moved["S1"] + moved["S2"]

        def gains(what: str, tokens: Tensor) -> torch.Tensor:
            return torch.tensor(raised(words, prompts, moved[what], tokens), dtype=torch.float64)

        expected = {
            "name-mover": (gains("all", io) - gains("all", s), gains("IO", io) - gains("IO", s)),
            "negative": (
                -gains("IO", io) - gains("S1", s),
                gains("all", s) - gains("all", io),
            ),
            "name-copier": (min(gains("IO", io), gains("S", s), key=torch.mean), None),
        }
        by_logits = words.run_with_cache(
            prompts.tokens, attention_mask=prompts.mask, names_filter=lambda name: True
        )[1]
        result = by_logits["result", layer][:, :, head][None]
        attributed = by_logits.logit_attrs(result, io, s, pos_slice=slice(None))[0]
    for kind, (value, also) in expected.items():
        found = scores[kind]
        assert isinstance(found, Scores)
        assert found.value[layer, head].tolist() == pytest.approx(value.tolist(), abs=1e-9)
        if also is not None:
            assert found.also is not None
            assert found.also[layer, head].tolist() == pytest.approx(also.tolist(), abs=1e-9)
    at_end = attributed[torch.arange(3), prompts.roles["END"]]
    assert at_end.tolist() == pytest.approx(expected["name-mover"][0].tolist(), abs=1e-9)


def test_inhibition_is_the_change_of_the_movers_scores(words: HookedGPT2) -> None:
    """Take what the head moves from S2 out of the movers' query; LayerNorm's scale is held."""
    prompts = make("ioi", words, 2)
    weights = torch.tensor([[0.0, 0.0], [0.3, 1.7]], dtype=torch.float64)
    with torch.inference_mode():
        run = names._Run.of(words, prompts, prompts.tokens)
        found = names._inhibition(words, run, weights)[0, :, 1]
        _, cache = words.run_with_cache(prompts.tokens, attention_mask=prompts.mask)
        roles = {role: at.tolist() for role, at in prompts.roles.items()}
        for row in range(2):
            io, s1, s2, end = (roles[role][row] for role in ("IO", "S1", "S2", "END"))
            weight = cache["pattern", 0][row, 1, end, s2]
            moved = weight * cache["v", 0][row, s2, 1] @ words.blocks[0].attn.W_O[1]
            block = words.blocks[1]
            seen = (moved - moved.mean()) / cache["scale", 1, "ln1"][row, end] * block.ln1.w
            total = 0.0
            for head in range(2):
                keys = cache["k", 1][row, :, head]
                shift = seen @ block.attn.W_Q[head] @ (keys[io] - keys[s1]) / 2  # sqrt(d_head)
                total += float(weights[1, head] * shift)
            assert found[row] == pytest.approx(total / 2.0, abs=1e-9)


def test_only_name_movers_can_be_inhibited() -> None:
    model = compiled_with(inhibited=False, sign=1)
    prompts = ground_truth.mini_ioi_prompts(model)
    with torch.inference_mode():
        assert names.name_scores(model, prompts)["s-inhibition"] == names.NO_MOVERS
    card = heads(model, kind="s-inhibition", ioi=prompts, n=4).frame
    assert set(card["note"]) == {names.NO_MOVERS}
    assert card["value"].isna().all()
