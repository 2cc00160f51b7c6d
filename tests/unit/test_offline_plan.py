"""Which files are scored, under which names, and what folders' names say."""

from __future__ import annotations

import inspect
import os
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pepnet_infer import Engine, PepnetError, SchemaError, score_parquet
from pepnet_infer.offline.folders import Constant, FolderColumns, folder_values
from pepnet_infer.offline.plan import plan
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
        (["/dev/null"], r"/dev/null: expected a file, got a device"),
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


def test_links_are_followed_and_lead_nowhere_twice(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    Path("elsewhere/deep").mkdir(parents=True)
    Path("elsewhere/deep/e.parquet").touch()
    Path("data/dt=2").symlink_to("../elsewhere")
    Path("data/f.parquet").symlink_to("../elsewhere/deep/e.parquet")
    with pytest.raises(PepnetError, match=r"data/f\.parquet: expected every input once, got it twice"):
        plan("data", "out")
    Path("data/f.parquet").unlink()
    expected = ["a.parquet", "dt=2/deep/e.parquet", "sub/b.parquet", "sub/deep/c.parquet"]
    for inputs in ("data", "data/**/*.parquet", "data/**/[a-e].parquet"):
        assert relative(inputs, tree / "out") == expected
    assert relative("data/*/deep/*.parquet", tree / "out") == ["dt=2/deep/e.parquet", "sub/deep/c.parquet"]
    for out in ("elsewhere", "elsewhere/out"):  # another run would find the scores by the link
        with pytest.raises(PepnetError, match=r"expected an output folder outside the input folder data/dt=2, got one"):
            plan("data", out)
    for where in ("data/sub/up", "elsewhere/deep/up"):
        Path(where).symlink_to(tree / "data")
        for inputs in ("data", "data/**/*.parquet"):
            with pytest.raises(PepnetError, match=r"up: expected every folder once, got a link to data$"):
                plan(inputs, "out")
        Path(where).unlink()


def test_folders_that_links_lead_to_in_many_ways_end_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for i in range(40):  # 2^40 paths to the last one
        Path(f"{i}").mkdir()
        for name in ("left", "right"):
            Path(f"{i}/{name}").symlink_to(f"../{i + 1}")
    Path("40").mkdir()
    for inputs in ("0", "0/**/*.parquet", "0/**"):
        with pytest.raises(PepnetError, match="expected every folder once, got a link to 0/left"):
            plan(inputs, "out")


@pytest.mark.parametrize("name", ["x.parquet", "dt=3"])
def test_a_link_that_leads_nowhere_is_not_passed_by(tree: Path, name: str) -> None:
    for target in ("gone", name):  # nothing there, or itself
        (tree / "data" / name).symlink_to(target)
        for inputs in (tree / "data", f"{tree}/data/**/*.parquet", f"{tree}/data/*"):
            with pytest.raises(PepnetError, match=rf"{name}: expected a (link to a )?file.*, got: (No such|Too many)"):
                plan(inputs, tree / "out")
        (tree / "data" / name).unlink()


@pytest.mark.parametrize("kind", ["a named pipe", "a socket"])
def test_special_files_are_refused_at_once(tree: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tree / "data")
    if kind == "a socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("x.parquet")
    else:
        os.mkfifo("x.parquet")
    Path("linked.parquet").symlink_to("x.parquet")
    for inputs in (".", "x.parquet", "*.parquet", "**/*.parquet", "**", "x*", "linked.parquet", "link*"):
        with pytest.raises(PepnetError, match=rf"(x|linked)\.parquet: expected a file, got {kind}"):
            plan(inputs, "../out")


def test_urls_are_no_paths(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    for url in ("s3://bucket/out", "gs://b", "hdfs://host:8020/x", "file:///tmp/x", Path("s3://bucket/out")):
        with pytest.raises(PepnetError, match=r":/.*: expected a local folder, got a URL; copy"):
            plan("data", url)
        with pytest.raises(PepnetError, match=r":/.*: expected a local file, folder or pattern, got a URL; copy"):
            plan(url, "out")
    assert plan("data/a.parquet", "./s3://out")[0].target == Path("s3:/out/a.parquet")
    assert os.listdir() == ["data"]


def test_an_empty_name_is_no_folder(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    with pytest.raises(PepnetError, match=r"expected a local folder, got an empty name"):
        plan("in", "")
    with pytest.raises(PepnetError, match=r"expected a local file, folder or pattern, got an empty name"):
        plan(["data", ""], "out")


def test_nothing_is_put_outside_of_the_output_folder(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    for pattern in ("data/*/../a.parquet", "data/*/../../x.parquet", "data/**/../a.parquet"):
        with pytest.raises(PepnetError, match=r"expected no '\.\.' behind a wildcard"):
            plan(pattern, "out")
    assert relative("data/../data/sub/../*.parquet", tree / "out") == ["a.parquet"]
    assert relative("data/sub/../a.parquet", tree / "out") == ["a.parquet"]
    Path("elsewhere").mkdir()
    Path("out/sub").mkdir(parents=True)
    for link, target in (("out/sub/deep", "../../elsewhere"), ("out/sub/deep", "/nowhere"), ("out/sub/deep", "../..")):
        Path(link).symlink_to(target)
        with pytest.raises(
            PepnetError, match=r"out/sub/deep/c\.parquet: expected a place inside out, got .*link leads"
        ):
            plan("data", "out")
        Path(link).unlink()
    Path("out/other").mkdir()
    Path("out/sub/deep").symlink_to("../other")
    Path("same").symlink_to("out")
    assert len(plan("data", "out")) == len(plan("data", "same")) == 3  # a link inside, and `out` as a link


def test_deep_paths_need_no_deep_stack(
    toy_bundle: Path, toy_table: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = (tmp_path / "in").joinpath(*["d"] * 200)
    deep.mkdir(parents=True)
    pq.write_table(toy_table(3), deep / "a.parquet")
    monkeypatch.setattr(os, "fsync", lambda _: None)
    with Engine.load(toy_bundle, check="sizes") as engine:
        score_parquet(engine, deep / "a.parquet", tmp_path / "first")  # what is imported late needs a stack
        before = sys.getrecursionlimit()
        sys.setrecursionlimit(len(inspect.stack(0)) + 150)
        try:
            assert score_parquet(engine, tmp_path / "in", tmp_path / "out").rows == 3
            pattern = f"{tmp_path}/in/{'*/' * 200}*"
            assert len(score_parquet(engine, pattern, tmp_path / "out").skipped) == 1
        finally:
            sys.setrecursionlimit(before)


def test_a_pattern_of_many_wildcards_ends(tree: Path) -> None:
    (tree / "data" / "sub").joinpath(*["d"] * 25).mkdir(parents=True)
    everything = ["a.parquet", "sub/b.parquet", "sub/deep/c.parquet"]
    assert relative(f"{tree}/data/" + "**/" * 20 + "*.parquet", tree / "out") == everything


def test_names_that_cannot_be_written_are_found_before_the_first_row(
    toy_bundle: Path, toy_table: Make, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    names = ["a.parquet", "b" * 236 + ".parquet", "c" * 235 + ".parquet"]
    for name in names:
        pq.write_table(toy_table(3), tmp_path / "in" / name)
    with Engine.load(toy_bundle, check="sizes") as engine:
        with pytest.raises(PepnetError, match=r"expected a name of at most 243 bytes, got 244: .*under a longer one"):
            score_parquet(engine, tmp_path / "in", tmp_path / "out")
        assert not (tmp_path / "out").exists()
        (tmp_path / "in" / names[1]).unlink()
        for kept in (0, 2):
            assert len(score_parquet(engine, tmp_path / "in", tmp_path / "out").skipped) == kept
        with pytest.raises(PepnetError, match=r"File name too long"):
            score_parquet(engine, tmp_path / "in", tmp_path / ("x" * 256))


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


def read(schema: FeatureSchema, folder: str) -> Constant:
    path = Path("in") / folder / "p.parquet"
    return FolderColumns(schema).read(path, folder_values(path), folder.partition("=")[0])


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
        assert read(schema, folder) == Constant(value, kind), folder


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
        with pytest.raises(SchemaError, match="column 'day': expected it to carry it through"):
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
