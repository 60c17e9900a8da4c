"""The front door, as editors and type checkers see it. Written by tests/front_door.py."""

from circuits.adapter import adapt as adapt
from circuits.alignment import CausalGraph as CausalGraph
from circuits.architectures import HookedGPT2 as HookedGPT2
from circuits.backend import packed as packed
from circuits.cache import Cache as Cache
from circuits.checkpoints import bundled_models as bundled_models
from circuits.checkpoints import checksum as checksum
from circuits.checkpoints import load as load
from circuits.checkpoints import save as save
from circuits.circuit import Circuit as Circuit
from circuits.circuit import graph as graph
from circuits.circuit import published as published
from circuits.components import Component as Component
from circuits.config import GPT2_SIZES as GPT2_SIZES
from circuits.config import ModelConfig as ModelConfig
from circuits.errors import CheckpointError as CheckpointError
from circuits.errors import CircuitsError as CircuitsError
from circuits.errors import SiteError as SiteError
from circuits.errors import TokenError as TokenError
from circuits.explorer.opening import explore as explore
from circuits.factored import FactoredMatrix as FactoredMatrix
from circuits.inputs import ModelInput as ModelInput
from circuits.metrics import Metric as Metric
from circuits.model import HookedModel as HookedModel
from circuits.progress import Progress as Progress
from circuits.prompts import Prompts as Prompts
from circuits.registry import Progress as Progress
from circuits.result import Provenance as Provenance
from circuits.result import Result as Result
from circuits.sites import get_act_name as get_act_name
from circuits.tokenizer import Tokenizer as Tokenizer
from circuits.tuned_lens import TunedLens as TunedLens
from collections.abc import Sequence as Sequence
from pathlib import Path as Path
from typing import Literal as Literal

__version__: str

def ablate(
    model: HookedModel,
    *,
    layer: int | None = ...,
    head: int | None = ...,
    component: str | Component | Sequence[str | Component] | None = ...,
    all_heads: bool = ...,
    method: str = ...,
    freeze: Literal['patterns'] | None = ...,
    effects: bool = ...,
    rank: bool = ...,
    task: str | Prompts | None = ...,
    prompt: str | Sequence[str] | ModelInput | None = ...,
    file: str | Path | None = ...,
    answer: str | None = ...,
    distractor: str | None = ...,
    metric: str | Metric | None = ...,
    n: int | None = ...,
    seed: int = ...,
    by: str | None = ...,
    cluster: str | None = ...,
    memory: str | None = ...,
    plan: bool = ...,
    engine: str = ...,
    parts: str | Path | None = ...,
    resume: bool = ...,
    progress: Progress | None = ...,
) -> Result:
    """What breaks without this head, layer or MLP?"""

def approximate(
    model: HookedModel,
    *,
    what: Literal['resid_pre', 'resid_mid', 'resid_post', 'attn', 'mlp', 'head'] | None = ...,
    component: str | Component | Sequence[str | Component] | None = ...,
    positions: Literal['roles', 'indices', 'all'] | None = ...,
    direction: Literal['denoise', 'noise'] = ...,
    check: Literal['all'] | int = ...,
    task: str | Prompts | None = ...,
    prompt: str | Sequence[str] | ModelInput | None = ...,
    corrupted: str | Sequence[str] | ModelInput | None = ...,
    file: str | Path | None = ...,
    answer: str | None = ...,
    distractor: str | None = ...,
    metric: str | Metric | None = ...,
    n: int | None = ...,
    seed: int = ...,
    by: str | None = ...,
    cluster: str | None = ...,
    memory: str | None = ...,
    progress: Progress | None = ...,
) -> Result:
    """What would patching restore, by one gradient instead of many runs?"""

def attention(
    model: HookedModel,
    prompt: str,
    *,
    component: str | Component | Sequence[str | Component] | None = ...,
    sink: Literal['keep', 'drop'] = ...,
    least: float = ...,
    top: int | None = ...,
) -> Result:
    """Where does each head look?"""

def attribute(
    model: HookedModel,
    *,
    what: Literal['heads', 'layers', 'neurons'] = ...,
    positions: Literal['roles', 'indices'] | None = ...,
    top: int | None = ...,
    layer: int | None = ...,
    task: str | Prompts | None = ...,
    prompt: str | Sequence[str] | ModelInput | None = ...,
    file: str | Path | None = ...,
    answer: str | None = ...,
    distractor: str | None = ...,
    n: int | None = ...,
    seed: int = ...,
    by: str | None = ...,
    cluster: str | None = ...,
) -> Result:
    """Which part pushes the answer?"""

def compare(
    circuits: Sequence[str | Path | Circuit],
    *,
    reference: str | Path | Circuit | None = ...,
    level: Literal['edges', 'nodes', 'heads', 'neurons'] | None = ...,
    show: Literal['overlap', 'parts', 'roc', 'precision-recall'] = ...,
    positions: bool = ...,
    model: HookedModel | None = ...,
) -> Result:
    """How alike are these circuits?"""

def composition(
    model: HookedModel,
    *,
    to: str | Component | Sequence[str | Component] | None = ...,
    from_: str | Component | Sequence[str | Component] | None = ...,
    slot: Literal['q', 'k', 'v'] | None = ...,
    subspaces: int | None = ...,
    check: int | None = ...,
    top: int = ...,
    task: str | Prompts | None = ...,
    metric: str | Metric | None = ...,
    n: int | None = ...,
    seed: int = ...,
    progress: Progress | None = ...,
) -> Result:
    """Which heads read which heads?"""

def diff(
    model: HookedModel,
    other: str | HookedModel,
    *,
    analysis: str = ...,
    set_: Sequence[str] | None = ...,
    column: str = ...,
    along: Literal['weights', 'parts'] | None = ...,
    points: int = ...,
    progress: Progress | None = ...,
    **options: object,
) -> Result:
    """What changed between two checkpoints?"""

def discover(
    model: HookedModel,
    *,
    method: str = ...,
    level: Literal['edges', 'heads', 'nodes', 'neurons'] = ...,
    keep: str | None = ...,
    select: Literal['top', 'greedy'] = ...,
    absolute: bool = ...,
    positions: Literal['roles'] | None = ...,
    reference: Literal['resample', 'zero', 'mean', 'position-mean'] = ...,
    steps: int = ...,
    check: Literal['all'] | int = ...,
    task: str | Prompts | None = ...,
    prompt: str | Sequence[str] | ModelInput | None = ...,
    corrupted: str | Sequence[str] | ModelInput | None = ...,
    file: str | Path | None = ...,
    answer: str | None = ...,
    distractor: str | None = ...,
    metric: str | Metric | None = ...,
    n: int | None = ...,
    seed: int = ...,
    memory: str | None = ...,
    plan: bool = ...,
    engine: str = ...,
    parts: str | Path | None = ...,
    resume: bool = ...,
    progress: Progress | None = ...,
) -> Result:
    """Which circuit does it?"""

def evaluate(
    model: HookedModel,
    circuit: str | Path | Circuit,
    *,
    curve: bool = ...,
    reference: Literal['resample', 'zero', 'mean', 'position-mean'] | None = ...,
    subsets: int = ...,
    controls: int = ...,
    untrained: int = ...,
    tolerance: float = ...,
    task: str | Prompts | None = ...,
    prompt: str | Sequence[str] | ModelInput | None = ...,
    corrupted: str | Sequence[str] | ModelInput | None = ...,
    file: str | Path | None = ...,
    answer: str | None = ...,
    distractor: str | None = ...,
    metric: str | Metric | None = ...,
    n: int | None = ...,
    seed: int | None = ...,
    by: str | None = ...,
    cluster: str | None = ...,
    memory: str | None = ...,
    plan: bool = ...,
    engine: str = ...,
    parts: str | Path | None = ...,
    resume: bool = ...,
    progress: Progress | None = ...,
) -> Result:
    """Is this circuit the mechanism?"""

def fine_tune(
    model: HookedModel,
    out: str | Path,
    *,
    file: str | Path | None = ...,
    task: str | Prompts | None = ...,
    n: int | None = ...,
    what: str | Sequence[str] | None = ...,
    seed: int = ...,
    resume: bool = ...,
    progress: Progress | None = ...,
    method: Literal['full', 'lora', 'adapter'] = ...,
    rank: int = ...,
    width: int = ...,
    steps: int = ...,
    lr: float | None = ...,
    batch: int = ...,
    held_out: float | str | Path = ...,
    patience: int | None = ...,
) -> Result:
    """What does the model learn from these examples?"""

def heads(
    model: HookedModel,
    *,
    kind: str | Sequence[str] | None = ...,
    component: str | Component | Sequence[str | Component] | None = ...,
    n: int = ...,
    seed: int = ...,
    method: Literal['zero', 'mean'] = ...,
    costs: Literal['clear', 'all'] = ...,
    ioi: Prompts | None = ...,
    memory: str | None = ...,
    progress: Progress | None = ...,
) -> Result:
    """What kind of head is each?"""

def icl(
    model: HookedModel,
    *,
    file: str | Path | None = ...,
    context: int | None = ...,
    copies: int = ...,
    length: int | None = ...,
    n: int | None = ...,
    seed: int | None = ...,
    progress: Progress | None = ...,
) -> Result:
    """Does it learn in context?"""

def interchange(
    model: HookedModel,
    *,
    variable: str | None = ...,
    component: str | Component | Sequence[str | Component] | None = ...,
    what: Literal['resid_pre', 'resid_mid', 'resid_post', 'attn', 'mlp', 'head', 'q', 'k', 'v', 'pattern'] | None = ...,
    positions: Literal['roles', 'indices', 'all'] | None = ...,
    rank: int | None = ...,
    neurons: bool = ...,
    reader: str | Component | Sequence[str | Component] | None = ...,
    steps: int | None = ...,
    task: str | Prompts | None = ...,
    graph: CausalGraph | None = ...,
    n: int | None = ...,
    seed: int = ...,
    by: str | None = ...,
    cluster: str | None = ...,
    memory: str | None = ...,
    progress: Progress | None = ...,
) -> Result:
    """Does the model compute what this causal graph says?"""

def logit_lens(
    model: HookedModel,
    prompt: str,
    *,
    positions: Literal['last', 'all'] | int = ...,
    top: int = ...,
    token: str | Sequence[str] | None = ...,
    lens: str | Path | TunedLens | None = ...,
) -> Result:
    """What would each layer say, if it were the last?"""

def neurons(
    model: HookedModel,
    neuron: str | Component | None = ...,
    *,
    show: Literal['contexts', 'values', 'triggers', 'classes', 'overview'] | None = ...,
    layer: int | None = ...,
    file: str | Path | None = ...,
    context: int | None = ...,
    n: int | None = ...,
    top: int = ...,
    order: Literal['peaked', 'contrast', 'active'] | None = ...,
    seed: int = ...,
    progress: Progress | None = ...,
) -> Result:
    """What does this neuron do?"""

def ov(
    model: HookedModel,
    head: str | Component | None = ...,
    *,
    show: Literal['pairs', 'diagonal', 'eigenvalues', 'directions'] | None = ...,
    effective: bool = ...,
    tokens: str | Sequence[str] | None = ...,
    top: int = ...,
) -> Result:
    """What would a head write?"""

def patch(
    model: HookedModel,
    *,
    what: Literal['resid_pre', 'resid_mid', 'resid_post', 'attn', 'mlp', 'head', 'q', 'k', 'v', 'pattern'] | None = ...,
    component: str | Component | Sequence[str | Component] | None = ...,
    positions: Literal['roles', 'indices', 'all'] | None = ...,
    direction: Literal['denoise', 'noise'] = ...,
    task: str | Prompts | None = ...,
    prompt: str | Sequence[str] | ModelInput | None = ...,
    corrupted: str | Sequence[str] | ModelInput | None = ...,
    file: str | Path | None = ...,
    answer: str | None = ...,
    distractor: str | None = ...,
    metric: str | Metric | None = ...,
    n: int | None = ...,
    seed: int = ...,
    by: str | None = ...,
    cluster: str | None = ...,
    memory: str | None = ...,
    plan: bool = ...,
    engine: str = ...,
    parts: str | Path | None = ...,
    resume: bool = ...,
    progress: Progress | None = ...,
) -> Result:
    """Where does the information sit that makes the difference?"""

def paths(
    model: HookedModel,
    *,
    to: str | Component | Sequence[str | Component] | None = ...,
    from_: str | Component | Sequence[str | Component] | None = ...,
    direction: Literal['denoise', 'noise'] = ...,
    hold: Literal['all', 'heads'] = ...,
    task: str | Prompts | None = ...,
    prompt: str | Sequence[str] | ModelInput | None = ...,
    corrupted: str | Sequence[str] | ModelInput | None = ...,
    file: str | Path | None = ...,
    answer: str | None = ...,
    distractor: str | None = ...,
    metric: str | Metric | None = ...,
    n: int | None = ...,
    seed: int = ...,
    by: str | None = ...,
    cluster: str | None = ...,
    memory: str | None = ...,
    plan: bool = ...,
    engine: str = ...,
    parts: str | Path | None = ...,
    resume: bool = ...,
    progress: Progress | None = ...,
) -> Result:
    """Along which edges does it travel?"""

def qk(
    model: HookedModel,
    head: str | Component | None = ...,
    *,
    show: Literal['pairs', 'diagonal', 'positions', 'eigenvalues', 'directions'] | None = ...,
    effective: bool = ...,
    tokens: str | Sequence[str] | None = ...,
    top: int = ...,
    distance: int = ...,
) -> Result:
    """What would a head match?"""

def tune_lens(
    model: HookedModel,
    out: str | Path,
    *,
    file: str | Path | None = ...,
    n: int = ...,
    context: int | None = ...,
    steps: int = ...,
    lr: float = ...,
    seed: int = ...,
    progress: Progress | None = ...,
) -> Result:
    """How much closer does a tuned lens come to the final prediction?"""

def walkthrough(
    model: HookedModel,
    prompt: str,
    *,
    steps: int = ...,
    temperature: float = ...,
    seed: int = ...,
) -> Result:
    """How does the model get from the text to the next token, number by number?"""

def why(
    model: HookedModel,
    head: str | Component,
    prompt: str | Sequence[str] | None = ...,
    *,
    query: int | str = ...,
    key: int | str | None = ...,
    against: Literal['mean'] | int | str | None = ...,
    positions: Literal['roles', 'indices'] | None = ...,
    top: int = ...,
    task: str | Prompts | None = ...,
    n: int | None = ...,
    seed: int = ...,
) -> Result:
    """Why does it look there?"""
