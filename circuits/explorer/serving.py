"""Run the server: in the foreground of a terminal, or in a thread behind a notebook."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from circuits.errors import CircuitsError
from circuits.explorer.desk import Desk
from circuits.explorer.page import ExplorerPage
from circuits.explorer.security import EVERYWHERE, Guard, chosen_token
from circuits.explorer.server import PATIENCE, Room, app
from circuits.explorer.turns import Turns

MOST_CONNECTIONS = 100
GRACE = 1  # seconds that answers under way have to end, when the server is stopped
BACKGROUND = 10.0  # seconds that a server in a thread has to start and to stop


@dataclass(frozen=True)
class Place:
    """Where a server can be reached: `port` 0 takes any that is free."""

    host: str = "127.0.0.1"
    port: int = 0
    token: str | None = None
    framed: bool = False


@dataclass(eq=False)
class Serving:
    """A server that runs, or is about to.

    Attributes:
        url: the page's address, with the token.
        port: that it listens on.
        room: what is served.
    """

    url: str = field(repr=False)  # who knows it may ask
    port: int
    room: Room
    _server: Server
    _socket: socket.socket
    _thread: threading.Thread | None = None

    def run(self, begun: Callable[[], object] = lambda: None) -> None:
        """Serve until Ctrl-C, in this thread; `begun` is called when the page can be opened.

        Raises:
            KeyboardInterrupt: after Ctrl-C, when all is closed.
        """

        async def serve() -> None:
            telling = asyncio.create_task(self._tell(begun))
            try:
                await self._server.serve(sockets=[self._socket])
            finally:
                telling.cancel()

        try:
            asyncio.run(serve())
        finally:
            self.room.turns.close()

    async def _tell(self, begun: Callable[[], object]) -> None:
        while not self._server.started:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(begun)  # a browser may take its time

    def start(self) -> None:
        """Serve in a thread of its own, until `close`."""
        ready = threading.Event()
        self._thread = threading.Thread(
            target=lambda: self.run(ready.set), name="circuits server", daemon=True
        )
        self._thread.start()
        if not ready.wait(BACKGROUND):
            raise CircuitsError("the server did not start; see what is written above")

    def close(self) -> None:
        """Stop serving; what was asked is not answered any more."""
        self._server.should_exit = True
        self.room.turns.close()
        if self._thread is not None:
            self._thread.join(BACKGROUND)
        self._socket.close()


def serving(desk: Desk, page: ExplorerPage, place: Place = Place()) -> Serving:
    """A server for this desk, bound to its place but not yet serving.

    Raises:
        CircuitsError: if the host or the port cannot be had, or the token can be guessed.
    """
    token = chosen_token(place.token)
    bound = _bound(place)
    guard = Guard(token, place.host, place.framed)
    room = Room(desk, Turns(), guard, page)
    options: dict[str, Any] = {
        "http": Patient,
        "ws": "none",
        "lifespan": "off",
        "log_level": "error",
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "limit_concurrency": MOST_CONNECTIONS,
        "timeout_graceful_shutdown": GRACE,
    }
    server = Server(uvicorn.Config(app(room), **options), room)
    port = bound.getsockname()[1]
    return Serving(f"http://{_shown(place.host)}:{port}/?token={token}", port, room, server, bound)


def _bound(place: Place) -> socket.socket:
    """A socket that listens there."""
    if not 0 <= place.port <= 65535:
        raise CircuitsError(f"port={place.port}: choose 1 to 65535, or 0 for any that is free")
    try:
        family, address = _address(place.host, place.port)
    except (OSError, UnicodeError):
        raise CircuitsError(
            f"host={place.host!r} is no name or address of this machine; 127.0.0.1 is this machine "
            "alone, 0.0.0.0 all of its addresses"
        ) from None
    # TCP by name: asyncio sends small pieces at once only on a socket that says so; without it each
    # piece waits up to 40 ms for the browser to acknowledge the one before.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        # What the port was used for before may linger; another server that listens is an error.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(MOST_CONNECTIONS)
    except OSError as error:
        bound.close()
        why = (error.strerror or str(error)).lower()
        raise CircuitsError(
            f"port {place.port} of {place.host} cannot be had: {why}; choose another port, or 0 "
            "for any that is free"
        ) from None
    bound.setblocking(False)
    return bound


def _address(host: str, port: int) -> tuple[int, tuple[Any, ...]]:
    """The address as sockets take it; a name is looked up, a number needs no looking up."""
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][::4]
    return (socket.AF_INET if version == 4 else socket.AF_INET6), (host, port)


def _shown(host: str) -> str:
    """The host as it stands in an address that a browser of this machine can open."""
    host = "127.0.0.1" if host in EVERYWHERE else host
    return f"[{host}]" if ":" in host else host


class Server(uvicorn.Server):
    """A server that ends its answers itself, where uvicorn would cancel them and complain."""

    def __init__(self, config: uvicorn.Config, room: Room) -> None:
        super().__init__(config)
        self._room = room

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let answers end, and close what is still open after a while."""
        self._room.stopped.set()
        loop = asyncio.get_running_loop()
        latest = loop.time() + GRACE
        while self.server_state.tasks and loop.time() < latest:
            await asyncio.sleep(0.02)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await super().shutdown(sockets)


class Patient(H11Protocol):
    """HTTP whose connections have to come to the point: uvicorn's own wait for ever for headers."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait so long for the first request's headers, and no longer."""
        super().connection_made(transport)
        self._hurry = self.loop.call_later(PATIENCE, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._hurry.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Wait so long for the next request's headers."""
        super().on_response_complete()
        self._hurry.cancel()
        self._hurry = self.loop.call_later(PATIENCE, self._give_up)

    def _give_up(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
