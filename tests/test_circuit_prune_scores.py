"""Circuits in the files of auto-circuit."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from circuit_samples import random_circuit, written

from circuits.circuit import Circuit, Graph, Score
from circuits.components import Edge
from circuits.errors import CircuitsError


def prune_scores(circuit: Circuit, n_positions: int | None = None) -> dict[str, torch.Tensor]:
    """By the package's own description, an edge at a time: reader's module, [pos, head, writer]."""
    shape, tensors = circuit.graph, {}
    lead = [] if n_positions is None else [n_positions]
    for part, score in circuit.scores.items():
        assert isinstance(part, Edge)
        to = part.receiver
        name = f"blocks.{to.layer}.hook_" + (f"{to.slot}_input" if to.slot else "mlp_in")
        if to.kind == "logits":
            name = f"blocks.{shape.n_layers - 1}.hook_resid_post"
        heads = [shape.n_heads] if to.slot else []
        n_writers = sum(edge.receiver == to.at(None) for edge in shape.edges)
        at = tensors.setdefault(name, torch.zeros(*lead, *heads, n_writers))
        index = [to.position] * (n_positions is not None) + [to.head] * bool(to.slot)
        at[(*index, shape.writers.index(part.sender))] = -score.value
    return tensors


@pytest.mark.parametrize("shape", [Graph(2, 3), Graph(2, 2, False), Graph(2, 2, parallel=True)])
def test_prune_scores_are_read_and_written(shape: Graph, tmp_path: Path) -> None:
    circuit = random_circuit(shape)
    theirs = prune_scores(circuit)
    read = Circuit.load(written(theirs, tmp_path / "scores.pkl"), scores_of="loss")
    assert read.graph == shape
    assert read.scores == circuit.scores
    assert read.parts == {*circuit.scores}  # all are other than 0
    again = torch.load(read.save(tmp_path / "again.pt", format="auto-circuit"), weights_only=True)
    assert again.keys() == theirs.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in theirs.items())
    few = torch.load(circuit.save(tmp_path / "few.pt", format="auto-circuit"), weights_only=True)
    assert sum(int((tensor != 0).sum()) for tensor in few.values()) == len(circuit)


def test_what_acdc_never_removes_comes_first(tmp_path: Path) -> None:
    circuit = random_circuit(Graph(2, 2))
    theirs = {name: tensor.abs() for name, tensor in prune_scores(circuit).items()}
    theirs["blocks.1.hook_v_input"][1, 3] = torch.inf
    read = Circuit.load(written(theirs, tmp_path / "scores.pt"))
    assert str(read.ranked(read.parts, signed=True)[0]) == "m0->a1.h1<v>"
    again = Circuit.load(read.save(tmp_path / "own.json"))
    assert again.ranked(again.parts, signed=True)[0] == read.ranked(read.parts)[0]


def test_prune_scores_by_task_and_algorithm(tmp_path: Path) -> None:
    one, two = (random_circuit(Graph(2, 2), seed=seed) for seed in (1, 2))
    content = {"IOI": {"EAP": prune_scores(one), "ACDC": prune_scores(two)}}
    path = written(content, tmp_path / "scores.pkl")
    assert Circuit.load(path, entry="IOI/ACDC", scores_of="loss").scores == two.scores
    with pytest.raises(CircuitsError, match="choose one by entry=: 'IOI/EAP', 'IOI/ACDC'"):
        Circuit.load(path)
    with pytest.raises(CircuitsError, match="no entry 'IOI/EPA'; .* did you mean 'IOI/EAP'"):
        Circuit.load(path, entry="IOI/EPA")


def test_prune_scores_by_position(tmp_path: Path) -> None:
    everywhere = random_circuit(Graph(2, 2))
    scores = {
        Edge(edge.sender, edge.receiver.at(i)): Score(float(np.float32(score.value * (i + 1))))
        for edge, score in everywhere.scores.items()
        for i in range(3)
        if isinstance(edge, Edge)
    }
    circuit = replace(everywhere, parts=frozenset(scores), scores=scores)
    path = written(prune_scores(circuit, 3), tmp_path / "scores.pt")
    assert Circuit.load(path, scores_of="loss").scores == circuit.scores


def _pruned(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    scores = prune_scores(random_circuit(Graph(2, 2))) | changes
    return {name: tensor for name, tensor in scores.items() if tensor is not None}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (_pruned(**{"blocks.0.hook_mlp": torch.zeros(3)}), "did you mean 'blocks.0.hook_mlp_in'"),
        (_pruned(**{"blocks.1.hook_k_input": None}), "lacks the scores of blocks.1.hook_k_input"),
        (
            _pruned(**{"blocks.1.hook_k_input": torch.zeros(2, 3)}),
            r"\[2, 3\], .* would be \[2, 4\]",
        ),
        (_pruned(**{"blocks.9999.hook_mlp_in": torch.zeros(3)}), "lacks|no reader"),
        ({"blocks.0.hook_attn_in": torch.zeros(2, 1)}, "separate_qkv=True"),
        ({"a": {"b": 3}}, "holds no circuit"),
        ({}, "holds no circuit"),
    ],
)
def test_what_are_no_prune_scores_is_refused(content: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(CircuitsError, match=said):
        Circuit.load(written(content, tmp_path / "scores.pt"))


# The package itself, on this package's stand-in for transformer_lens 2: in a process of its own.
THEIRS = """
import sys
import numpy as np
import torch
import circuits.transformer_lens
circuits.transformer_lens.stand_in()
from auto_circuit.utils.graph_utils import patchable_model
from transformer_lens import HookedTransformer, HookedTransformerConfig
from circuits.circuit import Circuit

def node(name):
    for theirs, ours in {"Resid Start": "embed", "Resid End": "logits", "MLP ": "m"}.items():
        name = name.replace(theirs, ours)
    return name.replace("A", "a").replace(".", ".h", 1)

def name(edge):
    sender, to = node(edge.src.name), node(edge.dest.name)
    to = f"{to[:-2]}<{to[-1].lower()}>" if to[0] == "a" else to
    return f"{sender}->{to}" + ("" if edge.seq_idx is None else f"@{edge.seq_idx}")

for seq_len in (None, 3):
    model = HookedTransformer(HookedTransformerConfig(
        n_layers=3, n_heads=2, d_model=8, d_head=4, n_ctx=8, d_vocab=11, act_fn="gelu_new", seed=0))
    model.cfg.use_attn_result = model.cfg.use_split_qkv_input = model.cfg.use_hook_mlp_in = True
    patchable = patchable_model(model, factorized=True, separate_qkv=True, seq_len=seq_len)
    rng = np.random.default_rng(0)
    values = {edge: float(np.float32(rng.normal())) for edge in patchable.edges}
    scores = patchable.circuit_prune_scores(edge_dict=values)
    torch.save({"task": {"algorithm": scores}}, sys.argv[1])
    circuit = Circuit.load(sys.argv[1], scores_of="loss")
    ours = {str(part): -score.value for part, score in circuit.scores.items()}
    assert ours == {name(edge): value for edge, value in values.items()}
    if seq_len is None:
        circuit.save(sys.argv[1], format="auto-circuit")
        again = torch.load(sys.argv[1], weights_only=True)
        assert again.keys() == scores.keys()
        assert all(torch.equal(again[key], scores[key]) for key in scores)
print("as theirs")
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("auto_circuit") is None, reason="auto-circuit is not installed")
def test_against_auto_circuit(tmp_path: Path) -> None:
    command = [sys.executable, "-c", THEIRS, str(tmp_path / "scores.pt")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.stdout.endswith("as theirs\n"), done.stderr[-2000:]
