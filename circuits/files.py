"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from circuits.errors import CircuitsError


@contextmanager
def whole(path: Path, failure: type[Exception] = OSError) -> Iterator[Path]:
    """Where to write what shall become this file, once all of it is there?

    The path given has the same suffix, in the same folder. An earlier file is replaced at the end;
    after an error or Ctrl-C it is as it was, and nothing is left over.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "numbers.txt"
    >>> with whole(path) as partial:
    ...     _ = partial.write_text("1 2 3")
    >>> path.read_text()
    '1 2 3'

    Raises:
        CircuitsError: for an OSError, or another kind of `failure` to write.
    """
    partial = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    except (OSError, failure) as error:
        reason = getattr(error, "strerror", None) or error
        raise CircuitsError(f"{path} cannot be written: {reason}") from error
    finally:
        with suppress(OSError):  # it was moved, or could not be made
            partial.unlink()
