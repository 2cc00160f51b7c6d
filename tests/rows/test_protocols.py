"""What is taken for a store, a row source and a log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pepnet_infer import StoreError
from pepnet_infer.rows.protocols import RowSource, Store, meets
from pepnet_infer.rows.stores.checked_answers import ask
from pepnet_infer.schema.row_batch import RowBatch
from pepnet_infer.stores import MemoryStore
from pepnet_infer.sync import DirectoryLog
from pepnet_infer.sync.logs.transport import Readable


class Proxy:
    """Passes everything on, as wrappers for tracing and retries do."""

    def __init__(self, inner: object) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def test_proxies_are_what_they_pass_on_to(tmp_path: Path) -> None:
    store, log = Proxy(MemoryStore()), Proxy(DirectoryLog(tmp_path / "log", create=True))
    assert meets(store, Store)
    assert not meets(store, RowSource)
    assert meets(log, Readable)
    assert not meets(store, Readable)
    assert not meets("text", Store)


def test_a_row_source_without_answer_is_not_made() -> None:
    class Other(RowSource):
        def lookup(self, table: str, keys: np.ndarray, out: np.ndarray) -> int:
            return 0

    with pytest.raises(TypeError, match=r"abstract .*answer"):
        Other()  # type: ignore[abstract]


@pytest.mark.parametrize("column", ["versions", "scores", "expires", "found", "rows"])
def test_an_answer_without_a_column_is_a_fault_of_the_store(column: str) -> None:
    class Lacking:
        def get_many(self, keys: np.ndarray, dim: int) -> RowBatch:
            columns = dict(vars(RowBatch.nothing(len(keys), dim))) | {column: None}
            return RowBatch(**columns)

    with pytest.raises(StoreError, match=f"{column}: expected .*, got NoneType"):
        ask(Lacking(), np.arange(3, dtype=np.uint64), 4)  # type: ignore[arg-type]
