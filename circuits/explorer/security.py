"""Who may ask: the token, the names this server answers to, and the headers of every answer.

A page of another site can make a browser send requests to this machine, or point a name of its own
at it (DNS rebinding). So a request has to know the token; it has to be addressed to a name that is
this server's; and what comes from a page has to come from this server's own.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qs

from circuits.errors import CircuitsError, brief

HEADER = "x-circuits-token"
EVERYWHERE = ("0.0.0.0", "::")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,128}")
_POLICY = (
    "default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; connect-src 'self'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors {frames}"
)


@dataclass(frozen=True)
class Refusal:
    """Why a request is not answered: the status of HTTP, and a sentence."""

    status: Literal[400, 403, 421]
    why: str


def chosen_token(given: str | None) -> str:
    """The token that was given, or a fresh one.

    >>> len(chosen_token(None)), chosen_token("a-token-of-my-own")
    (32, 'a-token-of-my-own')

    Raises:
        CircuitsError: for one that can be guessed, or cannot stand in an address.
    """
    if given is None:
        return secrets.token_urlsafe(24)
    if not _TOKEN.fullmatch(given):
        raise CircuitsError(
            f"a token of {len(given)} characters: give 16 to 128 letters, digits, - and _; without "
            "one, a fresh one is drawn"
        )
    return given


@dataclass(frozen=True)
class Guard:
    """What a request must show.

    Attributes:
        token: what the address of the page has after ``?token=``.
        host: what the server was bound to. A request has to be addressed to it, or to localhost;
            if it is all of the machine's addresses, to any address in numbers or the machine's own
            name: a rebound name is neither.
        framed: whether a page of this machine, such as a notebook, may show the page in a frame.
    """

    token: str = field(repr=False)
    host: str = "127.0.0.1"
    framed: bool = False

    def refusal(self, headers: Mapping[str, str], query: str | None = None) -> Refusal | None:
        """Why a request with these headers is refused; None if it may be answered.

        The token is looked for in the address's `query`, or, where that is None, in its header: no
        page of another site can send that.
        """
        host = headers.get("host", "")
        if not self._is_ours(host):
            return Refusal(421, f"this server is not {brief(host)}; use the address it printed")
        origin = headers.get("origin")
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            return Refusal(403, f"a page of {brief(origin)} may not ask this server")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and query is None:
            return Refusal(403, "a page of another site may not ask this server")
        given = headers.get(HEADER, "") if query is None else _token_in(query)
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            return Refusal(
                403, "the token is missing or wrong: open the address that `circuits explore` shows"
            )
        return None

    def _is_ours(self, host: str) -> bool:
        try:
            name = _name(host)
        except ValueError:
            return False
        if name in ("localhost", "127.0.0.1", "::1", self.host.lower()):
            return True
        if self.host not in EVERYWHERE:
            return False
        return _is_address(name) or name in (socket.gethostname().lower(), socket.getfqdn().lower())

    def headers(self, script_hash: str | None = None) -> dict[str, str]:
        """The headers of an answer; a page's script is known by its hash."""
        frames = "http://localhost:* http://127.0.0.1:* vscode-webview:"
        policy = _POLICY.format(
            scripts="'none'" if script_hash is None else f"'{script_hash}'",
            frames=frames if self.framed else "'none'",
        )
        always = {
            "content-security-policy": policy,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cache-control": "no-store",
            "cross-origin-opener-policy": "same-origin",
            "cross-origin-resource-policy": "cross-origin" if self.framed else "same-origin",
            "permissions-policy": "camera=(), microphone=(), geolocation=()",
        }
        return always if self.framed else {**always, "x-frame-options": "DENY"}


def _token_in(query: str) -> str:
    try:
        given = parse_qs(query, max_num_fields=10).get("token", [])
    except ValueError:
        return ""
    return given[0] if len(given) == 1 else ""


def _name(host: str) -> str:
    """The name or address of a Host header, without its port.

    Raises:
        ValueError: if it is none.
    """
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+)(:\d{1,5})?", host, re.ASCII)
    if match is None:
        raise ValueError
    return match[1].strip("[]").lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def warning_of(host: str) -> str | None:
    """What binding to this host means, where others can reach it; None if nobody can.

    >>> warning_of("127.0.0.1") is None, "anybody" in warning_of("0.0.0.0")
    (True, True)
    """
    if host in ("localhost", "::1") or (_is_address(host) and _is_loopback(host)):
        return None
    return (
        f"--host {host}: anybody who reaches this machine over the network, and learns the address "
        "with its token, can ask this model anything and use this machine's time; what is sent is "
        "not encrypted"
    )


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host).is_loopback
