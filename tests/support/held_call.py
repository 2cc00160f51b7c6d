"""A call of an engine that is under way for as long as a test wants: it has its version, and waits for its columns."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import Any

from children import PATIENCE_S

from pepnet_infer import Engine, Scores


class _Held(UserDict[str, Any]):
    """A batch whose columns wait to be read."""

    def __init__(self, columns: Mapping[str, Any]) -> None:
        super().__init__(columns)
        self.asked, self.may = Event(), Event()

    def __getitem__(self, name: str) -> Any:
        self.asked.set()
        assert self.may.wait(PATIENCE_S)
        return super().__getitem__(name)


@contextmanager
def call_under_way(engine: Engine, batch: Mapping[str, Any]) -> Iterator[Callable[[], Scores]]:
    """Begins to score a batch. Yields what lets the call end and returns its scores; at the latest the block does."""
    held = _Held(batch)

    def end() -> Scores:
        held.may.set()
        return scores.result(PATIENCE_S)

    with ThreadPoolExecutor(1) as thread:
        scores = thread.submit(engine.score, held)
        try:
            assert held.asked.wait(PATIENCE_S)
            yield end
        finally:
            held.may.set()
