"""What the files beside a vocabulary say: which tokens were added, and which have a role."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from circuits.errors import TokenError, brief
from circuits.tokenizer.added import AddedToken
from circuits.tokenizer.roles import END_OF_TEXT, Roles, roles_by_name

SETTINGS, SPECIAL_MAP = "tokenizer_config.json", "special_tokens_map.json"
CONFIG, GENERATION = "config.json", "generation_config.json"
SETTINGS_FILES = (SETTINGS, SPECIAL_MAP, GENERATION)  # beside a checkpoint's own config.json
# The order in which transformers gives ids to tokens that its files name and the vocabulary lacks.
NAMED = tuple(f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_GPT2_NAMED = ("bos_token", "eos_token", "unk_token")  # END_OF_TEXT, where no file names another
_ANY_KIND = ("PreTrainedTokenizer", "TokenizersBackend")  # classes that read tokenizer.json alone
# Classes that split as GPT-2's, but add tokens of their own where no tokenizer.json has them.
_OF_GPT2_KIND = ("Roberta", "Bart", "LED", "Longformer", "CodeGen", "Blenderbot", "Deberta")
GPT2_END = 50256  # what transformers writes as start and end of GPT-2s of every vocabulary
Json = Mapping[str, Any]


@dataclass(frozen=True)
class Settings:
    """What the small files of a checkpoint's folder say; each is empty where it is missing."""

    tokenizer: Json
    special_map: Json
    config: Json
    generation: Json

    @classmethod
    def of(cls, folder: Path) -> Settings:
        """Read them.

        Raises:
            TokenError: when one is damaged.
        """
        names = (SETTINGS, SPECIAL_MAP, CONFIG, GENERATION)
        return cls(*(parse_file(folder / n) if (folder / n).is_file() else {} for n in names))

    @property
    def tokenizer_class(self) -> str | None:
        """The class of transformers that reads the vocabulary, without its suffix "Fast"."""
        name = self.tokenizer.get("tokenizer_class") or self.config.get("tokenizer_class")
        return str(name).removesuffix("Fast") if name else None

    @property
    def is_gpt2_class(self) -> bool:
        """Whether transformers builds the splitter itself, whatever tokenizer.json says of it."""
        return self.tokenizer_class not in _ANY_KIND

    def require_readable(self, folder: Path, *, has_json: bool) -> None:
        """Refuse a vocabulary that transformers reads otherwise; `has_json`: from a tokenizer.json.

        Raises:
            TokenError: for a class that splits otherwise, or special tokens that are read as text.
        """
        name = self.tokenizer_class
        same = (None, "GPT2Tokenizer", *(_ANY_KIND if has_json else ()))
        same += tuple(f"{kind}Tokenizer" for kind in _OF_GPT2_KIND if has_json)
        if name not in same:
            other = "; a tokenizer.json, which transformers writes, may be readable"
            raise TokenError(
                f"{folder} says tokenizer_class={brief(name)}, which splits texts in another way "
                "than "
                f"GPT-2's, or adds tokens of its own{'' if has_json else other}; give token ids "
                "instead"
            )
        if self.tokenizer.get("split_special_tokens"):
            raise TokenError(
                f"{folder / SETTINGS} sets split_special_tokens, which makes special tokens in a "
                "text letters like all others, and is not done here; set it to false, or give "
                "token ids"
            )

    def named(self) -> Iterator[tuple[str, str, Json | str | None]]:
        """File, name and token of each named token: what transformers goes by comes first."""
        legacy = "added_tokens_decoder" not in self.tokenizer
        files = [(SETTINGS, self.tokenizer), (SPECIAL_MAP, self.special_map)]
        for name in NAMED:
            for file, content in reversed(files) if legacy else files:
                if name in content:
                    yield file, name, content[name]

    def bare(self, listed: Mapping[str, int]) -> list[AddedToken]:
        """The tokens of an ``added_tokens.json``: special if they are named elsewhere."""
        names = {content_of(token) for _, _, token in self.named()}
        return [
            AddedToken(token, i, normalized=token not in names, special=token in names)
            for token, i in listed.items()
        ]

    def added(self, vocab: Mapping[str, int], listed: Sequence[AddedToken]) -> list[AddedToken]:
        """The tokens that are looked for in texts, with their ids.

        `listed` are those that the vocabulary's own files add.

        Raises:
            TokenError: when files contradict each other, or give an id that transformers, which
                numbers added tokens on from the vocabulary, does not give.
        """
        added = {token.content: token for token in self._declared(listed)}
        following = len(vocab)
        for token in sorted(added.values(), key=lambda token: token.id):
            right = vocab.get(token.content, following)
            if token.id != right:
                raise TokenError(
                    f"the added token {brief(token.content)} is said to have the id {token.id}, "
                    "and in "
                    f"a vocabulary of {len(vocab)} tokens it has {right}: transformers numbers "
                    "added tokens on from the vocabulary; correct the file that adds it"
                )
            following += token.content not in vocab
        for token, is_said in self._further(added):
            i = vocab.get(token.content, following)
            following += token.content not in vocab
            if is_said or token.content in vocab:
                added[token.content] = replace(token, id=i)
        return list(added.values())

    def _declared(self, listed: Sequence[AddedToken]) -> list[AddedToken]:
        """The tokens of `added_tokens_decoder` where it is given; otherwise `listed`."""
        decoder = self.tokenizer.get("added_tokens_decoder")
        if decoder is None:
            return list(listed)
        every = [added_token(token, int(i)) for i, token in decoder.items()]
        declared = {token.content: token for token in every}
        is_bare = listed == self.bare({token.content: token.id for token in listed})
        for token in listed:
            other = declared.get(token.content)
            if other is None and not self.is_gpt2_class:
                declared[token.content] = token
            elif other != token and not (is_bare and other and other.id == token.id):
                shown = "no such token" if other is None else f"the id {other.id}, {other.flags}"
                raise TokenError(
                    f"the vocabulary adds {brief(token.content)} with the id {token.id}, "
                    f"{token.flags}; "
                    f"{SETTINGS} has {shown}: correct one of them"
                )
        return list(declared.values())

    def _further(self, added: Mapping[str, AddedToken]) -> Iterator[tuple[AddedToken, bool]]:
        """Tokens that are named and not added yet, without ids, and whether a file names them."""
        seen = set(added)
        first: dict[str, Json | str | None] = {}
        for _, name, token in self.named():
            first.setdefault(name, token)
        further = [*(first.get(name, "") for name in NAMED), *self._extra()]
        for i, token in enumerate(further):
            is_said = token != ""
            if not is_said and self.is_gpt2_class and i < len(_GPT2_NAMED):
                token = END_OF_TEXT
            content = content_of(token)
            if content and content not in seen:
                seen.add(content)
                given = token if isinstance(token, Mapping) else {"content": content}
                yield added_token({**given, "special": True}, 0), is_said

    def _extra(self) -> list[Json | str]:
        """Special tokens that have no role's name."""
        legacy = "added_tokens_decoder" not in self.tokenizer
        for content in (self.special_map, self.tokenizer) if legacy else (self.tokenizer,):
            for key in ("extra_special_tokens", "additional_special_tokens"):
                if extra := content.get(key):
                    return list(extra.values() if isinstance(extra, Mapping) else extra)
        return []

    def roles(self, ids: Mapping[str, int], special: Mapping[str, int], adds_bos: bool) -> Roles:
        """Which tokens start, end and fill up a text, as far as any file says; or their names.

        Raises:
            TokenError: when two files give one role to different tokens; the message shows both.
        """
        guess = roles_by_name(special)
        said = {
            name: list(self._said(name, ids, special.values())) for name in ("bos", "eos", "pad")
        }
        bos, pad = (_single(name, said[name]) for name in ("bos", "pad"))
        ends = _ends(said["eos"])
        mute = {name for _, name, token in self.named() if not content_of(token)}  # said to be none
        if bos is None and "bos_token" not in mute:
            bos = guess.bos_id
        if pad is None and not (self.tokenizer or self.special_map):  # which would have said it
            pad = guess.pad_id
        if not ends and "eos_token" not in mute:
            ends = guess.eos_ids
        others = {name: content_of(token) for _, name, token in reversed([*self.named()]) if token}
        if ids.get(others.get("eos_token", "")) in (None, *ends[:1]):
            others.pop("eos_token", None)
        if others.get("unk_token") == END_OF_TEXT:  # as GPT-2's users take for granted
            others.pop("unk_token")
        named = {n: t for n, t in others.items() if n not in ("bos_token", "pad_token")}
        return Roles(bos, ends, pad, adds_bos, tuple(sorted(named.items())))

    def _said(
        self, role: str, ids: Mapping[str, int], special: Collection[int]
    ) -> Iterator[tuple[str, tuple[int, ...]]]:
        """The tokens that have this role, file by file.

        Where GPT-2's end of text is a piece of text, it is what transformers wrote unasked.
        """
        for file, name, token in self.named():
            if name == f"{role}_token" and content_of(token):
                yield file, (ids[content_of(token)],)
        files = ((CONFIG, self.config), (GENERATION, self.generation))
        for file, given in model_said(role, files):
            if GPT2_END not in given or GPT2_END in special:
                yield file, given


def model_roles(config: Json, generation: Json, guess: Roles | None = None) -> Roles:
    """The roles that a model's two configurations give; `guess` fills in what they leave open.

    Raises:
        TokenError: when the two contradict each other.
    """
    guess = guess or Roles()
    files = ((CONFIG, {**config}), (GENERATION, {**generation}))
    said = {role: list(model_said(role, files)) for role in ("bos", "eos", "pad")}
    bos, pad = (_single(role, said[role]) for role in ("bos", "pad"))
    return replace(
        guess,
        bos_id=guess.bos_id if bos is None else bos,
        eos_ids=_ends(said["eos"]) or guess.eos_ids,
        pad_id=guess.pad_id if pad is None else pad,
    )


def model_said(
    role: str, files: Iterable[tuple[str, Json]]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """What the model's own files say of a role; ids that the model does not embed say nothing."""
    files = list(files)
    size = next((c["vocab_size"] for _, c in files if isinstance(c.get("vocab_size"), int)), None)
    for file, content in files:
        given = content.get(f"{role}_token_id")
        listed = given if isinstance(given, list | tuple) else [] if given is None else [given]
        if bad := [i for i in listed if isinstance(i, bool) or not isinstance(i, int)]:
            raise TokenError(
                f"{file} has {role}_token_id={brief(given)}, of which {brief(bad[0])} is no id"
            )
        if valid := tuple(i for i in listed if i >= 0 and (size is None or i < size)):
            yield file, valid


def _single(role: str, said: Sequence[tuple[str, tuple[int, ...]]]) -> int | None:
    # What to generate with is asked last: transformers leaves it as it was when others change.
    said = [said_by for said_by in said if said_by[0] != GENERATION] or said
    for file, ids in said:
        if {*ids} != {*said[0][1]}:
            raise _contradiction(role, said[0], (file, ids))
    return said[0][1][0] if said else None


def _ends(said: Sequence[tuple[str, tuple[int, ...]]]) -> tuple[int, ...]:
    """The ends that `generate` of transformers knows: generation_config.json's, then config.json's.

    A file that has some of them agrees.
    """
    if not said:
        return ()
    last = said[-1]
    for other in said[:-1]:
        if not ({*other[1]} <= {*last[1]} or {*other[1]} >= {*last[1]}):
            raise _contradiction("eos", other, last)
    return last[1]


def _contradiction(
    role: str, first: tuple[str, tuple[int, ...]], second: tuple[str, tuple[int, ...]]
) -> TokenError:
    words = {"bos": "start", "eos": "end", "pad": "padding"}
    shown = " and ".join(f"{file} says {', '.join(map(str, ids))}" for file, ids in (first, second))
    return TokenError(
        f"the files of the checkpoint contradict each other about its {words[role]} token: {shown} "
        f"({role}_token, {role}_token_id); correct the one that is wrong"
    )


def content_of(token: Json | str | None) -> str:
    """The text of a token as the files write it: plain, or with its flags."""
    return str(token.get("content", "")) if isinstance(token, Mapping) else token or ""


def added_token(data: Json, i: int) -> AddedToken:
    """The added token that this entry of a file describes; what it leaves out is false.

    Raises:
        TokenError: when it is no such entry.
    """
    if not (isinstance(data, Mapping) and isinstance(data.get("content"), str)):
        raise TokenError(
            f"an added token should have a content and flags, and one is {brief(data)}"
        )
    flags = {name: bool(data.get(name, False)) for name in AddedToken("", 0).flags}
    return AddedToken(str(data["content"]), i, **flags)


def parse_file(path: Path) -> dict[str, Any]:
    """What a JSON file holds.

    Raises:
        TokenError: when it cannot be read, or holds no JSON object.
    """
    return parse(read_text(path), path)


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        TokenError: when it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenError(f"{path} cannot be read: {error}") from None


def parse(text: str, origin: object) -> dict[str, Any]:
    """What a JSON text says.

    Raises:
        TokenError: when it is damaged or no object.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TokenError(f"{origin} is not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise TokenError(f"{origin} should hold a JSON object, not a {type(data).__name__}")
    return data
