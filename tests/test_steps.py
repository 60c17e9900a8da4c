"""The steps of a forward pass: their sites exist, and each stage of the page has its text."""

from __future__ import annotations

import re
from pathlib import Path

from random_models import TINY, random_tokens

from circuits import pages
from circuits.architectures import HookedGPT2
from circuits.steps import (
    AFTER,
    BEFORE,
    BLOCK,
    STAGES_AFTER,
    STAGES_BEFORE,
    STAGES_OF_BLOCK,
    STEPS,
)

STAGES = (*STAGES_BEFORE, *STAGES_OF_BLOCK, *STAGES_AFTER)
TEMPLATE = Path(pages.__file__).parent / "templates" / "walkthrough.html"


def test_steps_are_named_once_and_in_order() -> None:
    assert list(STEPS) == [step.name for step in (*BEFORE, *BLOCK, *AFTER)]
    assert all(step.does for step in STEPS.values())


def test_sites_have_the_shapes_that_are_said(tiny: HookedGPT2) -> None:
    sites = {step.name: f"blocks.0.{step.site}" for step in BLOCK if "hook" in step.site}
    _, cache = tiny.run_with_cache(
        random_tokens(TINY, batch=1, pos=6), names_filter=[*sites.values()]
    )
    for name, site in sites.items():
        square = cache[site].shape[1:] == (TINY.n_heads, 6, 6)
        assert square == STEPS[name].square
        assert square or cache[site].shape[1] == 6
    for step in (*BEFORE, *BLOCK, *AFTER):
        if "hook" not in step.site and step.name not in ("probabilities", "next"):
            assert hasattr(tiny if step in AFTER else tiny.blocks[0], step.site)


def test_a_page_shows_every_step_and_says_what_it_is() -> None:
    shown = [name for stage in STAGES for name in stage.steps]
    assert {*shown} == {*STEPS, "before"}
    kinds = re.findall(r'<template id="walk-([\w]+)">', TEMPLATE.read_text(encoding="utf-8"))
    assert kinds == [stage.kind for stage in STAGES]
