"""A lens for each stage of the residual stream, which reads it in its own basis.

The logit lens reads every stage as if it were the last. A tuned lens first translates it, by an
affine map that is trained so that the prediction comes closest to the model's final one (Belrose et
al. 2023). Shapes: b prompts, p positions, n tokens, d = d_model, v vocabulary.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from circuits.checkpoints import checksum, loading_options
from circuits.errors import CircuitsError, brief, printed
from circuits.files import named_path, replacing
from circuits.model import HookedModel
from circuits.padding import all_real
from circuits.precision import wide
from circuits.training.adam import Adam
from circuits.training.loop import descend, falling

TOKENS = 256  # that every step of training learns from
FORMAT = "circuits tuned lens"


class Stage(NamedTuple):
    """A residual stream that can be read: a0 is what attention layer 0 leaves."""

    name: str
    site: str
    layer: int | None


def stages(model: HookedModel) -> list[Stage]:
    """The residual streams: after the embeddings, and after every attention layer and MLP.

    >>> from circuits.checkpoints import load
    >>> [stage.name for stage in stages(load("sort-abc"))]
    ['embed', 'a0', 'm0', 'a1', 'm1', 'a2', 'm2']
    """
    streams = [Stage("embed", "blocks.0.hook_resid_pre", None)]
    for layer in range(model.cfg.n_layers):
        for name, site in ((f"a{layer}", "resid_mid"), (f"m{layer}", "resid_post")):
            stage = Stage(name, f"blocks.{layer}.hook_{site}", layer)
            # Where attention and MLP read the same stream, there is none between them.
            streams += [stage] if stage.site in model.hook_dict else []
    return streams


@dataclass(frozen=True, eq=False)
class TunedLens:
    """What does the stream h of a stage mean, in the basis of the last: h + h A + b.

    Attributes:
        maps: for each site, A [d d] and b [d]; a site without, as the last stage's, stays as it is.
        model: name of the model it was trained for.
        checksum: of that model's weights.
    """

    maps: dict[str, tuple[Tensor, Tensor]]
    model: str
    checksum: str

    def __call__(self, site: str, stream: Tensor) -> Tensor:
        """The stream [... d] of this site, translated."""
        if site not in self.maps:
            return stream
        A, b = (weight.to(stream) for weight in self.maps[site])
        return stream + stream @ A + b

    @classmethod
    def untrained(cls, model: HookedModel) -> TunedLens:
        """The lens that changes nothing: the logit lens."""
        d, device = model.cfg.d_model, model.W_E.device
        dtype = torch.promote_types(model.cfg.dtype or torch.float32, torch.float32)
        maps = {
            stage.site: (
                torch.zeros(d, d, device=device, dtype=dtype),
                torch.zeros(d, device=device, dtype=dtype),
            )
            for stage in stages(model)[:-1]
        }
        return cls(maps, model.cfg.model_name, checksum(model))

    def check(self, model: HookedModel) -> None:
        """Raise unless it was trained for this model.

        Raises:
            CircuitsError: when it was not.
        """
        if self.checksum != (actual := checksum(model)):
            raise CircuitsError(
                f"the lens was trained for {brief(self.model)} (weights "
                f"{printed(self.checksum[:12])}), and this "
                f"is {model.cfg.model_name!r} (weights {actual[:12]}); train one for it: "
                f"circuits tune-lens NEW {shlex.join(loading_options(model))}"
            )

    def save(self, path: str | Path) -> Path:
        """Write the lens to one safetensors file. Returns the path.

        Raises:
            CircuitsError: when the file cannot be written, or holds something else than a lens;
                nothing half-written is left.
        """
        path = named_path(path)
        require_place(path)
        tensors: dict[str, Tensor] = {}
        for site, (A, b) in self.maps.items():
            tensors |= {f"{site}.A": A.cpu().contiguous(), f"{site}.b": b.cpu().contiguous()}
        about = {"format": FORMAT, "model": self.model, "checksum": self.checksum}
        with replacing(path, SafetensorError) as partial:
            save_file(tensors, partial, metadata={"about": json.dumps(about)})
        return path

    @classmethod
    def load(cls, path: str | Path, model: HookedModel) -> TunedLens:
        """Read the lens that `save` wrote, and that was trained for this model.

        Raises:
            CircuitsError: when the file is missing, damaged, no lens, or another model's.
        """
        path = named_path(path)
        try:
            with safe_open(str(path), "pt", device=str(model.W_E.device)) as file:
                about = _about(file)
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, json.JSONDecodeError) as error:
            raise CircuitsError(f"cannot read a lens from {path}: {error}") from error
        if about is None:
            raise CircuitsError(
                f"{path} is no tuned lens; train one into a new file: circuits tune-lens NEW"
            )
        sites = [name.removesuffix(".A") for name in tensors if name.endswith(".A")]
        maps = {site: (tensors[f"{site}.A"], tensors[f"{site}.b"]) for site in sites}
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise CircuitsError(f"{path} holds numbers that are not finite; train the lens anew")
        lens = cls(maps, str(about["model"]), str(about["checksum"]))
        lens.check(model)
        return lens


def _about(file: Any) -> dict[str, Any] | None:
    """What an open safetensors file says about the lens in it; None if it holds none."""
    about = json.loads((file.metadata() or {}).get("about", "{}"))
    return about if isinstance(about, dict) and about.get("format") == FORMAT else None


def require_place(path: Path) -> None:
    """Raise unless a lens may be written here: an earlier lens is replaced, nothing else is.

    Raises:
        CircuitsError: when the file holds something else.
    """
    if not path.exists():
        return
    unreadable = suppress(OSError, SafetensorError, json.JSONDecodeError)
    with unreadable, safe_open(str(path), "pt") as file:
        if _about(file) is not None:
            return
    raise CircuitsError(f"{path} holds something else than a tuned lens; choose a new file")


def require_training(steps: int, lr: float) -> None:
    """Raise unless a lens can be trained with these options.

    Raises:
        CircuitsError: for steps or lr that are not above 0, or no number.
    """
    if steps < 1 or not 0 < lr < math.inf:
        raise CircuitsError(f"steps={steps} and lr={lr}: train at least 1 step, with lr above 0")


def train_tuned_lens(
    model: HookedModel,
    tokens: Tensor,
    *,
    steps: int = 100,
    lr: float = 1e-3,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> TunedLens:
    """Which maps bring every stage's prediction closest to the final one?

    Starts from the logit lens and minimizes KL(final || stage) by Adam, whose step falls linearly
    from `lr` to 0. Every step takes 256 tokens, drawn by `seed` from `tokens` [b p]: rows without
    padding. The model stays as it is. Source: Belrose et al. 2023, section 3.

    Raises:
        CircuitsError: for no tokens, and steps or lr that are not above 0.
    """
    require_training(steps, lr)
    if tokens.ndim != 2 or not tokens.numel():
        raise CircuitsError(f"the tokens have shape {tuple(tokens.shape)}; give rows of them [b p]")
    lens = TunedLens.untrained(model)
    weights = [weight.requires_grad_() for pair in lens.maps.values() for weight in pair]
    adam = Adam(weights, lr=lr)
    generator = torch.Generator().manual_seed(seed)

    def gradients(step: int) -> float:
        streams, final = _drawn(model, tokens, generator)
        total = 0.0
        for site, (A, b) in lens.maps.items():
            logits = lens_logits(model, lens(site, streams[site]))
            loss = F.cross_entropy(logits, final)  # KL, but for a term that no map changes
            # The gradients of the maps alone: the model's weights need none.
            A.grad, b.grad = torch.autograd.grad(loss, [A, b])
            total += loss.item()
        return total

    for step, _ in descend(adam, gradients, range(steps), falling(lr, steps)):
        if progress is not None:
            progress(step + 1, steps)
    for weight in weights:
        weight.requires_grad_(False).grad = None
    return lens


def lens_logits(model: HookedModel, stream: Tensor) -> Tensor:
    """The logits of this stream, read as if it were the last: [... d] -> [... v].

    Half precision is raised to single: rounding would hide small probabilities.
    """
    return wide(model.unembed(model.ln_final(stream.to(model.W_E.dtype))))


def divergence(model: HookedModel, tokens: Tensor, lens: TunedLens) -> Tensor:
    """How far each stage's prediction is from the final one: KL(final || stage) in nats, [s b].

    The mean over the positions of each row of `tokens` [b p], which has no padding.
    """
    by_row = []
    for row in tokens:
        with torch.inference_mode():
            streams = _streams(model, row[None])
            final = lens_logits(model, list(streams.values())[-1]).log_softmax(-1)
            kls = []
            for site, stream in streams.items():
                log_probs = lens_logits(model, lens(site, stream)).log_softmax(-1)
                kls.append(F.kl_div(log_probs, final, reduction="sum", log_target=True) / len(row))
            by_row.append(torch.stack(kls))
    return torch.stack(by_row, 1)


def _drawn(
    model: HookedModel, tokens: Tensor, generator: torch.Generator
) -> tuple[dict[str, Tensor], Tensor]:
    """The streams of some tokens, each [n d], and the final probabilities [n v]."""
    n_rows = min(len(tokens), max(4, -(-TOKENS // tokens.shape[1])))
    rows = torch.randperm(len(tokens), generator=generator)[:n_rows]
    places = torch.randperm(n_rows * tokens.shape[1], generator=generator)[:TOKENS]
    with torch.no_grad():
        streams = _streams(model, tokens[rows.to(tokens.device)])
        picked = {site: stream[places.to(stream.device)] for site, stream in streams.items()}
        return picked, lens_logits(model, list(picked.values())[-1]).softmax(-1)


def _streams(model: HookedModel, tokens: Tensor) -> dict[str, Tensor]:
    """Every stage's stream of these tokens, in single precision at least: [n d]"""
    sites = [stage.site for stage in stages(model)]
    options = {"attention_mask": all_real(tokens), "stop_at_layer": model.cfg.n_layers}
    _, cache = model.run_with_cache(tokens, names_filter=sites, **options)
    dtype = torch.promote_types(model.W_E.dtype, torch.float32)
    return {site: cache[site].flatten(0, 1).to(dtype) for site in sites}
