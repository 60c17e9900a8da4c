"""What papers say about GPT-2 small, as data: each fact with its source and how near is near.

`experiments.published` measures them. A figure that is not in the paper's text in so many words is
a relation here (`low` alone, or `high` alone), not a number made up. Of the first MLP, which turns
the sign of what heads copy, none was found, so it has no row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

IOI = "Wang et al. 2022, arXiv 2211.00593"
GREATER = "Hanna et al. 2023, arXiv 2305.00586"
INDUCTION = "Olsson et al. 2022, arXiv 2209.11895; heads as in Wang et al. 2022 and TransformerLens"
SUPPRESSION = "McDougall et al. 2023, arXiv 2310.04625"
SUCCESSOR = "Gould et al. 2023, arXiv 2312.09230"
REPAIR = "Wang et al. 2022, section 3.4; McGrath et al. 2023, arXiv 2307.15771"
RELEASE = "the released checkpoint (openai-community/gpt2)"

# The heads of the IOI circuit that the facts are about, by what the paper calls them.
NAME_MOVERS = ("a9.h9", "a9.h6", "a10.h0")
NEGATIVE = ("a10.h7", "a11.h10")
S_INHIBITION = ("a7.h3", "a7.h9", "a8.h6", "a8.h10")
BACKUP = ("a9.h0", "a9.h7", "a10.h1", "a10.h2", "a10.h6", "a10.h10", "a11.h2", "a11.h9")
DUPLICATE = ("a0.h1", "a3.h0")
PREVIOUS = ("a2.h2", "a4.h11")
IOI_INDUCTION = ("a5.h5", "a6.h9")
ON_TOP = ("a5.h1", "a5.h5", "a6.h9", "a7.h2", "a7.h10")
SUPPRESSOR = ("a10.h7",)
SUCCESSORS = ("a9.h1",)

PARAMETERS = 124_439_808
HELLO = 5.3319
SHA256 = "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707"
TOKENS: Mapping[str, tuple[int, ...]] = {
    "Hello world!": (15496, 995, 0),
    "Hello, I'm a language model,": (15496, 11, 314, 1101, 257, 3303, 2746, 11),
    "The quick brown fox jumps over the lazy dog.": (
        *(464, 2068, 7586, 21831, 18045),
        *(625, 262, 16931, 3290, 13),
    ),
}

# The paper's sentences: {A} and {B} are the names in order, {S} the one that comes again.
TEMPLATES = (
    "Then, {A} and {B} went to the {place}. {S} gave a {object} to",
    "Then, {A} and {B} had a lot of fun at the {place}. {S} gave a {object} to",
    "Then, {A} and {B} were working at the {place}. {S} decided to give a {object} to",
    "Then, {A} and {B} were thinking about going to the {place}. {S} wanted to give a {object} to",
    "Then, {A} and {B} had a long argument, and afterwards {S} said to",
    "After {A} and {B} went to the {place}, {S} gave a {object} to",
    "When {A} and {B} got a {object} at the {place}, {S} decided to give it to",
    "When {A} and {B} got a {object} at the {place}, {S} decided to give the {object} to",
    "While {A} and {B} were working at the {place}, {S} gave a {object} to",
    "While {A} and {B} were commuting to the {place}, {S} gave a {object} to",
    "After the lunch, {A} and {B} went to the {place}. {S} gave a {object} to",
    "Afterwards, {A} and {B} went to the {place}. {S} gave a {object} to",
    "Then, {A} and {B} had a long argument. Afterwards {S} said to",
    "The {place} {A} and {B} went to had a {object}. {S} gave it to",
    "Friends {A} and {B} found a {object} at the {place}. {S} gave it to",
)


@dataclass(frozen=True)
class Fact:
    """One thing that a paper says of GPT-2 small.

    Attributes:
        name: of the measurement in `published_measures` that answers it.
        says: what it says, in words.
        paper: where it says so.
        paper_value: the number as printed; None for a relation.
        low, high: where the same measurement counts as what the paper says.
        unit: of the numbers.
        heads: the heads it is about, all of which a model has to have.
        released: whether it is about the released weights or tokens alone.
        control: whether it is what must not show the effect.
    """

    name: str
    says: str
    paper: str
    unit: str
    low: float | None = None
    high: float | None = None
    paper_value: float | None = None
    heads: tuple[str, ...] = ()
    released: bool = False
    control: bool = False


FACTS = (
    Fact("parameters", f"weights more than {PARAMETERS:,}, tied ones once", RELEASE, "weights",
         -0.5, 0.5, 0, released=True),
    Fact("tokens", "known sentences are cut as known", RELEASE, "of the sentences", 0.999, None, 1,
         released=True),
    Fact("checksum", "sha256 of model.safetensors", RELEASE, "(1: equal)", 0.5, None, 1,
         released=True),
    Fact("hello", f"loss of 'Hello world!' after a start token, more than {HELLO}",
         "transformers and TransformerLens", "nats per token", -0.001, 0.001, 0, released=True),
    Fact("ioi_difference", "logit of IO less that of S", f"{IOI}, section 2", "logits", 3.0, 4.1,
         3.56),
    Fact("ioi_preferred", "prompts where IO has more than S", f"{IOI}, section 2", "of the prompts",
         0.97, None, 0.993),
    Fact("ioi_probability", "probability of IO", f"{IOI}, section 2", "probability", 0.40, 0.58,
         0.49),
    Fact("ioi_untold", "the same where a third name gives, so that neither comes again",
         "the control", "of the prompts", 0.2, 0.8, control=True),
    Fact("name_movers_look", "name movers 9.9, 9.6, 10.0 look from END at IO",
         f"{IOI}, section 3.1", "share of attention", 0.49, 0.69, 0.59, NAME_MOVERS),
    Fact("name_movers_copy", "they write a name that they look at", f"{IOI}, section 3.1",
         "of the names", 0.95, None, 0.95, NAME_MOVERS),
    Fact("negative_copy", "negative heads 10.7, 11.10 write its opposite", f"{IOI}, section 3.1",
         "of the names", 0.95, None, 0.98, NEGATIVE),
    Fact("without_name_movers", "knocking out the three costs little of the difference",
         f"{IOI}, section 3.4", "of the difference", None, 0.12, 0.05, NAME_MOVERS),
    Fact("self_repair", "other heads then push IO more than before", REPAIR, "logits", 0.0, None,
         None, (*NAME_MOVERS, *BACKUP)),
    Fact("s_inhibition_look", "S-inhibition heads look from END at S2", f"{IOI}, section 3.2",
         "share of attention", 0.41, 0.61, 0.51, S_INHIBITION),
    Fact("duplicate_look", "0.1 and 3.0 look from S2 at S1", f"{IOI}, section 3.3",
         "share of attention", 0.25, None, None, DUPLICATE),
    Fact("previous_look", "2.2 and 4.11 look from S1+1 at S1", f"{IOI}, section 3.3",
         "share of attention", 0.25, None, None, PREVIOUS),
    Fact("induction_look", "5.5 and 6.9 look from S2 at S1+1", f"{IOI}, section 3.3",
         "share of attention", 0.25, None, None, IOI_INDUCTION),
    Fact("ioi_circuit", "the 26 heads alone, all MLPs beside them", f"{IOI}, section 4.1",
         "of the difference", 0.75, 1.0, 0.87, (*NAME_MOVERS, *BACKUP)),
    Fact("greater_difference", "probability of later years less that of others",
         f"{GREATER}, section 2", "probability", 0.72, 0.90, 0.817),
    Fact("greater_circuit", "its circuit alone, of the whole model's", f"{GREATER}, section 3",
         "of the difference", 0.75, 1.10, 0.895, ("a5.h1", "a9.h1", "a8.h11")),
    Fact("induction_on_top", "5.1, 5.5, 6.9, 7.2, 7.10 lead on repeated random tokens", INDUCTION,
         "of the five", 0.99, None, 1, ON_TOP),
    Fact("induction_untold", "the same heads' score where nothing repeats", "the control",
         "share of attention", None, 0.1, None, ON_TOP, control=True),
    Fact("suppression", "a token that 10.7 looks at is among the ten that it lowers most",
         f"{SUPPRESSION}, section 3", "of the tokens", 0.5, None, None, SUPPRESSOR),
    Fact("successor", "9.1 raises the next item of a series above its others", SUCCESSOR,
         "of the items", 0.5, None, None, SUCCESSORS),
)  # fmt: skip
