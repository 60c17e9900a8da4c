"""Tasks: what to ask a model, which answer is good, and a corrupted twin to compare with.

A task is one file with a function marked ``@task``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from circuits.catalog import TASK, Catalog, usual
from circuits.errors import CircuitsError, require_seed
from circuits.prompts.files import PromptFile, from_file
from circuits.prompts.formats import Mark
from circuits.prompts.prompts import UNSCORED, Example, Prompts, assemble, free_name
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
    "assemble",
    "free_name",
    "from_file",
    "from_texts",
    "make",
    "suitable_tasks",
]

TASKS: Mapping[str, Callable[..., Prompts]] = (_CATALOG := Catalog[Callable[..., Prompts]](TASK))
USUAL = usual(TASK)  # those that are asked when nobody names a task


def make(
    task: str, model: HookedModel, n: int | None = None, seed: int = 0, **options: Any
) -> Prompts:
    """The prompts that this task asks of this model.

    `n` prompts are drawn with `seed`; None for the task's usual number. `options` are the task's
    own, such as ``corruption`` for ioi.

    Raises:
        CircuitsError: for an unknown task, or one that the model's vocabulary or context rules out.

    >>> from circuits.checkpoints import load
    >>> prompts = make("sorting", load("sort-abc"), 3)
    >>> len(prompts), prompts.metric, sorted(prompts.roles)
    (3, 'logit_diff', ['END', 'OUTPUT'])
    """
    ask = _CATALOG.require(task)
    require_seed(seed)
    if n is not None:
        options["n"] = n
    return ask(model, seed=seed, **options)


def suitable_tasks(model: HookedModel, among: Iterable[str] = TASKS) -> list[str]:
    """Those of these tasks that can be asked of this model, given its vocabulary and context.

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
