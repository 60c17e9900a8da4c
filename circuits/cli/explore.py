"""The command `explore`: a server for one page, until Ctrl-C."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from circuits.cli.options import Device, Dtype, Model, Quiet, Revision, place
from circuits.cli.terminal import collect_garbage, out, remark, remarks, require_text
from circuits.errors import CircuitsError

PANEL = "Server"
Prompt = Annotated[
    str | None,
    typer.Argument(
        help="What the page shows at first (after -- if it begins with a dash). Without it, three "
        "worked questions.",
        show_default=False,
    ),
]
Contrast = Annotated[
    str | None,
    typer.Option(help="A second prompt, which differs from the first where it matters."),
]
Lens = Annotated[
    Path | None,
    typer.Option(metavar="FILE", parser=place, help="A tuned lens of this model, from tune-lens."),
]
Memory = Annotated[str, typer.Option(help="How much is kept of what was asked before: 2G, 500M.")]
Port = Annotated[
    int, typer.Option(help="The port to listen on; 0 is any that is free.", rich_help_panel=PANEL)
]
Host = Annotated[
    str,
    typer.Option(
        help="The address to listen on. 127.0.0.1 is this machine alone; 0.0.0.0 lets others in.",
        rich_help_panel=PANEL,
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        help="The secret in the address, so that an open page finds a server that was started "
        "again. Without it, a fresh one is drawn.",
        envvar="CIRCUITS_TOKEN",
        show_envvar=True,
        show_default=False,
        rich_help_panel=PANEL,
    ),
]
Browser = Annotated[
    bool,
    typer.Option("--browser/--no-browser", help="Open the page.", rich_help_panel=PANEL),
]


def explore(
    prompt: Prompt = None,
    *,
    contrast: Contrast = None,
    lens: Lens = None,
    memory: Memory = "512M",
    model: Model = None,
    revision: Revision = None,
    device: Device = None,
    dtype: Dtype = None,
    port: Port = 0,
    host: Host = "127.0.0.1",
    token: Token = None,
    browser: Browser = True,
    quiet: Quiet = False,
) -> None:
    """What does it do with this prompt, and why? Ask by pointing, on a page in the browser.

    It starts a server on this machine, prints the page's address, and opens it; Ctrl-C ends it.
    The page shows the prompt's tokens and what follows, which heads and layers that depends on,
    what a head looks at, why, and what it writes, and what changes under interventions.
    """
    from circuits.explorer.opening import require_packages

    require_packages("starlette", "uvicorn")
    require_text([prompt, contrast, memory, model, revision, host, token])
    if prompt is None and contrast is not None:
        raise CircuitsError("--contrast belongs to a prompt; give both, or neither")
    from circuits.checkpoints import load
    from circuits.explorer.desk import Desk
    from circuits.explorer.opening import start
    from circuits.explorer.page import explorer_page
    from circuits.explorer.security import warning_of
    from circuits.explorer.serving import Place, serving
    from circuits.explorer.view import View

    collect_garbage()
    view = None if prompt is None else View(prompt, contrast)
    with remarks(quiet=quiet):
        desk = Desk(load(model, revision=revision, device=device, dtype=dtype), lens=lens,
                    memory=memory)  # fmt: skip
    page = explorer_page("http", start=start(view))
    server = serving(desk, page, Place(host, port, token))

    def begun() -> None:
        out().print(Text(server.url), soft_wrap=True)
        warning = warning_of(host)
        if warning is not None:
            remark(warning)  # also with --quiet: it is about safety
        if not quiet:
            remark("the page is at this address; Ctrl-C ends it")
        if browser:
            webbrowser.open(server.url)

    try:
        server.run(begun)
    except KeyboardInterrupt:  # how it is meant to end
        if not quiet:
            remark("ended")
