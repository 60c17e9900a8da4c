"""What the questions that sweep share: names, grids, progress."""

from __future__ import annotations

import pytest

from circuits.architectures import HookedGPT2
from circuits.components import Component
from circuits.effects import Grid, cells_of, components_of, places, share_of_progress
from circuits.errors import CircuitsError
from circuits.prompts import make
from circuits.sweep import name


def test_components_are_named_or_given() -> None:
    head = Component("head", 0, 1)
    assert components_of(None) == []
    assert components_of("a0.h1") == components_of(head) == components_of(["a0.h1"]) == [head]
    with pytest.raises(CircuitsError, match="is an edge; name a component"):
        components_of("a0.h1->a1.h0")


def test_a_grid_is_every_part_at_every_place(mini: HookedGPT2) -> None:
    prompts, cfg = make("ioi", mini, 3), mini.cfg
    roles = places(prompts, "roles")
    cells = cells_of(cfg, prompts, Grid("mlp", positions="roles"))
    assert len(cells) == cfg.n_layers * len(roles)
    assert name(cells[0]) == f"m0@{roles[0]}"
    assert len(cells_of(cfg, prompts, Grid("head"))) == cfg.n_layers * cfg.n_heads
    (alone,) = cells_of(cfg, prompts, Grid(component=["a0.h1", "m1"]))
    assert name(alone) == "a0.h1+m1"
    with pytest.raises(CircuitsError, match="a component is one patch by itself"):
        cells_of(cfg, prompts, Grid("head", "a0.h1"))


def test_progress_is_a_share_of_all_that_is_done() -> None:
    told: list[tuple[int, int]] = []
    step = share_of_progress(lambda done, of: told.append((done, of)), 1, 2, 4)
    assert step is not None
    step(0, 10)
    step(10, 10)
    assert told == [(250, 1000), (750, 1000)]
    assert share_of_progress(None, 0, 1, 1) is None
