"""What can be asked, with which options: the only list of analyses.

An analysis is a file of `circuits/analyses/` with one function marked ``@analysis``. The mark is
the registration. `recipes` reads signatures and docstrings from the files' syntax trees, so the
command line can show its help without importing the files, and with them torch; `options` are what
several analyses take; `words` are arguments as a command line has them; `asking` calls an analysis,
and tells its answer what was asked.
"""

from circuits.progress import Progress
from circuits.registry.asking import Question, analysis, question, with_draws
from circuits.registry.options import (
    MeanOptions,
    MeasureOptions,
    MemoryOptions,
    PairOptions,
    PromptOptions,
    RunOptions,
    TemplateOptions,
    TrainingOptions,
    UnseenOptions,
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
from circuits.registry.words import arguments, in_words, parsed

__all__ = [
    "MeanOptions",
    "MeasureOptions",
    "MemoryOptions",
    "PairOptions",
    "Progress",
    "PromptOptions",
    "Question",
    "Recipe",
    "RunOptions",
    "TemplateOptions",
    "TrainingOptions",
    "UnseenOptions",
    "analyses",
    "analysis",
    "arguments",
    "beside",
    "find",
    "flag",
    "groups",
    "in_words",
    "members",
    "parameters",
    "parsed",
    "question",
    "read",
    "shared_helps",
    "with_draws",
]
