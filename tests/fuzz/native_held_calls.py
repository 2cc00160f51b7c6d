"""Scenarios of calls of what the extension keeps for Python: fetches, pinned objects, sums, maps of files."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from fuzz.native_arguments import SMALL, Call, Draw, Ref

#: Files without a name: one of a page, and an empty one.
_PAGE, _EMPTY = os.memfd_create("page"), os.memfd_create("empty")
os.write(_PAGE, bytes(4096))


def answer(fetch: Any, where: Any, others: Any) -> Any:
    """Settles a fetch, twice."""
    if fetch is None:
        return where, others
    for _ in range(2):
        fetch.settle((fetch.keys, fetch.number, fetch.looks_again), None)
    return fetch.fetched, fetch.fault, fetch.settled, fetch.given_up, fetch.wait(0.0), fetch.order


def fail(*_: Any) -> Any:
    """Raises out of a call."""
    raise ValueError("out of the callback")


def leave(*given: Any) -> Any:
    """Lets go of what it is given."""
    return len(given)


def hand_over(fetches: Any, calls: int, fetch: Any, *_: Any) -> Any:
    """Hands a fetch over, and runs or drops what came of it, or neither, before the call ends."""
    if fetch is None or fetches is None:
        return None
    handed = fetches.hand_over(fetch, answer if calls % 2 else fail)
    for _ in range(calls // 2):
        (handed if calls % 3 else handed.drop)()
    return handed  # it may live longer than the call


def ask_again(fetches: Any, table: Any, fetch: Any, *_: Any) -> Any:
    """Asks for the same keys in the middle of a call."""
    return None if fetch is None or fetches is None else fetches.ask(table, fetch.keys, 0, answer)


def fetches(d: Draw) -> list[Call]:
    """Questions to the store that end well, fail, are handed over, or ask again."""
    r = d.random

    def one() -> Call:
        d.count = r.choice(SMALL)
        work = r.choice(
            (answer, leave, fail, partial(hand_over, Ref(0), r.randrange(6)), partial(ask_again, Ref(0), Ref(1)))
        )
        calls = (
            lambda: Call(".ask", (d.one(Ref(1)), d.keys(), d.one(0, 1, 5), d.one(work))),
            lambda: Call("FlightTable.touch", (Ref(1), d.keys())),
            lambda: Call(r.choice((".ended", ".__len__"))),
        )
        return r.choice((calls[0], *calls))()

    # In a child process the table is a new one as well.
    return [Call("Fetches"), Call("FlightTable"), *(one() for _ in range(r.choice((2, 5)))), Call(".reset")]


def pins(d: Draw) -> list[Call]:
    """Objects that are put in place while others are in use."""
    r = d.random

    def one() -> Call:
        calls = (
            lambda: Call(".use", (d.one(leave, fail), d.one(1))),
            lambda: Call(".put", (d.one("another", 7), d.one(True, False))),
            lambda: Call(r.choice((".now", ".number", ".calls", ".oldest"))),
            lambda: Call(".reset"),
        )
        return r.choice((*calls[:2], *calls))()

    return [Call("Pins", (d.one("first"),)), *(one() for _ in range(8))]


def gates(d: Draw) -> list[Call]:
    """Gates that are shared and left twice, or taken alone. Who has one already would wait for ever for another."""
    r = d.random
    if r.random() < 0.5:
        held = d.one(Ref(1), Ref(2))
        moves = [Call(f"Hold.{r.choice(('__enter__', '__exit__'))}", (held,)) for _ in range(5)]
        return [Call("SharedLock"), Call(".alone"), Call(".alone", (d.one(None, leave, fail, 3),)), *moves]
    held = d.one(Ref(1), Ref(2))
    leaves = [Call(f"Hold.{r.choice(('__enter__', '__exit__'))}", (held,)) for _ in range(4)]
    return [Call("SharedLock"), Call(".shared"), Call(".shared"), *leaves, Call(".shared")]


def tallies(d: Draw) -> list[Call]:
    """Sums by key."""

    def items() -> Any:
        return [
            d.one((d.one("a", "b", 3), tuple(d.one(1, 2, -5) for _ in range(d.random.choice((0, 1, 2, 2, 2))))))
            for _ in range(d.random.choice(SMALL))
        ]

    return [Call("Tally"), *(Call(".add", (d.one(items()),)) for _ in range(3)), Call(".read")]


def maps(d: Draw) -> list[Call]:
    """Files that are mapped, and looked at again."""
    return [
        Call("FileMap", (d.one(_PAGE, _PAGE, _EMPTY, -1, 1 << 20),)),
        Call(".problem"),
        Call(".accept", (d.one(0, 1, 2**62),)),
        Call(d.random.choice((".identity", ".changed_ns", ".__len__"))),
        Call("all_as_mapped", ([d.one(Ref(0), Ref(0), None) for _ in range(d.random.choice(SMALL))],)),
    ]


def file_locks(d: Draw) -> list[Call]:
    """Files that are locked and let go of, twice, or by nobody; some are not there, or no files."""
    r = d.random
    flags = os.O_RDONLY | r.choice((0, os.O_NONBLOCK, os.O_NOFOLLOW, os.O_DIRECTORY, os.O_TRUNC))
    path = d.one(f"/proc/self/fd/{_PAGE}", f"/proc/self/fd/{_EMPTY}", "/proc/self/fd", "/nowhere", b"/proc", "a\0b")
    moves = [Call(f".{r.choice(('__enter__', '__exit__'))}") for _ in range(r.choice((1, 4)))]
    return [Call("FileLock", (path, flags, False)), *moves]
