"""The harness of `bench cache-speed`: every contender's rows are the table's, and a wrong row or a miss is seen."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pepnet_infer.bench.cache import claims, lookups, peers
from pepnet_infer.bench.cache.contender import (
    Batch,
    Contender,
    Part,
    Workload,
    contiguous,
    input_columns,
    make_batches,
    make_keys_of,
)
from pepnet_infer.bench.cache.lookups import Stage, compare_lookups, prepared
from pepnet_infer.bench.cache.misses import Missing, measure_misses
from pepnet_infer.bench.cache.native_peers import Dense, Gather, PeerLibrary, cache_contender
from pepnet_infer.bench.cache.speed import CacheSpeedOptions, measure_cache_speed
from pepnet_infer.bench.cache.threads import Load, Updates, run_loads, visibility
from pepnet_infer.bench.harness.interleave import Plan
from pepnet_infer.cli.bench import bench
from pepnet_infer.errors import PepnetError

ROOT = Path(__file__).parents[3]
QUICK = Plan(runs=2, warm_s=0.0, settle_s=0.0)
ROWS = 2048


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
def stage(library: PeerLibrary) -> Iterator[Stage]:
    """A table of 6553 rows of 40."""
    with prepared(library, 1, 40, ROWS, 3, lambda _: None) as made:
        yield made


@pytest.mark.parametrize("width", [16, 32, 64])
@pytest.mark.parametrize(("dim", "ahead", "count"), [(40, 16, 300), (40, 64, 5), (40, 4, 1), (7, 8, 100)])
def test_the_floor_copies_the_rows(library: PeerLibrary, dim: int, ahead: int, count: int, width: int) -> None:
    if width not in library.widths:
        pytest.skip(f"this CPU has no moves of {width} bytes")
    rng = np.random.default_rng(0)
    dense = Dense(library, 500, dim)
    dense.table[:] = rng.standard_normal((500, dim))
    batch = Batch(rng.integers(0, 500, count), np.empty(0, np.uint64))
    expected = dense.table[batch.positions]
    wide = np.full((count, dim + 9), -1.0, np.float32)
    for out in (np.zeros((count, dim), np.float32), wide[:, 3 : dim + 3]):
        call = dense.contender("floor", Gather(ahead, width), [Part(0, count, out)]).call
        np.testing.assert_array_equal(np.concatenate(call(batch)), expected)
    assert (wide[:, :3] == -1).all()
    assert (wide[:, dim + 3 :] == -1).all()
    dense.close()


def test_all_contenders_return_the_table(library: PeerLibrary, stage: Stage) -> None:
    found = compare_lookups(library, stage, QUICK)
    names = [entry["name"] for entry in found["contenders"]]
    wanted = {"floor", "floor-columns", "cache-lru", "cache-gset", "cache-lru-columns", "cache-gset-columns"}
    wanted |= {"numpy-index", *library.peers}
    wanted |= {name for name in ("cachetools", "theine") if name not in peers.missing()}
    assert set(names) == wanted
    assert set(found["left_out"]) == {"robin-map", "absl-map", "cachetools", "theine"} - wanted
    for entry in found["contenders"]:
        assert entry["runs"] == 2
        assert 0 < entry["p50_ms"] <= entry["p99_ms"]
        assert entry["ns_a_row"] == pytest.approx(entry["p50_ms"] * 1e6 / ROWS)
    for cache in found["caches"]:
        assert cache["offered"] == 6553
        assert 0.8 < cache["resident_share"] <= 1
        assert 0.8 < cache["fill"] <= 1
    assert {way["ahead"] for way in found["floor"]["sweep"]} > {8, 16, 32}


def test_a_wrong_row_is_seen(library: PeerLibrary, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    right = peers.index_contender

    def wrong(work: Workload) -> Contender:
        return right(Workload(work.table + 1, work.keys, work.batches))

    monkeypatch.setattr(peers, "index_contender", wrong)
    with pytest.raises(RuntimeError, match=r"numpy-index failed: PepnetError: expected the table's rows, got others"):
        compare_lookups(library, stage, QUICK)


def test_what_is_missing_is_said(library: PeerLibrary, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "peers", {"list-lru": "a list"})
    monkeypatch.setattr(peers, "missing", lambda: {"theine": "not installed: pip install theine"})
    found = compare_lookups(library, stage, QUICK)
    assert found["left_out"] == {
        "robin-map": "headers missing: robin-map-dev",
        "absl-map": "headers missing: libabsl-dev",
        "theine": "not installed: pip install theine",
    }


def test_a_miss_is_an_error(library: PeerLibrary, stage: Stage) -> None:
    unknown = Batch(np.arange(ROWS), np.arange(ROWS, dtype=np.uint64))
    for name in library.peers:
        peer = cache_contender(library, name, stage.workload, contiguous(ROWS, 40))
        with pytest.raises(PepnetError, match=f"peer {name}: expected {ROWS} hits, got 0"):
            peer.call(unknown)
        peer.close()
    with pytest.raises(PepnetError, match="mine: expected"):
        peers.our_contender(stage.caches["lru"], contiguous(ROWS, 40), "mine").call(unknown)


def test_the_list_evicts_what_was_used_longest_ago(library: PeerLibrary) -> None:
    """With room for three: 1 is used again, so the fourth takes the place of 2."""
    functions = library.functions
    cache = functions.pepnet_cache_make(b"list-lru", 3, 2)
    keys, rows, out = np.array([1, 2, 3, 4], np.uint64), np.arange(8, dtype=np.float32), np.zeros((4, 2), np.float32)

    def there(key: int) -> bool:
        return bool(functions.pepnet_cache_lookup(cache, keys[key - 1 :].ctypes.data, 1, out.ctypes.data, 2))

    assert functions.pepnet_cache_insert(cache, keys.ctypes.data, rows.ctypes.data, 3)
    assert there(1)
    assert functions.pepnet_cache_insert(cache, keys[3:].ctypes.data, rows[6:].ctypes.data, 1)
    assert functions.pepnet_cache_size(cache) == 3
    assert [there(key) for key in (1, 2, 3, 4)] == [True, False, True, True]
    assert out[0].tolist() == [6, 7]
    functions.pepnet_cache_free(cache)


@pytest.mark.parametrize("name", ["robin-map", "absl-map"])
def test_the_maps_refuse_what_does_not_fit(library: PeerLibrary, name: str) -> None:
    if name not in library.peers:
        pytest.skip(f"{name} was not compiled in: its headers are missing")
    keys, rows = np.arange(4, dtype=np.uint64), np.zeros(8, np.float32)
    cache = library.functions.pepnet_cache_make(name.encode(), 3, 2)
    assert not library.functions.pepnet_cache_insert(cache, keys.ctypes.data, rows.ctypes.data, 4)
    assert library.functions.pepnet_cache_size(cache) == 3
    library.functions.pepnet_cache_free(cache)


def test_a_file_that_is_not_the_library(tmp_path: Path) -> None:
    (tmp_path / "peers.so").write_bytes(b"not a library")
    with pytest.raises(PepnetError, match=r"peers\.so: expected the library that `make bench-cache` builds"):
        PeerLibrary(tmp_path / "peers.so")


def test_keys_and_batches() -> None:
    rng = np.random.default_rng(1)
    keys = make_keys_of(1000, rng)
    assert np.unique(keys).size == 1000
    assert (keys >> np.uint64(48) == 1).all()
    resident = np.arange(0, 1000, 3)
    batches = make_batches(keys, resident, 50, 4, rng, python=True)
    for batch in batches:
        assert np.isin(batch.positions, resident).all()
        np.testing.assert_array_equal(batch.keys, keys[batch.positions])
        assert list(batch.ids) == batch.keys.tolist()
    assert len({batch.positions.tobytes() for batch in batches}) == 4


def test_columns_of_the_input_matrix() -> None:
    parts = input_columns(3072, 4)
    assert [(part.begin, part.end) for part in parts] == [(0, 1024), (1024, 2048), (2048, 3072)]
    assert {part.out.strides for part in parts} == {(48, 4)}
    with pytest.raises(ValueError, match="expected a multiple of 1024, got 1000"):
        input_columns(1000, 4)


def test_threads_and_updates(stage: Stage) -> None:
    filled, workload = stage.caches["gset"], stage.workload
    readers = [peers.our_contender(filled, contiguous(ROWS, 40), f"reader {i}") for i in range(2)]
    updates = Updates(filled, workload)
    before = filled.cache.stats()["updates_applied"]
    loads = [Load("pair", readers), Load("paced", readers, 50_000.0), Load("writer", [], float("inf"))]
    counted = run_loads(loads, updates, workload.batches, 2, 0.02)
    assert filled.cache.stats()["updates_applied"] > before
    assert [len(counted[name].rows_per_s) for name in ("pair", "paced", "writer")] == [2, 2, 2]
    assert counted["pair"].describe()["updates_per_s"] == 0
    assert counted["paced"].describe()["updates_per_s"] > 0
    assert counted["writer"].describe()["rows_per_s"] == 0
    batch = workload.batches[0]
    np.testing.assert_array_equal(np.concatenate(readers[0].call(batch)), workload.expected(batch))


def test_an_update_that_is_not_taken_is_an_error(stage: Stage) -> None:
    updates = Updates(stage.caches["lru"], stage.workload)
    updates.apply()
    again = Updates(stage.caches["lru"], stage.workload)
    with pytest.raises(PepnetError, match="updates: expected 1024 applied, got 0"):
        again.apply()


def test_what_a_thread_raises_comes_out(stage: Stage) -> None:
    def fail(_: Batch) -> list[np.ndarray]:
        raise PepnetError("no rows today")

    reader = Contender("broken", "", fail)
    whole = peers.our_contender(stage.caches["lru"], contiguous(ROWS, 40), "whole")
    with pytest.raises(PepnetError, match="no rows today"):
        run_loads(
            [Load("x", [whole, reader])], Updates(stage.caches["gset"], stage.workload), stage.workload.batches, 1, 0.02
        )


def test_an_update_is_seen(stage: Stage) -> None:
    filled, workload = stage.caches["lru"], stage.workload
    seen = visibility(filled, workload, updates=5)
    assert 0 < seen["p50_ms"] <= seen["p99_ms"] <= seen["max_ms"]
    everything = np.zeros((filled.resident.size, 40), np.float32)
    assert filled.cache.lookup(workload.keys[filled.resident], everything).all()
    np.testing.assert_array_equal(everything, workload.table[filled.resident])  # put back


def test_batches_miss_as_often_as_they_say(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    found = measure_misses(stage.workload, 1000, Plan(runs=3, warm_s=0.0, settle_s=0.0))
    assert found["missed"] == 100
    assert found["hits"]["runs"] == found["misses"]["runs"] == 3
    assert found["ratio"]["low"] <= found["ratio"]["high"]
    missing = Missing(stage.workload, 1000)
    there = missing._there()
    assert there.sum() > (~there).sum() > 100
    monkeypatch.setattr(Missing, "missed", property(lambda _: 0))
    said = "misses failed: PepnetError: a batch with 100 misses: expected so many, got 0"
    with pytest.raises(RuntimeError, match=said):
        measure_misses(stage.workload, 1000, Plan(runs=3, warm_s=0.0, settle_s=0.0))


def test_claims_take_the_side_they_should() -> None:
    def faster(ratio: float) -> dict[str, float]:
        return {"ratio": ratio, "low": ratio, "high": ratio}

    def entry(name: str, tenth: float, **ratios: float) -> dict[str, object]:
        versus = {other.replace("_", "-"): faster(ratio) for other, ratio in ratios.items()}
        return {"name": name, "speedups": versus, "quantiles_ms": {"10": tenth}}

    contenders = [
        entry("floor", 2.0, cache_lru=1.5, cache_lru_columns=1.7),
        entry("floor-columns", 2.0, cache_lru_columns=1.61),
        entry("cache-lru", 3.2, numpy_index=2.1, list_lru=4.9, robin_map=3.0),
        entry("cache-lru-columns", 3.0),
        *(entry(name, 8.0) for name in ("numpy-index", "list-lru", "robin-map")),
    ]
    got = claims.lookup_claims(64, 400_000, contenders, ["lru"])
    assert [c["quiet"] for c in got] == pytest.approx([1.6, 1.5, 2.5, 2.5])
    assert [(c["what"], c["ours"], c["got"], c["met"]) for c in got] == [
        ("time over the floor", "lru", 1.5, True),
        ("time over the floor", "lru, columns", 1.61, False),
        ("faster than NumPy table[idx]", "lru", 2.1, True),
        ("faster than std::unordered_map + std::list LRU", "lru", 4.9, False),
    ]
    large = claims.lookup_claims(800, 5_000_000, contenders, ["lru"])
    assert [c["met"] for c in large if "robin" in c["what"]] == [True]


def test_the_command(library_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "BATCHES", 4)
    files = {kind: tmp_path / f"result.{kind}" for kind in ("json", "markdown")}
    words = ["cache-speed", "--table-mb", "1", "--rows", "1024", "--seconds", "0", "--slice-ms", "5", "--rounds", "2"]
    words += ["--peers-library", str(library_path)]
    done = CliRunner().invoke(bench, [*words, *(w for kind, path in files.items() for w in (f"--{kind}", str(path)))])
    assert done.exit_code == 0, done.output
    text = files["json"].read_text()
    assert str(tmp_path) not in text
    assert str(library_path.parent) not in text
    result = json.loads(text)
    assert result["command"] == (
        "pepnet-infer bench cache-speed --table-mb 1 --rows 1024 --seconds 0.0 --slice-ms 5.0 --rounds 2"
    )
    for claim in result["data"]["claims"]:
        assert claim["met"] == (
            (claim["got"] >= claim["bound"]) if claim["at_least"] else (claim["got"] <= claim["bound"])
        )
    asked = {claim["what"] for claim in result["data"]["claims"]}
    assert {"time over the floor", "2 readers over 1", "an update is seen after", "metadata a row"} < asked
    page = files["markdown"].read_text()
    for title in ("The floor, ns a row, 1 MiB", "Threads, a table of 1 MiB", "Misses", "The caches", "Machine"):
        assert f"**{title}**" in page
    assert "other processes used" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "make bench-cache"),
        (("--peers-library", "x.so", "--table-mb", "1", "--rows", "7000"), "expected at least 7000 rows of 40"),
        (("--peers-library", "x.so", "--table-mb", "0"), "expected distinct positive integers"),
    ],
)
def test_what_is_asked_wrongly(words: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PEPNET_BENCH_PEERS", raising=False)
    done = CliRunner().invoke(bench, ["cache-speed", *words])
    assert done.exit_code == 2
    assert message in " ".join(done.output.replace("│", " ").split())


def test_too_little_memory(library_path: Path) -> None:
    options = CacheSpeedOptions(library_path, tables_mb=(1 << 22,))
    with pytest.raises(PepnetError, match="a table of 4194304 MiB: expected 33554432 MiB of free memory"):
        measure_cache_speed(options)
