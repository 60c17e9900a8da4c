"""Results as self-contained HTML pages: they open from disk and ask nothing of the network."""

from circuits.pages.circuit import circuit_page
from circuits.pages.documents import Inline, inline, page
from circuits.pages.files import require_page, save_page

__all__ = ["Inline", "circuit_page", "inline", "page", "require_page", "save_page"]
