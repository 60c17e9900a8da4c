"""Does this checkpoint show what the papers say of GPT-2 small, measured with this toolkit?

The claims are other people's: indirect objects (Wang et al. 2022), greater-than (Hanna et al.
2023), induction heads (Olsson et al. 2022), copy suppression (McDougall et al. 2023), successor
heads (Gould et al. 2023), self-repair (McGrath et al. 2023), and what is known of the released
weights. Each is a row: what the paper says, what is measured here, and whether that is near.

- A row is `not here` where the model has no such thing: a head by its number is GPT-2 small's own,
  and a vocabulary may lack the words. So the verdict on another model is mostly that.
- A figure that a paper prints is near within bounds that were chosen before (see
  `published_facts`); where a paper shows a relation only, that relation is asked.
- Sentences stand without a start token, as in the papers, also for a model that is used to one.
- Controls are what must not show the effect: names that do not come again, tokens that do not.

A row that fails is the most useful one: of the checkpoint, the paper, or this toolkit one is not
what it is thought to be.

    circuits run published --model gpt2
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from published_facts import FACTS, Fact
from published_measures import MEASURES, Measured, Subject

from circuits.architectures import HookedGPT2
from circuits.cli.experiments import as_command
from circuits.config import GPT2_SIZES
from circuits.errors import CircuitsError
from circuits.experiment import Check, Finding, check, interval, table
from circuits.result import AVERAGED, Result

CLAIM = "The checkpoint is GPT-2 small, and does what the papers about GPT-2 small say."
MODEL = "gpt2"
NAME = "published"
PROMPTS, QUICK_PROMPTS = 150, 30
MEANINGS = {
    "fact": "what is said of GPT-2 small",
    "paper": "by whom, and where",
    "printed": "the number in the paper; empty for a relation",
    "low": "what counts as near is above this",
    "high": "and below this",
    "value": "measured here",
    "outcome": "holds, fails, or not here: the model has no such thing",
    "note": "why it is not here",
    "unit": "of printed, low, high and value",
}


def run(model: HookedGPT2, *, seed: int = 0, quick: bool = False) -> Finding:
    """Measure every fact that this model can have."""
    subject = Subject(model, QUICK_PROMPTS if quick else PROMPTS, seed)
    answers = [answered(subject, fact) for fact in FACTS]
    tables = {"facts": facts_table(subject, answers), **templates_table(subject)}
    return Finding(tuple(answer.check for answer in answers), tables)


@dataclass(frozen=True)
class Answer:
    """A fact, what was measured of it, and whether that is near."""

    fact: Fact
    measured: Measured
    check: Check


def answered(subject: Subject, fact: Fact) -> Answer:
    """Measure this fact, or say why this model cannot have it."""
    bounds = {"above": fact.low, "below": fact.high, "control": fact.control}
    missing = why_not(subject.model, fact)
    measured: Measured = {}
    if not missing:
        try:
            measured = MEASURES[fact.name](subject)
        except CircuitsError as error:
            missing = str(error)
    if missing:
        nothing = Check(fact.says, float("nan"), fact.unit, missing=missing, **bounds)
        return Answer(fact, {}, nothing)
    return Answer(fact, measured, check(fact.says, measured, fact.unit, **bounds))


def why_not(model: HookedGPT2, fact: Fact) -> str:
    """Why this model cannot have what the fact is about; empty if it can."""
    small = GPT2_SIZES["gpt2"]
    shape = ("n_layers", "n_heads", "d_model", "d_vocab")
    is_small = all(getattr(model.cfg, name) == getattr(small, name) for name in shape)
    if is_small or not (fact.heads or fact.released):
        return ""
    return "of GPT-2 small alone" if fact.released else f"no {fact.heads[0]} of GPT-2 small"


def facts_table(subject: Subject, answers: list[Answer]) -> Result:
    """Every fact beside what was measured."""
    rows = [
        {
            "fact": answer.fact.says,
            "paper": answer.fact.paper,
            "printed": answer.fact.paper_value,
            "low": answer.fact.low,
            "high": answer.fact.high,
            **{name: answer.measured.get(name) for name in AVERAGED},
            "outcome": answer.check.outcome,
            "unit": answer.fact.unit,
            "note": answer.check.missing,
        }
        for answer in answers
    ]
    frame = pd.DataFrame(rows)
    numbers = ["printed", "low", "high", *AVERAGED]
    frame = frame.astype(dict.fromkeys(numbers, float)).astype({"n": "Int64"})
    title = f"Of GPT-2 small, on {subject.model.cfg.model_name}"
    return table(
        subject.model,
        NAME,
        frame,
        "see unit",
        title,
        axes=("fact",),
        view="bars",
        meanings=MEANINGS,
    )


def templates_table(subject: Subject) -> Mapping[str, Result]:
    """How faithful is the IOI circuit on each of the sentences? Nothing where it is not asked."""
    fact = next(fact for fact in FACTS if fact.name == "ioi_circuit")
    if why_not(subject.model, fact):
        return {}
    whole, alone = subject.ioi_circuit
    templates = np.array(subject.ioi.templates)
    rows = [
        {"template": str(each), **interval(alone[templates == each] / whole[templates == each])}
        for each in dict.fromkeys(templates)
    ]
    return {
        "templates": table(
            subject.model,
            NAME,
            pd.DataFrame(rows),
            "of the difference",
            "The 26 heads alone, sentence by sentence",
            axes=("template",),
        )
    }


if __name__ == "__main__":
    as_command(__file__)
