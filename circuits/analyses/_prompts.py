"""Which prompts does an analysis ask, given its arguments?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from circuits.errors import CircuitsError
from circuits.model import HookedGPT2
from circuits.prompts import Prompts, from_file, from_texts, make, suitable_tasks


def chosen(model: HookedGPT2, given: Mapping[str, Any]) -> list[Prompts]:
    """The batches that `task`, `prompt`, `file`, `answer`, `distractor`, `n` and `seed` ask for.

    Without task, prompt and file these are all tasks that suit the model.

    Raises:
        CircuitsError: when they contradict each other, or nothing suits.
    """
    sources = [name for name in ("task", "prompt", "file") if given[name] is not None]
    if len(sources) > 1:
        raise CircuitsError(f"{' and '.join(sources)} name different prompts; give one of them")
    _refuse_unused(given, sources)
    if given["prompt"] is not None:
        words = {name: given[name] for name in ("answer", "distractor")}
        return [from_texts(model, given["prompt"], **words)]
    if given["file"] is not None:
        return [from_file(model, given["file"])]
    if isinstance(given["task"], Prompts):
        return [given["task"]]
    names = suitable_tasks(model) if given["task"] is None else [given["task"]]
    if not names:
        raise CircuitsError(
            f"no task suits {model.cfg.model_name}, for its vocabulary or context; give a prompt "
            "or a file of your own"
        )
    return [make(name, model, given["n"], given["seed"]) for name in names]


def _refuse_unused(given: Mapping[str, Any], sources: list[str]) -> None:
    """What would be ignored without a word is an error."""
    if sources != ["prompt"]:
        for name in ("answer", "distractor"):
            if given[name] is not None:
                raise CircuitsError(
                    f"{name} belongs to a prompt of your own; give the prompt, too (a file has "
                    "answers and distractors of its own)"
                )
    drawn = not sources or (sources == ["task"] and isinstance(given["task"], str))
    if given["n"] is not None and not drawn:
        raise CircuitsError(
            f"n={given['n']}: only a task's prompts are drawn; leave n out, all prompts given are "
            "asked"
        )
