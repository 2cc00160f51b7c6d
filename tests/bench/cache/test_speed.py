"""`bench cache-speed`: every contender's rows are the table's, and a wrong row or a miss is seen."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from pepnet_infer.bench.cache import readers, speed
from pepnet_infer.bench.cache.misses import measure_misses
from pepnet_infer.bench.cache.peers import (
    Batch,
    FilledCache,
    Floats,
    PeerLibrary,
    fill,
    is_cached,
    random_keys,
    random_table,
)
from pepnet_infer.bench.cache.speed import measure_cache_speed
from pepnet_infer.bench.harness.interleave import Plan
from pepnet_infer.errors import PepnetError
from pepnet_infer.rows.cache.cached_rows import CachedRows
from pepnet_infer.rows.protocols import RowRequest
from pepnet_infer.schema.ids import Keys

ROOT = Path(__file__).parents[3]
QUICK = Plan(runs=3, warm_s=0.0, settle_s=0.0)
ROWS, DIM = 512, 40


@pytest.fixture(scope="module")
def library_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library, built with the option that nothing else sets."""
    compiler = next((path for name in (os.environ.get("CXX", "g++"), "c++") if (path := shutil.which(name))), None)
    places = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    cmake = shutil.which("cmake", path=places)
    if compiler is None or cmake is None:
        pytest.skip("building the peers needs a C++ compiler and cmake")
    folder = tmp_path_factory.mktemp("peers")
    options = ("-DPEPNET_BUILD_PYTHON=OFF", "-DPEPNET_BUILD_BENCH=ON", f"-DCMAKE_CXX_COMPILER={compiler}")
    for command in (
        (cmake, "-S", ROOT, "-B", folder, "-DPEPNET_WERROR=ON", *options),
        (cmake, "--build", folder, "--target", "pepnet_bench_peers", "--parallel", "2"),
    ):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        assert done.returncode == 0, done.stdout
    return folder / "bench" / "cache" / "native" / "libpepnet_bench_peers.so"


@pytest.fixture(scope="module")
def library(library_path: Path) -> PeerLibrary:
    return PeerLibrary(library_path)


@pytest.fixture(scope="module")
def keys() -> Keys:
    return random_keys(6000, np.random.default_rng(1))


@pytest.fixture(scope="module")
def table() -> Floats:
    return np.random.default_rng(2).random((6000, DIM), np.float32)


@pytest.fixture
def filled(keys: Keys, table: Floats) -> FilledCache:
    return fill(keys, table, "lru")


def _batches(filled: FilledCache, keys: Keys, number: int = 3) -> list[Batch]:
    positions = [np.random.default_rng(i).choice(filled.resident, ROWS) for i in range(number)]
    return [Batch(at, keys[at]) for at in positions]


@pytest.mark.parametrize(("dim", "ahead", "count"), [(40, 16, 300), (40, 64, 5), (40, 4, 1), (7, 8, 100)])
def test_the_floor_copies_the_rows(library: PeerLibrary, dim: int, ahead: int, count: int) -> None:
    rng = np.random.default_rng(0)
    table = random_table(500, dim, rng)
    batch = Batch(rng.integers(0, 500, count), np.empty(0, np.uint64))
    np.testing.assert_array_equal(library.floor(table, count, ahead)(batch), table[batch.positions])
    assert len(np.unique(table)) > 0.9 * table.size


def test_caches_return_the_table_and_a_miss_is_an_error(
    library: PeerLibrary, filled: FilledCache, keys: Keys, table: Floats
) -> None:
    (batch,) = _batches(filled, keys, 1)
    unknown = Batch(batch.positions, batch.positions.astype(np.uint64))
    with library.list_lru(keys, table, ROWS) as call:
        np.testing.assert_array_equal(call(batch), table[batch.positions])
        with pytest.raises(PepnetError, match=f"list-lru: expected {ROWS} hits, got 0"):
            call(unknown)
    reader = filled.reader(ROWS)
    np.testing.assert_array_equal(reader(batch), table[batch.positions])
    with pytest.raises(PepnetError, match="cache: expected hits only"):
        reader(unknown)


def test_what_stayed_in_the_cache_is_told(filled: FilledCache, keys: Keys) -> None:
    assert 0.8 < filled.resident.size / len(keys) <= 1
    np.testing.assert_array_equal(np.flatnonzero(is_cached(filled.cache, keys)), filled.resident)


def test_a_file_that_is_not_the_library(tmp_path: Path) -> None:
    (tmp_path / "peers.so").write_bytes(b"not a library")
    with pytest.raises(PepnetError, match=r"peers\.so: expected the library that `make bench-cache` builds"):
        PeerLibrary(tmp_path / "peers.so")


def test_keys_are_distinct_and_of_one_table(keys: Keys) -> None:
    assert np.unique(keys).size == 6000
    assert (keys >> np.uint64(48) == 1).all()


def test_updates_are_newer_versions_of_the_same_rows(filled: FilledCache, keys: Keys, table: Floats) -> None:
    update = filled.updates(keys, table, 100)
    for _ in range(70):  # the first ones come again
        update(None)
    assert filled.cache.stats()["updates_applied"] == 7000
    for batch in _batches(filled, keys):
        np.testing.assert_array_equal(filled.reader(ROWS)(batch), table[batch.positions])
    with pytest.raises(PepnetError, match="updates: expected 100 applied, got "):
        filled.updates(keys, table, 100)(None)


def test_readers_work_beside_each_other_and_a_writer_of_a_given_rate(
    filled: FilledCache, keys: Keys, table: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "SLICE_S", 0.02)
    batches, used = _batches(filled, keys), set()
    right = FilledCache.reader

    def noted(cache: FilledCache, rows: int) -> Callable[[Batch], Floats]:
        call = right(cache, rows)

        def note(batch: Batch) -> Floats:
            used.add((threading.get_ident(), id(call)))
            return call(batch)

        return note

    monkeypatch.setattr(FilledCache, "reader", noted)
    rows = readers.measure_readers(filled, batches, filled.updates(keys, table, 100), 100, QUICK, lambda _: None)
    alone, two, beside, both = rows
    assert [row["name"] for row in rows[:3]] == ["1 reader", "2 readers", "1 reader beside 100,000 updates/s"]
    assert len({call for _, call in used}) == 2
    assert len({thread for thread, _ in used}) >= 2
    for row in rows:
        assert row["call_ms"]["runs"] >= row["runs"] == QUICK.runs
        assert row["million_rows_per_s"] == pytest.approx(ROWS / row["p50_ms"] / 1e3)
    assert alone["p99_over"]["ratio"] == 1.0
    assert beside["p99_over"]["ratio"] == pytest.approx(beside["call_ms"]["p99_ms"] / alone["call_ms"]["p99_ms"])
    assert alone["updates_per_s"] == two["updates_per_s"] == 0
    written = filled.cache.stats()["updates_applied"]
    assert written == round((beside["updates_per_s"] + both["updates_per_s"]) * 0.02 * QUICK.runs)
    # A batch of 100 rows each millisecond, the first one at once.
    assert 100 * 2 * QUICK.runs <= written <= 100 * 2 * QUICK.runs * 21


def test_what_a_thread_raises_is_the_error_of_its_turn(filled: FilledCache, keys: Keys, table: Floats) -> None:
    def fails(_: object) -> None:
        raise PepnetError("the disk is full")

    beside = r"readers: . readers? beside 100,000 updates/s failed: PepnetError: the disk is full"
    with pytest.raises(RuntimeError, match=beside):
        readers.measure_readers(filled, _batches(filled, keys), fails, 100, QUICK, lambda _: None)


@pytest.mark.parametrize("load", readers._LOADS)
def test_a_wrong_row_of_a_reader_is_seen(
    load: str, filled: FilledCache, keys: Keys, table: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = FilledCache.reader
    monkeypatch.setattr(FilledCache, "reader", lambda cache, rows: lambda batch: right(cache, rows)(batch) + 1)
    monkeypatch.setattr(readers, "_LOADS", {load: readers._LOADS[load]})
    monkeypatch.setattr(readers, "SLICE_S", 0.02)
    update = filled.updates(keys, table, 100)
    with pytest.raises(RuntimeError, match=f"{load} failed: PepnetError: expected the table's rows, got others"):
        readers.measure_readers(filled, _batches(filled, keys), update, 100, QUICK, lambda _: None)


def test_an_update_is_seen_once_a_reader_finds_it(
    filled: FilledCache, keys: Keys, table: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    (row,) = readers.measure_seen({"lru": filled}, keys, 100, QUICK, lambda _: None)
    assert (row["name"], row["runs"]) == ("update-lru seen", QUICK.runs)
    assert 0 < row["p50_ms"] < 60_000
    assert filled.cache.stats()["updates_applied"] == 100 * (QUICK.runs + QUICK.warm_calls * QUICK.runs)
    monkeypatch.setattr(readers, "_NEWER", 0)  # an update that is not newer is not taken
    monkeypatch.setattr(readers, "_PATIENCE_S", 0.05)
    with pytest.raises(RuntimeError, match=r"an update: expected a reader to see it within 0\.05 s, it did not"):
        readers.measure_seen({"lru": filled}, keys, 100, QUICK, lambda _: None)


def test_batches_miss_as_often_as_they_say(keys: Keys, table: Floats, monkeypatch: pytest.MonkeyPatch) -> None:
    missed = []

    def looked_up(cached: CachedRows, requests: list[RowRequest]) -> None:
        missed.append(int((~is_cached(cached.caches[DIM], requests[0].keys)).sum()))
        answer(cached, requests)

    answer = CachedRows.answer
    monkeypatch.setattr(CachedRows, "answer", looked_up)
    found = measure_misses(keys, table, 1000, QUICK, 0, lambda _: None).rows
    assert {name: row["runs"] for name, row in found.items()} == {"all hits": 3, "10 % misses": 3}
    assert sorted(missed)[-4:] == [0, 100, 100, 100]


def test_more_misses_than_were_asked_for_are_seen(keys: Keys, table: Floats, monkeypatch: pytest.MonkeyPatch) -> None:
    right = CachedRows.answer

    def twice(cached: CachedRows, requests: list[RowRequest]) -> None:
        lost = requests[0].keys[:1]
        for cache in cached.caches.values():
            cache.core.forget(lost)
        right(cached, requests)

    monkeypatch.setattr(CachedRows, "answer", twice)
    with pytest.raises(RuntimeError, match="a batch of all hits: expected 0 misses, got 1"):
        measure_misses(keys, table, 1000, QUICK, 0, lambda _: None)


def test_a_wrong_row_of_a_batch_with_misses_is_seen(keys: Keys, table: Floats, monkeypatch: pytest.MonkeyPatch) -> None:
    right = CachedRows.answer

    def wrong(cached: CachedRows, requests: list[RowRequest]) -> None:
        right(cached, requests)
        requests[0].out[-1, -1] += 1

    monkeypatch.setattr(CachedRows, "answer", wrong)
    with pytest.raises(RuntimeError, match=r"misses: .* failed: PepnetError: expected the table's rows, got others"):
        measure_misses(keys, table, 1000, QUICK, 0, lambda _: None)


def test_a_wrong_row_is_seen(library_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "BATCHES", 2)
    right = FilledCache.reader
    monkeypatch.setattr(FilledCache, "reader", lambda filled, rows: lambda batch: right(filled, rows)(batch) + 1)
    with pytest.raises(RuntimeError, match="cache-lru failed: PepnetError: expected the table's rows, got others"):
        measure_cache_speed(library_path, (1,), ROWS, DIM, QUICK, 0)


def test_the_command(
    run_bench: Callable[..., Result], library_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "BATCHES", 4)
    monkeypatch.setattr(readers, "SLICE_S", 0.005)
    files = {kind: tmp_path / f"result.{kind}" for kind in ("json", "markdown")}
    words = ["cache-speed", "--table-mb", "1", "--rows", "1024", "--seconds", "0"]
    words += ["--peers-library", str(library_path)]
    done = run_bench(*words, *(word for kind, path in files.items() for word in (f"--{kind}", path)))
    assert done.exit_code == 0, done.output
    text = files["json"].read_text()
    assert str(tmp_path) not in text
    assert str(library_path.parent) not in text
    result = json.loads(text)
    assert result["command"].startswith("pepnet-infer bench cache-speed --table-mb 1 --rows 1024 --seconds 0")
    (found,) = result["data"]["tables"]
    floor, *others = found["lookups"]
    assert floor["over_floor"] is None
    assert floor["p50_ms"] == min(row["p50_ms"] for row in found["lookups"] if row["name"].startswith("floor"))
    assert {"cache-lru", "cache-gset", "numpy table[idx]", "list-lru"} < {row["name"] for row in others}
    *others, lru, gset, lru_seen, gset_seen = others
    assert (lru["name"], gset["name"]) == ("update-lru", "update-gset")
    assert (lru_seen["name"], gset_seen["name"]) == ("update-lru seen", "update-gset seen")
    assert [row["policy"] for row in found["readers"]] == ["lru"] * 4 + ["gset"] * 4
    for row in others:
        assert row["over_floor"]["ratio"] == pytest.approx(row["p50_ms"] / floor["p50_ms"])
        assert row["ns_a_row"] == pytest.approx(row["p50_ms"] * 1e6 / 1024)
    page = files["markdown"].read_text()
    for title in ("Lookups and updates, a table of", "Readers,", "Misses,", "Machine**"):
        assert f"**{title}" in page
    assert "other processes used" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "make bench-cache"),
        (("--peers-library", "x.so", "--table-mb", "1", "--rows", "7000"), "expected at least 7000 rows of 40"),
        (("--peers-library", "x.so", "--table-mb", "0"), "expected distinct positive integers"),
    ],
)
def test_what_is_asked_wrongly(
    run_bench: Callable[..., Result], words: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PEPNET_BENCH_PEERS", raising=False)
    done = run_bench("cache-speed", *words)
    assert done.exit_code == 2
    assert message in " ".join(done.output.replace("│", " ").split())


def test_too_little_memory(library_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that other programs have is none to measure with."""
    monkeypatch.setattr(speed, "available_bytes", lambda: 7 << 20)
    with pytest.raises(PepnetError, match="a table of 1 MiB: expected 8 MiB of available memory, got 7"):
        measure_cache_speed(library_path, (1,), ROWS, DIM, QUICK, 0)
