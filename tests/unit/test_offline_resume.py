"""What a second run keeps, what it does again, and what it does not touch."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pepnet_infer import CacheConfig, Engine, PepnetError, score_parquet
from pepnet_infer.offline.resume import REQUEST_KEY

Make = Callable[..., pa.Table]


@pytest.fixture(scope="module")
def engine(toy_bundle: Path) -> Iterator[Engine]:
    with Engine.load(toy_bundle, check="sizes") as engine:
        yield engine


@pytest.fixture
def folder(toy_table: Make, tmp_path: Path) -> Path:
    """Three input files in `in`."""
    (tmp_path / "in").mkdir()
    for i, name in enumerate("abc"):
        pq.write_table(toy_table(50, i), tmp_path / "in" / f"{name}.parquet", compression="none", use_dictionary=False)
    return tmp_path


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def inodes(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in sorted(out.iterdir())}


def run(engine: Engine, folder: Path, **options: Any) -> tuple[int, list[str]]:
    summary = score_parquet(engine, folder / "in", folder / "out", **options)
    return summary.files, sorted(path.name for path in summary.skipped)


def test_finished_files_are_kept_and_missing_ones_made(engine: Engine, folder: Path) -> None:
    assert run(engine, folder) == (3, [])
    first, before = contents(folder / "out"), inodes(folder / "out")
    assert run(engine, folder) == (0, ["a.parquet", "b.parquet", "c.parquet"])
    assert inodes(folder / "out") == before
    (folder / "out" / "b.parquet").unlink()
    assert run(engine, folder) == (1, ["a.parquet", "c.parquet"])
    assert contents(folder / "out") == first
    assert run(engine, folder, resume=False) == (3, [])
    assert contents(folder / "out") == first


def test_bytes_depend_on_neither_time_nor_place(engine: Engine, folder: Path) -> None:
    run(engine, folder)
    copy = folder / "elsewhere" / "in"
    shutil.copytree(folder / "in", copy)  # new times
    score_parquet(engine, copy, folder / "out2")
    assert contents(folder / "out2") == contents(folder / "out")


def test_other_options_score_again(engine: Engine, folder: Path) -> None:
    run(engine, folder)
    for options in ({"columns": ["user_id"]}, {"on_bad_row": "null"}, {"batch_rows": 10}, {"columns": "all"}):
        assert run(engine, folder, **options) == (3, [])
        assert run(engine, folder, **options) == (0, ["a.parquet", "b.parquet", "c.parquet"])


def test_another_model_scores_again(toy_bundle: Path, engine: Engine, folder: Path) -> None:
    run(engine, folder)
    newer = folder / "bundle"
    shutil.copytree(toy_bundle, newer)
    manifest = json.loads((newer / "manifest.json").read_text())
    manifest["model_version"] = 8
    (newer / "manifest.json").write_text(json.dumps(manifest))
    with Engine.load(newer, check="sizes") as other:
        assert run(other, folder) == (3, [])
        assert pq.read_schema(folder / "out" / "a.parquet").metadata[b"model_version"] == b"8"


def test_a_cache_that_rounds_rows_scores_again(toy_bundle: Path, engine: Engine, folder: Path) -> None:
    assert run(engine, folder) == (3, [])
    with Engine.load(toy_bundle, check="sizes", cache=None) as plain:
        assert run(plain, folder)[0] == 0
    with Engine.load(toy_bundle, check="sizes", cache=CacheConfig(dtype="int8")) as rounded:
        assert run(rounded, folder) == (3, [])
        assert run(rounded, folder)[0] == 0


def test_an_altered_input_scores_again(engine: Engine, folder: Path, toy_table: Make) -> None:
    path = folder / "in" / "a.parquet"
    table = pq.read_table(path)
    # The same users in another order: same size, same footer, so that only the time tells.
    users = table["user_id"].to_pylist()
    assert users[0] != users[1]
    swapped = table.set_column(0, table.schema.field(0), pa.array([users[1], users[0], *users[2:]]))
    pq.write_table(table, path, compression="none", use_dictionary=False)
    run(engine, folder)
    footer = pq.read_schema(folder / "out" / "a.parquet").metadata[REQUEST_KEY.encode()]
    pq.write_table(swapped, path, compression="none", use_dictionary=False)
    assert run(engine, folder) == (1, ["b.parquet", "c.parquet"])
    again = pq.read_table(folder / "out" / "a.parquet")
    assert again["user_id"].to_pylist() == swapped["user_id"].to_pylist()
    assert again.schema.metadata[REQUEST_KEY.encode()] == footer
    pq.write_table(toy_table(20), path)  # more than the time
    os.utime(path, (0, 0))
    assert run(engine, folder) == (1, ["b.parquet", "c.parquet"])
    assert pq.read_metadata(folder / "out" / "a.parquet").num_rows == 20


def test_leftovers_of_a_killed_run_go_away(engine: Engine, folder: Path) -> None:
    run(engine, folder)
    first = contents(folder / "out")
    (folder / "out" / "a.parquet").unlink()
    for name in "ab":  # one of a file that is missing, one of a file that is there
        (folder / "out" / f".{name}.parquet.partial").write_bytes(b"PAR1 half a file")
    run(engine, folder)
    assert contents(folder / "out") == first


def test_two_runs_cannot_write_one_file(engine: Engine, folder: Path) -> None:
    (folder / "out").mkdir()
    with open(folder / "out" / ".b.parquet.partial", "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(
            PepnetError, match=r"b\.parquet: expected to be its only writer, but another run is writing"
        ):
            run(engine, folder)
        assert sorted(contents(folder / "out")) == [".b.parquet.partial", "a.parquet"]
    assert run(engine, folder) == (2, ["a.parquet"])


def test_files_of_others_are_not_written_over(engine: Engine, folder: Path, toy_table: Make) -> None:
    (folder / "out").mkdir()
    path = folder / "out" / "c.parquet"
    for write, message in (
        (lambda: pq.write_table(toy_table(3), path), "got a file of another origin"),
        (lambda: path.write_bytes(b"a letter"), "expected nothing or an earlier output there, got: "),
        (lambda: (path.unlink(), path.mkdir()), "expected nothing or an earlier output there, got: "),
    ):
        write()  # type: ignore[no-untyped-call]
        with pytest.raises(PepnetError, match=rf"c\.parquet: .*{message}"):
            run(engine, folder, resume=False)
        assert os.listdir(folder / "out") == ["c.parquet"]  # refused before the first row was scored


def test_an_input_that_changes_meanwhile_is_noticed(engine: Engine, folder: Path) -> None:
    def touch(done: int, total: int) -> None:
        if done == 70:
            os.utime(folder / "in" / "b.parquet", (1, 1))

    with pytest.raises(PepnetError, match=r"b\.parquet: expected a file that stays as it is, but it changed meanwhile"):
        run(engine, folder, batch_rows=10, progress=touch)
    assert sorted(contents(folder / "out")) == ["a.parquet"]
