"""Over which prompts are means taken, and by which are they told apart? Templates of prompts.

A template is a sentence with gaps for names and words. An interval over prompts is about other
names and words within the templates that were asked; with ``cluster`` it is about other templates,
and with ``by`` every template has a mean and an interval of its own. Any other column of a file of
prompts makes groups in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pandas as pd

from circuits.errors import CircuitsError, nearest, printed
from circuits.prompts import Prompts
from circuits.prompts.prompts import free_name, population
from circuits.registry import TemplateOptions
from circuits.registry.asked_prompts import Batch
from circuits.sweep.moments import Moments

TEMPLATE_MEANINGS = {
    "template": "the sentence that the prompts were made of",
    "spread": "standard deviation of value over the templates",
}
TEMPLATE = "template"


def require_templates(batches: Sequence[Batch], templates: TemplateOptions) -> None:
    """Refuse prompts that cannot be told apart by template or column, if that is asked for.

    Raises:
        CircuitsError: when they have none or only one, or both ways are asked for.
    """
    asked = _asked(templates)
    if len(asked) == 2:
        raise CircuitsError(
            "by asks for each template by itself, and cluster for an interval over all of them; "
            "give one of the two"
        )
    for option, value in asked.items():
        for batch in batches:
            _require_column(batch.first, option, value)
            _require_several(batch.first.labels(value), batch, option, value, batch.share == 1)


def measured_over(moments: Moments, batch: Batch, templates: TemplateOptions) -> Moments:
    """The same statistics, of templates instead of prompts where that is asked for.

    Raises:
        CircuitsError: when all prompts turned out to be of one template.
    """
    for option, value in _asked(templates).items():
        _require_several(tuple(moments.groups), batch, option, value)
    return replace(moments, clustered=templates.cluster is not None)


def by_template(
    moments: Moments, templates: TemplateOptions, table: Callable[[Moments], pd.DataFrame]
) -> pd.DataFrame:
    """The table of all prompts, or with ``by`` that of each group, one below the other.

    Groups stand in the second column, named after the column they are by; where the table has one
    of that name, ``prompt_`` comes before it.
    """
    if templates.by is None:
        return table(moments)
    return each_group({label: table(part) for label, part in moments.groups.items()}, templates.by)


def each_group(tables: Mapping[str, pd.DataFrame], by: str) -> pd.DataFrame:
    """One table of those of all groups, which are of the same rows. See `by_template`."""
    for label, rows in tables.items():
        rows.insert(1, free_name(by, [*rows.columns, "spread"]), label)
    joined = pd.concat(tables.values())
    # A row of one table is about the same as the row at that place in every other.
    joined["spread"] = joined.groupby(level=0)["value"].transform("std")
    return joined


def panels(
    axes: tuple[str, ...], templates: TemplateOptions, frame: pd.DataFrame
) -> tuple[str, ...]:
    """The columns that label a figure of this table, each group by itself where that is asked."""
    if templates.by is None:
        return axes
    label = str(frame.columns[1])
    return (label,) if axes == ("task",) else (label, *axes)


def group_meanings(templates: TemplateOptions, frame: pd.DataFrame) -> dict[str, str]:
    """What the columns mean that `by_template` adds to a table."""
    if templates.by in (None, TEMPLATE):
        return dict(TEMPLATE_MEANINGS)
    label = str(frame.columns[1])
    return {
        label: f"the group of prompts: what the column {templates.by} of their file says",
        "spread": f"standard deviation of value over the groups by {label}",
    }


def label_of(templates: TemplateOptions) -> str:
    """By what prompts are told apart: the column that was asked for, if any, or their template."""
    return templates.by or templates.cluster or TEMPLATE


def population_of(batch: Batch, templates: TemplateOptions, n: int) -> str | None:
    """Over which prompts the means of this batch and their intervals are, in words."""
    prompts, is_all = batch.first, batch.share == 1
    label = label_of(templates)
    known = prompts.labels(label)
    these = f"these {len(set(known or ()))}" if is_all else f"those of {prompts.task}"
    if label != TEMPLATE:
        if templates.by is not None:
            return f"over prompts like these, within each group by {label}"
        return f"over groups by {label} like {these}, not only over prompts within them"
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


def _require_column(prompts: Prompts, option: str, column: str) -> None:
    """Refuse a column that the prompts do not have."""
    if prompts.labels(column) is not None:
        return
    if column == TEMPLATE:
        raise CircuitsError(
            f"{option}=template: the prompts of {prompts.task!r} are not known to be made of "
            "templates; ask a task that is (task=ioi), or give a .csv or .jsonl file with a column "
            "template"
        )
    having = [TEMPLATE] if prompts.templates is not None else []
    having += prompts.columns
    choose = (
        f"choose {', '.join(map(printed, having))}"
        if having
        else "a file with that column can have it"
    )
    raise CircuitsError(
        f"{option}={column!r}: the prompts of {prompts.task!r} have no such column; {choose}"
        f"{nearest(column, having)}"
    )


def _require_several(
    labels: Sequence[str] | None, batch: Batch, option: str, column: str, all_known: bool = True
) -> None:
    if not all_known or len(set(labels or ())) > 1:
        return
    task = batch.first.task
    if column == TEMPLATE:
        raise CircuitsError(
            f"{option}=template: the prompts of {task!r} are all of one template, so there is no "
            "spread over templates; ask a task with several (task=ioi), or give a file with several"
        )
    raise CircuitsError(
        f"{option}={column!r}: all prompts of {task!r} say the same there, so there is no spread "
        "over groups; choose a column that tells prompts apart"
    )
