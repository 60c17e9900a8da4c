"""Find out which parts of a GPT-2 do what."""

__version__ = "0.1.0"
