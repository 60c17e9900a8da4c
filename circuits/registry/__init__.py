"""What can be asked, with which options: the only list of analyses.

An analysis is a file of `circuits/analyses/` with one function marked ``@analysis``. The mark is
the registration. `recipes` reads signatures and docstrings from the files' syntax trees, so the
command line can show its help without importing the files, and with them torch; `options` are what
several analyses take; `asking` calls an analysis, and tells its answer what was asked.
"""

from circuits.progress import Progress
from circuits.registry.asking import Question, analysis, question
from circuits.registry.options import (
    MeasureOptions,
    MemoryOptions,
    PairOptions,
    PromptOptions,
    RunOptions,
    TemplateOptions,
)
from circuits.registry.recipes import (
    Recipe,
    analyses,
    beside,
    find,
    flag,
    groups,
    members,
    parameters,
    read,
    shared_helps,
)

__all__ = [
    "MeasureOptions",
    "MemoryOptions",
    "PairOptions",
    "Progress",
    "PromptOptions",
    "Question",
    "Recipe",
    "RunOptions",
    "TemplateOptions",
    "analyses",
    "analysis",
    "beside",
    "find",
    "flag",
    "groups",
    "members",
    "parameters",
    "question",
    "read",
    "shared_helps",
]
