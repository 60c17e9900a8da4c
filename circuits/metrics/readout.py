"""What a head for classes says of each prompt, instead of the logits of tokens."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor

from circuits.errors import CircuitsError, nearest
from circuits.metrics.base import READOUT, Metric
from circuits.metrics.reading import last

if TYPE_CHECKING:
    from circuits.model import HookedModel
    from circuits.prompts import Prompts

LABEL = "label"  # a column of the prompts that names classes


def readout_metric(model: HookedModel, name: str) -> Metric:
    """What does this readout of the model say of each prompt?

    The readout (`HookedModel.readouts`), x W + b of what the final norm writes, reads each prompt's
    last token, as transformers' ``GPT2ForSequenceClassification`` does. The value is

    - of a single output (a regression): that output; labels take no part;
    - where prompts name a class: its logit; where they name a wrong one, too, less the logit of
      that. The class is what the prompt's answer says, or without one its column ``label``; the
      wrong one is the distractor. They are names of classes (`Readout.labels`), or their numbers
      from 0; answers that are tokens, as a task's, name none;
    - where prompts name no class, of two classes: the logit of the second less that of the first,
      which is the log odds of the second. Of more classes that is an error.

    Raises:
        CircuitsError: when the model has no readout of this name, with those that it has; and when
            prompts are measured whose classes it does not have.

    >>> import circuits
    >>> from circuits.model import Readout
    >>> model = circuits.load("sort-abc")
    >>> model.readouts["score"] = Readout(torch.ones(model.cfg.d_model, 2))
    >>> readout_metric(model, "score").unit
    'logits'
    """
    labels = tuple(model.require_readout(name).labels)
    is_single = len(labels) == 1
    return Metric(
        name=f"{READOUT}{name}",
        unit="output" if is_single else "logits",
        higher_is_better=True,
        question=f"what does the readout {name} say of the prompt?",
        needs=(),
        positions=last,
        score=partial(_score, labels=labels),
        readout=name,
        require=partial(_classes, labels=labels),
    )


def is_readout(metric: object) -> bool:
    """Whether this names the metric of a readout, which only a model can tell more of."""
    return isinstance(metric, str) and metric.startswith(READOUT)


def _score(
    logits: Tensor, prompts: Prompts, clean: Tensor | None, *, labels: tuple[str, ...]
) -> Tensor:
    right, wrong = _classes(prompts, labels)
    value = _of_class(logits, right)
    return value if wrong is None else value - _of_class(logits, wrong)


def _of_class(logits: Tensor, classes: Tensor) -> Tensor:
    at = rearrange(classes.to(logits.device), "b -> b 1")
    return logits.gather(1, at).squeeze(1)


def _classes(prompts: Prompts, labels: tuple[str, ...]) -> tuple[Tensor, Tensor | None]:
    """The class whose logit is the value, and the one whose logit is subtracted: [b] each.

    Raises:
        CircuitsError: for classes that the readout does not have, and where none is named and it
            is not clear which is meant.
    """
    every = torch.zeros(len(prompts), dtype=torch.long)
    if len(labels) == 1:
        return every, None
    right, wrong = (
        next((column for column in columns if column in prompts.columns), None)
        for columns in (("answer", LABEL), ("distractor",))
    )
    if right is None and len(labels) == 2:
        return every + 1, every
    if right is None:
        raise CircuitsError(
            f"the prompts of {prompts.task!r} name no class, and the readout has {len(labels)} "
            f"({', '.join(labels)}), so it is not clear whose logit is meant; give an answer with "
            f"each prompt, or a column {LABEL} in their file"
        )
    classes = _named(prompts, right, labels)
    if wrong is None:
        return classes, None
    others = _named(prompts, wrong, labels)
    if bool((classes == others).any()):
        row = int((classes == others).nonzero()[0])
        raise CircuitsError(
            f"answer and distractor are the same class ({labels[int(classes[row])]}) in prompt "
            f"{row} ({prompts.texts[row]!r}): their difference is always 0; give two classes"
        )
    return classes, others


def _named(prompts: Prompts, column: str, labels: tuple[str, ...]) -> Tensor:
    """The number of the class that this column names, [b]."""
    numbers = {str(i): i for i in range(len(labels))} | {name: i for i, name in enumerate(labels)}
    named = prompts.columns[column]
    for row, name in enumerate(named):
        if name not in numbers:
            raise CircuitsError(
                f"{column} is {name!r} in prompt {row} ({prompts.texts[row]!r}); the readout's "
                f"classes are {', '.join(labels)} (or their numbers, from 0)"
                f"{nearest(name or '', labels)}"
            )
    return torch.tensor([numbers[name] for name in named if name is not None])
