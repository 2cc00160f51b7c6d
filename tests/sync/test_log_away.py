"""A log that is away: it is told apart from one without news, in figures, in the process's log, and at the start."""

from __future__ import annotations

import json
import logging
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_entries import put_fields
from redis import Redis
from sync_world import PATIENCE_S, World, until

from pepnet_infer import CacheConfig, Engine, UpdateError, throttled_warnings
from pepnet_infer.bundle.checkpoint import Checkpoint
from pepnet_infer.prometheus import prometheus_text
from pepnet_infer.sync import sync_stats
from pepnet_infer.sync.follow_config import FollowConfig
from pepnet_infer.sync.logs.directory import DirectoryLog
from pepnet_infer.sync.logs.redis import RedisLog
from pepnet_infer.sync.logs.redis_protocol import position_of
from pepnet_infer.sync.sync_stats import LogHealth, SyncStats

QUICK = FollowConfig(name="test", wait_s=0.05, retry_s=0.05, guard=None, share=1)
NOTHING: dict[str, Any] = {"dense": False, "changes": {}, "defaults": False}


@pytest.fixture
def world(toy_checkpoint: Checkpoint, tmp_path: Path) -> World:
    return World(toy_checkpoint, tmp_path)


@pytest.fixture
def engine(toy_bundle: Path) -> Iterator[Engine]:
    with Engine.load(toy_bundle, backend="native", threads=1, cache=CacheConfig("lru", "1MiB")) as opened:
        yield opened


def sync(engine: Engine) -> dict[str, Any]:
    return engine.stats()["sync"]  # type: ignore[no-any-return]


def is_away(engine: Engine, said: str) -> None:
    """Checks that an engine says that its log is away, in every way in which it can."""
    until(lambda: said in (sync(engine)["last_fault"] or "") and not sync(engine)["following"])
    stats = sync(engine)
    assert stats["faults"] > 0
    before = stats["lag_s"]
    assert before > 0
    until(lambda: sync(engine)["lag_s"] > before)
    stats = sync(engine)
    assert stats["lag_s"] <= stats["last_read_s"] + 0.1
    page = prometheus_text(engine.stats())
    assert "pepnet_sync_following 0.0\n" in page
    assert "pepnet_sync_last_read_seconds " in page
    assert "pepnet_sync_lag_seconds 0.0\n" not in page


def is_there(engine: Engine) -> None:
    until(lambda: bool(sync(engine)["following"]))
    assert sync(engine)["lag_s"] == 0.0


def emptied(path: Path) -> None:
    path.mkdir()


def a_file(path: Path) -> None:
    path.write_text("")


@pytest.mark.parametrize(
    ("instead", "said"),
    [
        (lambda path: None, "expected a log, got nothing there"),
        (emptied, "a folder without log.json; is its disk mounted?"),
        (a_file, "expected a log, got a file"),
    ],
)
def test_a_directory_that_goes_and_comes_back(
    instead: Callable[[Path], None],
    said: str,
    world: World,
    engine: Engine,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = DirectoryLog(tmp_path / "log", create=True)
    follower = engine.follow(log, QUICK)
    log.append(world.step(**NOTHING))
    assert follower.wait_for(8, PATIENCE_S)
    is_there(engine)
    log.path.rename(tmp_path / "unmounted")
    instead(log.path)
    is_away(engine, said)
    with pytest.raises(UpdateError, match="expected a log, got") as error:  # nor does the publisher begin another one
        log.append(world.step(**NOTHING))
    assert error.value.reason == "missing"
    left = list(log.path.iterdir()) if log.path.is_dir() else []
    assert left == []
    if log.path.is_dir():
        log.path.rmdir()
    log.path.unlink(missing_ok=True)
    (tmp_path / "unmounted").rename(log.path)
    is_there(engine)
    log.append(world.step(base=8, version=10, **NOTHING))
    assert follower.wait_for(10, PATIENCE_S)
    texts = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert sum("the log cannot be read" in text for text in texts) == 1
    assert sum("the log can be read again, after" in text for text in texts) == 1


@pytest.mark.parametrize("kind", ["deltas", "bundles"])
def test_a_folder_on_a_disk_that_is_not_mounted(kind: str, world: World, engine: Engine, tmp_path: Path) -> None:
    log, mounted, away = DirectoryLog(tmp_path / "log", create=True), tmp_path / "mounted", tmp_path / "away"
    mounted.mkdir()
    (log.path / kind).symlink_to(mounted)
    follower = engine.follow(log, QUICK)
    log.append(world.step(**NOTHING))
    assert follower.wait_for(8, PATIENCE_S)
    mounted.rename(away)
    is_away(engine, f"{kind}: expected a folder, got a link to nothing")
    made = world.step(**NOTHING)
    with pytest.raises(UpdateError, match=r"got a link to nothing|cannot be used") as error:
        log.append(made)
    assert error.value.reason == "transport"
    away.rename(mounted)
    is_there(engine)
    log.append(made)
    assert follower.wait_for(9, PATIENCE_S)


def test_another_log_in_its_place_is_told_apart(world: World, engine: Engine, tmp_path: Path) -> None:
    log = DirectoryLog(tmp_path / "log", create=True)
    follower = engine.follow(log, QUICK)
    log.append(world.step(**NOTHING))
    assert follower.wait_for(8, PATIENCE_S)
    log.path.rename(tmp_path / "before")
    other = DirectoryLog(log.path, create=True)
    until(lambda: sync(engine)["replaced"] == 1)
    is_there(engine)
    with pytest.raises(UpdateError, match="append a full bundle") as error:
        log.append(world.step(**NOTHING))
    assert error.value.reason == "log"
    other.append(world.step(base=8, version=20, **NOTHING))
    assert follower.wait_for(20, PATIENCE_S)
    assert sync(engine)["refused"] == {}


def test_an_emptied_log_is_no_other_one(world: World, engine: Engine, tmp_path: Path) -> None:
    log = DirectoryLog(tmp_path / "log", create=True)
    follower = engine.follow(log, QUICK)
    log.append(world.step(**NOTHING))
    assert follower.wait_for(8, PATIENCE_S)
    shutil.rmtree(log.path / "deltas")
    log.append(world.step(**NOTHING))
    assert follower.wait_for(9, PATIENCE_S)
    assert sync(engine)["replaced"] == 0


def test_a_directory_that_lost_its_end_is_a_fault(
    world: World, engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = DirectoryLog(tmp_path / "log", create=True)

    def lose(position: str) -> None:  # as a copy of an earlier day
        shutil.rmtree(log.path / "deltas" / position)

    _lose_the_end(log, lose, log, world, engine, caplog)


def test_a_redis_that_lost_its_end_is_a_fault(
    world: World, engine: Engine, tmp_path: Path, redis_server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    opened = RedisLog(redis_server.url, "end", spool=tmp_path / "spool", create=True)
    with opened as log, Redis.from_url(redis_server.url) as client:
        saved = dict[bytes, bytes]()

        def lose(position: str) -> None:  # as a server that crashed, and did not sync each command
            for key, value in saved.items():
                client.restore(key, 0, value, replace=True)

        def save() -> None:
            saved.update((key, client.dump(key)) for key in client.keys(f"{log.prefix}*"))

        with RedisLog(redis_server.url, "end", spool=tmp_path / "other") as writer:
            _lose_the_end(log, lose, writer, world, engine, caplog, save)


def _lose_the_end(
    log: DirectoryLog | RedisLog,
    lose: Callable[[str], None],
    writer: DirectoryLog | RedisLog,
    world: World,
    engine: Engine,
    caplog: pytest.LogCaptureFixture,
    save: Callable[[], None] = lambda: None,
) -> None:
    follower = engine.follow(log, QUICK)
    log.append(world.step(**NOTHING))
    save()
    last = log.append(world.step(**NOTHING))
    assert follower.wait_for(9, PATIENCE_S)
    until(lambda: log.progress()["test"].position == last)
    lose(last)
    until(lambda: sync(engine)["faults"] == 1)
    assert "the log lost its end" in sync(engine)["last_fault"]
    assert (sync(engine)["replaced"], engine.model_version) == (0, 9)
    writer.append(world.step(**NOTHING))
    assert follower.wait_for(10, PATIENCE_S)
    is_there(engine)
    assert sync(engine)["faults"] == 1
    assert sum("the log lost its end" in record.getMessage() for record in caplog.records) == 1


def test_an_entry_that_somebody_took_back_is_no_lost_end(
    world: World, engine: Engine, tmp_path: Path, redis_server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisLog(redis_server.url, "taken", spool=tmp_path / "spool", create=True) as log:
        follower = engine.follow(log, QUICK)
        foreign = put_fields(log, {"temperature": "21"})
        until(lambda: sync(engine)["refused"] == {"foreign": 1})
        with Redis.from_url(log.url) as client:
            client.xdel(f"{log.prefix}log", foreign)
        for _ in range(3):
            assert log.read(position_of(foreign.decode())) == []
        log.append(world.step(**NOTHING))
        assert follower.wait_for(8, PATIENCE_S)
        assert sync(engine)["faults"] == 0
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == []


def test_a_stream_that_somebody_removed_is_told_from_an_empty_one(
    world: World, engine: Engine, tmp_path: Path, redis_server: Any, toy_bundle: Path
) -> None:
    with RedisLog(redis_server.url, "removed", spool=tmp_path / "spool", create=True) as log:
        log.append_bundle(_of_version(toy_bundle, 8, tmp_path))
        log.append(world.step(version=9, base=7, **NOTHING))
        with Redis.from_url(log.url) as client:
            client.delete(f"{log.prefix}log")
        follower = engine.follow(log, QUICK)
        until(lambda: len(sync(engine)["refused"]) == 2)
        assert sync(engine)["refused"] == {"log": 1, "unreadable": 1}  # the delta and the bundle of the lists
        assert engine.model_version == 7
        log.append_bundle(_of_version(toy_bundle, 10, tmp_path))
        assert follower.wait_for(10, PATIENCE_S)
        assert (sync(engine)["bundles"], sync(engine)["faults"]) == (1, 0)


def _of_version(bundle: Path, version: int, folder: Path) -> Path:
    made = shutil.copytree(bundle, folder / f"bundle{version}")
    manifest = json.loads((made / "manifest.json").read_text())
    (made / "manifest.json").write_text(json.dumps({**manifest, "model_version": version}))
    return made


def test_a_log_that_is_not_there_is_an_error_at_the_start(
    engine: Engine, tmp_path: Path, redis_server: Any, toy_batch: Callable[..., Any]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    missing = [
        DirectoryLog(tmp_path / "log", create=False),
        DirectoryLog(tmp_path / "nowhere" / "log"),
        DirectoryLog(empty),
        RedisLog(redis_server.url, "nowhere", spool=tmp_path / "spool"),
    ]
    for log in missing:
        with pytest.raises(UpdateError, match="expected a log, got") as error:
            engine.follow(log, QUICK)
        assert error.value.reason == "missing"
    assert not (tmp_path / "log").exists()
    assert not (tmp_path / "nowhere").exists()
    assert list(empty.iterdir()) == []
    assert engine.stats()["sync"] is None
    engine.score(toy_batch(10))
    engine.follow(DirectoryLog(tmp_path / "log", create=True), QUICK)


def test_a_follower_may_be_there_before_the_log(
    world: World, engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    follower = engine.follow(DirectoryLog(tmp_path / "log"), QUICK)
    assert [record.message for record in caplog.records if "there was no log" in record.message] != []
    DirectoryLog(tmp_path / "log").append(world.step(**NOTHING))
    assert follower.wait_for(8, PATIENCE_S)


def test_a_redis_that_was_killed_and_one_that_was_flushed(
    make_redis_server: Callable[..., Any], engine: Engine, world: World, tmp_path: Path
) -> None:
    server = make_redis_server("--save", "", "--appendonly", "no")
    with RedisLog(server.url, spool=tmp_path / "spool", create=True) as log:
        follower = engine.follow(log, QUICK)
        log.append(world.step(**NOTHING))
        assert follower.wait_for(8, PATIENCE_S)
        server.stop()
        is_away(engine, "expected an answer, got: ")
        server.start()  # with nothing in it
        is_away(engine, "expected a log, got none")
        with RedisLog(server.url, spool=tmp_path / "other") as writer:
            writer.append(world.step(**NOTHING))
        assert follower.wait_for(9, PATIENCE_S)
        is_there(engine)
        assert sync(engine)["replaced"] == 1


def test_a_log_that_does_not_say_which_it_is_cannot_be_read(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(log: DirectoryLog) -> str:
        raise OSError("no answer")

    engine.follow(DirectoryLog(tmp_path / "log", create=True), QUICK)
    with monkeypatch.context() as patch:
        patch.setattr(DirectoryLog, "read_from", property(fail))
        is_away(engine, "the log cannot be read")
    is_there(engine)


def test_a_redis_that_hangs(
    make_redis_server: Callable[..., Any], engine: Engine, world: World, tmp_path: Path
) -> None:
    server = make_redis_server()
    with RedisLog(server.url, spool=tmp_path / "spool", create=True, timeout_s=60.0) as log:
        engine.follow(log, QUICK)
        server.process.send_signal(signal.SIGSTOP)
        try:
            until(lambda: not sync(engine)["following"])  # though nothing has said so
            stats = sync(engine)
            assert stats["faults"] == 0
            assert stats["lag_s"] > 1.0
        finally:
            server.process.send_signal(signal.SIGCONT)
        is_there(engine)


def test_a_mistyped_log_is_not_followed(
    command: Callable[..., tuple[int, str, str]],
    toy_bundle: Path,
    toy_table: Callable[..., pa.Table],
    tmp_path: Path,
) -> None:
    pq.write_table(toy_table(10, 3), tmp_path / "in.parquet")
    log = tmp_path / "lgo"
    code, _, err = command("score", toy_bundle, tmp_path / "in.parquet", "--out", tmp_path / "out", "--follow", log)
    assert code == 1
    assert "expected a log, got nothing there" in err
    code, _, err = command("publish", log)  # what is in it
    assert code == 1
    assert "expected a log, got nothing there" in err
    code, _, err = command("publish", log, "--trim", 0)
    assert code == 1
    assert not log.exists()
    code, out, err = command("publish", log, toy_bundle, "--full")
    assert code == 0, err
    assert "begun" in out
    code, out, _ = command("publish", log)
    assert code == 0
    assert "begun" not in out


def test_a_follower_whose_thread_ended_says_so(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = DirectoryLog(tmp_path / "log", create=True)
    engine.follow(log, QUICK)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)

    def exits(*_: Any) -> Any:
        raise SystemExit

    monkeypatch.setattr(log, "read", exits)
    until(lambda: not sync(engine)["following"])


def test_what_is_said_and_when(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    for module in (sync_stats, throttled_warnings):
        monkeypatch.setattr(module, "monotonic", lambda: now[0])
    stats = SyncStats()
    reach = LogHealth(stats, wait_s=1.0)
    for second in range(150):
        now[0] = 101.0 + second
        with pytest.raises(UpdateError, match="away") as error, reach.reading():
            raise OSError("away\n\x1b[31m") if second % 2 else UpdateError("transport", "away")
        assert error.value.reason == "transport"
        assert (reach.away, reach.last_read_s, reach.unread_s) == (True, second + 1.0, second + 1.0)
    assert [record.getMessage() for record in caplog.records] == [
        "the log cannot be read for 1 s now: away",
        "the log cannot be read for 61 s now: away",
        "the log cannot be read for 121 s now: away",
    ]
    assert stats.read()["faults"] == 150
    assert stats.read()["last_fault"] == "the log cannot be read for 150 s now: OSError: away \\x1b[31m"
    caplog.clear()
    now[0] = 260.0
    with reach.reading():
        now[0] += 1.0
        assert not reach.away or reach.unread_s > 0
    assert (reach.away, reach.last_read_s, reach.unread_s) == (False, 0.0, 0.0)
    assert [record.getMessage() for record in caplog.records] == ["the log can be read again, after 161 s"]
    with reach.reading():
        now[0] += 1.5
        assert not reach.away
        now[0] += sync_stats._LATE_S
        assert reach.away
        assert reach.unread_s == 2.5
    assert not reach.away
