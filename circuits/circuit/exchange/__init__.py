"""Circuits in the files of other tools, and in this package's own.

`losses` has what they share: scores of a loss. Then one file a format: `eap_ig`, `auto_circuit`;
and `formats`, which tells them apart.
"""

from circuits.circuit.exchange.formats import FORMATS, Format, load, save
from circuits.circuit.exchange.losses import Reading, ScoresOf

__all__ = ["FORMATS", "Format", "Reading", "ScoresOf", "load", "save"]
