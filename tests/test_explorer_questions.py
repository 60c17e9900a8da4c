"""What the page is told is what the library says; what is taken along gives the same numbers."""

from __future__ import annotations

import base64
import json
import runpy
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import circuits
from circuits.architectures import HookedGPT2
from circuits.cli import app
from circuits.explorer.desk import Desk
from circuits.explorer.pieces import Take
from circuits.explorer.view import Edit, View
from circuits.explorer.wire import to_json

LETTER = View(
    "When Mary and John went to the garden, John gave a letter to",
    "When Mary and John went to the garden, Mary gave a letter to",
    answer=" Mary",
    distractor=" John",
)
ONCE = View("aAbBcdeBfg.", "aAbBcdeCfg.", answer="A", distractor="B")
EDITED = View(ONCE.prompt, ONCE.contrast, -1, "A", "B", (Edit("a1.h0", "scale", 0.5),))
MAPS = [
    {"what": "ablate", "method": "zero"},
    {"what": "ablate", "method": "mean"},
    {"what": "ablate", "method": "resample"},
    {"what": "patch"},
    {"what": "direct"},
    {"what": "looks"},
]


@pytest.fixture(scope="module")
def desks(mini: HookedGPT2) -> Mapping[str, Desk]:
    return {"mini": Desk(mini), "compiled": Desk(circuits.load("compiled"))}


def asked(desk: Desk, question: str, view: View, options: Any = None) -> list[dict[str, Any]]:
    return [to_json(piece) for piece in desk.ask(question, view, options or {})]


def of_kind(pieces: Sequence[Mapping[str, Any]], kind: str) -> list[Any]:
    return [piece for piece in pieces if piece["kind"] == kind]


def told(command: str) -> list[Any]:
    """What each line of a command prints as JSON."""
    said = []
    for line in command.splitlines():
        words = shlex.split(line)
        words.insert(words.index("--") if "--" in words else len(words), "--json")
        result = CliRunner().invoke(app, words[1:], prog_name="circuits")
        assert result.exit_code == 0, result.output
        said.append(json.loads(result.stdout))
    return said


def lines(take: Mapping[str, Any], tmp_path: Path, **known: Any) -> dict[str, Any]:
    """What the lines of Python leave in variables."""
    script = tmp_path / "taken.py"
    script.write_text(take["python"], encoding="utf-8")
    return runpy.run_path(str(script), init_globals=known)


def grid(pieces: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The numbers of a map by part."""
    values = {}
    for layer in of_kind(pieces, "layer"):
        values |= {f"a{layer['layer']}.h{h}": value for h, value in enumerate(layer["heads"])}
        if layer["mlp"] is not None:
            values[f"m{layer['layer']}"] = layer["mlp"]
    return values


def values_of(results: Sequence[Any]) -> dict[str, float]:
    """The effects that commands print, by part."""
    rows = [row for each in results for row in each["rows"]]
    return {row["component"]: row["value"] for row in rows if row["component"] is not None}


@pytest.mark.parametrize(
    "options", MAPS[:5], ids=lambda options: "-".join(str(value) for value in options.values())
)
@pytest.mark.parametrize(
    ("name", "view"),
    [pytest.param("mini", LETTER, marks=pytest.mark.slow), ("compiled", ONCE)],
)
def test_maps_are_what_the_commands_print(
    desks: Mapping[str, Desk], name: str, view: View, options: Any, tmp_path: Path
) -> None:
    pieces = asked(desks[name], "map", view, options)
    shown, take = grid(pieces), pieces[-1]
    printed = values_of(told(take["command"]))
    cfg = desks[name].model.cfg
    assert len(shown) == cfg.n_layers * (cfg.n_heads + (not cfg.attn_only))
    for part, value in shown.items():
        # Commands refuse an MLP that writes nothing.
        told_value = printed[part] if "h" in part else printed.get(part, 0)
        assert value == pytest.approx(told_value, rel=1e-4, abs=2e-4), part
    left = lines(take, tmp_path)
    results = [left["found"]] if "found" in left else [left["heads"], *_several(left.get("mlps"))]
    python = {
        part: value
        for result in results
        for part, value in zip(result.frame["component"], result.frame["value"], strict=True)
    }
    assert {part: python.get(part, 0) for part in shown} == pytest.approx(shown, rel=1e-4, abs=2e-4)


def _several(results: Any) -> list[Any]:
    return [] if results is None else results if isinstance(results, list) else [results]


def test_layers_come_from_the_top(desks: Mapping[str, Desk]) -> None:
    for options in MAPS:
        layers = of_kind(asked(desks["compiled"], "map", ONCE, options), "layer")
        assert [layer["layer"] for layer in layers] == [5, 4, 3, 2, 1, 0]


def test_reading_is_what_the_last_stage_says(desks: Mapping[str, Desk], tmp_path: Path) -> None:
    desk = desks["mini"]
    pieces = asked(desk, "read", LETTER)
    now = of_kind(pieces, "predictions")[0]
    (printed,) = told(pieces[-1]["command"])
    last = printed["rows"][-1]
    assert now["texts"] == [last["token"], *(last[f"token_{i}"] for i in range(2, 11))]
    found = lines(pieces[-1], tmp_path)["found"].frame.iloc[-1]
    assert now["p"][:2] == pytest.approx([found["probability"], found["probability_2"]], rel=1e-4)
    (tokens,) = of_kind(pieces, "tokens")
    with torch.no_grad():
        logits = desk.model(LETTER.prompt)[0]
    p = logits.softmax(-1)[range(len(tokens["ids"]) - 1), tokens["ids"][1:]]
    assert tokens["p"][0] is None
    assert tokens["p"][1:] == pytest.approx(p.tolist(), rel=1e-3)
    (followed,) = of_kind(pieces, "followed")
    mary, john = (desk.model.to_single_token(word) for word in (" Mary", " John"))
    assert followed["difference"] == pytest.approx(float(logits[-1, mary] - logits[-1, john]))
    (contrast,) = of_kind(pieces, "contrast")
    assert [i for i, differs in enumerate(contrast["differs"]) if differs] == [10]


def test_attention_is_what_the_command_prints(desks: Mapping[str, Desk], tmp_path: Path) -> None:
    desk = desks["mini"]
    pieces = asked(desk, "attention", LETTER)
    layers = of_kind(pieces, "attention")
    _, cache = desk.model.run_with_cache(LETTER.prompt)
    for layer in layers:
        weights = np.frombuffer(base64.b64decode(layer["weights"]), "<u2")
        weights = weights.reshape(8, layer["n"], layer["n"]) / 65535
        np.testing.assert_allclose(weights, cache["pattern", layer["layer"]][0], atol=1e-4)
    (printed,) = told(pieces[-1]["command"])
    for row in printed["rows"][::97]:
        told_weight = cache["pattern", row["layer"]][0, row["head"], row["query"], row["key"]]
        assert row["value"] == pytest.approx(float(told_weight), abs=1e-5)
    assert len(lines(pieces[-1], tmp_path)["found"].frame) == len(printed["rows"])


def test_heads_look_where_the_command_says(desks: Mapping[str, Desk]) -> None:
    pieces = asked(desks["mini"], "map", LETTER, {"what": "looks"})
    (printed,) = told(pieces[-1]["command"])
    last = {row["component"]: row for row in printed["rows"] if row["query"] == 14}
    for layer in of_kind(pieces, "layer"):
        for head, (value, text) in enumerate(zip(layer["heads"], layer["texts"], strict=True)):
            row = last[f"a{layer['layer']}.h{head}"]
            assert value == pytest.approx(row["value"], abs=1e-5)
            assert text == f"{row['key_token']} ({row['key']})"


@pytest.mark.slow
def test_kinds_are_those_of_the_report_card(desks: Mapping[str, Desk]) -> None:
    desk = desks["compiled"]
    pieces = asked(desk, "map", ONCE, {"what": "kind"})
    (printed,) = told(pieces[-1]["command"])
    names = {row["component"]: row["name"] for row in printed["rows"]}
    for layer in of_kind(pieces, "layer"):
        for head, kind in enumerate(layer["texts"]):
            assert (kind or "none") == names[f"a{layer['layer']}.h{head}"]
    (card,) = of_kind(asked(desk, "head", ONCE, {"head": "a1.h0"}), "card")
    assert card["name"] == names["a1.h0"] == "induction"
    scores = {row["kind"]: row["value"] for row in printed["rows"] if row["component"] == "a1.h0"}
    for row in card["rows"]:
        assert row["value"] == pytest.approx(scores[row["kind"]], abs=1e-5)


def test_the_lens_and_its_cells_are_the_commands(desks: Mapping[str, Desk], tmp_path: Path) -> None:
    desk = desks["mini"]
    pieces = asked(desk, "lens", LETTER)
    (lens,) = of_kind(pieces, "lens")
    (printed,) = told(pieces[-1]["command"])
    tops = {(row["stage"], row["position"]): row["token"] for row in printed["rows"]}
    stages, positions = lens["lens"]["stages"], lens["lens"]["positions"]
    shown = [tops[stage, position] for stage in stages for position in positions]
    assert lens["lens"]["tokens"][0] == shown
    cell = asked(desk, "cell", LETTER, {"stage": "a1", "position": 5})
    (said,) = [piece for piece in of_kind(cell, "predictions") if piece["of"] == "cell"]
    assert said["texts"][0] == tops["a1", 5]
    taken = lines(cell[-1], tmp_path)["found"].frame
    assert taken.loc[taken["stage"] == "a1", "token"].iloc[0] == said["texts"][0]


@pytest.mark.parametrize(
    ("question", "options"),
    [("lens", {}), ("cell", {"stage": "a1", "position": 2}), ("mlp", {"layer": 1})],
)
def test_a_small_vocabulary_is_shown_whole(question: str, options: Any, tmp_path: Path) -> None:
    """Of three tokens there are no five that a cell would say, or a neuron raises."""
    pieces = asked(Desk(circuits.load("sort-abc")), question, View("CABBAC"), options)
    assert not of_kind(pieces, "note")
    assert told(pieces[-1]["command"])
    assert lines(pieces[-1], tmp_path)
    for piece in of_kind(pieces, "neurons"):
        assert all(len(neuron["values"]) == 3 for neuron in piece["neurons"])
    for piece in of_kind(pieces, "lens"):
        assert len(piece["lens"]["tokens"]) == 3


def test_lines_leave_out_neurons_that_write_nothing(
    desks: Mapping[str, Desk], tmp_path: Path
) -> None:
    pieces = asked(desks["compiled"], "mlp", ONCE, {"layer": 1})
    neurons = of_kind(pieces, "neurons")[-1]["neurons"]
    left = lines(pieces[-1], tmp_path)
    writing = {f"neuron_{neuron['neuron']}" for neuron in neurons if neuron["values"]}
    assert writing == {name for name in left if name.startswith("neuron_")}
    assert len(writing) < len(neurons)


def test_a_patched_cell_is_a_patch_of_the_stream(desks: Mapping[str, Desk]) -> None:
    desk, view = desks["mini"], LETTER
    options = {"stage": "m3", "position": 10}
    (patched,) = [
        piece
        for piece in of_kind(asked(desk, "cell", view, options), "predictions")
        if piece["of"] == "patched"
    ]
    logits = dict(zip(patched["texts"], patched["logits"], strict=True))
    said = circuits.patch(
        desk.model,
        component="resid_post.3@10",
        direction="noise",
        prompt=view.prompt,
        corrupted=view.contrast,
        answer=" Mary",
        distractor=" John",
    ).frame
    assert logits[" Mary"] - logits[" John"] == pytest.approx(said["patched"].iloc[0], abs=1e-4)


def test_the_text_goes_on_as_it_is_generated(desks: Mapping[str, Desk], tmp_path: Path) -> None:
    desk, view = desks["mini"], View("Once upon a time there")
    pieces = asked(desk, "continuation", view, {"n": 6})
    (printed,) = told(pieces[-1]["command"])
    shown = of_kind(pieces, "continued")
    assert [piece["id"] for piece in shown] == printed["tokens"]
    assert np.log([piece["p"] for piece in shown]) == pytest.approx(printed["logprobs"], abs=1e-4)
    text = "".join(piece["text"] for piece in shown)
    assert lines(pieces[-1], tmp_path)["found"] == view.prompt + text


@pytest.mark.parametrize(
    ("question", "options"),
    [
        *(("map", options) for options in MAPS),
        ("read", {}),
        ("attention", {}),
        ("lens", {}),
        ("cell", {"stage": "m1", "position": 3}),
        ("head", {"head": "a1.h0"}),
        ("continuation", {"n": 3}),
    ],
)
@pytest.mark.parametrize("view", [ONCE, EDITED], ids=["plain", "edited"])
def test_all_lines_and_commands_run(
    desks: Mapping[str, Desk], question: str, options: Any, view: View, tmp_path: Path
) -> None:
    """Under edits too, where no command gives the numbers."""
    desk = desks["compiled"]
    pieces = asked(desk, question, view, options)
    assert [piece["kind"] for piece in pieces].count("take") == 1
    take = pieces[-1]
    assert bool(take["command"]) == (view is ONCE)
    told(take["command"])
    left = lines(take, tmp_path)
    assert {"found", "heads", "pieces", "why"} & {*left}
    if "pieces" in left:
        again = [to_json(piece) for piece in left["pieces"] if not isinstance(piece, Take)]
        assert again == [piece for piece in pieces if piece["kind"] != "take"]


def test_the_model_is_left_as_it_was(desks: Mapping[str, Desk]) -> None:
    """Bit by bit, and without hooks, also when an answer is given up."""
    desk = desks["compiled"]
    before = circuits.checksum(desk.model)
    pieces = desk.ask("map", EDITED, {})
    for _ in range(2):
        next(pieces)
        assert not torch.is_inference_mode_enabled()
        assert not any(hook.watched for hook in desk.model.hook_dict.values())
    pieces.close()  # type: ignore[attr-defined]
    assert circuits.checksum(desk.model) == before
    assert not any(hook.watched for hook in desk.model.hook_dict.values())


def test_a_model_that_is_edited_in_place_is_seen() -> None:
    model = circuits.load("compiled")
    desk = Desk(model)

    def difference() -> float:
        (followed,) = of_kind(asked(desk, "read", ONCE), "followed")
        return float(followed["difference"])

    as_loaded = difference()
    assert as_loaded == pytest.approx(10, abs=0.1)
    with torch.no_grad():
        model.blocks[2].attn.W_O[0] *= 0.5
    assert difference() < as_loaded - 1
    model.blocks[2].attn.W_O.data[0] = 0  # what torch does not count
    assert difference() == pytest.approx(0, abs=0.1)
    assert asked(desk, "read", ONCE)[-1]["command"] == ""  # no file has these weights


def test_what_is_asked_first_suits_the_model(desks: Mapping[str, Desk]) -> None:
    known = {**desks, "sort-abc": Desk(circuits.load("sort-abc"))}
    for name, title in (
        ("mini", "Indirect object"),
        ("compiled", "Induction"),
        ("sort-abc", "Sorting"),
    ):
        pieces = asked(known[name], "about", View(""))
        (examples,) = of_kind(pieces, "examples")
        assert title in [example["title"] for example in examples["examples"]]
        assert len(examples["examples"]) == 3
        for example in examples["examples"]:
            view = View.read(example["view"])
            (followed,) = of_kind(asked(known[name], "read", view), "followed")
            # The model can do it, and the contrast makes a difference.
            assert followed["difference"] > 0.5, example["title"]
            assert followed["contrast"] < followed["difference"] - 0.5, example["title"]
        (about,) = of_kind(pieces, "about")
        assert about["checksum"] == told(pieces[-1]["command"])[0]["checksum"]
