"""From results to what people read: tables, one figure, and a part of README.md."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from circuits.figures import save_figure

BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
OURS = ("ours", "ours_packed", "ours_plain")
NOTHING = "–"
FOLDER = "experiments/benchmarks/results"  # as README.md names it
READ = (
    "“Limit” is the least arithmetic for the task at the machine's fastest measured matrix "
    "product; for generation, the weights read once a token. “Lead” is the best peer's time "
    "divided by our best, with weights packed before (inside `circuits.packed(model)`, which "
    "holds a second copy of them) or not; “plain” is with torch's own matrix product."
)
Results = dict[str, Any]
Timings = dict[str, dict[str, Any]]


def write(results: Results, folder: Path) -> None:
    """Write ``results.json``, ``tables.md`` and ``times.svg``."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1, ensure_ascii=False)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    (folder / "tables.md").write_text(page(results), encoding="utf-8")
    save_figure(figure(results), folder / "times.svg")


def page(results: Results) -> str:
    """All tables, with what they were measured on."""
    parts = ["# Benchmarks", about(results), READ]
    for model in results["models"]:
        parts += [f"## {model['title']}", "Time, median:", times(results, model)]
        parts += ["Memory by which the process grows, at its peak:", memory(results, model)]
        parts += notes(results, model)
    return "\n\n".join(parts) + "\n"


def kept(folder: Path) -> list[Results]:
    """What was measured on each day, in ``folder/DAY/results.json``, the newest first."""
    files = sorted(folder.glob("*/results.json"), reverse=True)
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def section(measurements: list[Results]) -> str:
    """What README.md shows: our best and the best peer on each machine, and the machines."""
    parts = []
    for model in measurements[0]["models"]:
        title = model["title"]
        parts += [f"{title[0].upper()}{title[1:]}:", compared(measurements, model)]
    for results in measurements:
        place = f"{FOLDER}/{results['date']}"
        links = f"[all tables]({place}/tables.md), [figure]({place}/times.svg)"
        parts.append(f"{about(results)} ({links})")
    return "\n\n".join([*parts, READ])


def compared(measurements: list[Results], model: dict[str, Any]) -> str:
    """The table of one model: four columns for each measurement that has it."""
    having = [
        (results, same)
        for results in measurements
        for same in results["models"]
        if same["name"] == model["name"]
    ]
    head = [""]
    for results, _ in having:
        head += [f"{results['speed']['flops'] / 1e9:.0f} GFLOP/s: ours", "best peer", "limit"]
        head += ["lead"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for item in model["items"]:
        line = [item["label"]]
        for results, same in having:
            known = [other for other in same["items"] if other["name"] == item["name"]]
            line += _summary(known[0], results) if known else [NOTHING] * 4
        lines.append(line)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _summary(item: dict[str, Any], results: Results) -> list[str]:
    """Our best time, the best peer's and who that is, the limit, and the lead."""
    timings, limit, ratio = item["timings"], item["limit_seconds"], lead(item["timings"])
    timed = [(t["median_seconds"], name) for name, t in timings.items() if t["median_seconds"]]
    own = [seconds for seconds, name in timed if name in OURS]
    others = [pair for pair in timed if pair[1] not in OURS]
    peer = NOTHING
    if others:
        seconds, name = min(others)
        peer = f"{_seconds(seconds)} {results['libraries'][name]['title']}"
    return [
        _seconds(min(own)) if own else NOTHING,
        peer,
        _seconds(limit) if limit else NOTHING,
        f"{ratio:.1f}×" if ratio else NOTHING,
    ]


def update_readme(measurements: list[Results], path: Path) -> None:
    """Put what is `kept` between README.md's markers.

    Raises:
        ValueError: when there is not exactly one pair of them.
    """
    text = path.read_text(encoding="utf-8")
    new, found = re.subn(
        f"({BEGIN}\n).*?({END})",
        lambda m: f"{m[1]}{section(measurements)}\n{m[2]}",
        text,
        flags=re.S,
    )
    if found != 1:
        raise ValueError(f"{path} needs one pair of the markers {BEGIN} and {END}")
    path.write_text(new, encoding="utf-8")


def about(results: Results) -> str:
    """The machine, the versions and the day, in one paragraph."""
    machine, speed = results["machine"], results["speed"]
    libraries = results["libraries"].values()
    clock = "Times are the processor's own. " if results.get("clock") == "processor" else ""
    versions = ", ".join(f"{x['title']} {x['version']}" for x in libraries if x.get("version"))
    absent = ", ".join(f"{x['title']} ({x['skipped']})" for x in libraries if x.get("skipped"))
    return (
        f"{results['date']}: {machine['threads']} thread{'s' * (machine['threads'] > 1)} on "
        f"{machine['cpu']} ({machine['cores']} cores, {machine['system']}), float32; its fastest "
        f"measured matrix product makes {speed['flops'] / 1e9:.0f} GFLOP/s ({speed['by']}). "
        f"torch {machine['torch']}; {versions}. "
        f"At most {results['repeats']} runs each, in turn, after one to warm up; "
        f"{results['minutes']:.0f} min in all. "
        f"{clock}" + (f"Not measured: {absent}. " if absent else "")
    ).strip()


def times(results: Results, model: dict[str, Any]) -> str:
    """The table of times of one model."""
    return _table(results, model, "median_seconds", _seconds, limit=True)


def memory(results: Results, model: dict[str, Any]) -> str:
    """The table of memory of one model."""
    return _table(results, model, "peak_bytes", _megabytes, limit=False)


def notes(results: Results, model: dict[str, Any]) -> list[str]:
    """What went wrong, and what nobody else could confirm: nothing, or one paragraph."""
    said = [
        f"{item['label']}, {results['libraries'][name]['title']}: {timing['word']}."
        for item in model["items"]
        for name, timing in item["timings"].items()
        if timing["word"].startswith(("failed", "refused"))
    ]
    said += [
        f"{item['label']}: no other library's numbers to compare with."
        for item in model["items"]
        if any(t["seconds"] and not t["is_compared"] for t in item["timings"].values())
    ]
    return [" ".join(said)] if said else []


def lead(timings: Timings, field: str = "median_seconds") -> float | None:
    """The best peer's value divided by our best."""
    own = [timings[name][field] for name in OURS if timings.get(name, {}).get(field)]
    peers = [t[field] for name, t in timings.items() if name not in OURS and t[field]]
    return min(peers) / min(own) if own and peers else None


def _table(
    results: Results, model: dict[str, Any], field: str, show: Callable[[float], str], limit: bool
) -> str:
    names = [name for name, about in results["libraries"].items() if not about.get("skipped")]
    titles = [results["libraries"][name]["title"] for name in names]
    head = ["", *titles, *(["limit"] if limit else []), "lead"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for item in model["items"]:
        cells = [_cell(item["timings"].get(name), field, show) for name in names]
        if limit:
            cells.append(show(item["limit_seconds"]) if item["limit_seconds"] else NOTHING)
        ratio = lead(item["timings"], field)
        lines.append([item["label"], *cells, f"{ratio:.1f}×" if ratio else NOTHING])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(timing: dict[str, Any] | None, field: str, show: Callable[[float], str]) -> str:
    if timing is None or timing[field] is None:
        word = timing["word"].split(":")[0] if timing else ""
        return word if word in ("failed", "refused") else NOTHING
    return show(timing[field])


def _seconds(value: float) -> str:
    """Three digits, in the unit that needs no zeros.

    >>> _seconds(0.0421), _seconds(7.314), _seconds(87.6)
    ('42.1 ms', '7.31 s', '87.6 s')
    """
    if value < 1:
        return f"{_digits(value * 1000)} ms"
    return f"{_digits(value)} s"


def _megabytes(value: float) -> str:
    return f"{max(value, 0) / 2**20:.0f} MB"


def _digits(value: float) -> str:
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def figure(results: Results) -> Figure:
    """How long does each task take in each library? Dots on a logarithmic axis, and the limit."""
    models = results["models"]
    most = max(len(model["items"]) for model in models)
    drawn = Figure(figsize=(7.5 * len(models), 0.42 * most + 1.9), layout="constrained")
    panels = drawn.subplots(1, len(models), squeeze=False)[0]
    for axes, model in zip(panels, models, strict=True):
        _draw(axes, model, results["libraries"])
    handles, labels = panels[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return drawn


def _draw(axes: Any, model: dict[str, Any], libraries: dict[str, Any]) -> None:
    """One model's panel: a line for each task, a mark for each library."""
    styles = {
        "ours": ("o", "#2166ac"),
        "ours_packed": ("D", "#053061"),
        "ours_plain": ("o", "#92c5de"),
        "tl4": ("s", "#b35806"),
        "tl3": ("^", "#e08214"),
        "nnsight": ("v", "#7b3294"),
        "hugging_face": ("P", "#1b7837"),
        "numpy": ("X", "#777777"),
        "eap_ig": ("*", "#c51b7d"),
    }
    items = model["items"]
    for i, item in enumerate(items):
        found = [t["median_seconds"] for t in item["timings"].values() if t["median_seconds"]]
        found += [item["limit_seconds"]] if item["limit_seconds"] else []
        if found:
            axes.plot([min(found), max(found)], [i, i], color="#dddddd", linewidth=2, zorder=1)
    limits = [(item["limit_seconds"], i) for i, item in enumerate(items) if item["limit_seconds"]]
    axes.plot(*_columns(limits), "|", color="#222222", markersize=13, label="limit", zorder=2)
    for k, (name, library) in enumerate(libraries.items()):
        marker, color = styles.get(name, ("oDs^vPX"[k % 7], "#222222"))
        points = [
            (item["timings"][name]["median_seconds"], i)
            for i, item in enumerate(items)
            if name in item["timings"] and item["timings"][name]["median_seconds"]
        ]
        axes.plot(*_columns(points), marker, color=color, label=library["title"], zorder=3)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(range(len(items)), [item["label"] for item in items])
    axes.set_ylim(len(items) - 0.5, -0.5)
    axes.set_xlabel("seconds")
    axes.set_title(model["title"].replace("`", ""), loc="left", fontsize=11)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _columns(points: list[tuple[float, int]]) -> tuple[list[float], list[int]]:
    return [x for x, _ in points], [y for _, y in points]
