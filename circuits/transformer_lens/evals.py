"""Quick evaluations: induction, indirect objects, and the loss on texts from the hub."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from circuits.transformer_lens.datasets import get_dataset, tokenize_and_concatenate
from circuits.transformer_lens.utils import lm_cross_entropy_loss

TEXTS = ("wiki", "openwebtext", "pile", "code")


def sanity_check(model: Any, text: str | None = None) -> Tensor:
    """The mean loss on a plain English text: about 3 to 4 nats for GPT-2."""
    given = text or (
        "The quick brown fox jumps over the lazy dog, and then it runs back into the forest "
        "where it has lived for many years."
    )
    loss: Tensor = model(given, return_type="loss")
    return loss


def make_data_loader(name: str, tokenizer: Any, batch_size: int = 8) -> Any:
    """Texts of one of `TEXTS` from the hub, in rows of tokens; needs ``datasets``."""
    rows = tokenize_and_concatenate(get_dataset(name), tokenizer)
    return DataLoader(rows, batch_size=batch_size, shuffle=True, drop_last=True)


def make_wiki_data_loader(tokenizer: Any, batch_size: int = 8) -> Any:
    """Texts of Wikipedia: see `make_data_loader`."""
    return make_data_loader("wiki", tokenizer, batch_size)


def make_owt_data_loader(tokenizer: Any, batch_size: int = 8) -> Any:
    """Texts of OpenWebText: see `make_data_loader`."""
    return make_data_loader("openwebtext", tokenizer, batch_size)


def make_pile_data_loader(tokenizer: Any, batch_size: int = 8) -> Any:
    """Texts of the Pile: see `make_data_loader`."""
    return make_data_loader("pile", tokenizer, batch_size)


def make_code_data_loader(tokenizer: Any, batch_size: int = 8) -> Any:
    """Code: see `make_data_loader`."""
    return make_data_loader("code", tokenizer, batch_size)


DATASET_NAMES = ("wiki", "owt", "pile", "code")
DATASET_LOADERS = (
    *(make_wiki_data_loader, make_owt_data_loader),
    *(make_pile_data_loader, make_code_data_loader),
)


@torch.inference_mode()
def evaluate_on_dataset(
    model: Any, data_loader: Any, truncate: int = 100, device: Any = None
) -> float:
    """The mean loss on the first batches, `truncate` of them or all for -1."""
    total, n = 0.0, 0
    for batch in data_loader:
        total += float(model(batch["tokens"].to(model.cfg.device), return_type="loss"))
        n += 1
        if n == truncate:
            break
    return total / max(n, 1)


@torch.inference_mode()
def induction_loss(
    model: Any,
    tokenizer: Any = None,
    batch_size: int = 4,
    subseq_len: int = 384,
    prepend_bos: bool | None = None,
    device: Any = None,
) -> Tensor:
    """The loss on the second half of random tokens that are repeated once."""
    low, high = (100, 20000) if model.cfg.d_vocab > 20000 else (0, model.cfg.d_vocab)
    half = torch.randint(low, high, (batch_size, subseq_len)).to(model.cfg.device)
    tokens = torch.cat([half, half], 1)
    if model.cfg.default_prepend_bos if prepend_bos is None else prepend_bos:
        tokens[:, 0] = (tokenizer or model.tokenizer).bos_token_id
    losses = lm_cross_entropy_loss(model(tokens, return_type="logits"), tokens, per_token=True)
    return losses[:, subseq_len + 1 :].mean()


def evaluate(
    model: Any, truncate: int = 100, batch_size: int = 8, tokenizer: Any = None
) -> dict[str, float]:
    """The mean loss on each of `TEXTS`, from the hub."""
    tokenizer = tokenizer or model.tokenizer
    loaders = {name: make_data_loader(name, tokenizer, batch_size) for name in TEXTS}
    return {
        f"{name}_loss": evaluate_on_dataset(model, loader, truncate)
        for name, loader in loaders.items()
    }


class IOIDataset(Dataset[dict[str, Tensor]]):
    """Sentences whose last word is the indirect object, with its rival, the subject."""

    def __init__(
        self,
        tokenizer: Any,
        templates: Sequence[str] | None = None,
        names: Sequence[str] | None = None,
        nouns: dict[str, Sequence[str]] | None = None,
        num_samples: int = 1000,
        symmetric: bool = False,
        prepend_bos: bool = True,
        seed: int | None = None,
    ) -> None:
        self.tokenizer, self.prepend_bos = tokenizer, prepend_bos
        if seed is not None:
            random.seed(seed)
        self.templates = list(templates or self.get_default_templates())
        self.names = list(names or self.get_default_names())
        self.nouns = nouns or self.get_default_nouns()
        n = num_samples // 2 if symmetric else num_samples
        self.samples = [sample for _ in range(n) for sample in self.get_sample(symmetric)]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, idx: int) -> dict[str, Tensor]:
        sample = self.samples[idx]
        start = [self.tokenizer.bos_token_id] if self.prepend_bos else []
        encode = self.tokenizer.encode
        ids = {name: torch.tensor(encode(sample[name])) for name in ("IO", "S")}
        return {"prompt": torch.tensor(start + encode(sample["text"])), **ids}

    def get_sample(self, symmetric: bool = False) -> list[dict[str, str]]:
        """A sentence; with `symmetric` also the one with its names swapped."""
        template = random.choice(self.templates)
        for kind, words in self.nouns.items():
            template = template.replace(f"[{kind}]", random.choice(list(words)))
        first, second = random.sample(self.names, 2)
        pairs = [(first, second), (second, first)][: 2 if symmetric else 1]
        return [
            {"text": template.replace("[A]", a).replace("[B]", b), "IO": f" {a}", "S": f" {b}"}
            for a, b in pairs
        ]

    @staticmethod
    def get_default_names() -> list[str]:
        """John and Mary."""
        return ["John", "Mary"]

    @staticmethod
    def get_default_templates() -> list[str]:
        """Two sentences, of either order of the names."""
        return [
            "[A] and [B] went to the [LOCATION] to buy [OBJECT]. [B] handed the [OBJECT] to [A]",
            "Then, [B] and [A] went to the [LOCATION]. [B] gave the [OBJECT] to [A]",
        ]

    @staticmethod
    def get_default_nouns() -> dict[str, Sequence[str]]:
        """Places and things."""
        return {"LOCATION": ["store", "market"], "OBJECT": ["milk", "eggs", "bread"]}


@torch.inference_mode()
def ioi_eval(
    model: Any,
    dataset: Any = None,
    batch_size: int = 8,
    num_samples: int = 1000,
    tokenizer: Any = None,
    symmetric: bool = False,
) -> dict[str, float]:
    """By how many logits, and how often, the indirect object is above the subject."""
    if dataset is None:
        dataset = IOIDataset(
            tokenizer or model.tokenizer, num_samples=num_samples, symmetric=symmetric
        )
    total, right = 0.0, 0
    for i in range(len(dataset)):
        sample = dataset[i]
        io, s = sample["IO"], sample["S"]
        n = min(len(io), len(s))
        place = int((io[:n] != s[:n]).nonzero()[0])
        logits = model(sample["prompt"][None], return_type="logits")[0]
        at = logits[len(sample["prompt"]) - len(io) + place - 1]
        difference = float(at[io[place]] - at[s[place]])
        total, right = total + difference, right + (difference > 0)
    return {"Logit Difference": total / len(dataset), "Accuracy": right / len(dataset)}
