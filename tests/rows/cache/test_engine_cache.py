"""An engine with a cache gives the bits of one without, whatever the cache holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pepnet_infer import CacheConfig, ConfigError, Engine, FieldConfig, StoreError
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.rows.cache.open_bundle_rows import bytes_for
from pepnet_infer.rows.stores.mmap import MmapStore
from pepnet_infer.schema.ids import Keys
from pepnet_infer.schema.row_batch import RowBatch

Make = Callable[..., dict[str, Any]]
#: The least that four widths take.
SMALL = 4 * bytes_for(0, 6, "float32", "gset")


class OneByOne:
    """A store and nothing else, in front of the bundle's tables."""

    def __init__(self, bundle: Path) -> None:
        self.behind = MmapStore(Bundle.open(bundle).table_paths)
        self.fails = False
        self.asked: list[int] = []

    def get_many(self, keys: Keys, dim: int) -> RowBatch:
        if self.fails:
            raise OSError("unplugged")
        self.asked.append(dim)
        return self.behind.get_many(keys, dim)


@pytest.mark.parametrize("policy", ["gset", "lru", "lfu", "sieve", "s3fifo"])
@pytest.mark.parametrize(
    "options",
    [{}, {"capacity": SMALL, "warm": False}, {"capacity": SMALL, "warm": False, "admission": 0.1}],
    ids=["all", "some", "few"],
)
def test_scores_are_the_same_bits_from_many_threads(
    toy_bundle: Path, toy_batch: Make, policy: Any, options: dict[str, Any]
) -> None:
    batches = [toy_batch(rows, rows) for rows in (0, 1, 7, 64, 300)]
    user = {"user_id": 3, "watched": [1, 2, 45], "age": 20.0}
    items = {"video_id": list(range(50)), "tags": [[1, 2]] * 50, "duration": [3.0] * 50}
    config = CacheConfig(policy, **options)
    with (
        Engine.load(toy_bundle, threads=1, cache=None) as plain,
        Engine.load(toy_bundle, threads=1, cache=config) as engine,
    ):
        expected = [plain.score(batch) for batch in batches]
        ranked = plain.rank(user, items, 4)

        def work(seed: int) -> None:
            for pick in np.random.default_rng(seed).permutation(len(batches) * 3) % len(batches):
                scores = engine.score(batches[pick])
                assert np.array_equal(scores.values, expected[pick].values)
                assert scores.unknown == expected[pick].unknown
            mine = engine.rank(user, items, 4)
            assert np.array_equal(mine.values, ranked.values)
            assert mine.unknown == ranked.unknown

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        assert engine.stats()["unknown"]["fields"].keys() == plain.stats()["unknown"]["fields"].keys()
        assert plain.cache is plain.stats()["cache"] is None


def test_a_default_cache_is_warm_no_larger_than_the_tables_and_hits(toy_bundle: Path, toy_batch: Make) -> None:
    with Engine.load(toy_bundle, threads=1) as engine:
        before = engine.stats()["cache"]
        assert (before["policy"], before["rows"]) == ("gset", 160)
        assert before["memory_bytes"] < SMALL + 40 * 4 * 100
        engine.score(toy_batch(100, 1))
        stats = engine.stats()["cache"]
        json.dumps(stats)
        metrics = engine.metrics()
        assert engine.cache is not None
        asked = stats["store"]["keys"] - before["store"]["keys"]
    total, fields = stats["total"], stats["fields"]
    assert f'pepnet_cache_hits_total{{table="user"}} {stats["tables"]["user"]["hits"]}.0\n' in metrics
    assert set(fields) == {"user_id", "video_id", "watched", "tags", "page"}
    assert set(stats["tables"]) == {"user", "video", "tag", "page"}
    assert total["hits"] + total["misses"] + total["negative_hits"] == total["keys"]
    assert total["keys"] == sum(field["keys"] for field in fields.values())
    assert total["defaults"] == total["misses"] == stats["defaults"]["absent"] > 0  # ids 40 to 49 are not there
    assert 0 < asked <= 20  # each unknown id of user and video once
    assert stats["widths"]["5"]["dim"] == 5
    assert sum(width["memory_bytes"] for width in stats["widths"].values()) == stats["memory_bytes"]


def test_a_store_behind_the_cache_is_asked_once_a_batch_and_width(toy_bundle: Path, toy_batch: Make) -> None:
    store, batch = OneByOne(toy_bundle), toy_batch(80, 3)
    with (
        Engine.load(toy_bundle, threads=1, cache=None) as plain,
        Engine.load(toy_bundle, threads=1, cache=CacheConfig(warm=False), store=store) as engine,
    ):
        expected = plain.score(batch)
        for _ in range(2):
            scores = engine.score(batch)
            assert np.array_equal(scores.values, expected.values)
            assert scores.unknown == expected.unknown
        assert sorted(store.asked) == [3, 4, 5, 6]
        store.fails = True
        assert np.array_equal(engine.score(batch).values, expected.values)
        assert engine.cache is not None
        engine.cache.caches[5].clear()
        down = engine.score(batch)
        assert not np.array_equal(down.values, expected.values)
        # An id that the store could not be asked for is not said to be unknown.
        assert down.unavailable == {"video_id": 80, "watched": len(engine.encode(batch).bags["watched"].keys)}
        assert down.unknown == {"user_id": expected.unknown["user_id"]}
        assert engine.stats()["unavailable"] == {
            "fields": down.unavailable, "tables": {"video": sum(down.unavailable.values())}
        }  # fmt: skip
        assert engine.stats()["unknown"]["fields"]["video_id"] == 3 * expected.unknown["video_id"]
        stats = engine.stats()["cache"]
        assert stats["fields"]["video_id"]["unavailable"] == 80
        assert stats["total"]["unavailable"] == stats["defaults"]["fault"]
        assert stats["store"]["faults"] == 1
        assert stats["store"]["last_fault"].endswith("unplugged")
        assert stats["defaults"]["fault"] > 0
    strict = CacheConfig(on_fault="raise", warm=False)
    with (
        Engine.load(toy_bundle, cache=strict, store=store) as engine,
        pytest.raises(StoreError, match="OneByOne: expected an answer, got OSError: unplugged"),
    ):
        engine.score(batch)


def test_warm_rows_are_those_of_the_store(toy_bundle: Path, toy_batch: Make) -> None:
    store = OneByOne(toy_bundle)
    with Engine.load(toy_bundle, threads=1, store=store) as engine:
        assert engine.stats()["cache"]["rows"] == 160
        assert len(store.asked) == 4
        engine.score({name: (column % 40 if name == "user_id" else column) for name, column in toy_batch(1).items()})


def test_updates_and_deletions_reach_the_scores(toy_bundle: Path, toy_batch: Make) -> None:
    batch = toy_batch(30, 5)
    with Engine.load(toy_bundle, threads=1, cache=CacheConfig(fields={"user_id": FieldConfig("high")})) as engine:
        before = engine.score(batch)
        cache = engine.cache
        assert cache is not None
        ids = np.unique(batch["user_id"])
        rows = np.ones((len(ids), 6), np.float32)
        assert cache.apply("user", ids, rows, np.full(len(ids), 2, np.uint64)) == len(ids)
        after = engine.score(batch)
        assert not np.array_equal(after.values, before.values)
        assert "user_id" not in after.unknown
        assert cache.apply("user", ids, rows * 2, np.full(len(ids), 1, np.uint64)) == 0
        assert np.array_equal(engine.score(batch).values, after.values)
        assert cache.delete("user", ids, np.full(len(ids), 3, np.uint64)) == len(ids)
        assert engine.score(batch).unknown["user_id"] == 30
        assert cache.feedback("video", [1, 2], np.array([True, False])) == 2
        assert cache.cache("user").core.peek(cache.keys("user", ids))["tombstone"].all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache": "gset"}, "cache: expected a CacheConfig, None or 'default', got 'gset'"),
        (
            {"cache": CacheConfig(capacity="100kB")},
            "capacity: expected at least .* for tables of width 3, 4, 5, 6, got",
        ),
        ({"cache": CacheConfig(fields={"nobody": FieldConfig()})}, "fields: expected fields with a table .* 'nobody'"),
        ({"store": {}}, "store: expected a store with get_many or a row source with answer, got dict"),
        ({"store": "one", "cache": None}, "cache: expected one before OneByOne, which has no answer of its"),
    ],
)
def test_what_cannot_be_is_said_at_load(toy_bundle: Path, options: dict[str, Any], message: str) -> None:
    if options.get("store") == "one":
        options = options | {"store": OneByOne(toy_bundle)}
    with pytest.raises(ConfigError, match=message):
        Engine.load(toy_bundle, **options)


def test_a_row_source_is_asked_itself(toy_bundle: Path, toy_batch: Make) -> None:
    class Source:
        def __init__(self, rows: MmapStore) -> None:
            self.answer = rows.answer

    store = MmapStore(Bundle.open(toy_bundle).table_paths)
    with Engine.load(toy_bundle, store=Source(store)) as engine:
        engine.score(toy_batch(3))
        assert engine.cache is None
    with Engine.load(toy_bundle, store=store) as engine, Engine.load(toy_bundle, store=store, cache=None) as plain:
        assert np.array_equal(engine.score(toy_batch(9)).values, plain.score(toy_batch(9)).values)
        assert engine.cache is not None
        assert plain.cache is None
    with pytest.raises(ConfigError, match="cache: expected a store with get_many behind it, got Source"):
        Engine.load(toy_bundle, store=Source(store), cache=CacheConfig())


def test_all_widths_are_saved_to_one_folder_and_an_engine_begins_with_them(
    toy_bundle: Path, toy_batch: Make, tmp_path: Path
) -> None:
    folder, batch = tmp_path / "kept", toy_batch(50)
    with Engine.load(toy_bundle, threads=1, cache=CacheConfig(warm=False)) as engine:
        assert engine.cache is not None
        expected = engine.score(batch)
        for _ in range(2):  # the second in place of the first
            saved = engine.cache.save(folder)
        rows = engine.cache.stats()["rows"]
        assert saved.rows == rows > 0
        assert saved.bytes == sum(path.stat().st_size for path in folder.glob("*.snapshot"))
    with Engine.load(toy_bundle, threads=1, cache=CacheConfig(warm_from=str(folder))) as engine:
        assert engine.cache is not None
        assert engine.cache.stats()["rows"] == rows
        scores = engine.score(batch)
        assert np.array_equal(scores.values, expected.values)
        counted = engine.cache.stats()["total"]
        assert (counted["misses"], counted["keys"]) == (0, counted["hits"] + counted["negative_hits"])
        assert engine.identity()["rows"] is not None  # they are the store's
        assert engine.cache.load(folder).older == saved.rows + saved.negatives
        assert engine.identity()["rows"] is None  # by now nobody has asked whose they are


def test_an_engine_does_not_begin_with_the_rows_of_another_store(
    toy_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own, updated, damaged = (tmp_path / name for name in ("own", "updated", "damaged"))
    with Engine.load(toy_bundle, threads=1) as engine:
        assert engine.cache is not None
        for folder in (own, damaged):
            engine.cache.save(folder)
        engine.cache.delete("user", [3], np.array([9], np.uint64))
        engine.cache.save(updated)
    for path in damaged.glob("*.snapshot"):
        path.write_bytes(path.read_bytes()[:-1])
    (tmp_path / "file").write_text("no cache")
    refused: dict[Path, tuple[str, dict[str, Any]]] = {
        own: ("expected a store that can tell its rows from others", {"store": OneByOne(toy_bundle)}),
        updated: ("expected the rows of tables .*, got rows that were updated", {}),
        damaged: ("the file was cut", {}),
        tmp_path / "none": ("expected a directory with cache.json, got nothing", {}),
        tmp_path / "file": ("expected a directory with cache.json, got a file", {}),
    }
    for folder, (message, options) in refused.items():
        with pytest.raises(StoreError, match=message):
            Engine.load(toy_bundle, cache=CacheConfig(warm_from=str(folder)), **options)
        with Engine.load(toy_bundle, cache=CacheConfig(warm_from=str(folder), on_load="warn"), **options) as engine:
            assert engine.stats()["cache"]["rows"] == 160  # type: ignore[index]
        assert "does not begin with the rows of its snapshot" in caplog.text
        caplog.clear()
    with Engine.load(toy_bundle, threads=1) as engine:
        assert engine.cache is not None
        (tmp_path / "kept").mkdir()
        (tmp_path / "kept" / "mine.txt").write_text("a file of mine")
        with pytest.raises(StoreError, match="kept"):
            engine.cache.save(tmp_path / "kept")
        assert (tmp_path / "kept" / "mine.txt").exists()


def test_a_snapshot_during_which_a_row_is_updated_is_not_the_stores(toy_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    with Engine.load(toy_bundle, threads=1) as engine:
        assert engine.cache is not None

        class Folder:
            """A path that is asked for when the snapshot begins: an update comes at that moment."""

            def __fspath__(self) -> str:
                rows = np.ones((1, 6), np.float32)
                engine.cache.apply("user", [3], rows, np.array([9], np.uint64))  # type: ignore[union-attr]
                return str(folder)

        engine.cache.save(Folder())
    assert json.loads((folder / "cache.json").read_text())["identity"] is None


def test_the_cache_of_another_engine_is_no_store(toy_bundle: Path) -> None:
    with Engine.load(toy_bundle, threads=1) as engine:
        cache: Any = engine.cache
        for store in (cache, MmapStore):
            with pytest.raises(ConfigError, match="store: expected a store or a row source of its own, got"):
                Engine.load(toy_bundle, store=store)
