"""Work done one step ahead in another thread: the next batch is read and encoded while this one is scored."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")


def ahead(items: Iterator[_T]) -> Iterator[_T]:
    """Yields `items`, taking the next one in another thread meanwhile. What it raises is raised here, in its place."""
    with ThreadPoolExecutor(1, thread_name_prefix="pepnet-read") as executor:
        coming = executor.submit(_next, items)
        while (found := coming.result()) is not None:
            coming = executor.submit(_next, items)
            yield found[0]


def _next(items: Iterator[_T]) -> tuple[_T] | None:
    for item in items:
        return (item,)
    return None
