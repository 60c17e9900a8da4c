"""Results as self-contained HTML pages: they open from disk and ask nothing of the network."""

from circuits.pages.documents import Inline, inline, page
from circuits.pages.files import require_page, save_page

__all__ = ["Inline", "inline", "page", "require_page", "save_page"]
