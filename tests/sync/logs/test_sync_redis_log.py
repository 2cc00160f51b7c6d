"""How a log lies in Redis and in its readers' spools, and entries that are forged or damaged."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bad_entries import put_fields
from log_bundles import newest_bundle
from redis import Redis
from redis_logs import NAMES, Delta, keys, versions

from pepnet_infer.errors import ConfigError, UpdateError
from pepnet_infer.sync.delta import read_head
from pepnet_infer.sync.logs import redis as redis_module
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


def test_a_long_log_is_searched_and_trimmed_in_pages(
    log: RedisLog, delta: Delta, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [delta(version) for version in range(1, 41)]
    positions = [log.append(path) for path in made]
    assert log.append(made[0]) == positions[0]
    assert len(log.read("")) == 40
    log.append_bundle(toy_bundle)
    log.acknowledge("late", Progress(positions[29], 30, time.time()))
    monkeypatch.setattr(redis_module, "_AT_ONCE", 7)
    assert log.trim(20) == 20
    assert log.trim(0) == 10
    assert versions(log) == list(range(31, 41))


def test_keys_of_a_log_have_one_slot(log: RedisLog, client: Any, delta: Delta, toy_bundle: Path) -> None:
    log.append(delta(1, floats=100_000))
    log.append_bundle(toy_bundle)
    log.acknowledge("f", Progress("", 0, 0.0))
    names = keys(client, log)
    assert {"log", "state", "bundles", "progress", "bell"} <= names
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


NO_BYTES = {"bytes": 0, "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"../../../escaped": NO_BYTES}, "expected a plain path"),
        ({"/tmp/escaped": NO_BYTES}, "expected a plain path"),
        ({"a/../../escaped": NO_BYTES}, "expected a plain path"),
        ({"": NO_BYTES}, "expected a plain path"),
        ({"a\0b": NO_BYTES}, "expected a plain path"),
        ({"/".join("a" * 30): NO_BYTES}, "expected a plain path"),
        ({"manifest.json": NO_BYTES}, "expected a plain path"),
        ({"\ud800": NO_BYTES}, "surrogates not allowed"),
        ({"a" * 300: NO_BYTES}, "expected names of files"),
        ({"a": NO_BYTES, "a/b": NO_BYTES}, "expected names of files"),
        ({"a": {**NO_BYTES, "bytes": 3}}, "expected chunk 1, got none"),
        ({"a": {**NO_BYTES, "bytes": 10**9}}, "expected the chunks of 1000000"),
        ({"a": {**NO_BYTES, "bytes": -2}}, "expected an integer from 0"),
        ({"a": {**NO_BYTES, "bytes": True}}, "expected an integer from 0"),
        ({"a": {**NO_BYTES, "bytes": float("inf")}}, "Infinity is not a JSON number"),
        ({"a": {"bytes": 0}}, "missing key 'sha256'"),
        (["a"], "expected a mapping"),
        (None, "expected a mapping"),
    ],
)
def test_an_entry_with_a_forged_listing_writes_nothing_and_does_not_stop_the_log(
    files: Any, said: str, log: RedisLog, client: Any, tmp_path: Path, delta: Delta
) -> None:
    _forged_entry({}, json.dumps({"files": files}).encode(), said, log, client, tmp_path, delta)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"chunks": 2}, "expected the chunks of 12 bytes, got 2"),
        ({"chunks": "9" * 5000}, "content that leads to ValueError"),
        ({"manifest_bytes": 13}, "expected chunk 1, got none"),
        ({"manifest_bytes": 11}, "expected JSON"),
        ({"manifest_bytes": 10**9}, "expected chunk 1, got none"),
        ({"manifest_bytes": "Infinity"}, "content that leads to ValueError"),
        ({"upload": "../../escaped"}, "expected an entry with its files"),
        ({"upload": b"\xff"}, "content that leads to UnicodeDecodeError"),
        ({"upload": "ac"}, "expected chunk 0, got none"),
        ({"kind": "stranger"}, "expected a delta of this log"),
        ({"log": ""}, "expected a delta of this log"),
        ({"log": "ab" * 16}, "expected a delta of this log"),
        ({"more": "0" * (5 << 20)}, "expected at most 65536 bytes"),
    ],
)
def test_a_forged_entry_writes_nothing_and_does_not_stop_the_log(
    change: dict[str, Any], said: str, log: RedisLog, client: Any, tmp_path: Path, delta: Delta
) -> None:
    _forged_entry(change, b'{"files":{}}', said, log, client, tmp_path, delta)


def _forged_entry(
    change: dict[str, Any], manifest: bytes, said: str, log: RedisLog, client: Any, tmp_path: Path, delta: Delta
) -> None:
    log.append(delta(1))
    put_fields(
        log,
        {"kind": "delta", "upload": "ab", "chunks": 1, "manifest_bytes": len(manifest), **change},
        {"ab:0": manifest},
    )
    log.append(delta(2))
    first, bad, second = log.read("")
    assert [read_head(entry.path).model_version for entry in (first, second)] == [1, 2]
    assert bad.fault is not None
    assert said in str(bad.fault)
    assert not bad.path.exists()
    assert not list(tmp_path.rglob("*escaped*"))
    assert log.read(second.position, wait_s=0.01) == []
    assert log.last_delta() == (second.position, read_head(second.path))


@pytest.mark.parametrize(
    "head",
    [
        *("", "null", "{}", '{"base_version":1}', '{"x":' + "[" * 60_000, b"\xff", '{"base_version":1e999}'),
        '{"base_version":9,"model_version":8,"pass_number":0,"produced_at":1.0,"schema_hash":"x"}',
        '{"base_version":1,"model_version":' + "9" * 5000 + "}",
    ],
)
def test_a_forged_head_is_not_what_a_publisher_goes_on_from(head: str | bytes, log: RedisLog, delta: Delta) -> None:
    position = log.append(delta(1))
    put_fields(log, {"kind": "delta", "upload": "ab", "chunks": 1, "manifest_bytes": 2, "head": head})
    last = log.last_delta()
    assert last is not None
    assert (last[0], last[1].model_version) == (position, 1)


def test_an_entry_of_a_log_with_an_odd_id(log: RedisLog, client: Any, tmp_path: Path, delta: Delta) -> None:
    log.append(delta(1))
    client.hset(f"{log.prefix}state", "log", "../../outside")
    client.xadd(f"{log.prefix}log", {"log": "../../outside", "kind": "delta", "upload": "ab", "chunks": 1})
    with pytest.raises(UpdateError, match="expected a log's id of 32 hex digits"):
        log.read("")


def test_an_evicted_chunk_makes_a_damaged_entry(log: RedisLog, client: Any, delta: Delta) -> None:
    log.append(delta(1, floats=100_000))
    [chunk] = list(client.scan_iter(f"{log.prefix}blob:*", count=10_000))
    log.append(delta(2))
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
