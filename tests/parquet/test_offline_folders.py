"""What folders' names say: values of columns, whose types the schema decides."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pepnet_infer import Engine, SchemaError, score_parquet
from pepnet_infer.parquet.folders import folder_column, folder_values
from pepnet_infer.schema.feature_schema import FeatureSchema

Make = Callable[..., pa.Table]


def test_folders_that_would_stand_for_scores(toy_bundle: Path, toy_table: Make, tmp_path: Path) -> None:
    path = tmp_path / "in" / "score_click=3" / "p.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(toy_table(3), path)
    with Engine.load(toy_bundle, check="sizes") as engine:
        with pytest.raises(SchemaError, match="'score_click': expected no folder of a score's name above the output"):
            score_parquet(engine, tmp_path / "in", tmp_path / "out")
        assert score_parquet(engine, path, tmp_path / "out").rows == 3
        bad = tmp_path / "in" / "k\udcff=1" / "p.parquet"
        bad.parent.mkdir()
        shutil.copy(path, bad)
        assert score_parquet(engine, bad, tmp_path / "other").rows == 3
        with pytest.raises(SchemaError, match=r"expected a name of a column in UTF-8, got '1'"):
            score_parquet(engine, bad, tmp_path / "other", columns="all")


def test_folders_name_partitions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert folder_values(Path("/x/tab=1/day=2022-05-06/p.parquet")) == {"tab": "1", "day": "2022-05-06"}
    assert folder_values(Path("/x/city=S%C3%A3o%20Paulo%2F1/k=a=b/p.parquet")) == {"city": "São Paulo/1", "k": "a=b"}
    assert folder_values(Path("/x/tab=__HIVE_DEFAULT_PARTITION__/=3/tab=.parquet")) == {"tab": None}
    assert folder_values(Path("in/tab=1/../tab=2/p.parquet")) == {"tab": "2"}
    (tmp_path / "tab=1").mkdir()
    monkeypatch.chdir(tmp_path / "tab=1")
    assert folder_values(Path("p.parquet")) == {}  # only what a command says


def schema_of(toy_schema: FeatureSchema, domains: list[Any] | None = None, **fields: dict[str, Any]) -> FeatureSchema:
    """The toy schema with some fields, and the domains, changed."""
    data = toy_schema.to_json()
    for field in data["fields"]:
        field.update(fields.get(field["name"], {}))
    data["domain"]["values"] = domains or data["domain"]["values"]
    return FeatureSchema.from_json(data)


def read(schema: FeatureSchema, folder: str) -> pa.Scalar:
    return folder_column(schema, Path("in") / folder / "p.parquet", folder.partition("=")[0])


def test_values_of_folders_have_the_types_of_the_schema(toy_schema: FeatureSchema) -> None:
    hashed = schema_of(toy_schema, user_id={"hashed": True})
    texts = schema_of(toy_schema, ["0", "1", "4"], page={"hashed": True})
    both = schema_of(toy_schema, page={"hashed": True})  # its column is the domain's too, and those are integers
    split = schema_of(toy_schema, tags={"separator": ","})
    timed = schema_of(toy_schema, age={"transform": "hour"}, user_id={"transform": "weekday"})
    buckets = schema_of(toy_schema, user_id={"transform": {"op": "bucketize", "boundaries": [1, 2]}})
    for schema, folder, value, kind in (
        (toy_schema, "tab=0", 0, pa.int64()),
        (toy_schema, "tab=07", 7, pa.int64()),
        (toy_schema, "user_id=0755", 755, pa.int64()),
        (toy_schema, "user_id=-9223372036854775808", -(1 << 63), pa.int64()),
        (toy_schema, "user_id=__HIVE_DEFAULT_PARTITION__", None, pa.int64()),
        (hashed, "user_id=0755", "0755", pa.string()),
        (hashed, "user_id=755", "755", pa.string()),
        (hashed, "user_id=", "", pa.string()),
        (texts, "tab=1", "1", pa.string()),
        (both, "tab=1", 1, pa.int64()),
        (split, "tags=1,2", "1,2", pa.string()),
        (toy_schema, "age=3", 3.0, pa.float64()),
        (toy_schema, "age=-2.5e1", -25.0, pa.float64()),
        (toy_schema, "age=.5", 0.5, pa.float64()),
        (toy_schema, "age=__HIVE_DEFAULT_PARTITION__", None, pa.float64()),
        (timed, "age=1650000000000", 1_650_000_000_000, pa.int64()),
        (timed, "user_id=1650000000000", 1_650_000_000_000, pa.int64()),
        (buckets, "user_id=1.5", 1.5, pa.float64()),
        (toy_schema, "colour=07", "07", pa.string()),
    ):
        assert read(schema, folder).equals(pa.scalar(value, kind)), folder


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("tab=x7", r"in/tab=x7: column 'tab': expected an integer of 64 bits in the folder's name, got 'x7'"),
        ("tab=1.0", r"in/tab=1\.0: column 'tab': expected an integer of 64 bits in the folder's name, got '1\.0'"),
        ("tab=", r"in/tab=: column 'tab': expected an integer of 64 bits in the folder's name, got ''"),
        ("tab=٣", r"column 'tab': expected an integer of 64 bits in the folder's name, got '٣'"),
        ("user_id=9223372036854775808", r"column 'user_id': expected an integer of 64 bits"),
        (f"user_id={'9' * 200}", r"column 'user_id': expected an integer of 64 bits"),
        ("age=old", r"in/age=old: column 'age': expected a finite number in the folder's name, got 'old'"),
        ("age=nan", r"column 'age': expected a finite number in the folder's name, got 'nan'"),
        ("age=1e999", r"column 'age': expected a finite number in the folder's name, got '1e999'"),
        ("tags=1", r"column 'tags': expected lists, which only a column of the file can hold, got '1'"),
        ("tab=1/tab=2", r"in/tab=1/tab=2: column 'tab': expected the value '1' of in/tab=1 in all folders, got '2'"),
        ("colour=%FF", r"column 'colour': expected UTF-8 text in the folder's name, got '.udcff'"),
    ],
)
def test_values_of_folders_that_do_not_fit(toy_schema: FeatureSchema, folder: str, message: str) -> None:
    with pytest.raises(SchemaError, match=message) as caught:
        read(toy_schema, folder)
    assert caught.value.column == folder.partition("=")[0]


def test_partitioned_folders_are_scored(toy_bundle: Path, toy_table: Make, tmp_path: Path) -> None:
    table = toy_table(300)
    pq.write_to_dataset(table, tmp_path / "in", partition_cols=["tab"], basename_template="part-{i}.parquet")
    with Engine.load(toy_bundle, check="sizes") as engine:
        summary = score_parquet(engine, tmp_path / "in", tmp_path / "out", columns=["user_id", "tab"])
        assert (summary.files, summary.rows) == (3, 300)
        assert sorted(os.listdir(tmp_path / "out")) == ["tab=0", "tab=1", "tab=4"]
        for tab in (0, 1, 4):
            part = table.filter(pa.compute.equal(table["tab"], tab))
            out = pq.ParquetFile(tmp_path / "out" / f"tab={tab}" / "part-0.parquet").read()
            assert out.column_names == ["user_id", "score_click", "score_like"]  # the folder has the tab
            assert out["user_id"].to_pylist() == part["user_id"].to_pylist()
            assert out["score_like"].to_numpy() == pytest.approx(engine.score(part).column("like"), abs=1e-6)
        assert pq.read_table(tmp_path / "out")["tab"].value_counts().to_pylist() == [
            {"values": tab, "counts": table["tab"].to_pylist().count(tab)} for tab in (0, 1, 4)
        ]  # where a reader finds it; as a column of the files too it would have two types
        one = tmp_path / "in" / "tab=1" / "part-0.parquet"
        assert score_parquet(engine, one, tmp_path / "one").rows > 0
        (tmp_path / "in" / "tab=1").rename(tmp_path / "in" / "tab=7")
        with pytest.raises(
            SchemaError, match=r"tab=7/part-0\.parquet: column 'tab': expected a known domain .*, got 7"
        ):
            score_parquet(engine, tmp_path / "in", tmp_path / "out")


def test_columns_that_only_a_folder_has_come_out(toy_bundle: Path, toy_table: Make, tmp_path: Path) -> None:
    table = toy_table(30).drop_columns(["tab"])
    path = tmp_path / "in" / "dt=07" / "tab=1" / "p.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(table, path)
    with Engine.load(toy_bundle, check="sizes") as engine:

        def columns(inputs: Path, columns: Any = None, of: str = "p.parquet") -> pa.Table:
            out = tmp_path / "out"
            score_parquet(engine, inputs, out, columns=columns)
            found = pq.ParquetFile(out / of).read()
            assert found["score_click"].to_numpy() == pytest.approx(expected, abs=1e-6)
            return found.drop_columns(["score_click", "score_like"])

        expected = engine.score(table.append_column("tab", pa.array([1] * 30))).column("click")
        one = columns(path, ["dt", "user_id", "tab"])
        assert one.schema == pa.schema([("dt", pa.string()), ("user_id", pa.int64()), ("tab", pa.int64())])
        assert one.select(["dt", "tab"]).to_pylist() == [{"dt": "07", "tab": 1}] * 30
        assert columns(path).column_names == ["user_id", "video_id", "tab"]
        assert columns(path, "all").column_names == [*table.column_names, "dt", "tab"]
        assert columns(path.parent, ["tab", "dt"]).column_names == ["tab", "dt"]
        # What the output's own folders say, a reader of the output finds there.
        assert columns(tmp_path / "in" / "dt=07", ["tab", "dt"], "tab=1/p.parquet").column_names == ["dt"]
        (tmp_path / "out" / "tab=1" / "p.parquet").unlink()
        assert columns(tmp_path / "in", ["tab", "dt"], "dt=07/tab=1/p.parquet").column_names == []
        (tmp_path / "out" / "p.parquet").unlink()
        read = pq.read_table(tmp_path / "out")
        assert read.column_names == ["score_click", "score_like", "dt", "tab"]
        with pytest.raises(SchemaError, match="column 'day': expected it, to carry it through"):
            score_parquet(engine, path, tmp_path / "out", columns=["day"])


def test_a_type_does_not_depend_on_the_folders_beside_it(toy_bundle: Path, toy_table: Make, tmp_path: Path) -> None:
    table = toy_table(30).drop_columns(["user_id"])
    for folder in ("user_id=07", "user_id=x7"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        pq.write_table(table, tmp_path / "in" / folder / "p.parquet")
    with Engine.load(toy_bundle, check="sizes") as engine:
        score_parquet(engine, tmp_path / "in" / "user_id=07", tmp_path / "out")
        assert set(pq.read_table(tmp_path / "out" / "p.parquet")["user_id"].to_pylist()) == {7}
        with pytest.raises(SchemaError, match=r"in/user_id=x7: column 'user_id': expected an integer .*, got 'x7'"):
            score_parquet(engine, tmp_path / "in", tmp_path / "both")
        assert not (tmp_path / "both").exists()
        # A file that has the column itself is not read by its folder's name.
        pq.write_table(toy_table(30), tmp_path / "in" / "user_id=x7" / "p.parquet")
        assert score_parquet(engine, tmp_path / "in", tmp_path / "both").rows == 60
