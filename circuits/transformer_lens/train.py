"""`train`: next-token training of a model, in a plain loop."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from circuits.errors import CircuitsError
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
    schedule = LambdaLR(optimizer, lambda step: min(1.0, step / warm) if warm else 1.0)
    loader = DataLoader(dataset, batch_size=config.batch_size, shuffle=True)
    for epoch in range(1, config.num_epochs + 1):
        n_samples = 0
        for step, batch in enumerate(loader):
            tokens = batch["tokens"].to(device)
            loss = model(tokens, return_type="loss")
            loss.backward()
            if config.max_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            n_samples += len(tokens)
            if _due(config.print_every, step):
                line = f"Epoch {epoch} Samples {n_samples} Step {step} Loss {loss.item()}"
                sys.stdout.write(f"{line}\n")
            if config.save_dir is not None and _due(config.save_every, step):
                torch.save(model.state_dict(), Path(config.save_dir) / f"model_{step}.pt")
            if config.max_steps is not None and step >= config.max_steps:
                break
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
