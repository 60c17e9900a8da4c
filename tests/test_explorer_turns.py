"""Who is computed for next: nobody starves, and nothing is computed that nobody waits for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from circuits.errors import CircuitsError
from circuits.explorer.turns import MOST_OF_A_CLIENT, Ask, Ended, Turns

PATIENCE = 20.0


class Gate:
    """Pieces that come only when they are let through."""

    def __init__(self, n: int = 1000) -> None:
        self.n, self.begun, self.closed = n, threading.Semaphore(0), threading.Event()
        self.let = threading.Semaphore(0)

    def __call__(self) -> Iterator[int]:
        try:
            for i in range(self.n):
                self.begun.release()
                assert self.let.acquire(timeout=PATIENCE)
                yield i
        finally:
            self.closed.set()


class Said:
    """What was said of one ask, in order."""

    def __init__(self) -> None:
        self.queue: queue.Queue[Any] = queue.Queue()

    def __call__(self, what: Any) -> None:
        self.queue.put(what)

    def next(self) -> Any:
        return self.queue.get(timeout=PATIENCE)

    def all(self) -> list[Any]:
        said = [self.next()]
        while not isinstance(said[-1], Ended):
            said.append(self.next())
        return said


@pytest.fixture
def turns() -> Iterator[Turns]:
    with Turns() as opened:
        yield opened


def ask(turns: Turns, client: str, slot: str, answer: Callable[[], Iterator[Any]]) -> Said:
    said = Said()
    turns.ask(Ask(client, slot, answer, said, said))
    return said


def test_pieces_come_in_order_and_then_the_end(turns: Turns) -> None:
    said = ask(turns, "a", "read", lambda: iter("xyz")).all()
    assert said[:3] == ["x", "y", "z"]
    assert said[3].how == "done"
    assert said[3].seconds >= 0


def test_everything_is_computed_in_one_thread_that_is_not_ours(turns: Turns) -> None:
    threads = [
        ask(turns, client, "read", lambda: iter([threading.get_ident()])).all()[0]
        for client in "abc"
    ]
    # A generator's body runs at its turn; its making does, too.
    made = ask(turns, "a", "read", lambda: (threading.get_ident() for _ in range(1))).all()[0]
    assert made != threading.get_ident()
    assert len(set(threads)) == 1


def test_a_newer_ask_in_the_slot_drops_the_older_before_its_next_piece(turns: Turns) -> None:
    old = Gate()
    said = ask(turns, "a", "map", old)
    old.let.release()
    assert said.next() == 0
    assert old.begun.acquire(timeout=PATIENCE)
    assert old.begun.acquire(timeout=PATIENCE)  # its second piece is being computed
    newer = ask(turns, "a", "map", lambda: iter(["new"]))
    old.let.release()
    assert said.next().how == "stale"  # and the second piece is not said
    assert old.closed.is_set()
    assert newer.all()[0] == "new"
    assert not old.begun.acquire(blocking=False)  # a third was not begun


def test_other_slots_and_other_clients_go_on(turns: Turns) -> None:
    gate = Gate(3)
    said = ask(turns, "a", "map", gate)
    ask(turns, "a", "read", lambda: iter([1]))
    ask(turns, "b", "map", lambda: iter([1]))
    for i in range(3):
        gate.let.release()
        assert said.next() == i


def test_whoever_left_is_not_computed_for(turns: Turns) -> None:
    gate, said = Gate(), Said()
    asked = turns.ask(Ask("a", "map", gate, said, said))
    assert gate.begun.acquire(timeout=PATIENCE)
    asked.drop()
    gate.let.release()
    assert said.next().how == "gone"
    assert gate.closed.is_set()


def test_what_was_dropped_before_its_turn_is_never_begun(turns: Turns) -> None:
    busy, begun = Gate(1), []
    ask(turns, "b", "map", busy)
    assert busy.begun.acquire(timeout=PATIENCE)
    said = Said()
    turns.ask(Ask("a", "x", lambda: iter(begun.append(1) or []), said, said)).drop()
    busy.let.release()
    assert said.next().how == "gone"
    assert begun == []


def slow(n: int, clock: list[str], name: str) -> Callable[[], Iterator[int]]:
    """Pieces of some milliseconds."""

    def answer() -> Iterator[int]:
        for i in range(n):
            threading.Event().wait(0.004)
            clock.append(name)
            yield i

    return answer


def test_of_two_clients_none_starves(turns: Turns) -> None:
    clock: list[str] = []
    gate = Gate(1)
    ask(turns, "c", "x", gate)  # nothing moves until all have asked
    assert gate.begun.acquire(timeout=PATIENCE)
    many = [ask(turns, "a", f"slot {i}", slow(10, clock, "a")) for i in range(10)]
    few = ask(turns, "b", "read", slow(10, clock, "b"))
    gate.let.release()
    assert few.all()[-1].how == "done"
    at = max(i for i, name in enumerate(clock) if name == "b")
    assert clock[: at + 1].count("a") <= 25  # about one of a's for one of b's, of 100
    assert all(said.all()[-1].how == "done" for said in many)


def test_many_small_pieces_count_as_much_as_one_large(turns: Turns) -> None:
    clock: list[str] = []

    def large() -> Iterator[int]:
        for i in range(5):
            threading.Event().wait(0.08)
            clock.append("large")
            yield i

    said = ask(turns, "a", "map", large)
    assert said.next() == 0
    assert ask(turns, "b", "read", slow(12, clock, "b")).all()[-1].how == "done"
    # By pieces in turn all five would have come; by time about one does.
    assert clock.count("large") <= 4
    said.all()


def test_of_one_clients_asks_a_cheap_one_overtakes_a_dear_one(turns: Turns) -> None:
    gate, done = Gate(), Said()

    def dear() -> Iterator[int]:
        threading.Event().wait(0.15)
        yield from gate()

    said = ask(turns, "a", "map", dear)
    gate.let.release()
    assert said.next() == 0
    assert gate.begun.acquire(timeout=PATIENCE)
    assert gate.begun.acquire(timeout=PATIENCE)  # at its second piece
    turns.ask(Ask("a", "head", lambda: iter(range(20)), done, done))
    gate.let.release()
    assert done.all()[:20] == list(range(20))  # the dear one's third piece waits for the gate
    gate.let.release(1000)


def test_cheap_ones_are_answered_in_the_order_they_were_asked_in(turns: Turns) -> None:
    order: list[str] = []
    gate = Gate(1)
    ask(turns, "a", "first", gate)
    assert gate.begun.acquire(timeout=PATIENCE)
    last = None
    for slot in ("read", "attention", "lens"):
        last = ask(turns, "a", slot, lambda slot=slot: iter([order.append(slot)] * 3))
    gate.let.release()
    assert last is not None
    last.all()
    assert order == ["read", "attention", "lens"]


def test_an_error_is_a_sentence_and_the_thread_goes_on(
    turns: Turns, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong() -> Iterator[int]:
        yield 1
        raise CircuitsError("give a token")

    def broken() -> Iterator[int]:
        yield 1 // 0

    def stuck() -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            raise OSError("cannot close")

    assert ask(turns, "a", "x", wrong).all()[1].error == "give a token"
    assert "ZeroDivisionError" in ask(turns, "a", "x", broken).all()[0].error
    assert "an answer broke off" in caplog.text  # with its traceback, for whoever runs the server
    said = Said()
    asked = Ask("a", "x", stuck, lambda piece: asked.drop() if piece == 1 else None, said)
    turns.ask(asked)
    assert said.next().how == "gone"
    assert ask(turns, "a", "x", lambda: iter([5])).all()[0] == 5


def test_no_answer_computes_for_ever() -> None:
    def endless() -> Iterator[int]:
        while True:
            threading.Event().wait(0.01)
            yield 0

    with Turns(longest=0.05) as turns:
        end = ask(turns, "a", "x", endless).all()[-1]
    assert (end.how, end.error) == ("late", "stopped after 0.05 seconds of computing")
    assert end.seconds < 1


def test_a_client_can_only_ask_so_much_at_a_time(turns: Turns) -> None:
    gate = Gate(1)
    ask(turns, "a", "first", gate)
    for i in range(MOST_OF_A_CLIENT - 1):
        ask(turns, "a", str(i), lambda: iter([1]))
    with pytest.raises(CircuitsError, match="too many questions wait"):
        ask(turns, "a", "one more", lambda: iter([1]))
    again = ask(turns, "a", "0", lambda: iter([2]))  # in the place of an older one
    other = ask(turns, "b", "x", lambda: iter([3]))
    gate.let.release()
    assert again.all()[0] == 2
    assert other.all()[0] == 3


def test_closing_ends_what_waits_and_refuses_what_comes() -> None:
    turns, gate = Turns(), Gate()
    said, waits = ask(turns, "a", "map", gate), ask(turns, "b", "map", Gate())
    thread = turns._thread
    assert thread is not None
    assert gate.begun.acquire(timeout=PATIENCE)
    gate.let.release()
    gate.let.release()
    turns.close()
    assert said.all()[-1].how == "gone"
    assert waits.all()[-1].how == "gone"
    assert gate.closed.is_set()
    assert not thread.is_alive()
    with pytest.raises(CircuitsError, match="was closed"):
        ask(turns, "a", "x", lambda: iter([1]))
    turns.close()


def test_the_thread_ends_when_nothing_is_asked_and_begins_again() -> None:
    with Turns(idle=0.05) as turns:
        assert turns._thread is None
        for _ in range(2):
            gate = Gate(1)
            said = ask(turns, "a", "read", gate)
            thread = turns._thread
            assert thread is not None
            assert gate.begun.acquire(timeout=PATIENCE)
            gate.let.release()
            assert said.all()[-1].how == "done"
            thread.join(PATIENCE)
            assert not thread.is_alive()


def test_what_has_no_room_waits_and_keeps_nobody_waiting(turns: Turns) -> None:
    room, computed, said = threading.Event(), queue.Queue[int](), Said()

    def answer() -> Iterator[int]:
        for i in range(3):
            computed.put(i)
            yield i

    turns.ask(Ask("a", "map", answer, said, said, room.is_set))
    assert ask(turns, "b", "read", lambda: iter("xy")).all()[:2] == ["x", "y"]
    assert computed.empty()
    room.set()
    turns.wake()
    assert said.all()[:3] == [0, 1, 2]


def test_what_has_no_room_can_be_dropped(turns: Turns) -> None:
    said = Said()
    asked = turns.ask(Ask("a", "map", lambda: iter("x"), said, said, lambda: False))
    turns.drop(asked)
    assert said.next().how == "gone"
    turns.drop(asked)  # nothing, as it ended
