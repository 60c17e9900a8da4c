"""A text file as windows of tokens, read piece by piece, and the model's loss on each token."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from circuits.errors import CircuitsError, TokenError
from circuits.intervals import REAL, Scale
from circuits.model import HookedModel
from circuits.padding import all_real
from circuits.precision import wide
from circuits.prompts.prompts import start_tokens
from circuits.result import Provenance
from circuits.sweep.moments import Moments, Scales, moments

PIECE = 1 << 16  # characters read at a time
LONGEST = 1 << 20  # characters without a space that are still encoded as one
BATCH = 2048  # tokens that go through the model together
LOGITS = 1 << 21  # logits at a time: 8 MiB, so that the next ones find them in the cache
# Between two words a token always begins, so that texts cut here have the tokens of the whole.
_SEAM = re.compile(r"(?<=\S) (?=\S)")


@dataclass(frozen=True)
class TextFile:
    """Which windows of tokens does this text make?

    The text goes on from window to window; each begins with the start token, if the model reads
    one. The file is read as it is needed, so its size does not matter. `context` is a window's
    length with its start token (None: the model's context), `n` the most windows to read.

    Iterating gives tokens [b p] and the bytes read so far. The last window may be shorter, and then
    comes by itself.

    Raises:
        CircuitsError: for a context that the model does not have, or no windows; while iterating,
            for a file that cannot be read, has no text, or has characters without a token.
    """

    model: HookedModel
    path: Path
    context: int | None = None
    n: int | None = None

    def __post_init__(self) -> None:
        n_ctx, least = self.model.cfg.n_ctx, len(self.start) + 2
        if self.context is not None and not least <= self.context <= n_ctx:
            raise CircuitsError(
                f"context={self.context}: a window of {self.model.cfg.model_name} has {least} to "
                f"{n_ctx} tokens"
            )
        if self.n is not None and self.n < 1:
            raise CircuitsError(f"n={self.n} windows: read at least 1")

    @property
    def start(self) -> list[int]:
        """What stands before each window: the start token, or nothing."""
        return start_tokens(self.model, None)

    @property
    def width(self) -> int:
        """Tokens of a whole window."""
        return self.context or self.model.cfg.n_ctx

    @property
    def n_bytes(self) -> int:
        """How long is the file?

        Raises:
            CircuitsError: when it cannot be read.
        """
        try:
            return self.path.stat().st_size
        except OSError as error:
            raise CircuitsError(f"{self.path} cannot be read: {error.strerror}") from error

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        inside, left = self.width - len(self.start), self.n or -1
        together = max(1, BATCH // self.width)
        ids: list[int] = []
        done, any_read = 0, False
        for piece, done in self._encoded():
            ids += piece
            while left and len(ids) >= inside * together:
                take = together if left < 0 else min(left, together)
                yield self._windows(ids[: take * inside], inside), done
                ids, left, any_read = ids[take * inside :], left - take, True
            if not left:
                return
        for end in range(0, len(ids), inside):
            window = ids[end : end + inside]
            if left and len(window) + len(self.start) > 1:
                yield self._windows(window, len(window)), done
                left, any_read = left - 1, True
        if not any_read:
            raise CircuitsError(f"{self.path} has no text to read: it needs at least two tokens")

    def _windows(self, ids: list[int], inside: int) -> Tensor:
        rows = torch.tensor(ids, device=self.model.W_E.device).view(-1, inside)
        start = torch.tensor(self.start, dtype=torch.long, device=rows.device)
        return torch.cat([start.expand(len(rows), -1), rows], 1)

    def _encoded(self) -> Iterator[tuple[list[int], int]]:
        """The tokens of each piece of the text, and the bytes read up to its end."""
        tokenizer = self.model.require_tokenizer()
        try:
            for text, done in self._pieces():
                yield tokenizer.encode(text), done
        except OSError as error:
            raise CircuitsError(f"{self.path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise CircuitsError(f"{self.path} is not UTF-8 text; save it as UTF-8") from error
        except TokenError as error:
            raise TokenError(f"{self.path}: {error}") from error

    def _pieces(self) -> Iterator[tuple[str, int]]:
        text = ""
        with self.path.open("rb") as raw, io.TextIOWrapper(raw, "utf-8-sig") as file:
            while more := file.read(PIECE):
                if "\0" in more:
                    raise CircuitsError(
                        f"{self.path} has NUL characters, as UTF-16 text does; save it as UTF-8"
                    )
                text += more
                seams = [match.start() for match in _SEAM.finditer(text, max(0, len(text) - 4096))]
                if seams or len(text) > LONGEST:
                    cut = seams[-1] if seams else len(text)
                    yield text[:cut], raw.tell()
                    text = text[cut:]
            yield text, raw.tell()


def read_from(source: Provenance, text: TextFile, n_windows: int | None = None) -> Provenance:
    """The same provenance, with the file's name and contents (a hash of its bytes)."""
    digest = hashlib.sha256()
    with text.path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return replace(
        source,
        task=text.path.name,
        prompts=digest.hexdigest()[:16],
        n_prompts=n_windows,
        prepend_bos=bool(text.start),
    )


def losses(model: HookedModel, tokens: Tensor) -> NDArray[np.float64]:
    """How surprised is the model by each token but the first? [b p] -> [b p-1], in nats.

    The unembedding goes through the positions piece by piece: the logits of all at once may be
    larger than the model.
    """
    with torch.inference_mode():
        every = all_real(tokens)  # documents end anywhere in a window
        stream = model(tokens, attention_mask=every, stop_at_layer=model.cfg.n_layers)
        step = max(1, LOGITS // (len(tokens) * model.cfg.d_vocab))
        parts = []
        for at in range(0, tokens.shape[1] - 1, step):
            place = slice(at, min(at + step, tokens.shape[1] - 1))
            logits = wide(model.unembed(model.ln_final(stream[:, place])))
            targets = tokens[:, place.start + 1 : place.stop + 1]
            parts.append(F.cross_entropy(logits.mT, targets, reduction="none"))
        found: NDArray[np.float64] = torch.cat(parts, 1).double().cpu().numpy()
    return found


def averaged(values: NDArray[np.float64], scale: Scale = REAL, *, draws: bool = False) -> Moments:
    """Means over windows [c n], of numbers on a scale, that can be merged block by block.

    A first row of zeros is what `Moments` measures effects from: row i is its cell i + 1.
    """
    with_zero = np.vstack([np.zeros_like(values[:1]), values])
    scales = Scales(scale, scale.change)
    block = moments(with_zero, np.zeros(len(with_zero), dtype=bool), scales=scales)
    return block.drawn_from(with_zero) if draws else block
