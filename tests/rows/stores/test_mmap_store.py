from __future__ import annotations

import gc
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from row_questions import look_up, pool
from safetensors.numpy import save_file

from pepnet_infer.errors import BundleError, StoreError
from pepnet_infer.rows.protocols import RowSource, Store
from pepnet_infer.rows.stores.mmap import MmapStore
from pepnet_infer.schema.feature_schema import TableSpec
from pepnet_infer.schema.ids import MISSING_KEY, make_keys
from pepnet_infer.storage.tensorfile import from_bfloat16, to_bfloat16, write_tensors

DTYPES = ("float32", "float16", "bfloat16")


def write_table(path: Path, number: int, ids: list[int], dim: int, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    """Writes a table and returns its rows as float32, as they read back."""
    values = np.random.default_rng(seed).normal(size=(len(ids), dim)).astype(np.float32)
    rows = to_bfloat16(values) if dtype == "bfloat16" else values.astype(dtype)
    tensors = {
        "keys": make_keys(number, np.array(ids, dtype=np.uint64)),
        "rows": rows,
        "scores": np.linspace(0, 1, len(ids), dtype=np.float32),
        "default": np.full(dim, number + 0.5, np.float32),
    }
    write_tensors(path, tensors, frozenset({"rows"}) if dtype == "bfloat16" else frozenset())
    return from_bfloat16(rows) if dtype == "bfloat16" else rows.astype(np.float32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_lookup_and_pool_serve_what_the_file_holds(dtype: str, tmp_path: Path) -> None:
    rows = write_table(tmp_path / "video.safetensors", 3, [2, 5, 9], 4, dtype)
    store = MmapStore({"video": tmp_path / "video.safetensors"})
    asked = make_keys(3, np.array([9, 2, 7, 2], dtype=np.uint64))
    out = np.full((4, 8), 7.0, np.float32)
    assert look_up(store, "video", asked, out[:, 2:6]) == 1
    np.testing.assert_array_equal(out[:, 2:6], [rows[2], rows[0], [3.5] * 4, rows[0]])
    assert (out[:, [0, 1, 6, 7]] == 7).all()

    pooled = np.empty((3, 4), np.float32)
    assert pool(store, "video", asked, np.array([0, 2, 2, 4]), "mean", pooled) == 1
    expected = [(rows[2] + rows[0]) / 2, np.zeros(4), (np.full(4, 3.5) + rows[0]) / 2]
    np.testing.assert_allclose(pooled, expected, rtol=1e-6)


def test_a_file_of_the_safetensors_library_is_read(tmp_path: Path) -> None:
    rows = np.arange(6, dtype=np.float16).reshape(2, 3)
    tensors = {"keys": np.array([1, 4], np.uint64), "rows": rows, "scores": np.ones(2, np.float32)}
    save_file(tensors | {"default": np.zeros(3, np.float32)}, tmp_path / "t.safetensors", metadata={"by": "a test"})
    out = np.empty((2, 3), np.float32)
    assert look_up(MmapStore({"t": tmp_path / "t.safetensors"}), "t", np.array([4, 1], np.uint64), out) == 0
    np.testing.assert_array_equal(out, rows[::-1])


def test_missing_keys_and_empty_tables_serve_the_default_row(tmp_path: Path) -> None:
    write_table(tmp_path / "t.safetensors", 1, [], 3)
    store = MmapStore({"t": tmp_path / "t.safetensors"}, {"t": TableSpec("t", 3, 1)})
    out = np.empty((2, 3), np.float32)
    assert look_up(store, "t", np.array([make_keys(1, np.zeros(1, np.uint64))[0], MISSING_KEY]), out) == 2
    assert (out == 1.5).all()
    assert look_up(store, "t", np.empty(0, np.uint64), np.empty((0, 3), np.float32)) == 0


def test_get_many_finds_keys_of_several_tables_of_one_width(tmp_path: Path) -> None:
    paths = {name: tmp_path / f"{name}.safetensors" for name in ("a", "b", "wide")}
    a = write_table(paths["a"], 0, [1, 2], 3)
    b = write_table(paths["b"], 1, [1, 2], 3, "bfloat16", seed=1)
    write_table(paths["wide"], 2, [1], 5)
    store = MmapStore(paths)
    key = lambda number, id: make_keys(number, np.array([id], dtype=np.uint64))[0]  # noqa: E731
    got = store.get_many(np.array([key(1, 2), key(0, 1), key(0, 9), MISSING_KEY, key(1, 1), key(1, 2)]), 3)
    np.testing.assert_array_equal(got.rows, [b[1], a[0], [0.0] * 3, [0.0] * 3, b[0], b[1]])
    assert got.found.tolist() == [True, True, False, False, True, True]
    np.testing.assert_array_equal(got.scores, np.array([1, 0, np.nan, np.nan, 0, 1], np.float32))
    assert (got.versions == 0).all()
    assert np.isposinf(got.expires).all()
    one = store.get_many(np.array([key(1, 1), key(1, 7)]), 3)
    np.testing.assert_array_equal(one.rows, [b[0], [0.0] * 3])
    np.testing.assert_array_equal(one.scores, np.array([0, np.nan], np.float32))
    assert one.found.tolist() == [True, False]
    none = store.get_many(np.empty(0, np.uint64), 3)
    assert [(array.dtype.name, array.shape) for array in astuple(none)[:5]] == [
        ("float32", (0, 3)),
        ("bool", (0,)),
        ("uint64", (0,)),
        ("float32", (0,)),
        ("float64", (0,)),
    ]
    mixed = store.get_many(np.array([key(2, 1), key(0, 1), key(2, 9), key(1, 9)]), 3)
    assert mixed.damage().tolist() == [True, False, False, False]  # a row of another width costs its own key
    assert mixed.found.tolist() == [False, True, False, False]


def test_tables_defaults_and_scores_can_be_read(tmp_path: Path) -> None:
    paths = {name: tmp_path / f"{name}.safetensors" for name in ("a", "empty")}
    write_table(paths["a"], 6, [1, 4, 8], 3)
    write_table(paths["empty"], 7, [], 5)
    store = MmapStore(paths)
    assert {name: (file.number, file.rows.shape) for name, file in store.files.items()} == {
        "a": (6, (3, 3)),
        "empty": (None, (0, 5)),
    }
    known = MmapStore(paths, {"a": TableSpec("a", 3, 6), "empty": TableSpec("empty", 5, 7)})
    assert known.files["empty"].number == 7
    file = store.files["a"]
    assert file.default.tolist() == [6.5] * 3
    assert file.keys.tolist() == make_keys(6, np.array([1, 4, 8], np.uint64)).tolist()
    assert file.scores.tolist() == [0, 0.5, 1]
    for array in (file.default, file.keys, file.scores, file.rows):
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 0
    with pytest.raises(TypeError, match="item deletion"):
        del store.files["a"]  # type: ignore[attr-defined]
    assert store.files["a"].default.tolist() == [6.5] * 3
    with pytest.raises(StoreError, match="table: expected one of a, empty, got 'b'"):
        look_up(store, "b", file.keys, np.empty((3, 3), np.float32))


def test_a_bundle_replaced_on_disk_does_not_change_what_is_served(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    path = tmp_path / "bundle" / "t.safetensors"
    old = write_table(path, 0, list(range(5000)), 8, seed=1)
    store = MmapStore({"t": path})
    (tmp_path / "next").mkdir()
    new = write_table(tmp_path / "next" / "t.safetensors", 0, list(range(5000)), 8, seed=2)
    (tmp_path / "bundle").rename(tmp_path / "old")
    (tmp_path / "next").rename(tmp_path / "bundle")
    (tmp_path / "old" / "t.safetensors").unlink()
    keys, out = np.arange(5000, dtype=np.uint64), np.empty((5000, 8), np.float32)
    look_up(store, "t", keys, out)
    np.testing.assert_array_equal(out, old)
    look_up(MmapStore({"t": path}), "t", keys, out)
    np.testing.assert_array_equal(out, new)


def test_rows_are_mapped_not_copied_and_let_go_at_close(tmp_path: Path) -> None:
    path = tmp_path / "mapped-table.safetensors"
    write_table(path, 0, list(range(100)), 4)
    with MmapStore({"t": path}) as store:
        assert path.name in Path("/proc/self/maps").read_text()
        look_up(store, "t", np.arange(3, dtype=np.uint64), np.empty((3, 4), np.float32))
    gc.collect()
    assert path.name not in Path("/proc/self/maps").read_text()
    calls = (
        lambda: look_up(store, "t", np.arange(3, dtype=np.uint64), np.empty((3, 4), np.float32)),
        lambda: pool(store, "t", np.arange(3, dtype=np.uint64), np.array([0, 3]), "sum", np.empty((1, 4), np.float32)),
        lambda: store.get_many(np.arange(3, dtype=np.uint64), 4),
        lambda: store.files,
    )
    for call in calls:
        with pytest.raises(StoreError, match="expected an open one, got one that was closed"):
            call()
    store.close()  # a second time is harmless


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="this kernel is built without huge pages"
)
def test_huge_pages_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "huge-table.safetensors"
    write_table(path, 0, list(range(100)), 4)
    store = MmapStore({"t": path})
    lines = Path("/proc/self/smaps").read_text().splitlines()
    start = next(at for at, line in enumerate(lines) if line.endswith(path.name))
    flags = next(line for line in lines[start:] if line.startswith("VmFlags:"))
    assert "hg" in flags.split()
    store.close()


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    write_table(path, 4, [1], 3)
    store = MmapStore({"t": path})
    with pytest.raises(StoreError, match="table: expected one of t, got 'u'"):
        look_up(store, "u", np.zeros(1, np.uint64), np.empty((1, 3), np.float32))
    with pytest.raises(StoreError, match="tables: expected files for t, u, got t"):
        MmapStore({"t": path}, {"t": TableSpec("t", 3, 4), "u": TableSpec("u", 3, 5)})
    with pytest.raises(BundleError, match=r"no\.safetensors: expected a readable file, got: No such file"):
        MmapStore({"t": tmp_path / "no.safetensors"})
    with pytest.raises(BundleError, match="expected a table number of its own, got 4 as in 't'"):
        MmapStore({"t": path, "again": path})


def test_the_protocols_are_kept(tmp_path: Path) -> None:
    write_table(tmp_path / "t.safetensors", 0, [1], 3)
    store = MmapStore({"t": tmp_path / "t.safetensors"})
    source: RowSource = store
    full: Store = store
    assert source is full
