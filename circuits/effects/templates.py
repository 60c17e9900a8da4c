"""Over which prompts are means taken, and by which are they told apart? Templates of prompts.

A template is a sentence with gaps for names and words. An interval over prompts is about other
names and words within the templates that were asked; with ``cluster`` it is about other templates,
and with ``by`` every template has a mean and an interval of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pandas as pd

from circuits.errors import CircuitsError
from circuits.prompts.prompts import population
from circuits.registry import TemplateOptions
from circuits.registry.asked_prompts import Batch
from circuits.sweep.moments import Moments

TEMPLATE_MEANINGS = {
    "template": "the sentence that the prompts were made of",
    "spread": "standard deviation of value over the templates",
}


def require_templates(batches: Sequence[Batch], templates: TemplateOptions) -> None:
    """Refuse prompts that cannot be told apart by template, if that is asked for.

    Raises:
        CircuitsError: when they have no templates or only one, or both ways are asked for.
    """
    asked = _asked(templates)
    if len(asked) == 2:
        raise CircuitsError(
            "by asks for each template by itself, and cluster for an interval over all of them; "
            "give one of the two"
        )
    for option, value in asked.items():
        if value != "template":
            raise CircuitsError(f"{option}={value!r}: choose template")
        for batch in batches:
            known = batch.share == 1
            _require_several(batch.first.templates, batch.first.task, option, all_known=known)


def measured_over(moments: Moments, batch: Batch, templates: TemplateOptions) -> Moments:
    """The same statistics, of templates instead of prompts where that is asked for.

    Raises:
        CircuitsError: when all prompts turned out to be of one template.
    """
    for option in _asked(templates):
        _require_several(tuple(moments.groups), batch.first.task, option)
    return replace(moments, clustered=templates.cluster is not None)


def by_template(
    moments: Moments, templates: TemplateOptions, table: Callable[[Moments], pd.DataFrame]
) -> pd.DataFrame:
    """The table of all prompts, or with ``by`` that of each template, one below the other."""
    if templates.by is None:
        return table(moments)
    tables = {label: table(part) for label, part in moments.groups.items()}
    for label, rows in tables.items():
        rows.insert(1, "template", label)
    joined = pd.concat(tables.values())
    # A row of one table is about the same as the row at that place in every other.
    joined["spread"] = joined.groupby(level=0)["value"].transform("std")
    return joined


def panels(axes: tuple[str, ...], templates: TemplateOptions) -> tuple[str, ...]:
    """The columns that label a figure, each template by itself where that is asked for."""
    if templates.by is None:
        return axes
    return ("template",) if axes == ("task",) else ("template", *axes)


def population_of(batch: Batch, templates: TemplateOptions, n: int) -> str | None:
    """Over which prompts the means of this batch and their intervals are, in words."""
    prompts, is_all = batch.first, batch.share == 1
    known = prompts.templates
    these = f"these {len(set(known or ()))}" if is_all else f"those of {prompts.task}"
    if templates.cluster is not None:
        return f"over templates like {these}, not only over names and words within them"
    if templates.by is not None:
        return "over names and words within each template by itself"
    if known is not None and not is_all:
        return f"over names and words within the templates of {prompts.task}, not over others"
    return population(known, drawn=prompts.seed is not None, n=n)


def _asked(templates: TemplateOptions) -> dict[str, str]:
    """The options that were given."""
    options = {"by": templates.by, "cluster": templates.cluster}
    return {name: value for name, value in options.items() if value is not None}


def _require_several(
    templates: Sequence[str] | None, task: str, option: str, *, all_known: bool = True
) -> None:
    if templates is None:
        raise CircuitsError(
            f"{option}=template: the prompts of {task!r} are not known to be made of templates; "
            "ask a task that is (task=ioi), or give a .csv or .jsonl file with a column template"
        )
    if all_known and len(set(templates)) < 2:
        raise CircuitsError(
            f"{option}=template: the prompts of {task!r} are all of one template, so there is no "
            "spread over templates; ask a task with several (task=ioi), or give a file with several"
        )
