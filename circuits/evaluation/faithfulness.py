"""Does the circuit alone do what the model does? Faithfulness, and whether there is anything to do.

F(C) = (m(C) - m(nothing)) / (m(M) - m(nothing)). Of the means of the metric m, the ratio is sound;
the mean of each prompt's own ratio explodes where a prompt has next to no difference, and is given
because others report it. Sources: Wang et al. 2022 (2211.00593), Mueller et al. 2025 (2504.13151).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict

from circuits.evaluation.cells import CIRCUIT
from circuits.evaluation.evidence import Evidence, Row, Share, verdict
from circuits.evaluation.hypothesis_tests import at_least
from circuits.result import mean_interval


def task_rows(evidence: Evidence) -> Iterator[Row]:
    """Whether the model does the task at all: without that, no share of it means anything."""
    whole = evidence.mean(evidence.better(-evidence.full))
    yield Row(
        "task",
        "what the whole model does: m(M) - m(nothing)",
        **asdict(whole),
        n=evidence.n,
        verdict=verdict(whole.ci_low > 0),
        against="passes if its interval is on the good side of 0",
    )


def faithful_rows(evidence: Evidence, tolerance: float) -> Iterator[Row]:
    """F as a ratio of means and as a mean of ratios, the extremes over templates, and a sign test.

    It passes if the whole interval of the ratio of means is within `tolerance` of 1.
    """
    ratio = evidence.faithful(CIRCUIT)
    passes = 1 - tolerance <= ratio.ci_low and ratio.ci_high <= 1 + tolerance
    yield Row(
        "faithfulness",
        "F, ratio of means",
        **asdict(ratio),
        n=evidence.n,
        null=0.0,
        verdict=verdict(passes),
        against=f"passes if its interval is within {tolerance:g} of 1; nothing has 0",
    )
    yield _mean_of_ratios(evidence)
    yield from _of_templates(evidence)
    yield _equivalence(evidence)


def _mean_of_ratios(evidence: Evidence) -> Row:
    there = evidence.full != 0
    ratios = 1 - evidence.effects[CIRCUIT, there] / evidence.full[there]
    left_out = int((~there).sum())
    mean = Share.of(mean_interval(ratios)) if len(ratios) else Share(*[math.nan] * 4)
    says = "explodes where a prompt's difference is near 0"
    if left_out:
        says += f"; {left_out} prompts without any are left out"
    return Row("faithfulness", "F, mean of ratios", **asdict(mean), n=len(ratios), against=says)


def _of_templates(evidence: Evidence) -> Iterator[Row]:
    """The groups of prompts where F is lowest and highest."""
    names = list(dict.fromkeys(evidence.groups or ()))
    if len(names) < 2:
        return
    parts = {name: evidence.only(name) for name in names}
    shares = {name: part.faithful(CIRCUIT) for name, part in parts.items() if part.full.mean()}
    order = sorted(shares, key=lambda name: shares[name].value)
    for word, name in (("lowest", order[0]), ("highest", order[-1])):
        yield Row(
            "faithfulness",
            f"F, {word} of {len(names)} {evidence.groups_are}",
            **asdict(shares[name]),
            n=parts[name].n,
            against=name,
        )


def _equivalence(evidence: Evidence) -> Row:
    """On how many prompts the circuit beats the model; alike counts as half (Shi et al. 2024)."""
    ahead = evidence.better(evidence.effects[CIRCUIT])
    wins = int((ahead > evidence.tolerance).sum())
    losses = int((ahead < -evidence.tolerance).sum())
    decided, alike = wins + losses, evidence.n - wins - losses
    p_value = min(1.0, 2 * at_least(max(wins, losses), decided, 0.5)) if decided else 1.0
    return Row(
        "faithfulness",
        "prompts on which it beats the model",
        (wins + alike / 2) / evidence.n,
        n=evidence.n,
        null=0.5,
        p_value=p_value,
        against=f"a sign test; {alike} prompts are alike, and count as half",
    )
