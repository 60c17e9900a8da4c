"""The libraries: one small file each, with functions of the same names.

``load(folder)`` reads a Hugging Face folder. Every other function takes what `load` returned and a
`Given`, and returns the numbers that are compared:

    forward         logits [b p v]
    last_logits     logits after the last token [b v]
    full_cache      pattern, z and resid_post of the last layer, with every other site kept as well
    ablate_heads    mean logit difference without each head [layer head]
    patch_residual  mean logit difference of the corrupted prompts with resid_pre of the clean ones
                    at one layer and position [layer position]
    patch_heads     the same with one head's z, at all positions [layer head]
    attribution     its linear estimate: (clean z - corrupted z) times the gradient [layer head]
    logit_lens      log-probability of the top token after each layer [state position]
    edges_eap       estimates of what corrupting each edge does to the mean logit difference, by its
                    gradient at the prompts; edges_eap_ig, by the mean gradient at 5 inputs from the
                    corrupted one on; edges_exact, the truth [edge]
    circuit_alone   logit difference of each prompt in half of the edges alone [b]
    circuit_curve   share of the mean logit difference that circuits of ten sizes have [size]
    generate        the tokens that follow greedily, key-value cached [new]

A function that a file lacks is a task that the library is not asked to do. ``prepare(model, item)``
is called before the clock starts, where a file has it.
"""

from __future__ import annotations

from dataclasses import dataclass


class Declined(Exception):
    """The library could do this, but it is not worth the wait. The message says why."""


@dataclass(frozen=True)
class Peer:
    """A library in this comparison.

    Numbers agree only if two families do. `distribution` is what has to be installed, in a version
    that begins with `version`; `requirements` what pip is told; `environment` the folder it goes
    to. `imports` are the statements whose time is taken, empty where there is no library to import.
    """

    name: str
    title: str
    module: str
    family: str
    imports: tuple[str, str]
    distribution: str = ""
    version: str = ""
    requirements: tuple[str, ...] = ()
    environment: str = ""


_HERE = "experiments.benchmarks.peers"
_EAP_IG = "795f5607b25638935aec89aee3c1cb4bd9ed72f1"
_OURS = ("import circuits", "from circuits import load, HookedGPT2")

PEERS = (
    Peer("ours", "ours", f"{_HERE}.ours", "ours", _OURS),
    Peer("ours_packed", "ours, packed", f"{_HERE}.ours_packed", "ours", ("", "")),
    Peer("ours_plain", "ours, plain", f"{_HERE}.ours_plain", "ours", ("", "")),
    Peer(
        "tl4",
        "TransformerLens 4",
        f"{_HERE}.tl4",
        "tl4",
        (
            "import transformer_lens",
            "from transformer_lens.model_bridge import TransformerBridge",
        ),
        "transformer-lens",
        "4.",
        ("transformer_lens>=4.3,<5",),
        "tl4",
    ),
    Peer(
        "tl3",
        "TransformerLens 3",
        f"{_HERE}.tl3",
        "tl3",
        ("import transformer_lens", "from transformer_lens import HookedTransformer"),
        "transformer-lens",
        "3.",
        ("transformer_lens>=3.9,<4",),
        "tl3",
    ),
    Peer(
        "eap_ig",
        "EAP-IG on TransformerLens",
        f"{_HERE}.eap_ig",
        "eap_ig",
        ("", ""),
        "transformer-lens",
        "3.",
        (f"eap @ git+https://github.com/hannamw/EAP-IG@{_EAP_IG}",),
        "tl3",
    ),
    Peer(
        "nnsight",
        "nnsight",
        f"{_HERE}.nnsight_models",
        "nnsight",
        ("import nnsight", "from nnsight.modeling.transformers import TransformersModel"),
        "nnsight",
        "0.8.",
        ("nnsight>=0.8,<0.9",),
        "nnsight",
    ),
    Peer(
        "hugging_face",
        "Hugging Face",
        f"{_HERE}.hugging_face",
        "hugging_face",
        ("import transformers", "from transformers import GPT2LMHeadModel"),
        "transformers",
        "5.",
        ("transformers>=5.23,<6",),
        "tl3",
    ),
    Peer(
        "numpy",
        "NumPy picoGPT",
        f"{_HERE}.picogpt",
        "numpy",
        ("", ""),
        "numpy",
    ),
)
