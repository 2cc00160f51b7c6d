from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis import Redis
from redis.cluster import RedisCluster

from pepnet_infer import CacheConfig, Engine
from pepnet_infer.errors import ConfigError, StoreError
from pepnet_infer.rows.stores.redis import BUCKETS, RedisStore

DIM = 4
MakeServer = Callable[..., Any]


def write(store: RedisStore, count: int, version: int = 1, first: int = 0) -> int:
    keys = np.arange(first, first + count, dtype=np.uint64)
    return store.put_many(keys, rows_of(keys, version), np.full(count, version, np.uint64))


def rows_of(keys: np.ndarray, version: int) -> np.ndarray:
    return np.repeat((keys * 3 + version).astype(np.float32)[:, None], DIM, axis=1)


def check(store: RedisStore, count: int, version: int = 1) -> None:
    keys = np.random.default_rng(0).permutation(count).astype(np.uint64)
    got = store.get_many(keys, DIM)
    assert got.found.all()
    np.testing.assert_array_equal(got.rows, rows_of(keys, version))


@pytest.fixture
def client(redis_server: Any) -> Iterator[Redis]:
    with Redis.from_url(redis_server.url, socket_timeout=10) as opened:
        opened.flushall()
        yield opened


def test_a_batch_is_one_round_trip_of_few_commands(client: Redis) -> None:
    store = RedisStore(client)
    assert write(store, 1000) == 1000
    before: Any = client.info("commandstats")
    check(store, 1000)
    after: Any = client.info("commandstats")
    asked = after["cmdstat_mget"]["calls"] - before.get("cmdstat_mget", {"calls": 0})["calls"]
    assert asked == 2  # of at most 512 keys
    store.close()
    assert client.ping()  # a client that was given stays open


def test_what_will_be_forgotten_has_a_time_to_live(client: Redis) -> None:
    store = RedisStore(client, prefix="p", remember=1000.0)
    now, keys = time.time(), np.arange(3, dtype=np.uint64)
    store.put_many(keys, rows_of(keys, 1), keys + np.uint64(1), None, np.array([now + 500, np.inf, 1e300]))
    store.delete_many(np.array([7], np.uint64), np.array([1], np.uint64))
    left = {int.from_bytes(name[-8:], "big"): client.pttl(name) for name in client.keys("p:{*}:*")}
    assert left[0] == pytest.approx(1_500_000, abs=10_000)
    assert left[7] == pytest.approx(1_000_000, abs=10_000)
    assert (left[1], left[2]) == (-1, -1)
    store.put_many(keys[:1], rows_of(keys[:1], 1), np.array([9], np.uint64))
    name = next(name for name in client.scan_iter() if name.endswith(bytes(8)))
    assert client.pttl(name) == -1  # the newer row does not expire


def test_versions_are_compared_in_all_their_bits(client: Redis) -> None:
    store, key = RedisStore(client), np.zeros(1, np.uint64)
    ladder = [0, 1, 255, 256, 2**32 - 1, 2**32, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1]
    for at, version in enumerate(ladder):
        for older in ladder[:at]:
            assert store.put_many(key, rows_of(key, 0), np.array([older], np.uint64)) == 0
        assert store.put_many(key, rows_of(key, 1), np.array([version], np.uint64)) == 1
        assert store.put_many(key, rows_of(key, 2), np.array([version], np.uint64)) == 0


def test_the_script_is_found_after_a_server_lost_it(client: Redis) -> None:
    store = RedisStore(client)
    write(store, 3)
    client.script_flush()
    assert write(store, 3, version=2) == 3
    check(store, 3, version=2)


def test_a_damaged_value_costs_its_row_alone(client: Redis) -> None:
    store = RedisStore(client, prefix="p")
    write(store, 6)
    names = {int.from_bytes(name[-8:], "big"): name for name in client.keys("p:*")}
    client.set(names[1], b"junk")
    value: Any = client.get(names[2])
    client.set(names[3], value)
    client.setrange(names[4], 30, b"\x01\x02")
    client.delete(names[5])
    client.lpush(names[5], "a list")
    got = store.get_many(np.arange(6, dtype=np.uint64), DIM)
    assert got.found.tolist() == [True, False, True, False, False, False]
    assert store.damaged == 3  # a value of another kind reads as none
    assert write(store, 2) == 1
    with pytest.raises(StoreError, match=r"redis: expected an answer, got .*WRONGTYPE"):
        write(store, 6, version=2)


def test_widths_are_compared_on_the_server(client: Redis) -> None:
    store = RedisStore(client)
    write(store, 1)
    with pytest.raises(StoreError, match="key 0: expected a row of width 4 as it has, got 2"):
        store.put_many(np.zeros(1, np.uint64), np.ones((1, 2), np.float32), np.array([9], np.uint64))
    check(store, 1)


def test_a_client_that_decodes_is_refused(redis_server: Any) -> None:
    with pytest.raises(StoreError, match="client: expected one that returns bytes, got decode_responses=True"):
        RedisStore(Redis.from_url(redis_server.url, decode_responses=True))
    with pytest.raises(ConfigError, match="dtype: expected one of bfloat16, float16, float32, got 'int8'"):
        RedisStore(redis_server.url, dtype="int8")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="timeout: expected a number above 0, got nan"):
        RedisStore(redis_server.url, timeout=float("nan"))
    with pytest.raises(StoreError, match=r"redis: expected a server to connect to, got .*scheme"):
        RedisStore("not a url")


def test_a_server_that_is_down_is_not_asked_by_everybody_and_found_again(make_redis_server: MakeServer) -> None:
    server = make_redis_server()
    with RedisStore(server.url, pause=1.5, timeout=10, connect_timeout=10) as store:
        write(store, 5)
        server.stop()
        with pytest.raises(StoreError, match=r"redis: expected an answer, got .*"):
            check(store, 5)
        for _ in range(50):
            with pytest.raises(StoreError, match=r"got none \(not asked for [01]\.\d s more\): \w+Error: "):
                check(store, 5)
        server.start()
        time.sleep(1.55)
        assert write(store, 5) == 5  # it keeps nothing
        check(store, 5)


def test_a_server_restarted_while_nobody_asked_is_no_error(make_redis_server: MakeServer) -> None:
    server = make_redis_server()
    with RedisStore(server.url, timeout=10, connect_timeout=10) as store:
        write(store, 5)
        server.stop()
        server.start()
        assert not store.get_many(np.arange(5, dtype=np.uint64), DIM).found.any()
        assert write(store, 5) == 5


def test_a_server_that_hangs_costs_one_timeout() -> None:
    accepted = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(None)

        def accept() -> None:
            while True:
                try:
                    accepted.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept)
        thread.start()
        with RedisStore(f"redis://127.0.0.1:{server.getsockname()[1]}", timeout=0.2, pause=60) as store:
            begin = time.monotonic()
            for wanted in ("expected an answer, got .*[Tt]ime", "expected a server, got none"):
                with pytest.raises(StoreError, match=wanted):
                    check(store, 2000)
            assert 0.19 < time.monotonic() - begin < 20
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert len(accepted) == 1
    for connection in accepted:
        connection.close()


def knows_all(client: Redis) -> bool:
    info: Any = client.execute_command("CLUSTER INFO")
    return bool(info["cluster_state"] == "ok" and info["cluster_known_nodes"] == "3")


@pytest.fixture
def cluster(make_redis_server: MakeServer) -> list[Any]:
    """Three servers that share the slots."""
    servers = [make_redis_server("--cluster-enabled", "yes", "--cluster-node-timeout", "2000") for _ in range(3)]
    clients = [Redis.from_url(server.url, socket_timeout=10) for server in servers]
    for at, one in enumerate(clients):
        one.execute_command("CLUSTER ADDSLOTS", *range(at * 16384 // 3, (at + 1) * 16384 // 3))
        one.execute_command("CLUSTER MEET", "127.0.0.1", servers[0].port)
    until = time.monotonic() + 60
    while not all(map(knows_all, clients)):
        assert time.monotonic() < until, "the cluster does not come up"
        time.sleep(0.02)
    for one in clients:
        one.close()
    return servers


def test_a_cluster(cluster: list[Any]) -> None:
    """One cluster for all of this: it takes seconds to come up."""
    servers = [Redis.from_url(server.url, socket_timeout=10) for server in cluster]
    with RedisStore(cluster[0].url, cluster=True, timeout=10, connect_timeout=10, pause=0.2) as store:
        assert write(store, 3000) == 3000
        assert write(store, 3000) == 0
        check(store, 3000)
        sizes: list[Any] = [server.dbsize() for server in servers]
        assert sum(sizes) == 3000
        assert min(sizes) > 300
        calls: list[Any] = [server.info("commandstats")["cmdstat_mget"]["calls"] for server in servers]
        assert sum(calls) <= BUCKETS
        check(RedisStore(RedisCluster.from_url(cluster[1].url)), 3000)

        # A slot on its way to another server: the keys in it are on two.
        keys_of: dict[int, list[bytes]] = {}
        names: Any = servers[0].keys()
        for name in names:
            keys_of.setdefault(int(servers[0].cluster("keyslot", name)), []).append(name)
        slot = max(keys_of, key=lambda slot: len(keys_of[slot]))
        assert len(keys_of[slot]) > 4
        old, new = servers[0], servers[1]
        ids = [server.execute_command("CLUSTER MYID").decode() for server in (old, new)]
        new.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[0])
        old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[1])
        for name in keys_of[slot][::2]:
            old.migrate("127.0.0.1", cluster[1].port, name, 0, 5000)
        check(store, 3000)
        assert write(store, 3000, version=2) == 3000
        check(store, 3000, version=2)
        # All of it there.
        for name in keys_of[slot]:
            old.migrate("127.0.0.1", cluster[1].port, name, 0, 5000)
        for server in servers:
            server.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[1])
        check(store, 3000, version=2)
        assert write(store, 3000, version=3) == 3000

        cluster[2].stop()
        with pytest.raises(StoreError, match="redis: expected an answer, got "):
            check(store, 3000, version=3)
        with pytest.raises(StoreError, match=r"redis: expected a server, got none \(not asked for"):
            check(store, 3000, version=3)
    for server in servers:
        server.close()


def test_without_the_package_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['redis'] = None; import pepnet_infer.rows.stores.redis"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "StoreError: store: the package redis cannot be imported" in done.stderr
    assert "pip install 'pepnet-infer[redis]'" in done.stderr


@pytest.mark.parametrize(
    ("setting", "url", "reason"),
    [
        ({"requirepass": "secret"}, "redis://:wrong@{}/0", "AuthenticationError: invalid username-password pair"),
        ({"requirepass": "secret"}, "redis://{}/0", "AuthenticationError: .*the server wants a password, and got none"),
        (
            {"requirepass": "secret"},
            "redis://nobody:secret@{}/0",
            "AuthenticationError: invalid username-password pair",
        ),
        ({}, "redis://reader:pass@{}/0", "NoPermissionError: .*mget"),
        ({}, "redis://{}/77", "ResponseError: DB index is out of range"),
        ({}, "rediss://{}/0", "T?.*Error: .*the URL asks for TLS"),
    ],
)
def test_why_a_store_cannot_be_read_is_said_when_an_engine_is_loaded(
    redis_server: Any, toy_bundle: Path, toy_batch: Callable[..., Any], setting: dict[str, str], url: str, reason: str
) -> None:
    address = redis_server.url.removeprefix("redis://").split("/")[0]
    with Redis.from_url(redis_server.url, socket_timeout=10) as admin:
        admin.acl_setuser("reader", enabled=True, passwords=["+pass"], commands=["+get"], keys=["*"])
        for name, value in setting.items():
            admin.config_set(name, value)
        try:
            store = RedisStore(url.format(address), timeout=5)
            with pytest.raises(StoreError, match=f"redis: expected an answer, got {reason}"):
                Engine.load(toy_bundle, store=store)
            if "Authentication" in reason or "TLS" in reason:  # the reason is named while nobody asks the server, too
                with pytest.raises(StoreError, match=rf"not asked for .*: {reason}"):
                    store.get_many(np.zeros(1, np.uint64), DIM)
            warns = CacheConfig(on_load="warn", warm=False)
            with Engine.load(toy_bundle, threads=1, store=store, cache=warns) as engine:
                assert set(engine.score(toy_batch(2)).unavailable) >= {"user_id", "page"}
                assert re.search(reason, engine.stats()["cache"]["store"]["last_fault"])
        finally:
            for name in setting:
                admin.config_set(name, "")
            admin.acl_deluser("reader")


def test_a_server_that_is_down_when_an_engine_is_loaded(toy_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        store = RedisStore(f"redis://127.0.0.1:{unused.getsockname()[1]}/0")
        with pytest.raises(StoreError, match=r"ConnectionError: .*refused"):
            Engine.load(toy_bundle, store=store)
        Engine.load(toy_bundle, store=store, cache=CacheConfig(on_load="warn")).close()
    assert "the store cannot be read, default rows are served until it can: redis: expected a server" in caplog.text
