"""What an analysis returns: a tidy table with units, uncertainty, and where it came from."""

from __future__ import annotations

import html
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from circuits import __version__, intervals
from circuits.catalog import VIEW, known
from circuits.checkpoints import checksum
from circuits.circuit import Circuit
from circuits.circuit.publications import IN_FOLDER
from circuits.errors import CircuitsError, nearest
from circuits.files import named_path, replacing_folder, require_own, utf8
from circuits.intervals import REAL, Draws, Scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from circuits.model import HookedModel
    from circuits.prompts import Prompts

SIGNIFICANT_DIGITS = 6  # of every number written to a file: float32 has about seven
_INTERVAL = (
    "Student's t (NaN where n is 1); of zeros and ones Wilson's, of their differences Bonett and "
    "Price's"
)
AVERAGED = {
    "value": "mean over n",
    "stderr": "standard error of the mean (NaN where n is 1)",
    "ci_low": f"lower end of the 95 % interval of the mean, {_INTERVAL}",
    "ci_high": f"upper end of the 95 % interval of the mean, {_INTERVAL}",
    "n": "number of prompts (or other independent draws) averaged over",
}
BEHIND = "draws behind"  # the column that brings a `Result` its draws
_DATA, _TABLE, _CIRCUIT = "result.json", "table.csv", IN_FOLDER


@dataclass(frozen=True)
class Provenance:
    """Which model, which prompts, which settings, and how it can be had again.

    `checksum` is of the weights, empty where they are of none or several; `prompts` of the tokens
    and what is asked about them; `bos_id` and `eos_ids` are the model's start token and the tokens
    that end its texts. `arguments` are the analysis' own, `population` is over which prompts means
    and their intervals are. There is no date: the same question gives the same bytes.
    """

    analysis: str
    model: str
    checksum: str
    source: str
    device: str
    dtype: str
    arguments: Mapping[str, Any]
    command: str
    versions: Mapping[str, str]
    task: str | None = None
    prompts: str | None = None
    n_prompts: int | None = None
    prepend_bos: bool | None = None
    bos_id: int | None = None
    eos_ids: list[int] | None = None
    seed: int | None = None
    population: str | None = None


def versions() -> dict[str, str]:
    """The versions of what computes."""
    return {
        "circuits": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": ".".join(map(str, sys.version_info[:3])),
    }


def provenance(
    model: HookedModel,
    analysis: str,
    *,
    arguments: Mapping[str, Any] = MappingProxyType({}),
    command: str = "",
    prompts: Prompts | None = None,
) -> Provenance:
    """Where a result of this analysis comes from.

    `arguments` are what the analysis was called with (JSON values), `command` is the command line
    that does the same. Without a command, ``@analysis`` says both; `arguments` are then those that
    shall read otherwise than they were given.
    """
    asked: dict[str, Any] = {}
    if prompts is not None:
        asked = {
            "task": prompts.task,
            "prompts": prompts.checksum,
            "n_prompts": len(prompts),
            "prepend_bos": prompts.prepend_bos,
            "seed": prompts.seed,
            "population": prompts.population,
        }
    return Provenance(
        analysis=analysis,
        model=model.cfg.model_name,
        checksum=checksum(model),
        source=model.source,
        device=str(model.cfg.device),
        dtype=str(model.cfg.dtype).removeprefix("torch."),
        arguments=dict(arguments),
        command=command,
        versions=versions(),
        bos_id=model.roles.bos_id,
        eos_ids=list(model.roles.eos_ids),
        **asked,
    )


@dataclass(frozen=True, eq=False)
class Result:
    """What was found, how sure it is, and in which unit.

    Attributes:
        frame: one row per finding. Whatever is averaged has all the columns value, stderr, ci_low,
            ci_high, n (see `mean_interval`).
        unit: of the column ``value``.
        title: one line that says what was measured, on which model.
        provenance: where it comes from.
        axes: the columns that label the figure: one for bars, two (rows, columns) for a heatmap of
            ``value``, or for the ``lens`` picture of ``token`` and ``probability``, where a column
            ``after`` may hold the prompt's own tokens; the column along which ``curves`` go; name,
            x and y of a ``scatter`` (are both equal?) or a ``plane``; name, query and key of
            attention ``patterns``; any of a ``circuit``, whose rows are as `Circuit.frame` has
            them. More in front make several heatmaps, each in its rows'
            ``unit``, or several curves.
        view: which figure shows it: one of `circuits.figures.VIEWS`.
        meanings: what the analysis' own columns say; the averaged ones are known.
        circuit: the circuit, where one was looked for.
        draws: of each row the numbers that its value is the mean of, if the analysis was asked for
            them (a column `BEHIND` of the frame, from `mean_interval`); no file has them.

    Raises:
        CircuitsError: when a mean comes without its uncertainty, an axis is no column, the view is
            unknown, or draws are not of these rows.
    """

    frame: pd.DataFrame
    unit: str
    title: str
    provenance: Provenance
    axes: tuple[str, ...]
    view: str = "bars"
    meanings: Mapping[str, str] = field(default_factory=dict)
    circuit: Circuit | None = None
    draws: Sequence[Draws | None] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        columns = [str(column) for column in self.frame.columns]
        uncertain = [name for name in AVERAGED if name in columns and name != "value"]
        lacking = [name for name in AVERAGED if name not in columns]
        if uncertain and lacking:
            raise CircuitsError(
                f"the result has {', '.join(uncertain)} and lacks {', '.join(lacking)}: a mean "
                "comes with all of them (see mean_interval)"
            )
        for axis in self.axes:
            self._require_column(axis)
        known(VIEW, self.view)
        frame = self.frame.reset_index(drop=True)
        if BEHIND in frame:
            draws = [each if isinstance(each, Draws) else None for each in frame.pop(BEHIND)]
            object.__setattr__(self, "draws", draws)
        if self.draws is not None and len(self.draws) != len(frame):
            raise CircuitsError(f"draws of {len(self.draws)} means, but {len(frame)} rows")
        object.__setattr__(self, "frame", frame)

    def to_pandas(self) -> pd.DataFrame:
        """The table, as a copy to do anything with."""
        copy: pd.DataFrame = self.frame.copy()
        return copy

    def top(self, n: int, by: str = "value") -> Result:
        """The `n` rows that are largest, positive or negative, in that order; ties as they stood.

        Raises:
            CircuitsError: when there is no such column.
        """
        self._require_column(by)
        order = self.frame[by].abs().sort_values(ascending=False, kind="stable").index
        draws = None if self.draws is None else [self.draws[row] for row in order[:n]]
        shorter = replace(self, frame=self.frame.loc[order[:n]], draws=draws)
        if self.view != "heatmap":
            return shorter
        # A few cells make no grid.
        axes = ("component",) if "component" in self.frame else self.axes
        return replace(shorter, view="bars", axes=axes)

    def plot(self) -> Figure:
        """The table as a figure, for `figures.save_figure`; a notebook shows it as a picture."""
        from circuits.figures import draw  # matplotlib takes half a second, and few ask for it

        return draw(self)

    def to_json(self) -> str:
        """The whole result as text: the same question gives the same bytes.

        Numbers have six significant digits; what is missing is null.
        """
        content = {
            "title": self.title,
            "unit": self.unit,
            "view": self.view,
            "axes": list(self.axes),
            "columns": {
                str(name): {"dtype": str(dtype), "meaning": self._meaning(str(name))}
                for name, dtype in self.frame.dtypes.items()
            },
            "rows": self._rows(),
            "provenance": asdict(self.provenance),
        }
        return json.dumps(_plain(content), ensure_ascii=False, indent=1, allow_nan=False) + "\n"

    def to_csv(self) -> str:
        """The table as text, one line a row; what is missing is empty."""
        rounded = pd.DataFrame(self._rows(), columns=self.frame.columns, dtype=object)
        return str(rounded.to_csv(index=False, lineterminator="\n"))

    def save(self, folder: str | Path) -> Path:
        """Write ``result.json`` and ``table.csv`` into a folder of their own. Returns the folder.

        A circuit is saved beside them, or alone if the name ends in .json. The folder holds the
        earlier result or the new one at every moment (`replacing_folder`).
        Other files beside an earlier result stay.

        Raises:
            CircuitsError: when the folder holds something else, or cannot be written.
        """
        folder = named_path(folder)
        if self.circuit is not None and folder.suffix == ".json":
            return self.circuit.save(folder)
        require_own(folder, _DATA, "result")
        with replacing_folder(folder, _DATA) as partial:
            (partial / _DATA).write_bytes(utf8(self.to_json()))
            (partial / _TABLE).write_bytes(utf8(self.to_csv()))
            if self.circuit is not None:
                self.circuit.save(partial / _CIRCUIT)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Result:
        """The result that `save` wrote.

        Raises:
            CircuitsError: when the folder holds no readable result.
        """
        path = named_path(folder) / _DATA
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            columns = content.pop("columns")
            beside = path.parent / _CIRCUIT
            circuit = Circuit.load(beside) if beside.exists() else None
            frame = pd.DataFrame(content.pop("rows"), columns=list(columns))
            return cls(
                frame.astype({name: column["dtype"] for name, column in columns.items()}),
                provenance=Provenance(**content.pop("provenance")),
                axes=tuple(content.pop("axes")),
                circuit=circuit,
                meanings={name: c["meaning"] for name, c in columns.items() if c["meaning"]},
                **content,
            )
        except OSError as error:
            several = sorted(path.parent.name for path in path.parent.glob(f"*/{_DATA}"))
            hint = f"; {folder} holds several results: {', '.join(several)}" if several else ""
            raise CircuitsError(f"{path} cannot be read: {error.strerror}{hint}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CircuitsError(f"{path} is not a result of this package: {error}") from error

    def _repr_html_(self) -> str:
        about = self.provenance
        table = self.frame.head(20).to_html(index=False, border=0, float_format="{:.4g}".format)
        more = f" · first 20 of {len(self.frame)} rows" if len(self.frame) > 20 else ""
        weights = f" ({about.checksum[:12]})" if about.checksum else ""
        source = f"{about.model}{weights} · unit of value: {self.unit}{more}"
        if about.population is not None and "ci_low" in self.frame:
            source += f" · 95 % intervals: {about.population}"
        page = (
            f"<p><b>{html.escape(self.title)}</b></p>{table}"
            f"<p><small>{html.escape(source)}<br><code>{html.escape(about.command)}</code>"
            "</small></p>"
        )
        return utf8(page).decode()  # a notebook is a file, too

    def _meaning(self, column: str) -> str:
        return self.meanings.get(column, AVERAGED.get(column, "") if "n" in self.frame else "")

    def _require_column(self, name: str) -> None:
        columns = [str(column) for column in self.frame.columns]
        if name not in columns:
            raise CircuitsError(
                f"the result has no column {name!r}; its columns are {', '.join(columns)}"
                f"{nearest(name, columns)}"
            )

    def _rows(self) -> list[dict[str, Any]]:
        records = self.frame.astype(object).to_dict("records")
        return [{str(key): _rounded(value) for key, value in row.items()} for row in records]


def mean_interval(
    values: NDArray[np.floating[Any]],
    confidence: float = 0.95,
    *,
    scale: Scale = REAL,
    groups: tuple[str, ...] | None = None,
    draws: bool = False,
) -> dict[str, NDArray[Any]]:
    """The mean, and how far it may be from the truth. The last axis goes: [... n] -> [...].

    Returns the columns value, stderr, ci_low, ci_high and n. The interval is for the mean of
    independent draws (prompts) on a `scale`, see `circuits.intervals`; with `groups` [n], of draws
    in independent groups. One draw has no spread: its stderr is NaN, and so is Student's interval.
    With `draws`, a column `BEHIND` has the values themselves, for the `Result`.

    Raises:
        CircuitsError: for no values, values that are not finite, or a single group.

    >>> {name: round(float(x), 3) for name, x in mean_interval(np.array([1.0, 2.0, 3.0])).items()}
    {'value': 2.0, 'stderr': 0.577, 'ci_low': -0.484, 'ci_high': 4.484, 'n': 3.0}
    """
    values = np.asarray(values, dtype=np.float64)
    n = values.shape[-1]
    if not n or not np.isfinite(values).all():
        bad = "no values" if not n else f"{int((~np.isfinite(values)).sum())} that are not finite"
        raise CircuitsError(f"a mean needs finite values; given were {bad}")
    scale.require(values)
    mean = np.asarray(values.mean(-1))
    squares = np.square(values - mean[..., None]).sum(-1)
    ends = intervals.ends(mean, squares, n, scale, confidence)
    if groups is not None:
        sums = intervals.group_sums(values, groups)
        ends = intervals.grouped(mean, sums, n, scale, ends, confidence)
    return averaged(mean, ends, n, Draws(values, scale, groups) if draws else None)


def averaged(
    mean: NDArray[np.float64], ends: intervals.Ends, n: int, draws: Draws | None = None
) -> dict[str, NDArray[Any]]:
    """The columns of means [...] with their standard errors and intervals, and with their draws."""
    columns = dict(zip(AVERAGED, (mean, *ends, np.full(mean.shape, n)), strict=True))
    if draws is not None:
        columns[BEHIND] = draws.of_each()
    return columns


def _rounded(value: Any) -> Any:
    """A value for a file: plain Python, six significant digits, None for what is missing."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or value != value:  # only NaN differs from itself
        return None
    if not isinstance(value, float):
        return value
    if math.isinf(value):
        raise CircuitsError("the result holds an infinite number, which JSON cannot write")
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}") + 0.0  # -0.0 becomes 0.0


def _plain(content: Any) -> Any:
    """The same content in JSON's own types."""
    if isinstance(content, Mapping):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_plain(value) for value in content]
    return _rounded(content)
