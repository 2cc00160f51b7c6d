"""Finalizers that run inside calls of the extension, where these make a tuple, and what others do meanwhile."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from interrupting import PATIENCE_S

from pepnet_infer import _kernels

pytestmark = pytest.mark.concurrency

#: How many lists and tuples are made before garbage is collected: the calls here make fewer than there are of these.
SOON = range(12)


class _Garbage:
    """Is only found by a collection, and then calls something, once."""

    def __init__(self, finalizer: Callable[[], object]) -> None:
        self._me, self._finalizer = self, finalizer

    def __del__(self) -> None:
        self._finalizer()


@contextmanager
def collection_after(made: int, finalizer: Callable[[], object]) -> Iterator[None]:
    threshold = gc.get_threshold()
    gc.collect()
    gc.disable()
    try:
        _Garbage(finalizer)
        gc.set_threshold(gc.get_count()[0] + made)
        gc.enable()
        yield
    finally:
        gc.set_threshold(*threshold)
        gc.enable()
        gc.collect()


@pytest.mark.parametrize("made", SOON)
def test_a_fetch_joins_another_that_ends_while_it_does(made: int) -> None:
    fetches, table = _kernels.Fetches(), _kernels.FlightTable()
    keys = np.arange(3, dtype=np.uint64)
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    joined: list[_kernels.Fetch] = []

    def fetch(mine: _kernels.Fetch | None, at: object, others: list[tuple[_kernels.Fetch, object]]) -> None:
        assert mine is not None
        begun.set()
        assert go_on.wait(PATIENCE_S)
        mine.settle(None, None)

    def first() -> None:
        fetches.ask(table, keys, fetches.ended, fetch)
        ended.set()

    def end_the_first() -> None:
        go_on.set()
        ended.wait(PATIENCE_S)

    def join(mine: _kernels.Fetch | None, at: object, others: list[tuple[_kernels.Fetch, object]]) -> None:
        joined.extend(other for other, _ in others)

    thread = threading.Thread(target=first)
    thread.start()
    assert begun.wait(PATIENCE_S)
    since = fetches.ended
    with collection_after(made, end_the_first):
        fetches.ask(table, keys, since, join)
    thread.join()
    assert all(other.settled for other in joined)
    assert len(fetches) == 0


@pytest.mark.parametrize("made", SOON)
def test_sums_are_read_while_others_add_new_ones(made: int) -> None:
    tally = _kernels.Tally()
    before = [(f"before {i}", (1, 2, 3, 4, 5)) for i in range(3)]
    tally.add(before)
    later = [(f"later {i}", (6, 7, 8, 9, 10)) for i in range(3000)]
    with collection_after(made, lambda: tally.add(later)):
        read = tally.read()
    assert list(read.items()) in (before, before + later)
    assert list(tally.read().items()) == before + later
