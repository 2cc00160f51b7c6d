"""Parquet that cannot be scored, and folders that cannot be written: the error names file, column and place."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pepnet_infer import Engine, PepnetError, SchemaError, score_parquet
from pepnet_infer.parquet import sink

pytestmark = pytest.mark.hostile

Make = Callable[..., pa.Table]
Change = Callable[[pa.Table], pa.Table]


@pytest.fixture(scope="module")
def engine(toy_bundle: Path) -> Iterator[Engine]:
    with Engine.load(toy_bundle, check="sizes") as engine:
        yield engine


def column(name: str, convert: Callable[[list[Any]], list[Any]], kind: Any = None) -> Change:
    def change(table: pa.Table) -> pa.Table:
        position = table.column_names.index(name)
        return table.set_column(position, name, pa.array(convert(table[name].to_pylist()), kind))

    return change


def put(rows: dict[int, Any]) -> Callable[[list[Any]], list[Any]]:
    return lambda values: [rows.get(i, value) for i, value in enumerate(values)]


def same(values: list[Any]) -> list[Any]:
    return values


# 400 rows in row groups of 100, scored 64 at a time.
FAULTS: list[tuple[Change, str]] = [
    (
        lambda t: t.drop(["user_id"]),
        r"column 'user_id': expected it in the file, got columns video_id, watched, tags, tab, dura",
    ),
    (
        column("user_id", put({210: None, 250: None, 299: None}), pa.float64()),
        r"column 'user_id': expected .*, got (double|float64) \(3 nulls\) at row group 2",
    ),
    (column("user_id", same, pa.float32()), r"column 'user_id': expected integer ids, got float"),
    (column("user_id", lambda v: [str(x) for x in v]), r"column 'user_id': expected integer ids .*, got string"),
    (column("tags", lambda v: [1] * len(v)), r"column 'tags': expected lists of integer ids, got int64"),
    (column("duration", lambda v: ["x"] * len(v)), r"column 'duration': expected numbers, got string"),
    (column("user_id", put({317: None})), r"column 'user_id': expected no nulls, got null at row 317 \(row group 3\)"),
    (
        column("user_id", put({210: None, 211: None})),
        r"column 'user_id': expected no nulls, got null at row 210 \(row group 2\) \(and 1 more\)",
    ),
    (column("video_id", put({99: -5})), r"column 'video_id': expected ids in .*, got -5 at row 99 \(row group 0\)"),
    (column("video_id", put({100: 1 << 48})), r"column 'video_id': expected ids in .* at row 100 \(row group 1\)"),
    (column("tags", put({399: [1, -1]})), r"column 'tags': expected ids in .*, got -1 at row 399 \(row group 3\)"),
    (column("duration", put({250: float("inf")})), r"column 'duration': .*, got inf at row 250 \(row group 2\)"),
    (column("tab", put({64: 9})), r"column 'tab': expected a known domain .*, got 9 at row 64 \(row group 0\)"),
]


@pytest.mark.parametrize(("change", "message"), FAULTS, ids=[fault[1][:50] for fault in FAULTS])
def test_faults_of_columns_and_rows(
    engine: Engine, toy_table: Make, tmp_path: Path, change: Change, message: str
) -> None:
    pq.write_table(change(toy_table(400)), tmp_path / "in.parquet", row_group_size=100)
    with pytest.raises(SchemaError, match=rf"/in\.parquet: {message}") as caught:
        score_parquet(engine, tmp_path / "in.parquet", tmp_path / "out", batch_rows=64)
    assert caught.value.column is not None
    assert not (tmp_path / "out").exists() or not os.listdir(tmp_path / "out")


def test_a_column_that_is_there_twice(engine: Engine, toy_table: Make, tmp_path: Path) -> None:
    table = toy_table(3)
    pq.write_table(table.append_column("tab", table["tab"]), tmp_path / "in.parquet")
    with pytest.raises(SchemaError, match=r"in\.parquet: column 'tab': expected one of that name, got 2"):
        score_parquet(engine, tmp_path / "in.parquet", tmp_path / "out")


def test_faults_of_a_whole_column_raise_with_null_as_well(engine: Engine, toy_table: Make, tmp_path: Path) -> None:
    for change, message in FAULTS[:6]:
        pq.write_table(change(toy_table(400)), tmp_path / "in.parquet", row_group_size=100)
        with pytest.raises(SchemaError, match=message):
            score_parquet(engine, tmp_path / "in.parquet", tmp_path / "out", on_bad_row="null")


def test_drift_between_files_is_found_before_the_first_row(engine: Engine, toy_table: Make, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(toy_table(50), tmp_path / "in" / "a.parquet")
    for change, message in FAULTS[:6]:
        pq.write_table(change(toy_table(400)), tmp_path / "in" / "b.parquet", row_group_size=100)
        with pytest.raises(SchemaError, match=rf"in/b\.parquet: {message}"):
            score_parquet(engine, tmp_path / "in", tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_drift_that_means_the_same_is_scored(engine: Engine, toy_table: Make, tmp_path: Path) -> None:
    table = toy_table(50)
    narrow = column("tab", same, pa.int8())(column("user_id", same, pa.uint16())(table))
    narrow = narrow.select(["tab", *reversed([name for name in table.column_names if name != "tab"])])
    for name, drifted in (("a", table), ("b", narrow)):
        pq.write_table(drifted, tmp_path / f"{name}.parquet")
    score_parquet(engine, [tmp_path / "a.parquet", tmp_path / "b.parquet"], tmp_path / "out")
    a, b = (pq.read_table(tmp_path / "out" / f"{name}.parquet") for name in "ab")
    assert a["score_click"].equals(b["score_click"])
    assert b.schema.field("user_id").type == pa.uint16()


def test_a_footer_that_disagrees_with_itself(engine: Engine, toy_table: Make, tmp_path: Path) -> None:
    """What it says of a column's values is not asked for: pyarrow ends the process over it."""
    sink = pa.BufferOutputStream()
    pq.write_table(toy_table(30), sink, store_schema=False)
    data = sink.getvalue().to_pybytes()
    of_integers, of_booleans = (b"\x15" + kind + b"\x25\x02\x18\x07user_id" for kind in (b"\x04", b"\x00"))
    assert data.count(of_integers) == 1
    (tmp_path / "in.parquet").write_bytes(data.replace(of_integers, of_booleans))
    with pytest.raises(SchemaError, match=r"in\.parquet: column 'user_id': expected integer ids, got bool"):
        score_parquet(engine, tmp_path / "in.parquet", tmp_path / "out")


@pytest.mark.parametrize("cut", [0, 3, 100, -1, -9])
def test_files_that_are_no_parquet(engine: Engine, toy_table: Make, tmp_path: Path, cut: int) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(toy_table(400), path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(PepnetError, match=r"in\.parquet: expected a parquet file, got: "):
        score_parquet(engine, path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_random_bytes_and_text_are_no_parquet(engine: Engine, tmp_path: Path) -> None:
    for i, content in enumerate((b"user_id,video_id\n1,2\n", np.random.default_rng(0).bytes(5000), b"PAR1" * 100)):
        path = tmp_path / f"{i}.parquet"
        path.write_bytes(content)
        with pytest.raises(PepnetError, match=rf"{i}\.parquet: expected a parquet file, got: "):
            score_parquet(engine, path, tmp_path / "out")


def test_damage_inside_is_found_and_the_whole_files_before_it_stay(
    engine: Engine, toy_table: Make, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    for name in "ab":
        pq.write_table(
            toy_table(4000), tmp_path / "in" / f"{name}.parquet", row_group_size=1000, write_page_checksum=True
        )
    path = tmp_path / "in" / "b.parquet"
    chunk = pq.read_metadata(path).row_group(2).column(0)
    content = bytearray(path.read_bytes())
    middle = chunk.data_page_offset + chunk.total_compressed_size // 2
    content[middle : middle + 8] = bytes(8)
    path.write_bytes(content)
    with pytest.raises(PepnetError, match=r"b\.parquet: cannot read row group [012]: "):
        score_parquet(engine, tmp_path / "in", tmp_path / "out", batch_rows=100)
    assert os.listdir(tmp_path / "out") == ["a.parquet"]


def test_a_folder_in_place_of_a_file_and_a_file_in_place_of_a_folder(
    engine: Engine, toy_table: Make, tmp_path: Path
) -> None:
    pq.write_table(toy_table(3), tmp_path / "in.parquet")
    (tmp_path / "file").touch()
    with pytest.raises(PepnetError, match=r"file: expected a folder for the output, got a file"):
        score_parquet(engine, tmp_path / "in.parquet", tmp_path / "file")
    with pytest.raises(PepnetError, match=r"file/below/in\.parquet: cannot be written: Not a directory"):
        score_parquet(engine, tmp_path / "in.parquet", tmp_path / "file" / "below")


def test_a_folder_that_cannot_be_written(engine: Engine, toy_table: Make, tmp_path: Path) -> None:
    pq.write_table(toy_table(3), tmp_path / "in.parquet")
    target = Path("/proc/pepnet")  # not even root makes a folder there
    with pytest.raises(PepnetError, match=r"/proc/pepnet/in\.parquet: cannot be written: "):
        score_parquet(engine, tmp_path / "in.parquet", target)
    if os.getuid() == 0:
        return
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    with pytest.raises(PepnetError, match=r"locked/in\.parquet: cannot be written: Permission denied"):
        score_parquet(engine, tmp_path / "in.parquet", locked)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    where = tmp_path / "disk"
    where.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", where], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system is not allowed here")
    yield where
    # Lazily: what Arrow has read from a file there is closed by threads of its own, some time later.
    subprocess.run(["umount", "--lazy", where], check=True)


def test_a_full_disk_leaves_whole_files_only(
    engine: Engine, toy_table: Make, tmp_path: Path, full_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink, "GROUP_ROWS", 2000)
    (tmp_path / "in").mkdir()
    pq.write_table(toy_table(100), tmp_path / "in" / "a.parquet")
    pq.write_table(toy_table(40_000), tmp_path / "in" / "b.parquet")
    with pytest.raises(PepnetError, match=r"b\.parquet: cannot be written: No space left on device"):
        score_parquet(engine, tmp_path / "in", full_disk / "out")
    assert os.listdir(full_disk / "out") == ["a.parquet"]
    assert pq.read_table(full_disk / "out" / "a.parquet").num_rows == 100


def test_a_disk_without_a_free_byte_leaves_nothing(
    engine: Engine, toy_table: Make, tmp_path: Path, full_disk: Path
) -> None:
    pq.write_table(toy_table(3), tmp_path / "in.parquet")
    (full_disk / "out").mkdir()
    with open(full_disk / "filled", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    with pytest.raises(PepnetError, match=r"in\.parquet: cannot be written: No space left on device"):
        score_parquet(engine, tmp_path / "in.parquet", full_disk / "out")
    assert os.listdir(full_disk / "out") == []


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_an_error_at_any_step_of_writing_leaves_nothing(
    engine: Engine, toy_table: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    pq.write_table(toy_table(100), tmp_path / "in.parquet")

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    (tmp_path / "out").mkdir()
    with monkeypatch.context() as patch:
        if step == "write":
            patch.setattr(pq.ParquetWriter, "write_table", fail)
        else:
            patch.setattr(os, step, fail)
        with pytest.raises(PepnetError, match=r"in\.parquet: cannot be written: Input/output error"):
            score_parquet(engine, tmp_path / "in.parquet", tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []
    assert score_parquet(engine, tmp_path / "in.parquet", tmp_path / "out").rows == 100
