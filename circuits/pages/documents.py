"""From a result to its page: one file with everything inside.

Prompts and tokens are anybody's text. In the markup they are escaped (Jinja's autoescape); as data
they are ASCII JSON without ``<``, ``>`` and ``&``, which cannot end its element; the page's program
shows them as text nodes only; and a policy in the page's head forbids every other script and every
request.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from types import MappingProxyType
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.colors import Colormap, to_hex

from circuits.errors import CircuitsError
from circuits.figures import figure_svg
from circuits.figures.style import CATEGORIES, DIVERGING, SEQUENTIAL
from circuits.model import HookedModel
from circuits.pages.viewers import viewer_of
from circuits.registry import analyses
from circuits.result import Result

MOST_ROWS = 20_000  # of the table that a page holds
# The figures' scales, on dark paper: zero is the paper, and far from it is light.
_DARK = {
    "sequential": ["#1c2026", "#1f3a56", "#2a6496", "#5aa2d8", "#d3e9fb"],
    "diverging": ["#ffd9a8", "#e58a26", "#6b3a10", "#1c2026", "#1d456b", "#4a9bd6", "#cfe7fb"],
    "categories": [*CATEGORIES[:-1], "#ffffff"],
}


def page(result: Result, *, rows: int = MOST_ROWS, model: HookedModel | None = None) -> str:
    """The result as one HTML document: what was asked, the figure or viewer, table, provenance.

    An analysis may have a viewer of its own (`circuits.pages.viewers`); any other result shows its
    figure. The table holds the first `rows` rows. The same result gives the same text. Given the
    model that the result is of, a viewer may show more: where the heads of a circuit look.

    >>> from circuits.analyses.logit_lens import logit_lens
    >>> from circuits.checkpoints import load
    >>> html = page(logit_lens(load("compiled"), "aAbBcdeBfg."))
    >>> html.count("<script"), "http://" in html, "What would each layer say" in html
    (2, False, True)
    """
    viewer = viewer_of(result)
    analysis = result.provenance.analysis
    shown = viewer is not None and viewer.view == result.view
    figure, no_figure = ("", "") if shown else _figure(result)
    table, meanings = _table(result, rows, () if viewer is None else viewer.hidden)
    recipe = analyses().get(analysis.replace("_", "-"))
    about = About(
        result.title,
        recipe.question if recipe else "",
        result.unit,
        result.provenance.command,
        _facts(result),
    )
    view: dict[str, Mapping[str, Any]] = {}
    if viewer is not None:
        more = viewer.of_model(result, model) if viewer.of_model and model else {}
        view[viewer.template or analysis] = {**viewer.data(result), **more}
    return document(about, table, meanings, view=view, figure=figure, no_figure=no_figure)


@dataclass(frozen=True)
class About:
    """What a page says in words: `unit` is of the table's column ``value``."""

    title: str
    question: str
    unit: str
    command: str
    facts: Sequence[tuple[str, str]]


def document(
    about: About,
    table: Mapping[str, Any],
    meanings: Sequence[Mapping[str, str]] = (),
    *,
    view: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    figure: str = "",
    no_figure: str = "",
) -> str:
    """A page with this `table`: columns with name, meaning and kind, their values, how many rows.

    `meanings` are those of the columns that have one; `view` has the data of the template of its
    name; `figure` is an SVG element.
    """
    name = next(iter(view), "")
    data: dict[str, Any] = {"palette": palette(), "table": table}
    if name:
        data["view"] = view[name]
    script = _script(name)
    return (
        environment()
        .get_template("page.html")
        .render(
            about=about,
            view=name,
            view_data=data.get("view", {}),
            figure=figure,
            no_figure=no_figure,
            meanings=meanings,
            data=embedded(data),
            style=Markup(_style(name)),
            script=Markup(script),
            script_hash=script_hash(script),
        )
    )


@dataclass(frozen=True)
class Inline:
    """A page inside a notebook, apart from the notebook's own page."""

    html: str = field(repr=False)  # a notebook would keep it twice
    height: int

    def _repr_html_(self) -> str:
        return (
            f'<iframe srcdoc="{html.escape(self.html)}" sandbox="allow-scripts" title="result" '
            f'style="width:100%;height:{self.height}px;border:0"></iframe>'
        )


def inline(result: Result, height: int = 640, *, rows: int = 200) -> Inline:
    """The result's page for the last line of a notebook's cell; `height` is in pixels.

    The notebook holds the whole page, so its table has only the first `rows` rows.

    >>> from circuits.analyses.logit_lens import logit_lens
    >>> from circuits.checkpoints import load
    >>> found = inline(logit_lens(load("compiled"), "aAbB."))
    >>> found, found._repr_html_()[:15]
    (Inline(height=640), '<iframe srcdoc=')
    """
    if height < 1:
        raise CircuitsError(f"height={height}: give at least one pixel")
    return Inline(page(result, rows=rows), height)


def embedded(content: Any) -> Markup:
    r"""JSON that can stand inside a script element: no text in it can end the element.

    >>> print(embedded({"token": "</script>"}))
    {"token":"\u003c/script\u003e"}
    """
    text = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)


def _figure(result: Result) -> tuple[Markup, str]:
    """The result's figure as inline SVG, or why there is none."""
    try:
        return Markup(figure_svg(result.plot())), ""
    except CircuitsError as error:
        return Markup(), str(error)


def _table(
    result: Result, most: int, hidden: Iterable[str]
) -> tuple[dict[str, Any], list[Mapping[str, str]]]:
    """The first rows, column by column, rounded as in every file of a result."""
    frame = result.frame.drop(columns=list(hidden))
    axes = tuple(axis for axis in result.axes if axis in frame)
    shown = replace(result, frame=frame.head(most), axes=axes)
    content = json.loads(shown.to_json())
    rows = content["rows"]
    columns = [
        {"name": name, "meaning": about["meaning"], "kind": _kind(about["dtype"])}
        for name, about in content["columns"].items()
    ]
    values = [[row[column["name"]] for row in rows] for column in columns]
    return {"columns": columns, "rows": values, "n_rows": len(frame)}, [
        column for column in columns if column["meaning"]
    ]


def _kind(dtype: str) -> str:
    is_number = dtype.lower().startswith(("int", "uint", "float"))
    return "number" if is_number else "truth" if dtype.startswith("bool") else "text"


def _facts(result: Result) -> list[tuple[str, str]]:
    """The provenance in lines: what is known, in the order of its fields."""
    about = result.provenance
    facts = {
        "model": f"{about.model} ({about.source})",
        "weights": about.checksum or None,
        "computed": f"{about.device}, {about.dtype}",
        "task": about.task,
        "prompts": None if about.prompts is None else f"{about.n_prompts}, {about.prompts}",
        "start token": about.prepend_bos,
        "seed": about.seed,
        "arguments": json.dumps(dict(about.arguments), ensure_ascii=False),
        "versions": ", ".join(f"{name} {version}" for name, version in about.versions.items()),
    }
    return [(name, str(value)) for name, value in facts.items() if value is not None]


@cache
def environment(folder: str = "pages/templates") -> Environment:
    """The templates in a folder of the package; what they show is escaped."""
    return Environment(
        loader=PackageLoader("circuits", folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def template(name: str) -> str:
    """One of the templates as it is, such as a style sheet; empty if there is none."""
    known = environment()
    if name not in known.list_templates():
        return ""
    assert known.loader is not None
    return known.loader.get_source(known, name)[0]


def components(suffix: str) -> str:
    """What viewers share, such as the attention view: their scripts (js) or style sheets (css)."""
    names = environment().list_templates()
    ours = (name for name in names if name.startswith("components/") and name.endswith(suffix))
    return "\n".join(map(template, sorted(ours)))


def _style(name: str) -> str:
    """How the page looks: all pages, what viewers share, and the viewer of this name."""
    return template("style.css") + (components(".css") + template(f"{name}.css") if name else "")


def _script(name: str) -> str:
    """The page's program: what all have, and that of the viewer of this name, if there is one."""
    shared = components(".js") if name else ""
    scripts = (template("common.js"), shared, template(f"{name}.js"), template("table.js"))
    return "\n".join(script for script in scripts if script)


def script_hash(script: str) -> str:
    """The script's hash, as a content security policy wants it."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def palette() -> dict[str, Any]:
    """The colors of all pages, in light and in dark: what `sequential` and others of them read."""
    light = {
        "sequential": _stops(SEQUENTIAL, 5),
        "diverging": _stops(DIVERGING, 7),
        "categories": list(CATEGORIES),
    }
    return {"light": light, "dark": _DARK}


def _stops(scale: Colormap, n: int) -> list[str]:
    return [to_hex(scale(i / (n - 1))) for i in range(n)]
