"""The layout of a log in Redis, which logs of earlier versions have, and what it withstands."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from bad_entries import put_fields
from children import PATIENCE_S
from redis_logs import Delta, keys, versions

from pepnet_infer.errors import UpdateError
from pepnet_infer.sync.delta import read_head
from pepnet_infer.sync.logs import redis as redis_module
from pepnet_infer.sync.logs import redis_entry
from pepnet_infer.sync.logs.redis import RedisLog
from pepnet_infer.sync.logs.redis_protocol import PUT
from pepnet_infer.sync.logs.redis_server import RedisServer
from pepnet_infer.sync.logs.transport import Progress

FIRST = f"{5:020d}-{0:020d}"
SECOND = f"{6:020d}-{0:020d}"


def test_a_log_that_an_earlier_version_wrote_is_read_and_trimmed(
    log: RedisLog, client: Any, delta: Delta, toy_bundle: Path
) -> None:
    log_id, prefix = log.identity(), log.prefix
    for version, stream_id, position in ((1, "5-0", FIRST), (2, "6-0", SECOND)):
        made = delta(version)
        files = {path.relative_to(made).as_posix(): path.read_bytes() for path in sorted(made.rglob("*.*"))}
        fields: dict[str, Any] = {"log": log_id, "kind": "delta", "upload": f"a{version}"}
        index = []
        for number, (name, data) in enumerate(files.items()):
            chunked = name == "dense.onnx"
            index.append([name, len(data), 0, int(chunked)])
            if chunked:
                client.set(f"{prefix}blob:a{version}:0", data)
            else:
                fields[f"f{number}"] = data
        client.xadd(f"{prefix}log", {**fields, "index": json.dumps(index)}, id=stream_id)
        schema = read_head(made).schema_hash
        client.rpush(
            f"{prefix}deltas", f"{position} a{version} 1 {version} {version - 1} {version} 1000000000.0 {schema}"
        )
        manifest = hashlib.sha256(files["manifest.json"]).hexdigest()
        client.hset(f"{prefix}versions", str(version), f"{manifest} a{version} {position}")
    assert [(entry.position, entry.fault) for entry in log.read("")] == [(FIRST, None), (SECOND, None)]
    assert versions(log) == [1, 2]
    assert log.last_delta() == (SECOND, read_head(made))
    assert log.last_version() == 2
    assert log.append(made) == SECOND
    log.append_bundle(toy_bundle)
    assert log.trim(0) == 2
    assert client.hget(f"{prefix}state", "trimmed").decode() == SECOND
    assert not client.exists(f"{prefix}blob:a1:0", f"{prefix}blob:a2:0", f"{prefix}versions", f"{prefix}deltas")


def test_what_a_publisher_writes_is_what_an_earlier_version_reads(
    log: RedisLog, client: Any, delta: Delta, toy_bundle: Path
) -> None:
    made = delta(1, floats=100_000)
    position = log.append(made)
    at = log.append_bundle(toy_bundle)
    state, prefix = client.hgetall(f"{log.prefix}state"), log.prefix
    assert set(state) == {b"log"}
    [(_, fields), (_, _)] = client.xrange(f"{prefix}log")
    assert {name.decode() for name in fields} == {"log", "kind", "upload", "index", "f0", "f1"}
    upload = fields[b"upload"].decode()
    index = {name: entry for name, *entry in json.loads(fields[b"index"])}
    assert index["dense.safetensors"][1:] == [0, 1]
    assert index["manifest.json"] == [len(fields[b"f0"]), 0, 0]
    head = read_head(made)
    assert client.lrange(f"{prefix}deltas", 0, -1) == [
        f"{position} {upload} 1 1 0 1 1000000000.0 {head.schema_hash}".encode()
    ]
    [bundle] = client.lrange(f"{prefix}bundles", 0, -1)
    assert bundle.decode().startswith(f"{at} ")
    manifest = hashlib.sha256(fields[b"f0"]).hexdigest()
    assert client.hgetall(f"{prefix}versions") == {b"1": f"{manifest} {upload} {position}".encode()}


def test_many_deltas_come_with_one_question(log: RedisLog, client: Any, delta: Delta) -> None:
    last = [log.append(delta(version)) for version in range(1, 65)][-1]
    assert log.read(last) == []  # the scripts are loaded
    client.config_resetstat()
    assert versions(log) == list(range(1, 65))
    asked = client.info("commandstats")
    assert asked["cmdstat_evalsha"]["calls"] == 2  # a look, and a read
    assert "cmdstat_getrange" not in asked


def test_a_long_log_is_trimmed_in_pages(
    log: RedisLog, delta: Delta, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [delta(version) for version in range(1, 41)]
    positions = [log.append(path) for path in made]
    assert log.append(made[0]) == positions[0]
    assert len(log.read("")) == 40
    log.append_bundle(toy_bundle)
    log.acknowledge("late", Progress(positions[29], 30, time.time()))
    monkeypatch.setattr(redis_module, "_TRIM_AT_ONCE", 7)
    assert log.trim(20) == 20
    assert log.trim(0) == 10
    assert versions(log) == list(range(31, 41))


def test_a_delta_that_is_in_the_log_is_found_whatever_came_after_it(
    log: RedisLog, client: Any, delta: Delta, toy_bundle: Path
) -> None:
    made = delta(1)
    position = log.append(made)
    for _ in range(17):
        log.append_bundle(toy_bundle)
    assert log.append(made) == position
    assert client.llen(f"{log.prefix}deltas") == 1


@pytest.mark.parametrize("bundle", [True, False])
def test_a_large_entry_of_somebody_else_is_not_read(log: RedisLog, client: Any, delta: Delta, bundle: bool) -> None:
    log.append(delta(1))
    kind = "bundle" if bundle else "delta"
    put_fields(log, {"kind": kind, "upload": "ab", "index": "[]", "more": b"0" * (5 << 20)})
    log.append(delta(2))
    before = client.info("stats")["total_net_output_bytes"]
    found = log.read("")
    assert client.info("stats")["total_net_output_bytes"] - before < 1 << 20
    assert [entry.fault and entry.fault.reason for entry in found] == [None, *([] if bundle else ["size"]), None]


def test_a_number_of_chunks_that_somebody_else_made_up_does_not_hold_up_a_trim(
    log: RedisLog, client: Any, delta: Delta, toy_bundle: Path
) -> None:
    log.append(delta(1, floats=100_000))
    client.lpush(f"{log.prefix}deltas", f"{FIRST} ab 9999999 9 8 7 1.0 x")
    client.lpush(f"{log.prefix}bundles", f"{FIRST} ab 9999999 9")
    log.append_bundle(toy_bundle)
    client.config_resetstat()
    assert log.trim(0) == 3
    assert client.info("commandstats")["cmdstat_unlink"]["calls"] < 3000
    assert client.llen(f"{log.prefix}deltas") == 0


@pytest.mark.parametrize(
    "item",
    [
        *("", "absurd", "zzz ab 1 9 7 3 1.0 x", f"{FIRST} ab 1", f"{FIRST} ab 1 7 9 3 1.0 x"),
        *(f"{FIRST} ab 1 9 7 3 nan x", f"{FIRST} ab 1 {'9' * 5000} 7 3 1.0 x", b"\xff"),
    ],
)
def test_a_forged_item_is_not_what_a_publisher_goes_on_from(
    item: str | bytes, log: RedisLog, client: Any, delta: Delta
) -> None:
    position = log.append(delta(1))
    client.rpush(f"{log.prefix}deltas", item)
    last = log.last_delta()
    assert last is not None
    assert (last[0], last[1].model_version) == (position, 1)


def test_an_entry_of_another_log_is_not_what_a_publisher_goes_on_from(log: RedisLog, delta: Delta) -> None:
    position = log.append(delta(1))
    put_fields(log, {"log": "0" * 32, "kind": "delta", "upload": "ab", "index": "[]", "model_version": 9})
    put_fields(log, {"log": "0" * 32, "kind": "bundle", "upload": "ab", "index": "[]", "model_version": 9})
    last = log.last_delta()
    assert last is not None
    assert last[0] == position
    assert log.last_version() == 1


def test_chunks_go_where_somebody_removed_the_stream(
    log: RedisLog, client: Any, delta: Delta, toy_bundle: Path
) -> None:
    for version in (1, 2):
        log.append(delta(version, floats=100_000))
    log.append_bundle(toy_bundle)
    client.delete(f"{log.prefix}log")
    log.append_bundle(toy_bundle)
    log.trim(0)
    log.append_bundle(toy_bundle)
    there = {key for key in keys(client, log) if key.startswith("blob:")}
    uploads = {item.split()[1].decode() for item in client.lrange(f"{log.prefix}bundles", 0, -1)}
    assert {key.split(":")[1] for key in there} <= uploads
    assert len(uploads) == 2


def test_foreign_entries_are_none_of_the_deltas_that_are_kept(log: RedisLog, delta: Delta, toy_bundle: Path) -> None:
    for version in (1, 2, 3, 4):
        log.append(delta(version))
        put_fields(log, {"temperature": "21"})
    log.append_bundle(toy_bundle)
    log.trim(3)
    assert [read_head(entry.path).model_version for entry in log.read("") if entry.fault is None] == [2, 3, 4]


def test_a_bundle_that_is_trimmed_after_it_was_listed_is_no_fault(log: RedisLog, toy_bundle: Path) -> None:
    log.append_bundle(toy_bundle)
    listed = log.bundles()
    head = next(listed)
    log.append_bundle(toy_bundle)
    log.trim(0)
    assert head.fault is None
    assert log.bundle(head.position) is None


def test_what_two_threads_put_is_known_whichever_notes_it_last(
    log: RedisLog, client: Any, delta: Delta, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, answered, go = RedisServer.run, threading.Event(), threading.Event()

    def run(server: RedisServer, script: str, *args: Any, **options: Any) -> Any:
        found = real(server, script, *args, **options)
        if script == PUT and threading.current_thread() is slow:
            answered.set()
            assert go.wait(PATIENCE_S)
        return found

    monkeypatch.setattr(RedisServer, "run", run)
    made = [delta(version) for version in (1, 2, 3)]
    slow = threading.Thread(target=lambda: log.append(made[0]))
    slow.start()
    assert answered.wait(PATIENCE_S)
    saved = {key: client.dump(key) for key in client.keys(f"{log.prefix}*")}
    second = log.append(made[1])
    go.set()
    slow.join()
    for key, value in saved.items():  # as a server that crashed, and did not sync each command
        client.restore(key, 0, value, replace=True)
    with pytest.raises(UpdateError, match=f"expected {second} in the log, which lost its end"):
        log.append(made[2])


def test_a_manifest_of_several_chunks(log: RedisLog, delta: Delta, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_entry, "CHUNK", 100)
    monkeypatch.setattr(redis_entry, "_INLINE", 50)
    made = delta(1, floats=1000)
    log.append(made)
    [entry] = log.read("")
    assert entry.fault is None
    for path in made.rglob("*.*"):
        assert (entry.path / path.relative_to(made)).read_bytes() == path.read_bytes()


def test_what_readers_would_refuse_for_its_size_is_not_put(
    log: RedisLog, client: Any, delta: Delta, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = delta(1, floats=100_000)
    monkeypatch.setitem(redis_entry.MOST_BYTES, "delta", 500)
    with pytest.raises(UpdateError, match="expected fewer files: its entry would take") as error:
        log.append(made)
    assert error.value.reason == "files"
    assert keys(client, log) == {"state"}
