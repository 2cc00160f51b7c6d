"""What a second run keeps, what it does again, and what it does not touch."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from pepnet_infer import CacheConfig, Engine, PepnetError, StoreError, score_parquet
from pepnet_infer.bundle import Bundle
from pepnet_infer.offline import source
from pepnet_infer.store import Fetched
from pepnet_infer.store.mmap import MmapStore

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
    def write(done: int, total: int) -> None:
        if done == 70:
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


def test_an_input_that_changes_meanwhile_is_noticed(engine: Engine, folder: Path) -> None:
    def touch(done: int, total: int) -> None:
        if done == 70:
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
    monkeypatch.setattr(source, "_stamp", lambda found: (found.st_ino, found.st_size, 1 << 62, 1 << 62))
    path = folder / "in" / "b.parquet"
    content = path.read_bytes()
    other = content.replace(b"ARROW:schema", b"ARROW:SCHEMA")
    assert len(other) == len(content)
    assert other != content

    def change(done: int, total: int) -> None:
        if done == 70:
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


class Behind:
    """The rows of a bundle, from a store that may fail and may say which they are."""

    def __init__(self, bundle: Bundle) -> None:
        self._rows = MmapStore(bundle.table_paths, bundle.schema.table_by_name)
        self.down = False

    def get_many(self, keys: Any, dim: int) -> Fetched:
        if self.down:
            raise ConnectionError("no route")
        return self._rows.get_many(keys, dim)


class Named(Behind):
    name: str | None = "monday"

    def identity(self) -> str | None:
        return self.name


@pytest.fixture
def behind(toy_bundle: Path) -> Callable[[type[Behind]], Any]:
    return lambda kind: kind(Bundle.open(toy_bundle, "sizes"))


@pytest.fixture
def load(toy_bundle: Path) -> Iterator[Callable[..., Engine]]:
    with contextlib.ExitStack() as stack:

        def load(**how: Any) -> Engine:
            how = {"cache": CacheConfig(capacity="1MiB"), **how}  # in front of a store it is as large as it may be
            return stack.enter_context(Engine.load(toy_bundle, check="sizes", threads=1, **how))

        yield load


def test_another_store_scores_again(
    engine: Engine,
    folder: Path,
    behind: Callable[[type[Behind]], Any],
    load: Callable[..., Engine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(engine, folder)
    unnamed, named = load(store=behind(Behind)), load(store=(store := behind(Named)))
    for other in (unnamed, unnamed, named):  # nobody knows which rows the first one has
        assert run(other, folder)[0] == 3
    assert run(named, folder)[0] == 0
    assert run(load(store=behind(Named)), folder)[0] == 0
    store.name = "tuesday"  # its rows of Monday may still be in the cache
    assert [run(named, folder)[0] for _ in range(2)] == [3, 3]
    tuesday = load(store=store)
    assert [run(tuesday, folder)[0] for _ in range(2)] == [3, 0]
    store.name = None
    assert [run(load(store=store), folder)[0] for _ in range(2)] == [3, 3]
    monkeypatch.setattr(Named, "identity", lambda _: 1 / 0)  # it cannot say so now, and serves all the same
    assert [run(load(store=store), folder)[0] for _ in range(2)] == [3, 3]
    monkeypatch.setattr(Named, "identity", lambda _: b"monday")
    with pytest.raises(StoreError, match="store: identity: expected a text or None, got bytes"):
        load(store=store)
    assert run(engine, folder)[0] == 3
    own = engine.cache.store if engine.cache is not None else None
    assert run(load(store=own), folder)[0] == 0  # the bundle's own tables, given as a store
    with_no_cache = load(cache=None, store=MmapStore(engine.bundle.table_paths, engine.schema.table_by_name))
    assert [run(with_no_cache, folder)[0] for _ in range(2)] == [3, 3]


@pytest.mark.parametrize("change", ["apply", "delete", "insert", "load"])
def test_an_updated_cache_scores_again(engine: Engine, folder: Path, load: Callable[..., Engine], change: str) -> None:
    run(engine, folder)
    updated = load()
    cache = updated.cache
    assert cache is not None
    assert run(updated, folder)[0] == 0
    cache.feedback("user", np.arange(3), np.ones(3, bool))  # what is evicted, and no row
    cache.prefetch("user", np.arange(50))
    assert run(updated, folder)[0] == 0
    keys, rows, versions = cache.keys("user", np.arange(40)), np.ones((40, 6), np.float32), np.ones(40, np.uint64)
    if change == "apply":
        cache.apply("user", keys, rows, versions)
    elif change == "delete":
        cache.delete("user", keys, versions)
    elif change == "insert":
        cache.cache("user").insert(keys, rows, versions=versions)
    else:
        other = load()
        assert other.cache is not None
        other.cache.apply("user", keys, rows, versions)
        other.cache.cache("user").save(folder / "rows.snapshot")
        cache.cache("user").load(folder / "rows.snapshot")
    before = contents(folder / "out")
    assert [run(updated, folder)[0] for _ in range(2)] == [3, 3]  # an update may be evicted at any time
    assert contents(folder / "out") != before
    assert run(engine, folder)[0] == 3


def test_rows_that_change_under_a_run_leave_no_finished_file(folder: Path, load: Callable[..., Engine]) -> None:
    engine = load()

    def update(done: int, total: int) -> None:
        if done == 70 and engine.cache is not None:
            engine.cache.apply("user", np.arange(3), np.ones((3, 6), np.float32), np.ones(3, np.uint64))

    assert run(engine, folder, batch_rows=10, progress=update) == (3, [])
    assert run(load(), folder, batch_rows=10) == (2, ["a.parquet"])


def test_default_rows_of_a_store_that_fails_are_no_finished_file(
    engine: Engine, folder: Path, behind: Callable[[type[Behind]], Any], load: Callable[..., Engine]
) -> None:
    store = behind(Named)
    cold = load(store=store, cache=CacheConfig("lru", "1MiB", warm=False))
    store.down = True
    with pytest.raises(
        StoreError, match=r"in/a\.parquet: expected the store's rows, got default rows .*user_id 50.*no ro"
    ):
        run(cold, folder)
    assert contents(folder / "out") == {}

    summary = score_parquet(cold, folder / "in", folder / "out", on_fault="unfinished")
    assert (summary.files, summary.rows, summary.unknown) == (3, 150, {})
    assert summary.unavailable["user_id"] == 150
    assert summary.unfinished == [folder / "out" / f"{name}.parquet" for name in "abc"]
    assert sorted(contents(folder / "out")) == [f".{name}.parquet.unfinished" for name in "abc"]
    assert pq.read_table(folder / "out" / ".a.parquet.unfinished").num_rows == 50
    assert pyarrow.dataset.dataset(folder / "out").files == []  # readers of the folder pass them by

    accepted = score_parquet(cold, folder / "in", folder / "out", on_fault="accept")
    assert (accepted.files, accepted.unfinished, accepted.unavailable) == (3, [], summary.unavailable)
    assert sorted(contents(folder / "out")) == [f"{name}.parquet" for name in "abc"]
    said = pq.read_metadata(folder / "out" / "a.parquet").metadata
    assert json.loads(said[b"pepnet_infer.unavailable"])["user_id"] == 50
    assert run(cold, folder, on_fault="accept")[0] == 0  # who accepted them once does so again
    store.down = False
    assert run(cold, folder, on_fault="unfinished")[0] == 3
    score_parquet(engine, folder / "in", folder / "right")
    for name in "abc":
        scores, right = (pq.read_table(folder / out / f"{name}.parquet") for out in ("out", "right"))
        assert scores.equals(right)
    assert run(cold, folder, on_fault="raise")[0] == 0  # with all rows there it makes no difference
    assert run(cold, folder, on_fault="accept")[0] == 0


def test_a_partly_failed_run_is_gone_on_with(
    folder: Path, behind: Callable[[type[Behind]], Any], load: Callable[..., Engine]
) -> None:
    path = folder / "in" / "b.parquet"
    table = pq.read_table(path)
    users = pa.array([39] * 50)  # whom no row before has
    pq.write_table(table.set_column(table.column_names.index("user_id"), "user_id", users), path)
    for name in "ac":
        table = pq.read_table(folder / "in" / f"{name}.parquet")
        pq.write_table(table.filter(pa.compute.less(table["user_id"], 39)), folder / "in" / f"{name}.parquet")
    rows = pq.read_metadata(folder / "in" / "a.parquet").num_rows
    store = behind(Named)
    cold = load(store=store, cache=CacheConfig("lru", "1MiB", warm=False))

    def fail(done: int, total: int) -> None:
        store.down = done == rows

    summary = score_parquet(cold, folder / "in", folder / "out", batch_rows=10, on_fault="unfinished", progress=fail)
    assert summary.unfinished == [folder / "out" / "b.parquet"]
    assert run(cold, folder, batch_rows=10) == (1, ["a.parquet", "c.parquet"])
    assert sorted(contents(folder / "out")) == ["a.parquet", "b.parquet", "c.parquet"]  # no leftover


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
