"""What every transport promises, asked of each: a directory, and a stream of a real Redis server."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from log_bundles import newest_bundle
from redis import Redis
from sync_deltas import delta_rows

from pepnet_infer.errors import UpdateError
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.sync.delta import DeltaHead, read_head, write_delta
from pepnet_infer.sync.logs.directory import DirectoryLog
from pepnet_infer.sync.logs.redis import RedisLog
from pepnet_infer.sync.logs.transport import Progress, Transport

NAMES = (f"log{number}" for number in itertools.count())


@pytest.fixture(params=["directory", "redis"])
def open_log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Transport]]:
    """Returns `open_log()`: each call opens the same log anew, as another process would."""
    if request.param == "directory":
        yield lambda: DirectoryLog(tmp_path / "log", create=True)
        return
    server, name, opened = request.getfixturevalue("redis_server"), next(NAMES), []

    def make() -> RedisLog:
        opened.append(RedisLog(server.url, name, spool=tmp_path / f"spool{len(opened) % 2}", create=True))
        return opened[-1]

    yield make
    for log in opened:
        log.close()


@pytest.fixture
def log(open_log: Callable[[], Transport]) -> Transport:
    return open_log()


@pytest.fixture
def delta(tmp_path: Path, toy_schema: FeatureSchema) -> Callable[..., Path]:
    """Returns `delta(base, version)`: its row is full of the version, modulo 1000, so that it is known again."""
    numbers = itertools.count()

    def make(base: int, version: int | None = None, count: int = 2) -> Path:
        version = base + 1 if version is None else version
        rows = delta_rows(
            keys=np.arange(count, dtype=np.uint64),
            rows=np.full((count, 6), version % 1000, np.float32),
            versions=np.full(count, version, np.uint64),
            scores=np.full(count, np.nan, np.float32),
            expires=np.full(count, np.inf),
            tombstones=np.zeros(count, np.uint8),
        )
        head = DeltaHead(base, version, version, 1e9 + version % 1000, toy_schema.hash)
        return write_delta(tmp_path / "made" / str(next(numbers)), head, {"user": rows})

    return make


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def versions(log: Transport, after: str = "", **options: Any) -> list[int]:
    return [read_head(entry.path).model_version for entry in log.read(after, **options)]


def test_an_empty_log_has_nothing(log: Transport) -> None:
    assert log.read("") == []
    assert newest_bundle(log) is None
    assert log.last_delta() is None
    assert log.progress() == {}
    assert log.trim(0) == 0


def test_what_was_put_is_read_in_order_and_to_the_byte(
    open_log: Callable[[], Transport], delta: Callable[..., Path]
) -> None:
    made = [delta(version) for version in range(12)]
    log = open_log()
    positions = [log.append(path) for path in made]
    assert positions == sorted(positions)
    assert len(set(positions)) == 12
    for reader in (log, open_log(), open_log()):
        entries = reader.read("")
        assert [entry.position for entry in entries] == positions
        assert {entry.kind for entry in entries} == {"delta"}
        assert [files(entry.path) for entry in entries] == [files(path) for path in made]
        assert [entry.position for entry in reader.read(positions[3])] == positions[4:]
        assert [entry.position for entry in reader.read(positions[3], most=2)] == positions[4:6]
        assert reader.read(positions[-1]) == []
        last = reader.last_delta()
        assert last is not None
        assert last == (positions[-1], read_head(made[-1]))


def test_a_large_file_travels_whole(
    open_log: Callable[[], Transport], tmp_path: Path, toy_schema: FeatureSchema
) -> None:
    head = DeltaHead(0, 1, 0, 1.0, toy_schema.hash)
    graph = np.random.default_rng(0).bytes((9 << 20) + 17)
    made = write_delta(tmp_path / "large", head, {}, {"w": np.arange(50_000, dtype=np.float32)}, graph)
    open_log().append(made)
    [entry] = open_log().read("")
    assert files(entry.path) == files(made)


def test_the_same_delta_is_there_once(
    open_log: Callable[[], Transport], delta: Callable[..., Path], tmp_path: Path
) -> None:
    log, made = open_log(), [delta(version) for version in range(4)]
    positions = [log.append(path) for path in made]
    copy = shutil.copytree(made[3], tmp_path / "copy")
    assert log.append(made[3]) == positions[3]
    assert open_log().append(copy) == positions[3]
    assert open_log().append(made[1]) == positions[1]
    assert versions(open_log()) == [1, 2, 3, 4]
    assert log.append(delta(4)) > positions[3]
    assert versions(open_log()) == [1, 2, 3, 4, 5]


def test_versions_beyond_what_a_double_holds(log: Transport, delta: Callable[..., Path]) -> None:
    base = 2**53
    first = log.append(delta(base, base + 1))
    assert log.append(delta(base + 1, base + 2)) > first
    assert log.append(delta(base + 2, 2**63 - 1)) > first
    assert versions(log) == [base + 1, base + 2, 2**63 - 1]
    last = log.last_delta()
    assert last is not None
    assert (last[1].base_version, last[1].model_version) == (base + 2, 2**63 - 1)


def test_only_a_delta_can_be_put(log: Transport, delta: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UpdateError, match=r"expected a directory with manifest\.json, got nothing") as nothing:
        log.append(tmp_path / "none")
    assert nothing.value.reason == "format"
    lower = delta(3)
    document = json.loads((lower / "manifest.json").read_text())
    (lower / "manifest.json").write_text(json.dumps({**document, "base_version": 4}))
    with pytest.raises(UpdateError, match="expected a version above its base's") as refused:
        log.append(lower)
    assert refused.value.reason == "version"
    assert log.read("") == []


def test_a_reader_that_waits_wakes_up(open_log: Callable[[], Transport], delta: Callable[..., Path]) -> None:
    writer, reader = open_log(), open_log()
    made = [delta(version) for version in range(6)]
    position, late = "", list[float]()
    for path in made:
        put: list[float] = []
        timer = threading.Timer(0.15, lambda path=path, put=put: (writer.append(path), put.append(time.monotonic())))
        timer.start()
        [entry] = reader.read(position, wait_s=20.0)
        woke = time.monotonic()
        timer.join()
        position = entry.position
        late.append(woke - put[0])
    assert np.median(late) < 0.2
    begin = time.monotonic()
    assert reader.read(position, wait_s=0.3) == []
    assert 0.25 < time.monotonic() - begin < 20


def test_bundles_stand_in_the_same_order(
    open_log: Callable[[], Transport], delta: Callable[..., Path], toy_bundle: Path
) -> None:
    log = open_log()
    first = log.append(delta(6))
    bundle = log.append_bundle(toy_bundle)
    assert log.last_bundle() == (bundle, 7)
    second = log.append(delta(7))
    assert first < bundle < second
    reader = open_log()
    found = newest_bundle(reader)
    assert found is not None
    assert (found.position, found.kind) == (bundle, "bundle")
    assert files(found.path) == files(toy_bundle)
    assert newest_bundle(reader) == found
    assert versions(reader) == [7, 8]
    assert versions(reader, bundle) == [8]
    newer = log.append_bundle(toy_bundle)
    found = newest_bundle(reader)
    assert found is not None
    assert found.position == newer > second
    assert reader.read(newer) == []


def test_a_bundle_does_not_end_the_waiting(
    open_log: Callable[[], Transport], delta: Callable[..., Path], toy_bundle: Path
) -> None:
    writer = open_log()
    position, made = writer.append(delta(0)), delta(1)

    def later() -> None:
        time.sleep(0.1)
        writer.append_bundle(toy_bundle)
        time.sleep(0.2)
        writer.append(made)

    thread = threading.Thread(target=later)
    thread.start()
    assert versions(open_log(), position, wait_s=20.0) == [2]
    thread.join()


def test_progress_is_kept(open_log: Callable[[], Transport], delta: Callable[..., Path]) -> None:
    log = open_log()
    log.acknowledge("early", Progress("", 0, 5.0))
    position = log.append(delta(0))
    log.acknowledge("a-1", Progress("", 0, 10.5))
    log.acknowledge("b.2", Progress(position, 2**60 + 1, 11.25))
    log.acknowledge("a-1", Progress(position, 1, 12.0))
    expected = {
        "early": Progress("", 0, 5.0),
        "a-1": Progress(position, 1, 12.0),
        "b.2": Progress(position, 2**60 + 1, 11.25),
    }
    assert log.progress() == expected
    assert open_log().progress() == expected
    for name in ("", "../x", "a/b", "a b", "x" * 101):
        with pytest.raises(UpdateError, match="follower: expected letters, digits"):
            log.acknowledge(name, Progress("", 0, 0.0))


def test_a_note_that_is_too_long_is_passed_over_with_its_length(
    tmp_path: Path, delta: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    log = DirectoryLog(tmp_path / "log", create=True)
    log.acknowledge("short", Progress("", 0, 5.0))
    (log.path / "followers" / "long.json").write_text("[" * 70_000)
    assert list(log.progress()) == ["short"]
    assert "expected at most 4096 characters, got 70000" in caplog.text


def test_trim_needs_a_bundle(log: Transport, delta: Callable[..., Path], toy_bundle: Path) -> None:
    for version in range(5):
        log.append(delta(version))
    assert log.trim(0) == 0
    log.append_bundle(toy_bundle)
    after = log.append(delta(5))
    assert log.trim(3) == 3  # three of six stay by number
    assert versions(log) == [4, 5, 6]
    assert log.trim(0) == 2  # the one after the bundle stays
    assert [entry.position for entry in log.read("")] == [after]
    assert log.trim(0) == 0


def test_trim_keeps_what_a_follower_needs(log: Transport, delta: Callable[..., Path], toy_bundle: Path) -> None:
    positions = [log.append(delta(version)) for version in range(6)]
    log.append_bundle(toy_bundle)
    now = time.time()
    log.acknowledge("late", Progress(positions[1], 2, now))
    log.acknowledge("gone", Progress(positions[0], 1, now - 1000))
    log.acknowledge("fast", Progress(positions[5], 6, now))
    assert log.trim(0, silent_after_s=500) == 2
    assert sorted(log.progress()) == ["fast", "late"]  # who is silent is forgotten
    assert versions(log) == [3, 4, 5, 6]
    log.acknowledge("fresh", Progress("", 0, now))  # has read nothing yet
    log.acknowledge("late", Progress(positions[5], 6, now))
    assert log.trim(0, silent_after_s=500) == 0
    log.acknowledge("fresh", Progress(positions[3], 4, now + 1e6))  # its clock is ahead
    assert log.trim(0, silent_after_s=500) == 2
    assert versions(log) == [5, 6]


def test_trim_leaves_one_bundle(
    open_log: Callable[[], Transport], delta: Callable[..., Path], toy_bundle: Path
) -> None:
    log = open_log()
    for version in range(3):
        log.append(delta(version))
        log.append_bundle(toy_bundle)
    reader = open_log()
    old = reader.read("")
    assert log.trim(1) == 2 + 2
    assert versions(reader) == [3]
    found = newest_bundle(reader)
    assert found is not None
    assert files(found.path) == files(toy_bundle)
    assert [entry.path.exists() for entry in old] == [False, False, True]
    again = log.append(delta(3))
    assert again > found.position  # positions never come twice
    assert versions(reader, old[-1].position) == [4]


def test_threads_put_each_delta_once(open_log: Callable[[], Transport], delta: Callable[..., Path]) -> None:
    made = [[delta(version, version + 1) for version in range(first, 40, 2)] for first in (0, 1)]
    logs, positions = [open_log(), open_log()], [[""], [""]]

    def put(which: int) -> None:
        for path in made[which]:
            positions[which].append(logs[which].append(path))

    threads = [threading.Thread(target=put, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    seen, position = [], ""
    reader = open_log()
    while len(seen) < 40:
        entries = reader.read(position, wait_s=10.0, most=7)
        assert entries
        position = entries[-1].position
        seen += [(entry.position, read_head(entry.path).model_version) for entry in entries]
    for thread in threads:
        thread.join()
    assert [at for at, _ in seen] == sorted(positions[0][1:] + positions[1][1:])
    for which in (0, 1):
        assert positions[which] == sorted(positions[which])
        assert [version for _, version in seen if version % 2 != which] == list(range(which + 1, 41, 2))


def test_a_log_that_was_emptied_is_read_from_its_start(
    open_log: Callable[[], Transport], delta: Callable[..., Path], tmp_path: Path, redis_server: Any
) -> None:
    log = open_log()
    for version in range(8):
        position = log.append(delta(version))
    reader = open_log()
    assert len(reader.read("")) == 8
    if isinstance(log, DirectoryLog):
        shutil.rmtree(log.path)
    else:
        with Redis.from_url(redis_server.url) as client:
            client.flushall()
    for work in (lambda: reader.read(position), reader.identity, lambda: reader.trim(0)):
        with pytest.raises(UpdateError, match="expected a log, got") as error:
            work()
        assert error.value.reason == "missing"
    writer = open_log()
    assert writer.identity() != reader.read_from
    later = writer.append(delta(20))
    assert later > position
    assert versions(reader, position) == [21]
    assert writer.identity() == reader.read_from
    assert versions(open_log(), position) == [21]
    # A position from a clock that was ahead: nothing leads on from it.
    assert versions(reader, "9" + later[1:]) == [21]
    assert versions(open_log(), "9" + later[1:]) == [21]
