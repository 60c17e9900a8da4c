"""What is minimized: the loss of answers, or of classes; and how well a model does at them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from circuits.architectures import HookedGPT2
from circuits.batch import pad_rows
from circuits.padding import all_real
from circuits.prompts.prompts import UNSCORED
from circuits.training.change import Change
from circuits.training.examples import Example

_AT_ONCE = 64  # examples in a batch that is only looked at


@dataclass(frozen=True, eq=False)
class Score:
    """Of each example [n]: its loss in nats (of a text, mean over what is learned), and whether the
    model's likeliest answer, all tokens of it, or class is the right one.
    """

    loss: Tensor
    right: Tensor


class Objective(nn.Module):
    """The losses of a model for examples, with weights of its own or with others."""

    def __init__(self, model: HookedGPT2) -> None:
        super().__init__()
        self.model = model

    def forward(self, examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
        """Loss [t] of each token or class that is learned, whether it is the likeliest [t], and of
        which example it is [t].
        """
        device = self.model.W_E.device
        tokens = pad_rows([row.ids for row in examples], 0)[0].to(device)
        # What follows a text is padding, which it does not see.
        every, n_layers = all_real(tokens), self.model.cfg.n_layers
        resid = self.model(tokens, attention_mask=every, stop_at_layer=n_layers)
        rows = torch.arange(len(examples), device=device)
        if examples[0].label is not None:
            at = torch.tensor([len(row.ids) - 1 for row in examples], device=device)
            targets = torch.tensor([row.label for row in examples], device=device)
            scores = self.model.readouts["score"](self.model.ln_final(resid[rows, at][None])[0])
        else:
            padded = [[*row.targets] for row in examples]
            wanted = pad_rows(padded, UNSCORED)[0].to(device)
            counts = wanted != UNSCORED
            rows, targets = rows[:, None].expand_as(wanted)[counts], wanted[counts]
            # Only the logits that are scored are computed.
            scores = self.model.unembed(self.model.ln_final(resid[counts][None]))[0]
        losses = F.cross_entropy(scores, targets, reduction="none")
        return losses, scores.detach().argmax(-1) == targets, rows


def loss_of(objective: Objective, change: Change, examples: Sequence[Example]) -> Tensor:
    """The mean loss over the tokens, or classes, of these examples, as things are learned now."""
    weights = {f"model.{name}": each for name, each in change.weights(change.learned).items()}
    losses: Tensor = torch.func.functional_call(objective, weights, (examples,))[0]
    return losses.mean()


@torch.no_grad()
def scored(model: HookedGPT2, examples: Sequence[Example]) -> Score:
    """How well does this model do at these examples?

    >>> from circuits.checkpoints import load
    >>> score = scored(load("sort-abc"), [Example((2, 1, 0, 2, 1, 0), (-1,) * 5 + (0,))])
    >>> score.right.tolist()
    [True]
    """
    objective, losses, right = Objective(model), [], []
    for start in range(0, len(examples), _AT_ONCE):
        some = examples[start : start + _AT_ONCE]
        loss, is_right, rows = objective(some)
        zeros = torch.zeros(len(some), dtype=torch.float64)
        n = zeros.index_add(0, rows.cpu(), torch.ones(len(rows), dtype=torch.float64))
        losses.append(zeros.index_add(0, rows.cpu(), loss.double().cpu()) / n)
        right.append(zeros.index_add(0, rows.cpu(), is_right.double().cpu()) == n)
    return Score(torch.cat(losses), torch.cat(right))
