"""How a log lies in Redis and in its readers' spools, and entries that are forged or damaged."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from log_bundles import newest_bundle
from redis import Redis
from redis_logs import NAMES, Delta, keys, versions

from pepnet_infer.errors import ConfigError, UpdateError
from pepnet_infer.sync.delta import read_head
from pepnet_infer.sync.logs import redis_entry
from pepnet_infer.sync.logs.redis import RedisLog
from pepnet_infer.sync.logs.transport import Progress


def test_no_value_is_large_and_chunks_go_with_their_entry(
    client: Any, log: RedisLog, delta: Delta, toy_bundle: Path
) -> None:
    log.append(delta(1, floats=3_000_000))  # 12 MB: three chunks
    chunks = {key for key in keys(client, log) if key.startswith("blob:")}
    assert len(chunks) == 3
    for key in chunks:
        assert client.strlen(log.prefix + key) <= redis_entry.CHUNK
        assert client.pttl(log.prefix + key) == -1  # stays
    [(_, fields)] = client.xrange(f"{log.prefix}log")
    assert sum(map(len, fields.values())) < 10_000
    log.append_bundle(toy_bundle)
    assert log.trim(0) == 1
    assert not {key for key in keys(client, log) if key in chunks}
    log.append_bundle(toy_bundle)
    assert log.trim(0) == 1
    assert {key for key in keys(client, log) if not key.startswith("blob:")} == {"log", "state", "bundles", "bell"}


def test_keys_of_a_log_have_one_slot(log: RedisLog, client: Any, delta: Delta, toy_bundle: Path) -> None:
    log.append(delta(1, floats=100_000))
    log.append_bundle(toy_bundle)
    log.acknowledge("f", Progress("", 0, 0.0))
    names = keys(client, log)
    assert {"log", "state", "deltas", "bundles", "versions", "progress", "bell"} <= names
    assert log.prefix.startswith("{")
    assert log.prefix.endswith("}:")


def test_a_cluster_carries_a_log(
    make_redis_server: Callable[..., Any], tmp_path: Path, delta: Delta, toy_bundle: Path
) -> None:
    server = make_redis_server("--cluster-enabled", "yes")
    with Redis.from_url(server.url) as node:
        node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        until = time.monotonic() + 60
        while b"cluster_state:ok" not in node.execute_command("CLUSTER", "INFO") and time.monotonic() < until:
            time.sleep(0.05)
    with RedisLog(server.url, "c", spool=tmp_path / "spool", cluster=True) as log:
        position = log.append(delta(1, floats=2_000_000))
        log.append_bundle(toy_bundle)
        log.append(delta(2))
        log.acknowledge("f", Progress(position, 1, time.time()))
        assert versions(log) == [1, 2]
        assert versions(log, position, wait_s=1.0) == [2]
        assert newest_bundle(log) is not None
        assert log.progress() == {"f": Progress(position, 1, log.progress()["f"].at)}
        assert log.trim(0) == 1
        assert versions(log) == [2]


def test_each_follower_has_a_consumer_group(log: RedisLog, client: Any, delta: Delta) -> None:
    positions = [log.append(delta(version)) for version in range(1, 4)]
    for position in positions[:2]:
        log.acknowledge("one", Progress(position, 1, 0.0))
    log.acknowledge("two", Progress("", 0, 0.0))
    groups = {group["name"]: group for group in client.xinfo_groups(f"{log.prefix}log")}
    assert set(groups) == {b"one", b"two"}
    ms, seq = positions[1].split("-")
    assert groups[b"one"]["last-delivered-id"].decode() == f"{int(ms)}-{int(seq)}"
    assert groups[b"two"]["last-delivered-id"] == b"0-0"
    assert groups[b"one"]["pending"] == 0


def test_readers_of_one_machine_share_a_spool(redis_server: Any, tmp_path: Path, delta: Delta) -> None:
    name = next(NAMES)
    logs = [RedisLog(redis_server.url, name, spool=tmp_path / "spool") for _ in range(4)]
    for version in range(1, 31):
        logs[0].append(delta(version, floats=30_000))
    found: list[list[Any]] = [[] for _ in logs]
    threads = [
        threading.Thread(target=lambda at=at, log=log: found[at].extend(log.read(""))) for at, log in enumerate(logs)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1] == found[2] == found[3]
    assert [read_head(entry.path).model_version for entry in found[0]] == list(range(1, 31))
    left = [path for path in (tmp_path / "spool").rglob("*") if ".tmp-" in path.name]
    assert left == []


def test_the_spool_of_a_reader_that_died_is_cleaned(
    log: RedisLog, tmp_path: Path, delta: Delta, toy_bundle: Path
) -> None:
    log.append(delta(1))
    [entry] = log.read("")
    abandoned = entry.path.with_name(f".{entry.path.name}.tmp-0badcafe")
    abandoned.mkdir()
    other = tmp_path / "spool" / ("ab" * 16)
    other.mkdir()
    stranger = tmp_path / "spool" / "notes"
    stranger.mkdir()
    log.append_bundle(toy_bundle)
    assert log.trim(0) == 1
    assert log.read("") == []
    assert not entry.path.exists()
    assert not abandoned.exists()
    assert not other.exists()
    assert stranger.exists()


def test_a_spool_that_cannot_be_written(redis_server: Any, tmp_path: Path, delta: Delta) -> None:
    (tmp_path / "file").write_text("not a folder")
    log = RedisLog(redis_server.url, next(NAMES), spool=tmp_path / "file")
    log.append(delta(1))
    with pytest.raises(UpdateError, match=r"spool: .*cannot write") as error:
        log.read("")
    assert error.value.reason == "transport"


INDEX = [["manifest.json", 2, 0, 0]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"index": json.dumps([["../../../escaped", 2, 0, 0]])}, "expected a plain path"),
        ({"index": json.dumps([["/tmp/escaped", 2, 0, 0]])}, "expected a plain path"),
        ({"index": json.dumps([["a/../../escaped", 2, 0, 0]])}, "expected a plain path"),
        ({"index": json.dumps([["", 2, 0, 0]])}, "expected a plain path"),
        ({"index": json.dumps([["a\0b", 2, 0, 0]])}, "expected a plain path"),
        ({"index": json.dumps([["\ud800", 2, 0, 0]])}, "expected names of files"),
        ({"index": json.dumps([["a" * 300, 2, 0, 0]])}, "expected names of files"),
        ({"index": json.dumps([["a", 2, 0, 0], ["a/b", 0, 0, 0]])}, "expected names of files"),
        ({"index": json.dumps([*INDEX, *INDEX])}, "expected each file once"),
        ({"index": json.dumps([["manifest.json", 3, 0, 0]])}, "expected 3 bytes, got 2"),
        ({"index": json.dumps([["manifest.json", 2, 0, 10**9]])}, "expected the chunks of a file"),
        ({"index": json.dumps([["manifest.json", 2, 0, 1]])}, "expected chunk 0, got none"),
        ({"index": json.dumps([["manifest.json", 2, 7, 1]])}, "expected the chunks of a file"),
        ({"index": json.dumps([["manifest.json", -2, 0, 0]])}, "expected the chunks of a file"),
        ({"index": json.dumps([["/".join("a" * 30), 2, 0, 0]])}, "expected a plain path"),
        ({"index": json.dumps([["manifest.json", True, 0, 0]])}, "index[0][1]: expected an integer, got True"),
        ({"index": '[["manifest.json", Infinity, 0, 0]]'}, "Infinity is not a JSON number"),
        ({"index": '[["manifest.json", ' + "9" * 5000 + ", 0, 0]]"}, "content that leads to ValueError"),
        ({"index": b'[["\xff", 2, 0, 0]]'}, "content that leads to UnicodeDecodeError"),
        ({"index": "0" * (5 << 20)}, "expected a smaller entry"),
        ({"upload": "../../escaped"}, "upload: expected hex digits"),
        ({"kind": "stranger"}, "expected a delta of this log"),
        ({"log": ""}, "expected a delta of this log"),
        ({"log": "ab" * 16}, "expected a delta of this log"),
        ({"index": json.dumps({"manifest.json": 2})}, "index: expected a list"),
        ({"index": "[[" * 100_000}, "content that leads to RecursionError"),
        ({"index": "null"}, "index: expected a list"),
        ({"index": json.dumps([0] * 100_001)}, "index: expected at most 100000 files, got 100001"),
        ({"upload": b"\xff"}, "content that leads to UnicodeDecodeError"),
    ],
)
def test_a_forged_entry_writes_nothing_and_does_not_stop_the_log(
    change: dict[str, Any],
    said: str,
    log: RedisLog,
    client: Any,
    tmp_path: Path,
    delta: Delta,
) -> None:
    log.append(delta(1))
    log_id = client.hget(f"{log.prefix}state", "log")
    forged = {"log": log_id, "kind": "delta", "upload": "ab", "index": json.dumps(INDEX), "f0": "{}", **change}
    client.xadd(f"{log.prefix}log", forged)
    log.append(delta(2))
    first, bad, second = log.read("")
    assert [read_head(entry.path).model_version for entry in (first, second)] == [1, 2]
    assert bad.fault is not None
    assert said in str(bad.fault)
    assert not bad.path.exists()
    assert not list(tmp_path.rglob("*escaped*"))
    assert log.read(second.position, wait_s=0.01) == []
    assert log.last_delta() == (second.position, read_head(second.path))


def test_an_entry_of_a_log_with_an_odd_id(log: RedisLog, client: Any, tmp_path: Path, delta: Delta) -> None:
    log.append(delta(1))
    client.hset(f"{log.prefix}state", "log", "../../outside")
    client.xadd(f"{log.prefix}log", {"log": "../../outside", "kind": "delta", "upload": "ab", "index": "[]"})
    with pytest.raises(UpdateError, match="expected a log's id of 32 hex digits"):
        log.read("")


def test_an_evicted_chunk_makes_a_damaged_entry(log: RedisLog, client: Any, delta: Delta) -> None:
    log.append(delta(1, floats=100_000))
    log.append(delta(2))
    [chunk] = list(client.scan_iter(f"{log.prefix}blob:*", count=10_000))
    client.delete(chunk)
    bad, good = log.read("")
    assert "expected chunk 0, got none" in str(bad.fault)
    assert read_head(good.path).model_version == 2


def test_a_delta_damaged_on_the_writers_disk_is_not_put(log: RedisLog, client: Any, delta: Delta) -> None:
    made = delta(1, floats=100_000)
    with open(made / "dense.safetensors", "r+b") as file:
        file.seek(3000)
        file.write(b"\x01\x02\x03\x04")
    with pytest.raises(UpdateError, match=r"dense\.safetensors: expected 4000\d\d bytes of sha256") as error:
        log.append(made)
    assert error.value.reason == "files"
    assert keys(client, log) == {"state"}


@pytest.mark.parametrize("position", ["x", "00000000000000000001", "1-1", "٠" * 20 + "-" + "0" * 20])
def test_positions_of_other_logs_are_refused(log: RedisLog, position: str) -> None:
    with pytest.raises(UpdateError, match="position: expected one of a log in Redis"):
        log.read(position)


def test_options_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name: expected letters"):
        RedisLog("redis://127.0.0.1:1/0", "a}b", spool=tmp_path)
    for options in ({"timeout_s": 0.0}, {"patience_s": float("nan")}):
        with pytest.raises(ConfigError, match="_s: expected a number above 0 to 86400, got"):
            RedisLog("redis://127.0.0.1:1/0", spool=tmp_path, **options)
    with pytest.raises(UpdateError, match="redis: expected a URL"):
        RedisLog("http://127.0.0.1:1/0", spool=tmp_path)
    with pytest.raises(UpdateError, match="without decode_responses"):
        RedisLog("redis://127.0.0.1:1/0?decode_responses=yes", spool=tmp_path)
