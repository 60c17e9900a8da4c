"""One thread computes, and whoever asks gets turns, a piece at a time.

An answer is an iterator of pieces. Between two pieces it can be put aside for another's, or be
dropped because nobody waits for it any more: the same client asked something newer in the same
slot, or has left. Of several clients the one that was computed for least has the next turn, so that
none can starve another; of one client's asks those that cost little so far come first, and of those
the one asked first.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from circuits.errors import CircuitsError

Said = TypeVar("Said")
How = Literal["done", "error", "stale", "gone", "late"]

LEVELS = (0.1, 1.0)  # seconds of computing after which an ask stands behind cheaper ones
MOST_OF_A_CLIENT, MOST = 32, 256  # asks that wait at the same time
LONGEST = 120.0  # seconds of computing for one ask
IDLE = 60.0  # seconds without any ask after which the thread ends, until the next one

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ended:
    """How an answer ended, and how many seconds were computed for it.

    It is ``done``; or an ``error`` in a sentence; or ``stale``, as the client asked something newer
    in its slot; or the client is ``gone``; or it was too ``late``, having computed for too long.
    """

    how: How
    seconds: float
    error: str = ""


@dataclass(eq=False)
class Ask(Generic[Said]):
    """What a client asks in one of its slots.

    Attributes:
        client: who asks, such as one tab of a browser.
        slot: what the answer is for; a newer ask in the same slot makes this one stale.
        answer: begins to answer; the iterator's next piece is computed at this ask's turn.
        tell: is called with every piece, in the thread that computes.
        end: is called once, when no further piece comes.
        has_room: whether another piece can be told; it waits while there is none, until
            `Turns.wake`.
    """

    client: str
    slot: str
    answer: Callable[[], Iterator[Said]]
    tell: Callable[[Said], None]
    end: Callable[[Ended], None]
    has_room: Callable[[], bool] = lambda: True
    seconds: float = 0.0
    _pieces: Iterator[Said] | None = None
    _dropped: How | None = None

    @property
    def level(self) -> int:
        """How dear it was so far; what is cheap comes first."""
        return sum(self.seconds > most for most in LEVELS)

    def drop(self, how: Literal["stale", "gone"] = "gone") -> None:
        """Nobody waits for it: its next piece is not computed."""
        self._dropped = self._dropped or how

    def turn(self, longest: float) -> bool:
        """Compute one piece, and say it; whether another may follow."""
        if self._dropped is not None:
            return self._ended(self._dropped)
        start = time.perf_counter()
        try:
            if self._pieces is None:
                self._pieces = iter(self.answer())
            piece = next(self._pieces)
        except StopIteration:
            self.seconds += time.perf_counter() - start
            return self._ended("done")
        except CircuitsError as error:
            self.seconds += time.perf_counter() - start
            return self._ended("error", str(error))
        except Exception as error:
            _logger.exception("an answer broke off")
            what = f"{type(error).__name__}: {error}"
            return self._ended("error", f"computing this failed inside of circuits ({what})")
        self.seconds += time.perf_counter() - start
        if self._dropped is not None:
            return self._ended(self._dropped)
        self.tell(piece)
        if self.seconds > longest:
            return self._ended("late", f"stopped after {longest:g} seconds of computing")
        return True

    def _ended(self, how: How, error: str = "") -> Literal[False]:
        close = getattr(self._pieces, "close", None)
        self._pieces = None
        try:
            if close is not None:
                close()  # here, in the thread that computed: hooks are a thread's
        except Exception:
            _logger.exception("an answer could not be closed")
        self.end(Ended(how, self.seconds, error))
        return False


@dataclass(eq=False)
class _Client:
    """What waits for one client, and the seconds that count when turns are given."""

    spent: float
    asks: list[Ask[Any]] = field(default_factory=list)


class Turns:
    """A thread that computes what is asked, until it is closed.

    It begins with an ask, and ends when none waits for `idle` seconds: what is forgotten without
    being closed, such as the page of a notebook's cell that was run again, keeps no thread.

    >>> import queue
    >>> said = queue.Queue()
    >>> with Turns() as turns:
    ...     _ = turns.ask(Ask("me", "read", lambda: iter("ab"), said.put, said.put))
    ...     [said.get(timeout=9), said.get(timeout=9), said.get(timeout=9).how]
    ['a', 'b', 'done']
    """

    def __init__(self, longest: float = LONGEST, idle: float = IDLE) -> None:
        self.longest, self.idle = longest, idle
        self._clients: dict[str, _Client] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Turns:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, asked: Ask[Said]) -> Ask[Said]:
        """Let it wait for its turns; what this client asked before in this slot is stale now.

        Raises:
            CircuitsError: if too much waits already, or nothing is answered any more.
        """
        with self._changed:
            if self._closed:
                raise CircuitsError("this explorer was closed and answers nothing; open another")
            waiting = self._clients.get(asked.client, _Client(0.0)).asks
            newer = [ask for ask in waiting if ask.slot != asked.slot]
            if len(newer) >= MOST_OF_A_CLIENT or self._n_waiting >= MOST:
                raise CircuitsError("too many questions wait for an answer; ask again later")
            for ask in waiting:
                if ask.slot == asked.slot:
                    ask.drop("stale")
            if asked.client not in self._clients:
                # Whoever comes has no claim to the time that others had before.
                least = min((client.spent for client in self._clients.values()), default=0.0)
                self._clients[asked.client] = _Client(least)
            self._clients[asked.client].asks.append(asked)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name="circuits explorer", daemon=True
                )
                self._thread.start()
            self._changed.notify()
        return asked

    def drop(self, asked: Ask[Any]) -> None:
        """Nobody waits for it any more: its next piece is not computed. Nothing, if it ended."""
        with self._changed:
            asked.drop()
            self._changed.notify()

    def wake(self) -> None:
        """Look again for what can be computed: an ask that had no room may have some."""
        with self._changed:
            self._changed.notify()

    @property
    def _n_waiting(self) -> int:
        return sum(len(client.asks) for client in self._clients.values())

    def close(self, patience: float = 10.0) -> None:
        """Answer nothing any more, and wait so many seconds for the piece that is being computed.

        What waits ends as gone.
        """
        with self._changed:
            self._closed = True
            for client in self._clients.values():
                for ask in client.asks:
                    ask.drop()
            self._changed.notify()
            working = self._thread
        if working is not None and threading.current_thread() is not working:
            working.join(patience)

    def _work(self) -> None:
        while (chosen := self._next()) is not None:
            name, ask = chosen
            before = ask.seconds
            goes_on = ask.turn(self.longest)
            with self._changed:
                client = self._clients[name]
                client.spent += ask.seconds - before
                if not goes_on:
                    client.asks.remove(ask)
                if not client.asks:
                    del self._clients[name]

    def _next(self) -> tuple[str, Ask[Any]] | None:
        """Whose turn it is; waits until there is something to do. None if the thread ends."""
        with self._changed:
            while True:
                waiting = [(name, ask) for name, c in self._clients.items() for ask in c.asks]
                for name, ask in waiting:
                    if ask._dropped is not None:  # costs nothing, and somebody waits to hear it
                        return name, ask
                if self._closed:
                    self._thread = None
                    return None
                able = [(name, ask) for name, ask in waiting if ask.has_room()]
                if able:
                    return min(able, key=self._order)
                if not self._changed.wait(self.idle) and not self._clients:
                    self._thread = None
                    return None

    def _order(self, waiting: tuple[str, Ask[Any]]) -> tuple[float, int]:
        """The client that was computed for least, and of its asks the cheapest; then the oldest."""
        name, ask = waiting
        return self._clients[name].spent, ask.level
