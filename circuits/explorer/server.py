"""The server behind the page: two addresses, ``/`` for the page and ``/ask`` for its questions.

What comes in is bounded: the size of a request, how long its parts may take to arrive, how many
connections there are. What goes out is streamed as lines of JSON; when the page closes the
connection, its answer is not computed any further.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from circuits.errors import CircuitsError
from circuits.explorer.asked import MOST_BYTES, Asked, line, parsed, to_ask
from circuits.explorer.desk import Desk
from circuits.explorer.page import ExplorerPage
from circuits.explorer.security import Guard
from circuits.explorer.turns import Turns

PATIENCE = 10.0  # seconds for a request to arrive
LONGEST = 600.0  # seconds for an answer to be sent
MOST_UNREAD = 4  # lines that wait to be sent; whoever does not read them gets no more
PULSE = 0.5  # seconds after which a waiting page is told that the server is at work
LINES = "application/x-ndjson"


@dataclass(frozen=True)
class Room:
    """What the server serves: a desk and its turns, the page, and who may come in."""

    desk: Desk
    turns: Turns
    guard: Guard
    page: ExplorerPage
    patience: float = PATIENCE
    longest: float = LONGEST
    stopped: threading.Event = field(default_factory=threading.Event)


def app(room: Room) -> Starlette:
    """The ASGI application of this explorer."""

    async def page(request: Request) -> Response:
        refusal = room.guard.refusal(request.headers, request.url.query)
        headers = room.guard.headers(room.page.script_hash)
        if refusal is not None:
            return PlainTextResponse(refusal.why + "\n", refusal.status, room.guard.headers())
        return HTMLResponse(room.page.html, headers=headers)

    async def ask(request: Request) -> Response:
        refusal = room.guard.refusal(request.headers)
        if refusal is not None:
            return _refused(room.guard, refusal.status, refusal.why)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            return _refused(room.guard, 415, "a question is sent as application/json")
        try:
            body = await asyncio.wait_for(_body(request), room.patience)
            asked = Asked.read(parsed(body))
        except TooLarge as error:
            return _refused(room.guard, 413, str(error))
        except CircuitsError as error:
            return _refused(room.guard, 400, str(error))
        except asyncio.TimeoutError:
            return _refused(room.guard, 408, "the question did not arrive in time")
        except ClientDisconnect:
            return Response(status_code=400)
        headers = room.guard.headers() | {"x-accel-buffering": "no"}
        return StreamingResponse(_lines(room, asked), media_type=LINES, headers=headers)

    async def otherwise(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        more: Mapping[str, str] = getattr(error, "headers", None) or {}
        headers = room.guard.headers() | dict(more)
        return PlainTextResponse(HTTPStatus(status).phrase + "\n", status, headers)

    made = Starlette(
        routes=[Route("/", page, methods=["GET"]), Route("/ask", ask, methods=["POST"])],
        exception_handlers={HTTPException: otherwise, 500: otherwise},
    )
    made.router.redirect_slashes = False
    return made


class TooLarge(CircuitsError):
    """More than a request may hold."""


async def _body(request: Request) -> bytes:
    """What was sent, at most `MOST_BYTES` of it."""
    too_large = f"a question has at most {MOST_BYTES:,} bytes"
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > MOST_BYTES:
        raise TooLarge(too_large)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise TooLarge(too_large)
    return bytes(body)


def _refused(guard: Guard, status: int, why: str) -> Response:
    text = line({"error": why}) + "\n"
    headers = guard.headers()
    if status in (408, 413):  # the rest of what was sent is not read
        headers["connection"] = "close"
    return Response(text, status, headers, media_type=LINES)


async def _lines(room: Room, asked: Asked) -> AsyncIterator[str]:
    """The lines of the answer, as they come; a line of progress where none comes for a while."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[tuple[str, bool]] = asyncio.Queue()

    def say(text: str, is_last: bool) -> None:
        with suppress(RuntimeError):  # the server was closed meanwhile
            loop.call_soon_threadsafe(lines.put_nowait, (text, is_last))

    try:
        asking = room.turns.ask(to_ask(room.desk, asked, say, lambda: lines.qsize() < MOST_UNREAD))
    except CircuitsError as error:
        yield line({"error": str(error)}) + "\n"
        return
    n = 0
    giving_up = loop.call_later(room.longest, room.turns.drop, asking)
    try:
        while True:
            try:
                text, is_last = await asyncio.wait_for(lines.get(), PULSE)
                room.turns.wake()
            except asyncio.TimeoutError:
                if room.stopped.is_set():
                    return
                yield line({"progress": [n, None]}) + "\n"
                continue
            n += 1
            yield text + "\n"
            if is_last:
                return
    finally:
        giving_up.cancel()
        room.turns.drop(asking)
