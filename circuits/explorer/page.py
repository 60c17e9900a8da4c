"""The explorer's page: one HTML document, the same for every way its questions are carried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from markupsafe import Markup

from circuits.pages.documents import (
    components,
    embedded,
    environment,
    palette,
    script_hash,
    template,
)

Transport = Literal["http", "notebook", "recorded"]
TEMPLATES = "explorer/templates"

# The program's files, each of which uses those before it.
SCRIPTS = (
    "transport.js",
    "words.js",
    "state.js",
    "prompt.js",
    "map.js",
    "head.js",
    "mlp.js",
    "stream.js",
    "tray.js",
    "circuit.js",
    "take.js",
    "main.js",
)


@dataclass(frozen=True)
class ExplorerPage:
    """A page, and the hash of its one script, as a content security policy names it."""

    html: str = field(repr=False)
    script_hash: str


def explorer_page(
    transport: Transport = "http",
    *,
    title: str = "circuits explore",
    start: Mapping[str, Any] | None = None,
    recorded: Sequence[Mapping[str, Any]] = (),
) -> ExplorerPage:
    """The page whose questions go this way. The same arguments give the same text.

    Args:
        transport: ``http`` asks the server that the page came from; ``notebook`` the window that
            shows it in a frame; ``recorded`` nobody: the page holds the answers.
        title: of the window.
        start: what is shown at first, where the address does not say it: ``view`` as
            `View.json` gives it, and any of the choices that the page keeps in its address.
        recorded: answers: each the ``question``, its ``options``, and the ``pieces`` as JSON.

    >>> page = explorer_page()
    >>> page.html.count("<script"), "http://" in page.html, page.script_hash[:7]
    (2, False, 'sha256-')
    """
    data = {
        "palette": palette(),
        "transport": transport,
        "start": dict(start or {}),
        "recorded": list(recorded),
    }
    script = _script()
    html = (
        environment(TEMPLATES)
        .get_template("explorer.html")
        .render(
            title=title,
            data=embedded(data),
            asks="'self'" if transport == "http" else "'none'",
            style=Markup(template("style.css") + components(".css") + _read("explorer.css")),
            script=Markup(script),
            script_hash=script_hash(script),
        )
    )
    return ExplorerPage(html, script_hash(script))


def _read(name: str) -> str:
    loader = environment(TEMPLATES).loader
    assert loader is not None
    return loader.get_source(environment(TEMPLATES), name)[0]


def _script() -> str:
    """The page's program: what all pages have, what viewers share, and its own."""
    return "\n".join((template("common.js"), components(".js"), *map(_read, SCRIPTS)))
