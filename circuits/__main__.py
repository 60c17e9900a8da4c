"""The command `circuits`, by its name and as `python -m circuits`."""

import gc


def main() -> None:
    """The console script."""
    # What is imported stays. Looking through it for garbage, again and again while it grows, is a
    # fifth of a command's start. `circuits.cli.terminal.collect_garbage` ends this.
    gc.disable()
    from circuits.cli import main as command

    command()


if __name__ == "__main__":
    main()
