"""What to write at a component in place of what it computes.

A method of ablation is one file with a function marked ``@method``: what it takes from a reference
set, and writes in other prompts. Which site, which head and which positions is the same for all.
"""

from circuits.interventions.base import METHODS, Into, Method, Runs, get_method
from circuits.interventions.reference import Kind, Reference, Source, passes_layers, run_sites
from circuits.interventions.writing import (
    Hook,
    partners,
    replacements,
    require_change,
    write_hook,
)

__all__ = [
    "METHODS",
    "Hook",
    "Into",
    "Kind",
    "Method",
    "Reference",
    "Runs",
    "Source",
    "get_method",
    "partners",
    "passes_layers",
    "replacements",
    "require_change",
    "run_sites",
    "write_hook",
]
