"""What may stand where an output goes: earlier outputs, damaged ones, files of others, and leftovers."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from offline_runs import contents, run

from pepnet_infer import Engine, PepnetError, score_parquet
from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.parquet import Progress

Make = Callable[..., pa.Table]


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


def test_an_output_that_was_damaged_is_scored_again(engine: Engine, folder: Path) -> None:
    run(engine, folder)
    first = contents(folder / "out")
    whole = first["b.parquet"]
    for damaged in (
        whole[:40] + bytes([whole[40] ^ 1]) + whole[41:],
        whole[4:],  # what a transfer that was gone on with at the wrong place leaves
        whole[:4] + whole,
        first["a.parquet"],
    ):
        (folder / "out" / "b.parquet").write_bytes(damaged)
        assert run(engine, folder) == (1, ["a.parquet", "c.parquet"])
        assert contents(folder / "out") == first


def test_a_write_that_the_system_cuts_leaves_no_finished_file(engine: Engine, folder: Path) -> None:
    run(engine, folder)
    size = (folder / "out" / "a.parquet").stat().st_size
    (folder / "out" / "a.parquet").unlink()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 2, before[1]))  # as a disk that is full two bytes before the end
    try:
        with pytest.raises(PepnetError, match=r"a\.parquet: cannot be written: File too large"):
            run(engine, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(contents(folder / "out")) == ["b.parquet", "c.parquet"]


def test_outputs_are_no_urls_whatever_their_folder_is_called(
    engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert score_parquet(engine, "in", "s3:x").files == 3
    assert len(score_parquet(engine, "in", "s3:x").skipped) == 3


def test_a_file_that_takes_an_outputs_place_meanwhile_stays(engine: Engine, folder: Path) -> None:
    def write(now: Progress) -> None:
        if now.rows == 70:
            (folder / "out" / "b.parquet").write_bytes(b"mine")

    with pytest.raises(PepnetError, match=r"b\.parquet: expected nothing or an earlier output there, got"):
        run(engine, folder, batch_rows=10, progress=write)
    assert (folder / "out" / "b.parquet").read_bytes() == b"mine"
    assert sorted(contents(folder / "out")) == ["a.parquet", "b.parquet"]


@pytest.mark.parametrize(
    "said", ["[" * 200_000, "[]", '{"source": 3}', "9" * 5000], ids=["deep", "list", "number", "long"]
)
def test_an_output_with_another_request_in_any_form_is_scored_again(engine: Engine, folder: Path, said: str) -> None:
    run(engine, folder)
    path = folder / "out" / "b.parquet"
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({"pepnet_infer.request": said}), path)
    assert run(engine, folder) == (1, ["a.parquet", "c.parquet"])
    assert pq.read_table(path).equals(table)


def test_hidden_names_that_are_no_files_of_their_own(engine: Engine, folder: Path) -> None:
    (folder / "out").mkdir()
    partial = folder / "out" / ".a.parquet.partial"
    (folder / "letter").write_text("dear")
    for make in (
        lambda: partial.hardlink_to(folder / "letter"),
        lambda: partial.symlink_to(folder / "letter"),
        lambda: os.mkfifo(partial),
    ):
        make()
        with pytest.raises(PepnetError, match=r"a\.parquet: cannot be written: "):
            run(engine, folder)
        partial.unlink(missing_ok=True)
        assert (folder / "letter").read_text() == "dear"
    os.mkfifo(folder / "out" / "b.parquet")
    with pytest.raises(
        PepnetError, match=r"b\.parquet: expected nothing or an earlier output there, got: .*named pipe"
    ):
        run(engine, folder)


@pytest.mark.parametrize("below", ["", "scored", "side/a"])
def test_output_inside_the_bundle_is_refused(toy_bundle: Path, folder: Path, below: str) -> None:
    bundle = folder / "bundle"
    shutil.copytree(toy_bundle, bundle)
    with pytest.raises(PepnetError, match="expected an output folder outside the bundle, got one inside"):
        score_parquet(bundle, folder / "in", bundle / below)
    Bundle.open(bundle)
