"""An experiment makes one claim and measures what it stands or falls with.

A script of `experiments/` has the constants ``CLAIM`` and ``MODEL``, and a function
``run(model, *, seed, quick)`` that returns the `Finding`. `conduct` runs it and keeps what was
found as a bundle: a folder with the verdict, the tables, each as a `Result`, and their figures.
"""

from __future__ import annotations

import ast
import html
import importlib.util
import json
import math
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from circuits.checkpoints import load
from circuits.errors import CircuitsError, nearest, require_seed
from circuits.files import named_path, replacing_folder, require_own, require_writable, utf8
from circuits.result import SIGNIFICANT_DIGITS, Result, mean_interval, provenance

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike
    from torch import Tensor

    from circuits.model import HookedModel

MANIFEST = "manifest.json"
# Beside the package in a clone, inside it once it is installed.
_HOMES = (Path(__file__).parent.parent / "experiments", Path(__file__).parent / "experiments")


@dataclass(frozen=True)
class Check:
    """One number that a claim stands or falls with.

    It holds if the number lies above `above` and below `below`, where they are given; with an
    interval, all of it. A `control` is what must not show the effect. Where the model has no such
    number, `missing` says why, and the number is NaN.

    >>> Check("the head looks one back", 0.97, above=0.5, ci_low=0.95, ci_high=0.99).holds
    True
    >>> Check("ablating it hurts", 0.2, "nats", above=0, ci_low=-0.1, ci_high=0.5).holds
    False
    """

    says: str
    value: float
    unit: str = ""
    above: float | None = None
    below: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    n: int | None = None
    control: bool = False
    missing: str = ""

    def __post_init__(self) -> None:
        if self.above is None and self.below is None:
            raise CircuitsError(
                f"{self.says!r} is checked against nothing; say what it has to lie above or below"
            )
        for name in ("value", "above", "below", "ci_low", "ci_high"):  # plain, for the manifest
            if getattr(self, name) is not None:
                object.__setattr__(self, name, float(getattr(self, name)))

    @property
    def holds(self) -> bool:
        """Whether the number, with all of its interval, is where the claim says."""
        ends = [self.value]
        ends += [end for end in (self.ci_low, self.ci_high) if end is not None]
        if not all(map(math.isfinite, ends)):
            return False
        return (self.above is None or min(ends) > self.above) and (
            self.below is None or max(ends) < self.below
        )

    @property
    def outcome(self) -> Literal["holds", "fails", "not here"]:
        """In words: ``not here`` where the model has no such number."""
        return "not here" if self.missing else "holds" if self.holds else "fails"

    @property
    def wanted(self) -> str:
        """What the number has to be, in words.

        >>> Check("it is small", 0.1, above=0, below=0.5).wanted
        '> 0, < 0.5'
        """
        bounds = {">": self.above, "<": self.below}
        return ", ".join(f"{sign} {_shown(x)}" for sign, x in bounds.items() if x is not None)

    @property
    def interval(self) -> str:
        """Its 95 % interval in words, or a dash."""
        if self.ci_low is None or self.ci_high is None:
            return "–"
        return f"{_shown(self.ci_low)} to {_shown(self.ci_high)}"


def _shown(value: float) -> str:
    return f"{value:.3g}"


def check(says: str, row: Mapping[str, Any], unit: str = "", **bounds: Any) -> Check:
    """A check of a row of a `Result`, with its interval: columns value, ci_low, ci_high and n.

    >>> check("it hurts", {"value": 1.0, "ci_low": 0.8, "ci_high": 1.2, "n": 20}, above=0.5).holds
    True
    """
    for name in ("ci_low", "ci_high"):
        if not _missing(row, name):
            bounds[name] = float(row[name])
    n = None if _missing(row, "n") else int(row["n"])
    return Check(says, float(row["value"]), unit, n=n, **bounds)


def _missing(row: Mapping[str, Any], name: str) -> bool:
    return name not in row or math.isnan(float(row[name]))


def interval(values: ArrayLike) -> dict[str, float]:
    """A row's mean of values [n], with its interval: `mean_interval` as plain numbers.

    >>> interval([1.0, 2.0, 3.0])["value"]
    2.0
    """
    return {name: float(number) for name, number in mean_interval(np.asarray(values)).items()}


def own_text(model: HookedModel, n: int, seed: int, length: int = 128) -> Tensor:
    """Text that the model writes after its start token, where no corpus is at hand: [n length].

    Rows are as long as the context, where that is shorter.
    """
    start = model.to_tokens("", prepend_bos=True).expand(n, -1)
    written: Tensor = model.generate(
        start,
        max_new_tokens=min(length, model.cfg.n_ctx) - 1,
        stop_at_eos=False,
        seed=seed,
        return_type="tokens",
    )
    return written


def table(
    model: HookedModel,
    experiment: str,
    frame: pd.DataFrame,
    unit: str,
    title: str,
    *,
    axes: Sequence[str],
    **options: Any,
) -> Result:
    """A table of an experiment's own, as a `Result`; `options` are its view and meanings."""
    source = provenance(model, experiment, arguments={}, command=f"circuits run {experiment}")
    return Result(frame, unit, title, source, tuple(axes), **options)


@dataclass(frozen=True)
class Finding:
    """What an experiment found: what its claim stands or falls with, and the tables behind it."""

    checks: tuple[Check, ...]
    tables: Mapping[str, Result] = field(repr=False)  # each is long

    def __post_init__(self) -> None:
        if not any(c.control for c in self.checks) or all(c.control for c in self.checks):
            raise CircuitsError("a claim needs evidence and a control; give a check of each kind")

    @property
    def holds(self) -> bool:
        """Whether the claim holds, evidence and control."""
        return all(c.holds for c in self.checks)


@dataclass(frozen=True)
class Bundle:
    """What was claimed, with which outcome, on which model, and how it can be had again."""

    experiment: str
    claim: str
    finding: Finding
    model: str
    checksum: str
    seed: int
    quick: bool
    command: str
    device: str
    dtype: str
    versions: Mapping[str, str]
    seconds: float

    def save(self, folder: str | Path) -> Path:
        """Write manifest, tables and figures into `folder`, all of them or none. Returns it.

        Raises:
            CircuitsError: when the folder holds something else, or cannot be written.
        """
        from circuits.figures import save_figure  # matplotlib takes half a second

        folder = named_path(folder)
        require_own(folder, MANIFEST, "experiment")
        with replacing_folder(folder) as partial:
            for name, table in self.finding.tables.items():
                table.save(partial / name)
                save_figure(table.plot(), partial / f"{name}.svg")
            (partial / MANIFEST).write_bytes(utf8(self._manifest()))
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Bundle:
        """The bundle that `save` wrote.

        Raises:
            CircuitsError: when the folder holds no readable bundle.
        """
        path = named_path(folder) / MANIFEST
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            tables = {name: Result.load(path.parent / name) for name in content.pop("tables")}
            checks = tuple(map(_read_check, content.pop("checks")))
            content.pop("holds")
            return cls(finding=Finding(checks, tables), **content)
        except OSError as error:
            raise CircuitsError(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CircuitsError(f"{path} is no experiment's manifest: {error}") from error

    def _repr_html_(self) -> str:
        outcomes = {"holds": "holds", "fails": "<b>fails</b>", "not here": "not here"}
        rows = "".join(
            f"<tr><td>{'control' if c.control else 'evidence'}</td>"
            f"<td style='text-align:left'>{html.escape(c.says)}</td>"
            f"<td>{html.escape(c.missing or f'{_shown(c.value)} {c.unit}')}</td>"
            f"<td>{c.interval}</td><td>{html.escape(c.wanted)}</td>"
            f"<td>{outcomes[c.outcome]}</td></tr>"
            for c in self.finding.checks
        )
        head = "<tr><th></th><th></th><th>value</th><th>95 %</th><th>wanted</th><th></th></tr>"
        outcome = "The claim holds." if self.finding.holds else "The claim does not hold."
        about = f"{self.model} ({self.checksum[:12]}), seed {self.seed}"
        return (
            f"<p><b>{html.escape(self.claim)}</b></p><table>{head}{rows}</table>"
            f"<p>{outcome}</p><p><small>{html.escape(about)} · "
            f"<code>{html.escape(self.command)}</code></small></p>"
        )

    def _manifest(self) -> str:
        content = {name: value for name, value in vars(self).items() if name != "finding"}
        content |= {
            "seconds": round(self.seconds, 1),
            "holds": self.finding.holds,
            "checks": [_rounded(asdict(c)) | {"holds": c.holds} for c in self.finding.checks],
            "tables": list(self.finding.tables),
        }
        return json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _rounded(content: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers with as many digits as count; None for NaN, which JSON has not."""

    def rounded(value: Any) -> Any:
        if not isinstance(value, float):
            return value
        return None if math.isnan(value) else float(f"{value:.{SIGNIFICANT_DIGITS}g}")

    return {name: rounded(value) for name, value in content.items()}


def _read_check(told: Mapping[str, Any]) -> Check:
    """The check that a manifest tells of."""
    fields = {name: value for name, value in told.items() if name != "holds"}
    return Check(**fields | {"value": math.nan if told["value"] is None else told["value"]})


@cache
def experiments() -> Mapping[str, str]:
    """The experiments that there are and what each claims, in alphabetical order.

    They are read, not run. Without a clone or an installed package's experiments, there are none.
    """
    return {path.stem: claim for path, claim in sorted(_scripts())}


def _scripts() -> Iterator[tuple[Path, str]]:
    home = next((home for home in _HOMES if home.is_dir()), None)
    for path in home.glob("*.py") if home else ():
        constants = {
            target.id: node.value
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        if "CLAIM" in constants:
            yield path, ast.literal_eval(constants["CLAIM"])


def conduct(
    name: str,
    *,
    model: str | None = None,
    seed: int = 0,
    quick: bool = False,
    out: str | Path = "results",
) -> Bundle:
    """Does the claim of this experiment hold? Runs it and writes the bundle `out`/`name`.

    `model` is what `circuits.load` takes; without it, the one that the claim is about. `quick`
    asks less, for a first look. The same seed finds the same.

    Raises:
        CircuitsError: for an unknown name, with the nearest one.
    """
    require_seed(seed)
    source, folder = script(name), named_path(out) / name
    require_writable(folder, folder=True)  # before minutes of computation, not after
    start = time.monotonic()
    loaded = load(source.MODEL if model is None else model)
    finding = source.run(loaded, seed=seed, quick=quick)
    words = ["circuits", "run", name, *(["--model", model] if model else [])]
    words += [*(["--seed", str(seed)] if seed else []), *(["--quick"] if quick else [])]
    about = provenance(loaded, name, arguments={}, command=shlex.join(words))
    bundle = Bundle(
        experiment=name,
        claim=source.CLAIM,
        finding=finding,
        model=about.model,
        checksum=about.checksum,
        seed=seed,
        quick=quick,
        command=about.command,
        device=about.device,
        dtype=about.dtype,
        versions=about.versions,
        seconds=time.monotonic() - start,
    )
    bundle.save(folder)
    return bundle


def script(name: str) -> ModuleType:
    """The script of this experiment, imported.

    Raises:
        CircuitsError: for an unknown name, with the nearest one.
    """
    if name not in experiments():
        known = ", ".join(experiments()) or "none (there is no folder experiments/ here)"
        raise CircuitsError(
            f"there is no experiment {name!r}; choose {known}{nearest(name, experiments())}"
        )
    path = next(path for path, _ in _scripts() if path.stem == name)
    if str(path.parent) not in sys.path:  # some have helpers beside them
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(f"experiments.{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module
