"""Scored parquet: the rows, columns and metadata of one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pepnet_infer import ConfigError, Engine, SchemaError, Scores, score_parquet
from pepnet_infer.parquet import Progress, sink
from pepnet_infer.version import __version__

Make = Callable[..., pa.Table]


@pytest.fixture(scope="module")
def engine(toy_bundle: Path) -> Iterator[Engine]:
    with Engine.load(toy_bundle, check="sizes") as engine:
        yield engine


def test_rows_columns_and_metadata(engine: Engine, toy_table: Make, tmp_path: Path) -> None:
    table = toy_table(1000).append_column("is_click", pa.array([True, False] * 500))
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=300)
    summary = score_parquet(engine, tmp_path / "in.parquet", tmp_path / "out", batch_rows=128)
    out = pq.read_table(tmp_path / "out" / "in.parquet")
    assert out.column_names == ["user_id", "video_id", "tab", "score_click", "score_like"]
    for name in ("user_id", "video_id", "tab"):
        assert out[name].equals(table[name])
    expected = engine.score(table)
    for task in ("click", "like"):
        assert out.schema.field(f"score_{task}").type == pa.float32()
        assert out[f"score_{task}"].null_count == 0
        assert np.abs(out[f"score_{task}"].to_numpy() - expected.column(task)).max() <= 1e-6
    metadata = out.schema.metadata
    assert metadata[b"model_version"] == b"7"
    assert metadata[b"schema_hash"].decode() == engine.schema.hash
    assert metadata[b"pepnet_infer_version"].decode() == __version__
    assert (summary.files, summary.rows, summary.null_rows, summary.skipped) == (1, 1000, 0, [])
    assert summary.rows_per_s == pytest.approx(1000 / summary.seconds)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["in.parquet"]


def test_a_bundle_is_loaded_by_its_path(toy_bundle: Path, toy_table: Make, tmp_path: Path) -> None:
    pq.write_table(toy_table(3), tmp_path / "in.parquet")
    assert score_parquet(str(toy_bundle), str(tmp_path / "in.parquet"), str(tmp_path / "out")).rows == 3


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["is_click", "age"], ["is_click", "age"]),
        ([], []),
        ("all", ["user_id", "video_id", "watched", "tags", "tab", "duration", "age", "is_click", "word"]),
    ],
)
def test_chosen_columns_are_carried_as_they_are(
    engine: Engine, toy_table: Make, tmp_path: Path, columns: Any, expected: list[str]
) -> None:
    table = toy_table(40).append_column("is_click", pa.array([1, None] * 20, pa.int8()))
    table = table.append_column("word", pa.array(["a", "b", None, "a"] * 10).dictionary_encode())
    pq.write_table(table, tmp_path / "in.parquet")
    score_parquet(engine, tmp_path / "in.parquet", tmp_path / "out", columns=columns, batch_rows=7)
    out = pq.read_table(tmp_path / "out" / "in.parquet")
    assert out.column_names == [*expected, "score_click", "score_like"]
    for name in expected:
        assert out.schema.field(name).type == pq.read_schema(tmp_path / "in.parquet").field(name).type
        assert out[name].to_pylist() == table[name].to_pylist()


def test_columns_that_cannot_be_carried(engine: Engine, toy_table: Make, tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(toy_table(4).append_column("score_like", pa.array([1.0] * 4)), path)
    for columns, kind, message in (
        (
            ["user_id", "colour"],
            SchemaError,
            r"in\.parquet: column 'colour': expected it, to carry it through, got columns",
        ),
        (["user_id", "user_id"], SchemaError, r"column 'user_id': expected it once in columns, got it twice"),
        ("all", SchemaError, r"column 'score_like': expected no column of a score's name to carry"),
        ("user_id", ConfigError, r"columns: expected a list, each text or 'all' or None, got 'user_id'"),
    ):
        with pytest.raises(kind, match=message):
            score_parquet(engine, path, tmp_path / "out", columns=columns)
    assert not (tmp_path / "out").exists()
    assert score_parquet(engine, path, tmp_path / "out").rows == 4


@pytest.mark.parametrize("rows", [0, -1, 1.5, True, 1 << 21])
def test_options_are_checked(engine: Engine, tmp_path: Path, rows: Any) -> None:
    with pytest.raises(ConfigError, match=r"batch_rows: expected an integer from 1 to 1048576, got"):
        score_parquet(engine, tmp_path, tmp_path / "out", batch_rows=rows)
    with pytest.raises(ConfigError, match="resume: expected true or false, got 'no'"):
        score_parquet(engine, tmp_path, tmp_path / "out", resume="no")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"columns: expected a list, got \{'user_id'\}"):
        score_parquet(engine, tmp_path, tmp_path / "out", columns={"user_id"})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="on_bad_row: expected one of null, raise, got 'skip'"):
        score_parquet(engine, tmp_path, tmp_path / "out", on_bad_row="skip")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="on_fault: expected one of accept, raise, unfinished, got 'default'"):
        score_parquet(engine, tmp_path, tmp_path / "out", on_fault="default")  # type: ignore[arg-type]


def test_a_file_without_rows_gives_one_without_rows(engine: Engine, toy_table: Make, tmp_path: Path) -> None:
    pq.write_table(toy_table(0), tmp_path / "no_group.parquet")
    with pq.ParquetWriter(tmp_path / "none.parquet", toy_table(0).schema):
        pass
    summary = score_parquet(engine, [tmp_path / "no_group.parquet", tmp_path / "none.parquet"], tmp_path / "out")
    assert (summary.files, summary.rows, summary.rows_per_s) == (2, 0, 0.0)
    for name in ("no_group.parquet", "none.parquet"):
        out = pq.read_table(tmp_path / "out" / name)
        assert out.num_rows == 0
        assert out.column_names == ["user_id", "video_id", "tab", "score_click", "score_like"]
        assert out.schema.field("score_like").type == pa.float32()
        assert out.schema.metadata[b"model_version"] == b"7"


def test_row_groups_of_the_output_do_not_follow_the_batches(
    engine: Engine, toy_table: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink, "GROUP_ROWS", 100)
    table = toy_table(1050)
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=33)
    score_parquet(engine, tmp_path / "in.parquet", tmp_path / "out", batch_rows=64)
    meta = pq.ParquetFile(tmp_path / "out" / "in.parquet").metadata
    assert [meta.row_group(g).num_rows for g in range(meta.num_row_groups)] == [100] * 10 + [50]
    assert pq.read_table(tmp_path / "out" / "in.parquet")["user_id"].equals(table["user_id"])


def spoil(table: pa.Table, name: str, rows: dict[int, Any]) -> pa.Table:
    values = table[name].to_pylist()
    for row, value in rows.items():
        values[row] = value
    return table.set_column(table.column_names.index(name), name, pa.array(values, table.schema.field(name).type))


def test_bad_rows_get_null_scores_and_are_counted(engine: Engine, toy_table: Make, tmp_path: Path) -> None:
    good = toy_table(500)
    table = spoil(good, "user_id", {17: -1, 300: 1 << 50})
    table = spoil(table, "video_id", {17: None, 499: None})
    table = spoil(spoil(table, "duration", {120: float("nan")}), "tab", {121: 3})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=200)
    summary = score_parquet(engine, tmp_path / "in.parquet", tmp_path / "out", on_bad_row="null", batch_rows=64)
    out, bad = pq.read_table(tmp_path / "out" / "in.parquet"), {17, 120, 121, 300, 499}
    expected = engine.score(good)
    for task in ("click", "like"):
        scores = out[f"score_{task}"].to_pylist()
        assert {i for i, score in enumerate(scores) if score is None} == bad
        kept = [i for i in range(500) if i not in bad]
        assert np.abs(np.array([scores[i] for i in kept]) - expected.column(task)[kept]).max() <= 1e-6
    assert out["user_id"].to_pylist() == table["user_id"].to_pylist()
    assert summary.null_rows == 5
    assert set(summary.faults) == {"user_id", "video_id", "duration", "tab"}
    assert summary.faults["user_id"].endswith(
        "column 'user_id': expected ids in [0, 2^48), got -1 at row 17 (row group 0)"
    )
    assert "got nan at row 120 (row group 0)" in summary.faults["duration"]
    with pytest.raises(SchemaError, match=r"in\.parquet: column .* at row 17 \(row group 0\)"):
        score_parquet(engine, tmp_path / "in.parquet", tmp_path / "out2", batch_rows=64)
    assert list((tmp_path / "out2").iterdir()) == []


def test_rows_whose_scores_are_no_probabilities_are_bad_rows(
    engine: Engine, toy_table: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(spoil(toy_table(90), "user_id", {70: -1}), tmp_path / "in.parquet", row_group_size=30)
    score = engine.score_features

    def overflowing(features: Any) -> Scores:
        scores = score(features)
        scores.values[[2, 10]] = np.nan, 1.5
        return replace(scores, invalid=np.isin(np.arange(len(scores)), [2, 10]))

    monkeypatch.setattr(engine, "score_features", overflowing)
    with pytest.raises(SchemaError, match=r"in\.parquet: expected scores in \[0, 1\], .* at row 2 \(row group 0\)"):
        score_parquet(engine, tmp_path / "in.parquet", tmp_path / "out", batch_rows=60)
    summary = score_parquet(engine, tmp_path / "in.parquet", tmp_path / "out", batch_rows=60, on_bad_row="null")
    scores = pq.read_table(tmp_path / "out" / "in.parquet")["score_like"].to_pylist()
    assert {i for i, value in enumerate(scores) if value is None} == {2, 10, 62, 70}
    assert summary.null_rows == 4
    assert summary.faults["scores"].endswith("got one that is not at row 2 (row group 0)")


def test_progress_says_how_far_run_and_file_are(engine: Engine, toy_table: Make, tmp_path: Path) -> None:
    for name, rows in (("a", 100), ("b", 50)):
        pq.write_table(spoil(toy_table(rows), "user_id", {45: -1}), tmp_path / f"{name}.parquet")
    seen: list[Progress] = []
    score_parquet(engine, tmp_path, tmp_path.parent / "out", batch_rows=40, on_bad_row="null", progress=seen.append)
    assert [(now.event, now.files, now.rows, now.null_rows) for now in seen] == [
        ("checked", 0, 0, 0),
        ("batch", 0, 40, 0),
        ("batch", 0, 80, 1),
        ("batch", 0, 100, 1),
        ("file", 1, 100, 1),
        ("batch", 1, 140, 1),
        ("batch", 1, 150, 2),
        ("file", 2, 150, 2),
    ]
    assert {(now.of_files, now.of_rows) for now in seen} == {(2, 150)}
    assert seen[0].file is None
    files = [now.file for now in seen if now.file is not None]
    assert [(file.path.name, file.rows, file.of_rows, file.null_rows) for file in files[2:5]] == [
        ("a.parquet", 100, 100, 1),
        ("a.parquet", 100, 100, 1),
        ("b.parquet", 40, 50, 0),
    ]
    assert all(0 < file.seconds <= now.seconds for file, now in zip(files, seen[1:], strict=True))
