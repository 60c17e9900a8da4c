"""Options that several analyses take, in groups: each name, type, default and meaning once.

An analysis that takes a group has a parameter of its class, and its callers give the fields one by
one: ``ablate(model, task="ioi", n=50)`` builds ``PromptOptions(task="ioi", n=50)``. A field's
string below it is its help, in Python and on the command line, where names in braces stand for
lists (`circuits.catalog`). A field without one is no option.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from circuits.progress import Progress

if TYPE_CHECKING:
    from circuits.inputs import ModelInput
    from circuits.metrics import Metric
    from circuits.prompts import Prompts

# In this order options of groups stand in help, signatures and commands.
ORDER = (
    "task", "prompt", "corrupted", "file", "answer", "distractor", "metric", "n", "seed",
    "method", "rank", "width", "steps", "lr", "batch", "held_out", "patience",
    "by", "cluster", "memory", "plan", "engine", "parts", "resume", "progress",
)  # fmt: skip
# Options that change no number: an answer is the same however it was computed.
CHANGE_NOTHING = ("memory", "engine", "parts", "resume")


@dataclass(frozen=True)
class PromptOptions:
    """Which prompts are asked."""

    task: str | Prompts | None = None
    """Which prompts: {tasks}. Without it, those of {usual tasks} that suit the model."""
    prompt: str | Sequence[str] | ModelInput | None = None
    """A prompt of your own instead of a task; repeat it for several."""
    file: str | Path | None = None
    """Your own prompts: .txt, one a line; .csv, .tsv, .jsonl or .parquet with clean, corrupted,
    answer, distractor, template; each also as .gz; - for standard input."""
    answer: str | None = None
    """The token that should follow your prompts."""
    distractor: str | None = None
    """The token that the answer is compared with."""
    n: int | None = None
    """How many prompts to draw. Without it, the task's usual number."""
    seed: int = 0
    """The same seed draws the same prompts."""


@dataclass(frozen=True)
class MeasureOptions(PromptOptions):
    """Which prompts are asked, and what is measured of them."""

    metric: str | Metric | None = None
    """{metrics}; or readout:NAME, a head for classes of the checkpoint (answers are classes then).
    Without it, the task's own."""


@dataclass(frozen=True)
class PairOptions(MeasureOptions):
    """Which pairs of prompts are asked, and what is measured of them."""

    corrupted: str | Sequence[str] | ModelInput | None = None
    """The corrupted twin of your prompt, token for token; repeat it for several."""


@dataclass(frozen=True)
class UnseenOptions(PairOptions):
    """Which pairs of prompts are asked, of those that nobody has looked at before.

    Without a seed, they are drawn with another one than those were.
    """

    seed: int | None = None  # type: ignore[assignment]  # None is settled before prompts are drawn


@dataclass(frozen=True)
class TemplateOptions:
    """Whether templates, or other groups, are told apart, and over what the intervals are."""

    by: str | None = None
    """Each template of the prompts by itself, and how much they differ (by=template); or each group
    by a column of your file."""
    cluster: str | None = None
    """Intervals over templates (cluster-robust), not over names and words within them; or over
    groups by a column of your file."""


@dataclass(frozen=True)
class TrainingOptions:
    """How a model is trained."""

    method: Literal["full", "lora", "adapter"] = "full"
    """The weights themselves (full); products of small matrices that are added to them (lora); or
    new neurons beside the MLPs (adapter)."""
    rank: int = 8
    """Of LoRA's products."""
    width: int = 16
    """Of adapters, in neurons."""
    steps: int = 200
    """Steps of training."""
    lr: float | None = None
    """The largest step (AdamW): it warms up for a tenth of the steps, then falls to 0. Without it,
    0.0003 for full, 0.003 for lora and adapter, 0.01 for a readout alone."""
    batch: int = 16
    """Examples in each step."""
    held_out: float | str | Path = 0.2
    """Which share of the examples is not trained on; or a file of such examples."""
    patience: int | None = None
    """Stop after so many measurements (of 20) without a better held-out loss, and keep the best."""


@dataclass(frozen=True)
class MeanOptions:
    """How means are taken. With `draws`, each row has the numbers that its mean is of, too."""

    draws: bool = False


@dataclass(frozen=True)
class MemoryOptions(MeanOptions):
    """What a computation may take, and who is told how far it is."""

    memory: str | None = None
    """By how much the process may grow: 4G, 500M. Without it, tensors take up to 1G on a CPU."""
    progress: Progress | None = None
    """Called with the work done and the work in all."""


@dataclass(frozen=True)
class RunOptions(MemoryOptions):
    """How a sweep is computed. `question` is what was asked, for the files of a long run."""

    plan: bool = False
    """Only say what would be computed, and what it would cost."""
    engine: str = "local"
    """Where to compute: local, ray (a Ray cluster, extra ray), or ray=ADDRESS."""
    parts: str | Path | None = None
    """Folder that gets every prompt's numbers as Parquet, block by block."""
    resume: bool = False
    """Go on with the interrupted run in the folder of parts."""
    question: Mapping[str, Any] = field(default_factory=dict)
