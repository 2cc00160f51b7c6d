"""Which rows an output was scored with: of another store, updated ones, and default rows of a store that fails."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from offline_runs import contents, run

from pepnet_infer import CacheConfig, Engine, StoreError, score_parquet
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.parquet import Progress
from pepnet_infer.rows.stores.mmap import MmapStore
from pepnet_infer.schema.row_batch import RowBatch

Make = Callable[..., pa.Table]


class Behind:
    """The rows of a bundle, from a store that may fail and may say which they are."""

    def __init__(self, bundle: Bundle) -> None:
        self._rows = MmapStore(bundle.table_paths, bundle.schema.table_by_name)
        self.down = False

    def get_many(self, keys: Any, dim: int) -> RowBatch:
        if self.down:
            raise ConnectionError("no route")
        return self._rows.get_many(keys, dim)


class Named(Behind):
    name: str | None = "monday"

    def identity(self) -> str | None:
        return self.name


@pytest.fixture
def behind(toy_bundle: Path) -> Callable[[type[Behind]], Any]:
    return lambda kind: kind(Bundle.open(toy_bundle, "sizes"))


@pytest.fixture
def load(toy_bundle: Path) -> Iterator[Callable[..., Engine]]:
    with contextlib.ExitStack() as stack:

        def load(**how: Any) -> Engine:
            how = {"cache": CacheConfig(capacity="1MiB"), **how}  # in front of a store it is as large as it may be
            return stack.enter_context(Engine.load(toy_bundle, check="sizes", threads=1, **how))

        yield load


def test_another_store_scores_again(
    engine: Engine,
    folder: Path,
    behind: Callable[[type[Behind]], Any],
    load: Callable[..., Engine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(engine, folder)
    unnamed, named = load(store=behind(Behind)), load(store=(store := behind(Named)))
    for other in (unnamed, unnamed, named):  # nobody knows which rows the first one has
        assert run(other, folder)[0] == 3
    assert run(named, folder)[0] == 0
    assert run(load(store=behind(Named)), folder)[0] == 0
    store.name = "tuesday"  # its rows of Monday may still be in the cache
    assert [run(named, folder)[0] for _ in range(2)] == [3, 3]
    tuesday = load(store=store)
    assert [run(tuesday, folder)[0] for _ in range(2)] == [3, 0]
    store.name = None
    assert [run(load(store=store), folder)[0] for _ in range(2)] == [3, 3]
    monkeypatch.setattr(Named, "identity", lambda _: 1 / 0)  # it cannot say so now, and serves all the same
    assert [run(load(store=store), folder)[0] for _ in range(2)] == [3, 3]
    monkeypatch.setattr(Named, "identity", lambda _: b"monday")
    with pytest.raises(StoreError, match="store: identity: expected a text or None, got bytes"):
        load(store=store)
    assert run(engine, folder)[0] == 3
    own = engine.cache.store if engine.cache is not None else None
    assert run(load(store=own), folder)[0] == 0  # the bundle's own tables, given as a store
    with_no_cache = load(cache=None, store=MmapStore(engine.bundle.table_paths, engine.schema.table_by_name))
    assert [run(with_no_cache, folder)[0] for _ in range(2)] == [3, 3]


@pytest.mark.parametrize("change", ["apply", "delete", "insert", "load"])
def test_an_updated_cache_scores_again(engine: Engine, folder: Path, load: Callable[..., Engine], change: str) -> None:
    run(engine, folder)
    updated = load()
    cache = updated.cache
    assert cache is not None
    assert run(updated, folder)[0] == 0
    cache.feedback("user", np.arange(3), np.ones(3, bool))  # what is evicted, and no row
    cache.prefetch("user", np.arange(50))
    assert run(updated, folder)[0] == 0
    keys, rows, versions = cache.keys("user", np.arange(40)), np.ones((40, 6), np.float32), np.ones(40, np.uint64)
    if change == "apply":
        cache.apply("user", keys, rows, versions)
    elif change == "delete":
        cache.delete("user", keys, versions)
    elif change == "insert":
        cache.cache("user").insert(keys, rows, versions=versions)
    else:
        other = load()
        assert other.cache is not None
        other.cache.apply("user", keys, rows, versions)
        other.cache.cache("user").save(folder / "rows.snapshot")
        cache.cache("user").load(folder / "rows.snapshot")
    before = contents(folder / "out")
    assert [run(updated, folder)[0] for _ in range(2)] == [3, 3]  # an update may be evicted at any time
    assert contents(folder / "out") != before
    assert run(engine, folder)[0] == 3


def test_rows_that_change_under_a_run_leave_no_finished_file(folder: Path, load: Callable[..., Engine]) -> None:
    engine = load()

    def update(now: Progress) -> None:
        if now.rows == 70 and engine.cache is not None:
            engine.cache.apply("user", np.arange(3), np.ones((3, 6), np.float32), np.ones(3, np.uint64))

    assert run(engine, folder, batch_rows=10, progress=update) == (3, [])
    assert run(load(), folder, batch_rows=10) == (2, ["a.parquet"])


def test_default_rows_of_a_store_that_fails_are_no_finished_file(
    engine: Engine, folder: Path, behind: Callable[[type[Behind]], Any], load: Callable[..., Engine]
) -> None:
    store = behind(Named)
    cold = load(store=store, cache=CacheConfig("lru", "1MiB", warm=False))
    store.down = True
    with pytest.raises(
        StoreError, match=r"in/a\.parquet: expected the store's rows, got default rows .*user_id 50.*no ro"
    ):
        run(cold, folder)
    assert contents(folder / "out") == {}

    summary = score_parquet(cold, folder / "in", folder / "out", on_fault="unfinished")
    assert (summary.files, summary.rows, summary.unknown) == (3, 150, {})
    assert summary.unavailable["user_id"] == 150
    assert json.loads(json.dumps(asdict(summary), default=str))["unavailable"] == summary.unavailable
    assert summary.unfinished == [folder / "out" / f"{name}.parquet" for name in "abc"]
    assert sorted(contents(folder / "out")) == [f".{name}.parquet.unfinished" for name in "abc"]
    assert pq.read_table(folder / "out" / ".a.parquet.unfinished").num_rows == 50
    assert pyarrow.dataset.dataset(folder / "out").files == []  # readers of the folder pass them by

    accepted = score_parquet(cold, folder / "in", folder / "out", on_fault="accept")
    assert (accepted.files, accepted.unfinished, accepted.unavailable) == (3, [], summary.unavailable)
    assert sorted(contents(folder / "out")) == [f"{name}.parquet" for name in "abc"]
    said = pq.read_metadata(folder / "out" / "a.parquet").metadata
    assert json.loads(said[b"pepnet_infer.unavailable"])["user_id"] == 50
    again = score_parquet(cold, folder / "in", folder / "out", on_fault="accept")
    assert again.files == 0  # who accepted them once does so again
    assert again.unavailable == accepted.unavailable  # and hears of it again
    store.down = False
    assert run(cold, folder, on_fault="unfinished")[0] == 3
    score_parquet(engine, folder / "in", folder / "right")
    for name in "abc":
        scores, right = (pq.read_table(folder / out / f"{name}.parquet") for out in ("out", "right"))
        assert scores.equals(right)
    assert run(cold, folder, on_fault="raise")[0] == 0  # with all rows there it makes no difference
    assert run(cold, folder, on_fault="accept")[0] == 0


def test_a_partly_failed_run_is_gone_on_with(
    folder: Path, behind: Callable[[type[Behind]], Any], load: Callable[..., Engine]
) -> None:
    path = folder / "in" / "b.parquet"
    table = pq.read_table(path)
    users = pa.array([39] * 50)  # whom no row before has
    pq.write_table(table.set_column(table.column_names.index("user_id"), "user_id", users), path)
    for name in "ac":
        table = pq.read_table(folder / "in" / f"{name}.parquet")
        pq.write_table(table.filter(pa.compute.less(table["user_id"], 39)), folder / "in" / f"{name}.parquet")
    rows = pq.read_metadata(folder / "in" / "a.parquet").num_rows
    store = behind(Named)
    cold = load(store=store, cache=CacheConfig("lru", "1MiB", warm=False))

    def fail(now: Progress) -> None:
        store.down = now.rows == rows

    summary = score_parquet(cold, folder / "in", folder / "out", batch_rows=10, on_fault="unfinished", progress=fail)
    assert summary.unfinished == [folder / "out" / "b.parquet"]
    assert run(cold, folder, batch_rows=10) == (1, ["a.parquet", "c.parquet"])
    assert sorted(contents(folder / "out")) == ["a.parquet", "b.parquet", "c.parquet"]  # no leftover
