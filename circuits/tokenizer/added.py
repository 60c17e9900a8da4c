"""Added tokens: the pieces of a text that are tokens as they stand, before anything is merged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import regex

# What Rust's regular expressions, with which `tokenizers` looks, call a word character and a space.
_WORD = regex.compile(r"[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]")
_SPACES_AFTER = regex.compile(r"\p{White_Space}*+")


@dataclass(frozen=True)
class AddedToken:
    """A text that is one token wherever it stands, and how far that goes.

    The flags are those of ``tokenizers.AddedToken``: `lstrip` and `rstrip` swallow the white space
    before and behind it, `single_word` leaves it alone inside a word, and a `normalized` one is
    looked for after those that are not. `special` ones are no text to a reader.
    """

    content: str
    id: int
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False
    special: bool = True

    @property
    def flags(self) -> dict[str, bool]:
        """Its flags by name, as Hugging Face's files have them."""
        names = ("lstrip", "rstrip", "single_word", "normalized", "special")
        return {name: bool(getattr(self, name)) for name in names}

    @property
    def is_plain(self) -> bool:
        """Whether it is looked for as it stands, and before others."""
        return not (self.lstrip or self.rstrip or self.single_word or self.normalized)


class AddedTokens:
    """Finds the added tokens in a text.

    As in ``tokenizers``: the first place counts, and of several tokens that begin there the
    longest; what is not `normalized` is looked for first, the others in what is left.

    >>> added = AddedTokens([AddedToken("COVID", 7), AddedToken("COVID-19", 8)])
    >>> list(added.split("a COVID-19 COVID"))
    ['a ', 8, ' ', 7]
    """

    def __init__(self, tokens: Iterable[AddedToken]) -> None:
        every = [token for token in tokens if token.content]
        self._passes = [
            _Pass([token for token in every if token.normalized == late]) for late in (False, True)
        ]

    def split(self, text: str) -> Iterator[str | int]:
        """The text in order: the ids of added tokens, and the texts between them."""
        first, second = self._passes
        for piece in first.split(text):
            if isinstance(piece, int):
                yield piece
            else:
                yield from second.split(piece)


class _Pass:
    """One search for a set of tokens."""

    def __init__(self, tokens: list[AddedToken]) -> None:
        self._tokens = {token.content: token for token in tokens}
        longest_first = sorted(self._tokens, key=len, reverse=True)
        self._pattern = regex.compile("|".join(map(regex.escape, longest_first)))

    def split(self, text: str) -> Iterator[str | int]:
        if not self._tokens:
            yield from [text] if text else []
            return
        done = 0
        for match in self._pattern.finditer(text):
            token, (start, stop) = self._tokens[match.group()], match.span()
            if token.single_word and _inside_word(text, start, stop):
                continue
            if token.lstrip:
                start = max(_spaces_from(text, start), done)
            if token.rstrip:
                stop = _SPACES_AFTER.match(text, stop).end()
            if done < start:
                yield text[done:start]
            if start < stop:  # otherwise the token before has swallowed it
                yield token.id
            done = stop
        if done < len(text):
            yield text[done:]


def _inside_word(text: str, start: int, stop: int) -> bool:
    before, behind = text[max(start - 1, 0) : start], text[stop : stop + 1]
    return any(_WORD.match(char) for char in (before, behind) if char)


def _spaces_from(text: str, end: int) -> int:
    """Where the white space begins that ends here."""
    while end and _SPACES_AFTER.fullmatch(text[end - 1]):
        end -= 1
    return end
