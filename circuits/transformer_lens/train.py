"""`train`: next-token training of a model, in a plain loop."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.utils.data import DataLoader

from circuits.errors import CircuitsError
from circuits.training.loop import descend
from circuits.transformer_lens.devices import get_device


@dataclass
class HookedTransformerTrainConfig:
    """How to train: see `train`."""

    num_epochs: int
    batch_size: int
    lr: float = 1e-3
    seed: int = 0
    momentum: float = 0.0
    max_grad_norm: float | None = None
    weight_decay: float | None = None
    optimizer_name: str = "Adam"
    device: Any = None
    warmup_steps: int = 0
    save_every: int | None = None
    save_dir: str | None = None
    wandb: bool = False
    wandb_project_name: str | None = None
    print_every: int | None = 50
    max_steps: int | None = None


def train(model: Any, config: HookedTransformerTrainConfig, dataset: Any) -> Any:
    """The model, trained in place on a data set whose rows have ``"tokens"``.

    Raises:
        CircuitsError: for an unknown optimizer, and for logging to Weights and Biases.
    """
    if config.wandb:
        raise CircuitsError("wandb=True: nothing is sent anywhere from here; log in your own loop")
    torch.manual_seed(config.seed)
    device = config.device or get_device()
    model.train().to(device)
    optimizer = _optimizer(model, config)
    warm = config.warmup_steps
    loader = DataLoader(dataset, batch_size=config.batch_size, shuffle=True)
    most = len(loader) if config.max_steps is None else min(len(loader), config.max_steps + 1)
    batches = (batch for _ in range(config.num_epochs) for batch in islice(loader, most))
    seen: list[int] = []

    def gradients(step: int) -> float:
        tokens = next(batches)["tokens"].to(device)
        seen.append(len(tokens))
        loss = model(tokens, return_type="loss")
        loss.backward()
        return float(loss.item())

    def rate(step: int) -> float:
        return config.lr * (min(1.0, step / warm) if warm else 1.0)

    steps = range(config.num_epochs * most)
    for done, loss in descend(optimizer, gradients, steps, rate, clip=config.max_grad_norm):
        epoch, step = divmod(done, most)
        if _due(config.print_every, step):
            n_samples = sum(seen[epoch * most :])
            line = f"Epoch {epoch + 1} Samples {n_samples} Step {step} Loss {loss}"
            sys.stdout.write(f"{line}\n")
        if config.save_dir is not None and _due(config.save_every, step):
            torch.save(model.state_dict(), Path(config.save_dir) / f"model_{step}.pt")
    optimizer.zero_grad()
    return model


def _optimizer(model: Any, config: HookedTransformerTrainConfig) -> Optimizer:
    weights, decay = list(model.parameters()), config.weight_decay
    if config.optimizer_name in ("Adam", "AdamW"):
        if decay is None:
            return Adam(weights, lr=config.lr)
        return AdamW(weights, lr=config.lr, weight_decay=decay)
    if config.optimizer_name == "SGD":
        return SGD(weights, lr=config.lr, momentum=config.momentum, weight_decay=decay or 0.0)
    raise CircuitsError(
        f"optimizer_name={config.optimizer_name!r}: choose 'Adam', 'AdamW' or 'SGD'"
    )


def _due(every: int | None, step: int) -> bool:
    return every is not None and step % every == 0
