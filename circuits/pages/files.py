"""Pages as files: complete or not at all."""

from __future__ import annotations

from pathlib import Path

from circuits.errors import CircuitsError
from circuits.files import named_path, replacing

SUFFIXES = (".html", ".htm")


def save_page(html: str, path: str | Path) -> Path:
    """Write a page to a file. Returns the path; the file appears whole or not at all.

    Raises:
        CircuitsError: for another kind of file, or a place that cannot be written.
    """
    path = require_page(path)
    with replacing(path) as partial:
        # A broken character (half of a surrogate pair) shows as one; it does not stop the rest.
        partial.write_bytes(html.encode("utf-8", "xmlcharrefreplace"))
    return path


def require_page(path: str | Path) -> Path:
    """The path, if its name is a page's.

    >>> require_page("Lens.HTML").name
    'Lens.HTML'

    Raises:
        CircuitsError: for any other.
    """
    path = named_path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise CircuitsError(f"{path} is no page's name; end it in {' or '.join(SUFFIXES)}")
    return path
