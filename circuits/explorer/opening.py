"""`circuits.explore`: open the page, by the way that works where it is called."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from circuits.errors import CircuitsError

if TYPE_CHECKING:
    from pathlib import Path

    from circuits.explorer.view import View
    from circuits.model import HookedModel
    from circuits.tuned_lens import TunedLens

Transport = Literal["auto", "widget", "server"]
MISSING = (
    "circuits explore needs the packages {names}, which are not installed: "
    'pip install "gpt2-circuits[explore]"'
)


@dataclass(frozen=True)
class Explorer:
    """A page that is open: the last line of a notebook's cell shows it.

    Attributes:
        url: its address, for a browser; None where it is a widget, which has none.
        height: of the page in a notebook, in pixels.
    """

    url: str | None = field(repr=False)
    height: int
    _close: Callable[[], None] = field(repr=False)
    _widget: Any = field(default=None, repr=False)

    def close(self) -> None:
        """Answer nothing any more."""
        self._close()

    def __enter__(self) -> Explorer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        if self._widget is not None:
            return self._widget._repr_mimebundle_(**options)
        frame = (
            f'<iframe src="{self.url}" title="circuits explore" allow="clipboard-write" '
            f'style="width:100%;height:{self.height}px;border:0"></iframe>'
        )
        return {"text/plain": f"circuits explore: {self.url}", "text/html": frame}


def require_packages(*names: str) -> None:
    """Raise if one of these is not installed.

    Raises:
        CircuitsError: which says what to install.
    """
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise CircuitsError(MISSING.format(names=" and ".join(missing)))


def explore(
    model: HookedModel | str | None = None,
    prompt: str | None = None,
    *,
    contrast: str | None = None,
    lens: str | Path | TunedLens | None = None,
    memory: int | str = "512M",
    transport: Transport = "auto",
    height: int = 900,
) -> Explorer:
    """What does this model do with this prompt, and why? Ask it by pointing, on a page.

    In a notebook the last line of a cell shows the page below it, and it asks the model as it is in
    that kernel: one that was edited answers as edited. Elsewhere a server of this process has it,
    at the address `url`, until `close`.

    Args:
        model: what is asked; a name is loaded, and without one the bundled default is.
        prompt: what the page shows at first. Without it, it shows three worked questions.
        contrast: a second prompt, which differs from it where it matters.
        lens: a tuned lens of this model, from tune-lens. Without it, the logit lens.
        memory: how much is kept of what was asked before.
        transport: ``widget`` needs no address and works wherever widgets do (JupyterLab, VS Code,
            Colab); ``server`` is an address of this machine, which a notebook shows in a frame.
            ``auto`` takes the first in a notebook.
        height: of the page in a notebook, in pixels.

    Raises:
        CircuitsError: if the extra ``explore`` is not installed, and for a lens of another model.

    >>> with explore("compiled", "aAbBcdeBfg.") as page:
    ...     page.url[:17]
    'http://127.0.0.1:'
    """
    from circuits.explorer.desk import Desk
    from circuits.explorer.view import View

    if transport not in ("auto", "widget", "server"):
        raise CircuitsError(f"transport={transport!r}: choose auto, widget or server")
    if height < 100:
        raise CircuitsError(f"height={height}: give at least 100 pixels")
    as_widget = transport == "widget" or (
        transport == "auto" and in_notebook() and find_spec("anywidget") is not None
    )
    require_packages(*(["anywidget"] if as_widget else ["starlette", "uvicorn"]))
    view = None if prompt is None else View(prompt, contrast)
    if view is None and contrast is not None:
        raise CircuitsError("a contrast belongs to a prompt; give both, or neither")
    desk = Desk(_loaded(model), lens=lens, memory=memory)
    return _as_widget(desk, view, height) if as_widget else _as_server(desk, view, height)


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    module = sys.modules.get("IPython")
    shell = None if module is None else module.get_ipython()
    return getattr(shell, "kernel", None) is not None


def start(view: View | None) -> dict[str, Any]:
    """What a page that shows this view at first is told."""
    return {} if view is None else {"view": view.json()}


def _loaded(model: HookedModel | str | None) -> HookedModel:
    from circuits.checkpoints import load

    return load(model) if model is None or isinstance(model, str) else model


def _as_widget(desk: Any, view: View | None, height: int) -> Explorer:
    from circuits.explorer.page import explorer_page
    from circuits.explorer.widget import ExplorerWidget

    page = explorer_page("notebook", start=start(view))
    widget = ExplorerWidget(desk, page.html, height)
    return Explorer(None, height, widget.close, widget)


def _as_server(desk: Any, view: View | None, height: int) -> Explorer:
    from circuits.explorer.page import explorer_page
    from circuits.explorer.serving import Place, serving

    served = serving(desk, explorer_page("http", start=start(view)), Place(framed=in_notebook()))
    served.start()
    return Explorer(served.url, height, served.close)
