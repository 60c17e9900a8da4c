"""Which format is this file, and how is a circuit written in it?

Nothing in a file is run: torch's are read as tensors and plain values only.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Literal, get_args

import torch

from circuits.checkpoints.weight_files import read_pickled
from circuits.circuit.circuit import Circuit
from circuits.circuit.exchange import auto_circuit, eap_ig
from circuits.circuit.exchange.losses import Reading
from circuits.circuit.written import arguments, parsed
from circuits.errors import CircuitsError, nearest
from circuits.files import replacing, utf8

Format = Literal["circuits", "eap-ig", "auto-circuit"]
FORMATS: tuple[Format, ...] = get_args(Format)
TORCH = (".pt", ".pth", ".pkl")  # what torch.save writes, as auto-circuit names it, too
SUFFIXES: dict[Format, tuple[str, ...]] = {"eap-ig": (".json", ".pt"), "auto-circuit": TORCH}
_PICKLED = (b"PK\x03\x04", b"\x80")  # how files of torch.save begin, today's and earlier ones


def load(path: Path, *, reading: Reading, entry: str | None = None) -> Circuit:
    """The circuit in this file; `Circuit.load` says what the options mean.

    Raises:
        CircuitsError: when it holds none, in any of the formats.
    """
    if _is_pickled(path):
        content = read_pickled(path)
        if "edges_in_graph" not in content:
            return auto_circuit.from_tensors(content, path, reading, entry)
        _refuse_option(path, "entry", entry, "it holds one graph")
        return eap_ig.from_tensors(content, path, reading)
    written = parsed(path)
    _refuse_option(path, "entry", entry, "it holds one circuit")
    if isinstance(written, dict) and {*eap_ig.JSON_KEYS} <= {*written}:
        return eap_ig.from_json(written, path, reading)
    content = arguments(written, path)
    for option in fields(reading):
        given = getattr(reading, option.name)
        _refuse_option(path, option.name, given, "it says itself what its scores are of")
    return Circuit(**content)


def save(circuit: Circuit, path: Path, format: Format = "circuits") -> Path:
    """Write the circuit into this file, whole or not at all. Returns the path.

    Raises:
        CircuitsError: when it cannot be written, or the format cannot say this circuit.
    """
    if format not in FORMATS:
        raise CircuitsError(
            f"there is no format {format!r}; choose {', '.join(FORMATS)}{nearest(format, FORMATS)}"
        )
    suffixes = SUFFIXES.get(format, (path.suffix,))
    if path.suffix not in suffixes:
        raise CircuitsError(
            f"{path}: a file of the format {format} ends in {' or '.join(suffixes)}"
        )
    if format == "circuits" or path.suffix == ".json":
        text = eap_ig.as_json(circuit) if format == "eap-ig" else circuit.to_json()
        with replacing(path, CircuitsError) as partial:
            partial.write_bytes(utf8(text))
        return path
    write = eap_ig.as_tensors if format == "eap-ig" else auto_circuit.as_tensors
    content = write(circuit)
    with replacing(path, RuntimeError) as partial:
        torch.save(content, partial)
    return path


def _is_pickled(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4).startswith(_PICKLED)
    except OSError as error:
        raise CircuitsError(f"{path} cannot be read: {error.strerror}") from error


def _refuse_option(path: Path, option: str, given: str | None, why: str) -> None:
    if given is not None:
        raise CircuitsError(f"{path} takes no {option}={given!r}: {why}")
