"""Tasks: what to ask a model, which answer is good, and a corrupted twin to compare with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from circuits.errors import CircuitsError, nearest, require_seed
from circuits.prompts.agreement import agreement
from circuits.prompts.docstring import docstring
from circuits.prompts.files import Mark, PromptFile, from_file
from circuits.prompts.greater_than import greater_than
from circuits.prompts.ioi import ioi
from circuits.prompts.prompts import UNSCORED, Example, Prompts, assemble
from circuits.prompts.pronoun import pronoun
from circuits.prompts.repeated import repeated
from circuits.prompts.sorting import sorting
from circuits.prompts.user import from_texts

if TYPE_CHECKING:
    from circuits.model import HookedModel

__all__ = [
    "TASKS",
    "UNSCORED",
    "USUAL",
    "Example",
    "Mark",
    "PromptFile",
    "Prompts",
    "agreement",
    "assemble",
    "docstring",
    "from_file",
    "from_texts",
    "greater_than",
    "ioi",
    "make",
    "pronoun",
    "repeated",
    "sorting",
    "suitable_tasks",
]

TASKS: dict[str, Callable[..., Prompts]] = {
    "repeated": repeated,
    "ioi": ioi,
    "greater-than": greater_than,
    "docstring": docstring,
    "pronoun": pronoun,
    "agreement": agreement,
    "sorting": sorting,
}
USUAL = ("repeated", "ioi", "sorting")  # those that are asked when nobody names a task


def make(
    task: str, model: HookedModel, n: int | None = None, seed: int = 0, **options: Any
) -> Prompts:
    """Which prompts does this task ask of this model?

    `n` prompts are drawn with `seed`; None for the task's usual number. `options` are the task's
    own, such as ``corruption`` for ioi.

    Raises:
        CircuitsError: for an unknown task, or one that the model's vocabulary or context rules out.

    >>> from circuits.checkpoints import load
    >>> prompts = make("sorting", load("sort-abc"), 3)
    >>> len(prompts), prompts.metric, sorted(prompts.roles)
    (3, 'logit_diff', ['END', 'OUTPUT'])
    """
    task = task.replace("_", "-")
    if task not in TASKS:
        raise CircuitsError(
            f"there is no task {task!r}; choose {', '.join(TASKS)}{nearest(task, TASKS)}"
        )
    require_seed(seed)
    if n is not None:
        options["n"] = n
    return TASKS[task](model, seed=seed, **options)


def suitable_tasks(model: HookedModel, among: Iterable[str] = tuple(TASKS)) -> list[str]:
    """Which of these tasks can be asked of this model, given its vocabulary and context?

    That it can be asked does not mean that the model can do it: see `circuits.metrics`.

    >>> from circuits.checkpoints import load
    >>> suitable_tasks(load("sort-abc"))
    ['sorting']
    """

    def suits(task: str) -> bool:
        try:
            make(task, model, n=1)
        except CircuitsError:
            return False
        return True

    return [task for task in among if suits(task)]
