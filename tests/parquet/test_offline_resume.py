"""What a finished output depends on: a second run keeps it, or scores its input again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from offline_runs import contents, run

from pepnet_infer import CacheConfig, Engine, PepnetError, score_parquet
from pepnet_infer.parquet import Progress, source

Make = Callable[..., pa.Table]


def inodes(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in sorted(out.iterdir())}


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
    # The same users in another order, as old as the file before: same size, same footer, same time.
    users = table["user_id"].to_pylist()
    assert users[0] != users[1]
    swapped = table.set_column(0, table.schema.field(0), pa.array([users[1], users[0], *users[2:]]))
    for content in (table, swapped):
        pq.write_table(content, path, compression="none", use_dictionary=False)
        os.utime(path, (1, 1))
        assert run(engine, folder)[0] == (3 if content is table else 1)
        assert pq.read_table(folder / "out" / "a.parquet")["user_id"].to_pylist() == content["user_id"].to_pylist()
    os.utime(path)  # a file that is newer than its output and has the same content
    assert run(engine, folder) == (0, ["a.parquet", "b.parquet", "c.parquet"])
    pq.write_table(toy_table(20), path)
    assert run(engine, folder) == (1, ["b.parquet", "c.parquet"])
    assert pq.read_metadata(folder / "out" / "a.parquet").num_rows == 20


def test_an_input_that_changes_meanwhile_is_noticed(engine: Engine, folder: Path) -> None:
    def touch(now: Progress) -> None:
        if now.rows == 70:
            os.utime(folder / "in" / "b.parquet", (1, 1))

    with pytest.raises(PepnetError, match=r"b\.parquet: expected a file that stays as it is, but it changed meanwhile"):
        run(engine, folder, batch_rows=10, progress=touch)
    assert sorted(contents(folder / "out")) == ["a.parquet"]


def test_any_value_of_an_input_counts_whichever_columns_are_read(engine: Engine, folder: Path, toy_table: Make) -> None:
    path = folder / "in" / "a.parquet"

    def write(**columns: list[Any]) -> None:
        table = toy_table(50)
        for name, values in columns.items():
            if name in table.column_names:
                table = table.drop_columns([name])
            table = table.append_column(name, pa.array(values))
        # The same footer: without statistics it does not show which values are where.
        pq.write_table(table, path, compression="none", use_dictionary=False, write_statistics=False)

    write(note=[1, 2] * 25, tags=[[1, 2], [3]] * 25)
    assert run(engine, folder)[0] == 3
    write(note=[2, 1] * 25, tags=[[1, 2], [3]] * 25)
    assert run(engine, folder)[0] == 1
    write(note=[2, 1] * 25, tags=[[3, 2], [1]] * 25)
    assert run(engine, folder)[0] == 1
    assert run(engine, folder, columns="all")[0] == 3
    write(note=[1, 2] * 25, tags=[[3, 2], [1]] * 25)
    assert run(engine, folder, columns="all")[0] == 1


def test_a_file_that_changes_within_a_tick_of_the_clock_is_noticed(
    engine: Engine, folder: Path, toy_table: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A file system whose times are as coarse as can be: a change leaves no trace but the content's.
    monkeypatch.setattr(source, "stamp_of", lambda found: (found.st_ino, found.st_size, 1 << 62, 1 << 62))
    path = folder / "in" / "b.parquet"
    content = path.read_bytes()
    other = content.replace(b"ARROW:schema", b"ARROW:SCHEMA")
    assert len(other) == len(content)
    assert other != content

    def change(now: Progress) -> None:
        if now.rows == 70:
            path.write_bytes(other)

    with pytest.raises(PepnetError, match=r"b\.parquet: expected a file that stays as it is, but it changed meanwhile"):
        run(engine, folder, batch_rows=10, progress=change)
    assert sorted(contents(folder / "out")) == ["a.parquet"]


def test_values_of_folders_are_part_of_the_request(engine: Engine, tmp_path: Path, toy_table: Make) -> None:
    table = toy_table(40).drop_columns(["tab"])
    for folder in ("tab=0", "tab=1", "tab=01", "dt=1", "dt=2"):
        (tmp_path / folder).mkdir()
        given = table if folder.startswith("tab") else toy_table(40)
        pq.write_table(given, tmp_path / folder / "p.parquet")

    def kept(folder: str, **options: Any) -> bool:
        summary = score_parquet(engine, tmp_path / folder / "p.parquet", tmp_path / "out", **options)
        if folder.startswith("tab"):
            right = engine.score(table.append_column("tab", pa.array([int(folder[4:])] * 40))).column("click")
            scores = pq.read_table(tmp_path / "out" / "p.parquet")["score_click"].to_numpy()
            assert np.abs(scores - right).max() <= 1e-6
        return bool(summary.skipped)

    assert [kept(folder) for folder in ("tab=0", "tab=0", "tab=1", "tab=01", "tab=0")] == [0, 1, 0, 1, 0]
    assert [kept(folder) for folder in ("dt=1", "dt=2")] == [0, 1]  # nothing depends on it
    assert [kept(folder, columns=["dt"]) for folder in ("dt=1", "dt=1", "dt=2")] == [0, 1, 0]


def test_an_output_has_the_column_of_a_folder_only_where_no_folder_of_its_own_says_it(
    engine: Engine, tmp_path: Path, toy_table: Make
) -> None:
    """A job by the day and one over the whole tree give one file the same name, and other columns."""
    path = tmp_path / "in" / "tab=1" / "p.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(toy_table(40).drop_columns(["tab"]), path)
    one, tree = (path, tmp_path / "out" / "tab=1"), (tmp_path / "in", tmp_path / "out")
    for (inputs, out), skipped, columns in (
        (one, 0, ["tab"]),
        (one, 1, ["tab"]),
        (tree, 0, []),
        (tree, 1, []),
        (one, 0, ["tab"]),
    ):
        assert len(score_parquet(engine, inputs, out).skipped) == skipped
        names = pq.ParquetFile(tmp_path / "out" / "tab=1" / "p.parquet").schema_arrow.names
        assert names == ["user_id", "video_id", *columns, "score_click", "score_like"]


def test_bad_rows_and_default_rows_of_finished_files_are_told_again(engine: Engine, folder: Path) -> None:
    for name in "ab":
        path = folder / "in" / f"{name}.parquet"
        table = pq.read_table(path)
        spoilt = pa.array([None, *table["user_id"].to_pylist()[1:-1], -5])
        pq.write_table(table.set_column(0, "user_id", spoilt), path)
    first = score_parquet(engine, folder / "in", folder / "out", on_bad_row="null", batch_rows=20)
    assert (first.null_rows, first.skipped_rows) == (4, 0)
    assert first.faults == {
        "user_id": f"{folder}/in/a.parquet: column 'user_id': expected no nulls, got null at row 0 (row group 0)"
    }
    again = score_parquet(engine, folder / "in", folder / "out", on_bad_row="null", batch_rows=20)
    assert (again.files, again.rows, again.skipped_rows) == (0, 0, 150)
    assert (again.null_rows, again.faults, again.unavailable) == (4, first.faults, {})
    (folder / "out" / "a.parquet").unlink()
    mixed = score_parquet(engine, folder / "in", folder / "out", on_bad_row="null", batch_rows=20)
    assert (mixed.files, mixed.null_rows, set(mixed.faults)) == (1, 4, {"user_id"})
    clean = pq.read_metadata(folder / "out" / "c.parquet").metadata
    assert json.loads(clean[b"pepnet_infer.bad_rows"]) == [0, {}]  # what does not say it is scored again
