"""Which files are scored, under which names, and what folders' names say."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pepnet_infer import Engine, PepnetError, SchemaError, score_parquet
from pepnet_infer.offline.plan import Constant, constants, hive_partitions, plan
from pepnet_infer.schema import FeatureSchema

Make = Callable[..., pa.Table]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files that nothing is read of: data/{a,sub/b,sub/deep/c}.parquet and what must be left out."""
    names = [
        "a.parquet",
        "sub/b.parquet",
        "sub/deep/c.parquet",
        "sub/_SUCCESS",
        "_delta/x.parquet",
        ".a.parquet.partial",
    ]
    for name in [*names, ".hidden.parquet", "_metadata.parquet", "notes.txt", "sub/.tmp/y.parquet"]:
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def relative(inputs: Any, out: Path) -> list[str]:
    return [job.relative.as_posix() for job in plan(inputs, out)]


def test_names_are_kept_below_folder_and_pattern(tree: Path) -> None:
    data, out = tree / "data", tree / "out"
    everything = ["a.parquet", "sub/b.parquet", "sub/deep/c.parquet"]
    assert relative(data, out) == everything
    assert relative(str(data), out) == everything
    assert relative([data / "sub" / "b.parquet", data / "a.parquet"], out) == ["b.parquet", "a.parquet"]
    assert relative(f"{data}/**/*.parquet", out) == everything
    assert relative(f"{data}/*.parquet", out) == ["a.parquet"]
    assert relative(f"{data}/sub/*.parquet", out) == ["b.parquet"]
    assert relative(f"{data}/s*/*.parquet", out) == ["sub/b.parquet"]
    assert relative(f"{data}/s*", out) == ["sub/b.parquet", "sub/deep/c.parquet"]
    assert [job.target for job in plan(data, out)] == [out / name for name in everything]


def test_patterns_below_the_working_folder(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree / "data")
    assert relative("*.parquet", tree / "out") == ["a.parquet"]
    assert relative("s*/*.parquet", tree / "out") == ["sub/b.parquet"]
    assert relative(".", tree / "out") == ["a.parquet", "sub/b.parquet", "sub/deep/c.parquet"]


def test_a_name_with_brackets_is_a_name_if_it_is_there(tree: Path) -> None:
    (tree / "part[1].parquet").touch()
    assert relative(tree / "part[1].parquet", tree / "out") == ["part[1].parquet"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], r"inputs: expected at least one file, folder or pattern, got none"),
        (["nowhere.parquet"], r"nowhere\.parquet: expected a file, folder or pattern, got nothing there"),
        (["data/z*.parquet"], r"data/z\*\.parquet: expected at least one file that matches, got none"),
        (["empty"], r"empty: expected parquet files \(.*\) in the folder, got none"),
        (["/dev/null"], r"/dev/null: expected a file or folder, got a special file"),
        (["data", "data/a.parquet"], r"data/a\.parquet: expected every input once, got it twice"),
        (["data", "link"], r"link/a\.parquet: expected every input once, got it twice"),
        (
            ["data/sub/b.parquet", "other/b.parquet"],
            r"out/b\.parquet: expected one input, got two: data/sub/b\.parquet and other/b\.parquet \(give their ",
        ),
    ],
)
def test_inputs_that_are_refused(tree: Path, monkeypatch: pytest.MonkeyPatch, inputs: list[str], message: str) -> None:
    monkeypatch.chdir(tree)
    for name in ("empty", "other"):
        Path(name).mkdir()
    Path("other/b.parquet").touch()
    Path("link").symlink_to("data")
    with pytest.raises(PepnetError, match=message):
        plan(inputs, "out")


def test_outputs_must_not_become_inputs(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    inside = r"expected an output folder outside the input folder data, got one inside"
    for inputs, out, message in (
        ("data", "data", inside),
        ("data", "data/out", inside),
        ("data", "data/../data/out/deep", inside),
        ("data/**/*.parquet", "data/out", inside),
        ("data/s*", "data/scores", inside),
        ("data/a.parquet", "data", r"data/a\.parquet: expected an output other than the inputs, got the input itself"),
        ("data/*.parquet", "data", r"data/a\.parquet: expected an output other than the inputs, got the input itself"),
        ("data/a.parquet", "data/sub/b.parquet", r"sub/b\.parquet: expected a folder for the output, got a file"),
    ):
        with pytest.raises(PepnetError, match=message):
            plan(inputs, out)
    Path("other").symlink_to("data")
    with pytest.raises(PepnetError, match="expected an output folder outside the input folder data"):
        plan("data", "other/out")
    assert relative("data/*.parquet", tree / "data" / "out") == ["a.parquet"]
    assert relative("data/sub", tree / "data" / "out") == ["b.parquet", "deep/c.parquet"]


def test_folders_name_partitions() -> None:
    assert hive_partitions(Path("/x/tab=1/day=2022-05-06/p.parquet")) == {"tab": "1", "day": "2022-05-06"}
    assert hive_partitions(Path("/x/city=S%C3%A3o%20Paulo%2F1/k=a=b/p.parquet")) == {"city": "São Paulo/1", "k": "a=b"}
    assert hive_partitions(Path("/x/tab=__HIVE_DEFAULT_PARTITION__/=3/tab=.parquet")) == {"tab": None}


def test_partition_values_get_one_type_for_all_files(tmp_path: Path, toy_schema: FeatureSchema) -> None:
    def values(*folders: str, schema: FeatureSchema = toy_schema) -> list[dict[str, Constant]]:
        root = tmp_path / "-".join(folders).replace("/", "_")
        for folder in folders:
            (root / folder).mkdir(parents=True)
            (root / folder / "p.parquet").touch()
        return constants(plan(root, tmp_path / "out"), schema)

    assert values("tab=0", "tab=4") == [{"tab": Constant(0, pa.int64())}, {"tab": Constant(4, pa.int64())}]
    assert values("user_id=07", "user_id=x7") == [
        {"user_id": Constant("07", pa.string())},
        {"user_id": Constant("x7", pa.string())},
    ]
    assert values("age=1", "age=2.5") == [{"age": Constant(1.0, pa.float64())}, {"age": Constant(2.5, pa.float64())}]
    assert values("age=3", "age=__HIVE_DEFAULT_PARTITION__") == [
        {"age": Constant(3, pa.int64())},
        {"age": Constant(None, pa.int64())},
    ]
    assert values("colour=red") == [{}]
    data = toy_schema.to_json()
    data["domain"]["values"] = ["0", "1", "4"]
    texts = FeatureSchema.from_json(data)
    assert values("tab=0/x", "tab=1/x", schema=texts)[0] == {"tab": Constant("0", pa.string())}


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
        one = tmp_path / "in" / "tab=1" / "part-0.parquet"
        assert score_parquet(engine, one, tmp_path / "one").rows > 0
        (tmp_path / "in" / "tab=1").rename(tmp_path / "in" / "tab=7")
        with pytest.raises(
            SchemaError, match=r"tab=7/part-0\.parquet: column 'tab': expected a known domain .*, got 7"
        ):
            score_parquet(engine, tmp_path / "in", tmp_path / "out")
