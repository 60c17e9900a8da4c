"""Byte-pair encoding: how files write a token's bytes, and of which two tokens one is made."""

from __future__ import annotations

from collections.abc import Mapping

from tiktoken_ext.openai_public import r50k_pat_str  # type: ignore[import-untyped]

# How a text is split before anything is merged: GPT-2's pattern, and one that keeps letters apart.
GPT2_PATTERN: str = r50k_pat_str
CHARACTERS = r"(?s:.)"
UNUSED = "<|unused_{}|>"  # how an id without a token is called


def split_token(ranks: Mapping[bytes, int], token: bytes) -> tuple[bytes, ...]:
    """The two tokens that this one is made of: byte-pair encoding that stops one merge short."""
    parts = [token[i : i + 1] for i in range(len(token))]
    last, rank_of = ranks[token], ranks.get
    pairs = [rank_of(token[i : i + 2], last) for i in range(len(token) - 1)]
    while len(parts) > 2:
        rank = min(pairs)
        if rank >= last:
            break
        i = pairs.index(rank)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
        del pairs[i]
        for j in range(max(i - 1, 0), min(i + 1, len(pairs))):  # what stands beside the new part
            pairs[j] = rank_of(parts[j] + parts[j + 1], last)
    return tuple(parts)


def to_bytes(token: str) -> bytes:
    """The bytes that a file means by this token."""
    return bytes(map(BYTE_OF.__getitem__, token))


def reads_as(token: str) -> bytes:
    """As `to_bytes`; nothing for a token with characters that stand for no byte."""
    return to_bytes(token) if BYTE_OF.keys() >= {*token} else b""


def to_chars(token: bytes) -> str:
    """These bytes as a file writes them: every byte is one printable character."""
    return "".join(map(CHAR_OF.__getitem__, token))


def _byte_chars() -> dict[str, int]:
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


BYTE_OF = _byte_chars()
CHAR_OF = {b: char for char, b in BYTE_OF.items()}
