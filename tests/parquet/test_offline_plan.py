"""Which files are scored, and under which names."""

from __future__ import annotations

import errno
import inspect
import os
import socket
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pepnet_infer import Engine, PepnetError, errors, score_parquet
from pepnet_infer.parquet import tree as tree_module
from pepnet_infer.parquet.plan import plan

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


def test_literal_components_of_a_pattern_are_looked_up_by_name(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    scan = os.scandir

    def scan_most(folder: Path) -> Any:
        if Path(folder) == Path("homes/ann"):  # it may be searched and not listed, as with mode 711
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", scan_most)
    Path("homes/ann/export").mkdir(parents=True)
    Path("homes/ann/export/a.parquet").touch()
    Path("homes/bob").mkdir()
    Path("homes/notes.txt").touch()
    assert relative("homes/*/export/a.parquet", tree / "out") == ["ann/export/a.parquet"]
    with pytest.raises(PepnetError, match=r"homes/ann: expected a readable folder, got: Permission denied$"):
        plan("homes/*/e*/a.parquet", "out")

    Path("homes/bob/export").touch()
    with pytest.raises(PepnetError, match=r"homes/bob/export: expected a readable folder, got: Not a directory$"):
        plan("homes/*/export/*.parquet", "out")

    Path("in/x").mkdir(parents=True)
    Path("in/x/latest").symlink_to(tree / "data")
    inputs = "in/*/latest/a.parquet"  # the scores beside that one file cannot become its input
    assert relative(inputs, tree / "data" / "scored") == ["x/latest/a.parquet"]


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


def test_a_name_too_long_is_no_field_of_a_file(tmp_path: Path) -> None:
    long = "x" * 3000
    with pytest.raises(PepnetError, match=r"^xxx.*….*: expected a name that can be looked up, got: File") as found:
        plan(long, tmp_path / "out")
    assert "file" not in found.value.fields()


def test_a_look_at_a_file_enters_no_context_manager(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times as long as the look itself, for each of what may be millions of files."""
    looks: list[str] = []
    real = errors.readable

    def noted(path: Path, expected: str) -> AbstractContextManager[None]:
        looks.append(expected)
        return real(path, expected)

    monkeypatch.setattr(tree_module, "readable", noted)
    assert len(plan(tree / "data", tree / "out")) == 3
    assert looks == ["a readable folder"] * 3
