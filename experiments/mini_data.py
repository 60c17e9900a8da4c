"""What `mini` is trained on: prose, repeated segments, and short templated stories.

Prose comes from a folder of public-domain text (one document after another, separated by a line
``<|endoftext|>``; plain or xz). The other three are generated here, without end, from a seed.
"""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from circuits.tokenizer import Tokenizer

Tokens = NDArray[np.int64]
Weights = NDArray[np.float32]
END = "<|endoftext|>"
IO_WEIGHT = 5.0  # of the one word that a story determines, in its loss

NAMES = (
    "Mary John Tom Anne James Alice George Henry William Elizabeth Jane Charles Peter Emma Arthur "
    "Robert David Frank Harry Jack Edward Richard Thomas Paul Philip Ralph Hugh Oliver Walter "
    "Sarah Martha Margaret Catherine Lucy Kate Rose Helen Ruth Grace Clara Laura Julia Amy Beth "
    "Jo Meg Diana Emily Ellen Fanny Nancy Susan Sophia Dora Flora Agnes Nora Ida Eva Rebecca "
    "Hannah Rachel Esther Dick Bob Ned Bill Jim Joe Sam Ben Dan Will Fred Alfred Albert Edgar "
    "Ernest Oscar Leo Max Felix Adam Noah Simon Mark Luke Matthew Andrew Stephen Daniel Joseph "
    "Victor Louis Francis Anthony Martin Roger Gilbert Kenneth Alan Carl Eric Ivan Jacob Isaac "
    "Linda Karen Lisa Maria Anna Julie Carol Sandra Jessica Amanda Melissa Laurel Violet Ivy "
    "Pearl Olive Hazel Iris Daisy Lily Edith Ethel Mabel Maud Minnie Bessie Betty Dorothy"
).split()
# Never in a training story, but each more than 100 times in the prose, so the model knows them.
HELD_OUT_NAMES = "Michael Charlotte Caroline Harriet Godfrey Rupert".split()
# Never in a training story, and at most 33 times in the prose.
RARE_NAMES = (
    "Kevin Brian Jason Steven Jennifer Patricia Barbara Gerald Nicholas Theodore Marian Judith "
    "Sylvia Roland Vincent Bernard Lionel Winifred"
).split()
PLACES = (
    "garden forest market school church river castle village kitchen library station harbor "
    "meadow mill inn palace farm bridge beach park shop tower town house lake hill field well"
).split()
OBJECTS = (
    "letter book ring flower basket lamp key coin pear cake drink hat coat map knife box rose "
    "candle cup stone pen ball rope watch doll bell sword feather bottle blanket bone kiss"
).split()

# A story is an opening and an ending. {A} and {B} come in either order, {S} repeats one of them,
# {IO} is the other; {C} is a third person. The sentences of `circuits.prompts.ioi` are not among
# them: with these the model is examined.
OPENINGS = (
    "After {A} and {B} went to the {P},",
    "Then {A} and {B} went to the {P}, and",
    "{A} and {B} walked to the {P} together.",
    "One day {A} and {B} met at the {P}.",
    "Once upon a time {A} and {B} lived near the {P}.",
    "In the morning {A} met {B} at the {P}, and",
    "{A} sat with {B} in the {P}, and soon",
    "As {A} and {B} came back from the {P},",
    "When they reached the {P}, {A} looked at {B}. At last",
    "{A} had a long talk with {B} about the {P}. Later",
    "It was a fine day, and {A} and {B} were at the {P}. Smiling,",
    "At the {P} {A} and {B} quarreled, but in the end",
    "{A} was tired, and so was {B}. In the {P}",
    "Long ago {A} loved {B}. From the {P}",
    "Old {A} and young {B} worked in the {P}. Every evening",
    "Near the {P} {A} and {B} were resting, when",
    "{A}, {B} and {C} went to the {P}. {C} left early.",
    "At the {P} {C} saw {A} and {B}. Before night",
    "{A} and {B} found the {P} empty.",
    "{A} invited {B} to the {P}.",
    "When {A} saw {B} in the {P},",
    "While {A} was sleeping, {B} cleaned the {P}. Then",
    "Because {A} was ill, {B} came to the {P}, and",
    "During the storm {A} hid in the {P} with {B}. Suddenly",
    "The {P} was dark. {A} and {B} were afraid, but",
    "{A} and {B} were good friends. At the {P}",
    "{A} and {B} had supper in the {P}.",
    "{A} and {B} had an argument near the {P}. Then",
    "Behind the {P} {A} was standing next to {B}. Quietly",
    "In the cold {P} {A} lay beside {B}. After a while",
    "On the road to the {P} {A} was walking with {B}. Proudly",
    "{A} and {B} played a game by the {P}.",
    "Under the roof of the {P} {A} was waiting for {B}. Gladly",
    "{B} saw that {A} was sad. In the {P}",
    "{A} worked at the {P}, and {B} lived there too. One evening",
    "{A} and {B} took a walk to the {P}.",
    "Inside the {P} {A} sat down opposite {B}. Slowly,",
    "It began to rain. {A} and {B} left the {P}, and",
    "{A} told {B} a story about the {P}. Afterwards",
    "Neither {A} nor {B} liked the {P}, so",
)
ENDINGS = (
    "{S} gave a {O} to {IO}.",
    "{S} handed the {O} to {IO}.",
    "{S} brought a {O} to {IO}.",
    "{S} showed a {O} to {IO}.",
    "{S} threw a {O} to {IO}.",
    "{S} passed the {O} to {IO}.",
    "{S} offered a {O} to {IO}.",
    "{S} sent a {O} to {IO}.",
    "{S} lent a {O} to {IO}.",
    "{S} returned the {O} to {IO}.",
    "{S} read a {O} aloud to {IO}.",
    "{S} wrote a {O} to {IO}.",
    "{S} carried a {O} to {IO}.",
    "{S} sold a {O} to {IO}.",
    "{S} found a {O} and gave it to {IO}.",
    "{S} whispered something to {IO}.",
    "{S} said nothing to {IO}.",
    "{S} talked to {IO}.",
    "{S} pointed the {O} out to {IO}.",
    "{S} made a {O} for {IO}.",
    "{S} bought a {O} for {IO}.",
    "{S} looked for {IO}.",
    "{S} danced with {IO}.",
    "{S} took the {O} from {IO}.",
    "{S} wanted to give a {O} to {IO}.",
    "{S} tried to sell the {O} to {IO}.",
    "{S} promised to send a {O} to {IO}.",
    "{S} hoped to show the {O} to {IO}.",
    "{S} began to read the {O} to {IO}.",
    "{S} was ready to lend a {O} to {IO}.",
    "{S} offered to bring a {O} to {IO}.",
    "{S} at once took a {O} to {IO}.",
    "{S} slowly gave the {O} to {IO}.",
)
YEAR_NOUNS = "war siege reign feud voyage trial famine journey drought peace quarrel strike".split()
YEAR_TEMPLATE = (
    "The {noun} lasted from the year {century}{start:02d} to the year {century}{end:02d}."
)


def documents(folder: Path, prefix: str) -> Iterator[str]:
    """The documents of every file in `folder` whose name starts with `prefix`, in order."""
    paths = sorted(p for p in folder.iterdir() if p.name.startswith(prefix) and ".txt" in p.name)
    if not paths:
        raise FileNotFoundError(f"no {prefix}*.txt or {prefix}*.txt.xz in {folder}")
    for path in paths:
        raw = path.read_bytes()
        text = (lzma.decompress(raw) if path.suffix == ".xz" else raw).decode()
        yield from (doc.strip() for doc in text.split(END) if doc.strip())


def train_bpe(folder: Path, vocab_size: int, out: Path) -> None:
    """Train a byte-level BPE with GPT-2's pattern; write GPT-2's two files, vocab.json, merges.txt.

    Three things steer the vocabulary: every name, place and object is a token (they are repeated
    in the training text), and years split in the middle (" 17" + "32"), by merges put first.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = [_byte_char(b) for b in range(256)]
    words = NAMES + HELD_OUT_NAMES + RARE_NAMES + PLACES + OBJECTS + YEAR_NOUNS
    steer = [f" {word}" * 50 for word in words for _ in range(40)]
    texts = [re.sub(r"\d", "", doc) for doc in documents(folder, "train")]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator([*texts, *steer], trainer)
    trained = json.loads(tokenizer.to_str())["model"]["merges"]
    space = _byte_char(32)
    merges = [[space, "1"]] + [[space + "1", str(d)] for d in range(10)]
    merges += [[str(a), str(b)] for a in range(10) for b in range(10)]
    vocab = {char: i for i, char in enumerate(alphabet)}
    for left, right in merges:
        vocab[left + right] = len(vocab)
    for left, right in trained:
        if len(vocab) < vocab_size - 1 and left + right not in vocab:
            merges.append([left, right])
            vocab[left + right] = len(vocab)
    vocab[END] = len(vocab)
    out.mkdir(parents=True, exist_ok=True)
    (out / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (out / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _byte_char(byte: int) -> str:
    """The printable character that stands for a byte in GPT-2's vocabulary files."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return chr(byte if byte in printable else 256 + others.index(byte))


class Mixture:
    """An endless, seeded stream of batches: prose, repeats, stories and years.

    Batch number `step` depends on the seed and on `step` alone, so a resumed run sees what an
    uninterrupted one would have seen.
    """

    def __init__(
        self, tokenizer: Tokenizer, prose: NDArray[np.uint16], *, n_ctx: int, seed: int
    ) -> None:
        self.encode, self.prose, self.n_ctx, self.seed = tokenizer.encode, prose, n_ctx, seed
        self.end = int(tokenizer.encode(END)[0])
        texts = tokenizer.token_strings(range(self.end))
        held_out = {f" {name}" for name in HELD_OUT_NAMES + RARE_NAMES}
        words = [t for t in texts if re.fullmatch(" [A-Za-z][a-z]+", t) and t not in held_out]
        self.words = [word.strip() for word in words]
        counts = np.bincount(prose, minlength=self.end + 1)
        self.by_frequency = np.argsort(-counts, kind="stable")[: int((counts > 0).sum())]
        self.by_frequency = self.by_frequency[self.by_frequency != self.end]

    def batch(self, step: int, size: int, shares: dict[str, float]) -> tuple[Tokens, Weights]:
        """Tokens [size, n_ctx], and how much each counts as a target [size, n_ctx]."""
        rng = np.random.default_rng([self.seed, step])
        kinds = rng.choice(list(shares), size=size, p=np.array(list(shares.values())))
        rows = [getattr(self, f"_{kind}")(rng) for kind in kinds]
        tokens, weights = (np.stack(column) for column in zip(*rows, strict=True))
        weights[:, 0] = 0  # nothing predicts the first token
        return tokens, weights

    def _prose(self, rng: np.random.Generator) -> tuple[Tokens, Weights]:
        start = int(rng.integers(len(self.prose) - self.n_ctx))
        window = self.prose[start : start + self.n_ctx - 1].astype(np.int64)
        return self._row(window, np.ones(self.n_ctx, np.float32))

    def _repeats(self, rng: np.random.Generator) -> tuple[Tokens, Weights]:
        """r + r + ..., r of any tokens, of the most frequent ones (how many varies), or of prose.

        The first copy of random tokens is irreducible noise, so it is no target.
        """
        n = int(rng.integers(4, (self.n_ctx - 1) // 2 + 1))
        weights = np.ones(self.n_ctx, np.float32)
        if rng.random() < 0.25:
            start = int(rng.integers(len(self.prose) - n))
            segment = self.prose[start : start + n].astype(np.int64)
        else:
            pool = len(self.by_frequency)
            if rng.random() < 0.5:
                pool = int(np.exp(rng.uniform(np.log(64), np.log(pool))))
            segment = rng.choice(self.by_frequency[:pool], n)
            weights[: n + 2] = 0
        return self._row(np.resize(segment, self.n_ctx - 1), weights)

    def _pairs(self, rng: np.random.Generator) -> tuple[Tokens, Weights]:
        """Random pairs, again and again in another order; each second half is a target.

        Only the token just before tells what follows, so these sharpen previous-token heads.
        """
        n = int(rng.integers(4, self.n_ctx // 4))
        pairs = rng.choice(self.by_frequency, (n, 2), replace=False)
        copies = -(-self.n_ctx // (2 * n))
        ids = np.concatenate([pairs, *(rng.permutation(pairs) for _ in range(copies))]).flatten()
        weights = np.zeros(self.n_ctx, np.float32)
        weights[2 * n + 2 :: 2] = 1
        return self._row(ids[: self.n_ctx - 1], weights)

    def _stories(self, rng: np.random.Generator) -> tuple[Tokens, Weights]:
        """Stories, whose last word is the one that counts: IO, which the story determines.

        Six in ten use any words of the vocabulary as names, so that what is learned is to find
        and copy a word, not to choose from a list of names.
        """
        ids, weights = [self.end], np.ones(self.n_ctx, np.float32)
        while len(ids) < self.n_ctx:
            ids += [*self.encode(story(rng, NAMES if rng.random() < 0.4 else self.words)), self.end]
            if len(ids) - 3 < self.n_ctx:
                weights[len(ids) - 3] = IO_WEIGHT  # before the full stop and the end of text
        return self._row(np.array(ids[1 : self.n_ctx]), weights)

    def _years(self, rng: np.random.Generator) -> tuple[Tokens, Weights]:
        ids: list[int] = []
        while len(ids) < self.n_ctx - 1:
            start = int(rng.integers(2, 98))
            text = YEAR_TEMPLATE.format(
                noun=rng.choice(YEAR_NOUNS),
                century=rng.integers(11, 20),
                start=start,
                end=rng.integers(start + 1, 100),
            )
            ids += [*self.encode(text), self.end]
        return self._row(np.array(ids[: self.n_ctx - 1]), np.ones(self.n_ctx, np.float32))

    def _row(self, ids: Tokens, weights: Weights) -> tuple[Tokens, Weights]:
        return np.concatenate([[self.end], ids]), weights


def story(rng: np.random.Generator, names: Sequence[str]) -> str:
    """One story about some of these names."""
    a, b, c = rng.choice(names, 3, replace=False)
    s, io = (a, b) if rng.random() < 0.5 else (b, a)
    template = f"{rng.choice(OPENINGS)} {rng.choice(ENDINGS)}"
    return template.format(A=a, B=b, C=c, S=s, IO=io, P=rng.choice(PLACES), O=rng.choice(OBJECTS))
