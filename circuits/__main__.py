"""The command `circuits`, by its name and as `python -m circuits`."""

import gc
import os


def main() -> None:
    """The console script."""
    # oneDNN keeps the code that it compiles for every number of rows: up to a thousand pieces, some
    # tens of MB that no --memory knows of. Compiling again takes no time that can be measured.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")
    # What is imported stays. Looking through it for garbage, again and again while it grows, is a
    # fifth of a command's start. `circuits.cli.terminal.collect_garbage` ends this.
    gc.disable()
    from circuits.cli import main as command

    command()


if __name__ == "__main__":
    main()
