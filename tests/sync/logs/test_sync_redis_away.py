"""A Redis that is away, slow, full, emptied or shortened: what a log there makes of it."""

from __future__ import annotations

import hashlib
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from log_bundles import newest_bundle
from redis import Redis
from redis_logs import NAMES, Delta, keys, versions

from pepnet_infer.errors import UpdateError
from pepnet_infer.sync.delta import read_head
from pepnet_infer.sync.logs import redis_server as server_module
from pepnet_infer.sync.logs.redis import RedisLog
from pepnet_infer.sync.logs.redis_protocol import PUT
from pepnet_infer.sync.logs.transport import Progress


def test_a_server_that_comes_back_loses_nothing(
    make_redis_server: Callable[..., Any], tmp_path: Path, delta: Delta
) -> None:
    server = make_redis_server("--appendonly", "yes", "--appendfsync", "always")
    made = [delta(version, floats=200_000) for version in range(1, 25)]
    log = RedisLog(server.url, spool=tmp_path / "a", patience_s=60.0, create=True)
    reader = RedisLog(server.url, spool=tmp_path / "b", patience_s=60.0)
    seen: list[int] = []

    def follow() -> None:
        position, until = "", time.monotonic() + 120
        while len(seen) < len(made) and time.monotonic() < until:
            try:
                entries = reader.read(position, wait_s=0.5, most=3)
            except UpdateError:  # away for longer than a read may wait
                continue
            for entry in entries:
                seen.append(read_head(entry.path).model_version)
                position = entry.position

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    stopper = threading.Event()

    def restart() -> None:
        for _ in range(3):
            stopper.wait(0.25)
            server.stop()
            stopper.wait(0.1)
            server.start()

    restarts = threading.Thread(target=restart)
    restarts.start()
    try:
        for path in made:
            log.append(path)
            time.sleep(0.03)
    finally:
        restarts.join()  # it leaves a server that the fixture stops
    thread.join(125)
    assert seen == list(range(1, 25))
    log.acknowledge("f", Progress("", 3, 1.0))
    server.stop()
    server.start()
    assert RedisLog(server.url, spool=tmp_path / "c").progress() == {"f": Progress("", 3, 1.0)}
    last = log.last_delta()
    assert last is not None
    assert last[1].model_version == 24


def test_a_server_that_stays_away(make_redis_server: Callable[..., Any], tmp_path: Path, delta: Delta) -> None:
    server = make_redis_server()
    made = delta(1)
    log = RedisLog(server.url, spool=tmp_path / "spool", patience_s=0.4)
    server.stop()
    for work in (
        lambda: log.append(made),
        lambda: log.read(""),
        lambda: log.read("", wait_s=0.4),
        lambda: newest_bundle(log),
        log.last_delta,
        log.progress,
        lambda: log.trim(0),
    ):
        begin = time.monotonic()
        with pytest.raises(UpdateError, match=r"redis: \w+: expected an answer, got: .*[Cc]onnect") as error:
            work()
        assert error.value.reason == "transport"
        assert 0.2 < time.monotonic() - begin < 20.0
    server.start()
    log.append(made)
    assert versions(log) == [1]


def test_a_server_that_hangs(make_redis_server: Callable[..., Any], tmp_path: Path, delta: Delta) -> None:
    server = make_redis_server()
    log = RedisLog(server.url, spool=tmp_path / "spool", timeout_s=0.3, patience_s=60.0)
    log.append(delta(1))
    server.process.send_signal(signal.SIGSTOP)
    wakes = threading.Timer(1.0, server.process.send_signal, [signal.SIGCONT])
    wakes.start()
    log.append(delta(2))  # sent more than once, for all we know
    wakes.join()
    assert versions(log) == [1, 2]
    short = RedisLog(server.url, spool=tmp_path / "short", timeout_s=0.2, patience_s=0.3)
    server.process.send_signal(signal.SIGSTOP)
    with pytest.raises(UpdateError, match="expected an answer, got: Timeout"):
        short.read("")
    server.process.send_signal(signal.SIGCONT)
    assert versions(log) == [1, 2]


def test_a_server_that_only_reads_is_waited_for(
    make_redis_server: Callable[..., Any], tmp_path: Path, delta: Delta
) -> None:
    server = make_redis_server()
    log = RedisLog(server.url, spool=tmp_path / "spool", patience_s=60.0)
    log.append(delta(1))
    with Redis.from_url(server.url) as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")  # a failover that is under way
        begin = time.monotonic()
        threading.Timer(0.5, lambda: client.execute_command("REPLICAOF", "NO", "ONE")).start()
        log.append(delta(2))
        assert time.monotonic() - begin > 0.3
    assert versions(log) == [1, 2]


def test_memory_at_its_end_is_told_at_once(make_redis_server: Callable[..., Any], tmp_path: Path, delta: Delta) -> None:
    server = make_redis_server("--maxmemory", "30mb", "--maxmemory-policy", "noeviction")
    log = RedisLog(server.url, spool=tmp_path / "spool", patience_s=120.0)
    log.append(delta(1))
    begin = time.monotonic()
    with pytest.raises(UpdateError, match="command not allowed when used memory"):
        log.append(delta(2, floats=9_000_000))
    assert time.monotonic() - begin < 60.0
    with Redis.from_url(server.url) as client:
        assert not {key for key in keys(client, log) if key.startswith("blob:")}
    log.append(delta(2))
    assert versions(log) == [1, 2]


PUT_SHA = hashlib.sha1(PUT.encode()).hexdigest().encode()


class Deaf:
    """Passes commands on to Redis and drops the first answer to a script that puts, and the connection with it."""

    def __init__(self, port: int) -> None:
        self._server, self._port = socket.create_server(("127.0.0.1", 0)), port
        self.dropped = 0
        self.url = f"redis://127.0.0.1:{self._server.getsockname()[1]}/0"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(near,), daemon=True).start()

    def _pass_on(self, near: socket.socket) -> None:
        deaf = False
        with near, socket.create_connection(("127.0.0.1", self._port)) as far:
            while True:
                for ready in select.select([near, far], [], [])[0]:
                    passed = ready.recv(1 << 20)
                    if not passed:
                        return
                    deaf = deaf or (ready is near and PUT_SHA in passed and self.dropped == 0)
                    if deaf and ready is far:
                        self.dropped += 1
                        return
                    (far if ready is near else near).sendall(passed)

    def close(self) -> None:
        self._server.close()


@pytest.mark.parametrize("kind", ["delta", "bundle"])
def test_an_append_whose_answer_was_lost_is_there_once(
    kind: str, redis_server: Any, client: Any, tmp_path: Path, delta: Delta, toy_bundle: Path
) -> None:
    client.script_load(PUT)  # so that the first answer that is dropped is to the script itself
    deaf = Deaf(redis_server.port)
    log = RedisLog(deaf.url, next(NAMES), spool=tmp_path / "spool", timeout_s=1.0)
    if kind == "delta":
        position = log.append(delta(1, floats=100_000))
        [entry] = log.read("")
    else:
        position = log.append_bundle(toy_bundle)
        found = newest_bundle(log)
        assert found is not None
        entry = found
    assert deaf.dropped == 1
    assert entry.position == position
    assert client.xlen(f"{log.prefix}log") == 1
    assert (entry.path / "manifest.json").is_file()
    deaf.close()


def test_a_writer_is_told_that_its_log_was_emptied(
    redis_server: Any, client: Any, log: RedisLog, tmp_path: Path, delta: Delta, toy_bundle: Path
) -> None:
    log.append(delta(1))
    client.delete(*client.keys(f"{log.prefix}*"))
    with pytest.raises(UpdateError, match=r"expected the log [0-9a-f]{32}, got none: put a full bundle") as error:
        log.append(delta(2))
    assert error.value.reason == "log"
    assert not {key for key in keys(client, log) if key.startswith("blob:")}
    log.append_bundle(toy_bundle)
    log.append(delta(8))
    assert versions(log) == [8]


def test_a_writer_is_told_that_its_log_lost_its_end(
    client: Any, log: RedisLog, tmp_path: Path, delta: Delta, toy_bundle: Path
) -> None:
    first = log.append(delta(1))
    saved = {key: client.dump(key) for key in client.keys(f"{log.prefix}*")}
    second = log.append(delta(2))
    for key, value in saved.items():  # as a server that crashed, and did not sync each command
        client.restore(key, 0, value, replace=True)
    assert versions(log, second) == [1]  # from the start: a follower skips what it has
    assert versions(log, first) == []
    with pytest.raises(UpdateError, match="which lost its end: put a full bundle") as error:
        log.append(delta(3))
    assert error.value.reason == "log"
    log.append_bundle(toy_bundle)
    log.append(delta(8))
    assert versions(log, second) == [8]


@pytest.mark.parametrize("part", ["bell", "log"])
def test_an_append_that_redis_refuses_leaves_no_entry(
    part: str, client: Any, log: RedisLog, delta: Delta, toy_bundle: Path
) -> None:
    log.append(delta(1))
    key, made, count = f"{log.prefix}{part}", delta(2, floats=200_000), client.xlen(f"{log.prefix}log")
    client.xadd(key, {"mine": "1"}, id=f"{2**64 - 1}-{2**64 - 1}")  # no other comes after it
    before = client.xlen(f"{log.prefix}log")
    for root in (made, made, toy_bundle):
        with pytest.raises(UpdateError, match="exhausted the last possible ID"):
            log.append_bundle(root) if root == toy_bundle else log.append(root)
    assert client.xlen(f"{log.prefix}log") == before
    chunks = client.keys(f"{log.prefix}blob:*")
    assert chunks
    assert all(client.pttl(chunk) > 0 for chunk in chunks)  # nobody would ever remove them
    client.delete(key)
    log.append(made)
    assert client.xlen(f"{log.prefix}log") == (count + 1 if part == "bell" else 1)
    assert [client.pttl(chunk) for chunk in client.keys(f"{log.prefix}blob:*")].count(-1) == 1


def test_waiting_is_no_silence(redis_server: Any, tmp_path: Path) -> None:
    """A server that has nothing to say for longer than `timeout_s` is one that answers."""
    short = RedisLog(
        redis_server.url, next(NAMES), spool=tmp_path / "short", timeout_s=0.3, patience_s=60.0, create=True
    )
    begin = time.monotonic()
    assert short.read("", wait_s=0.8) == []
    assert 0.7 < time.monotonic() - begin < 20


def test_pauses_grow_up_to_half_a_second_for_as_long_as_a_server_is_awaited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: sum(pauses), sleep=pauses.append)
    monkeypatch.setattr(server_module, "time", clock)
    log = RedisLog("redis://127.0.0.1:1/0", spool=tmp_path, patience_s=3.0)
    with pytest.raises(UpdateError, match="expected an answer"):
        log.progress()
    assert pauses == [0.02, 0.04, 0.08, 0.16, 0.32, 0.5, 0.5, 0.5, 0.5]


def test_a_script_that_redis_forgot_is_loaded_again(
    redis_server: Any, client: Any, log: RedisLog, delta: Delta
) -> None:
    log.append(delta(1))
    client.script_flush()
    log.append(delta(2))
    client.script_flush()
    assert versions(log) == [1, 2]
