"""One question to every analysis, for models of the words of `lens_models`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from circuits.adapter import adapt
from circuits.circuit import Circuit
from circuits.model import HookedModel
from circuits.registry import analyses, find
from circuits.result import Result

TEXT = "When Mary and John went to the garden, John gave a letter to"
OF_A_MODEL = [name for name, recipe in analyses().items() if recipe.asks_model]
IOI: dict[str, Any] = {"task": "ioi", "n": 4}
OF_A_GPT2 = {"fine-tune"}  # which train weights of ours, in float32, and leave a new folder
OF_CIRCUITS = {"evaluate"}  # which take a circuit of the model that they ask
Question = tuple[tuple[Any, ...], dict[str, Any]]  # the words after the model, and the options
# What each analysis is asked; those that are not named take a prompt, or the model alone.
ASKED: dict[str, Question] = {
    "ablate": ((), {"all_heads": True, **IOI}),
    "approximate": ((), {"what": "head", **IOI}),
    "attribute": ((), IOI),
    "discover": ((), {"method": "eap", "keep": "20", **IOI}),
    "evaluate": ((), {"subsets": 10, "controls": 45, "untrained": 2, **IOI}),
    "fine-tune": (("tuned",), {"steps": 2, **IOI}),
    "heads": ((), {"n": 3, "costs": "all"}),
    "icl": ((), {"n": 2, "length": 8}),
    "interchange": ((), {"component": "a1", **IOI}),
    "neurons": (("m0.n3",), {}),
    "ov": (("a0.h1",), {}),
    "patch": ((), IOI),
    "paths": ((), {"to": "logits", **IOI}),
    "qk": (("a0.h1",), {}),
    "tune-lens": (("lens.safetensors",), {"file": "text.txt", "context": 8, "steps": 2}),
    "why": (("a1.h1", TEXT), {}),
}


def write_files() -> None:
    """Those that the questions name."""
    Path("text.txt").write_text(f"{TEXT}. " * 5)


def question(name: str) -> Question:
    """What the analysis is asked."""
    prompt = find(name).signature.parameters.get("prompt")
    takes_prompt = prompt is not None and prompt.default is prompt.empty
    return ASKED.get(name, ((TEXT,) if takes_prompt else (), {}))


def answer(name: str, model: Any, other: Any = None) -> Result:
    """What the analysis says; `other` is what ``diff`` compares with."""
    given, options = question(name)
    if name == "diff":
        given = (other,)
    if name in OF_CIRCUITS:
        ours = model if isinstance(model, HookedModel) else adapt(model)
        given = (Circuit.of(ours, [f"embed->a{i}.h1<v>" for i in (0, 1)] + ["a1.h1->logits"]),)
    return find(name).load()(model, *given, **options)
