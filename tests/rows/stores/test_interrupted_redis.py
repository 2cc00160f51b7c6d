"""Exceptions that come at any instruction of a call to Redis: no other call reads its replies, nor waits for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from interrupting import CallTracer, interrupt_each, within

import pepnet_infer
from pepnet_infer.rows.stores.redis import RedisStore
from pepnet_infer.rows.stores.redis_client import Command, Nodes, open_client
from pepnet_infer.sync.logs.redis_server import RedisServer

pytestmark = pytest.mark.concurrency

Client = Any
#: Our parts that ask Redis, and redis-py.
PARTS = (str(Path(pepnet_infer.__file__).parent / "rows" / "stores" / "redis"), str(Path(redis.__file__).parent))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, redis_servers: Callable[..., Any]) -> Iterator[Any]:
    """A cluster of one server."""
    server = redis_servers(tmp_path_factory.mktemp("cluster"), "--cluster-enabled", "yes")
    with redis.Redis.from_url(server.url, socket_timeout=10) as client:
        client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        within(lambda: until_ok(client))
    yield server
    server.stop()


def until_ok(client: Client) -> None:
    while client.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
        time.sleep(0.01)


@pytest.fixture(params=["one server", "a cluster"])
def url(request: pytest.FixtureRequest) -> tuple[str, bool]:
    if request.param == "a cluster":
        return request.getfixturevalue("cluster").url, True
    return request.getfixturevalue("redis_server").url.removesuffix("/0") + "/3", False


def values_of(names: list[bytes]) -> list[bytes]:
    return [b"value of " + name for name in names]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # redis-py's __del__, interrupted
def test_no_call_takes_the_replies_of_an_interrupted_one_for_its_own(url: tuple[str, bool]) -> None:
    """On one client, whose connections the interrupted call gave back."""
    client: Client = open_client(url[0], url[1], socket_timeout=10)
    nodes = Nodes(client)
    names = {who: [b"{x}%s%d" % (who, i) for i in range(3)] for who in (b"mine", b"theirs")}
    for who in names:
        for name, value in zip(names[who], values_of(names[who]), strict=True):
            client.set(name, value)

    def ask(who: bytes) -> None:
        found = nodes.run([Command(("MGET", name), name) for name in names[who]])
        assert found == [[value] for value in values_of(names[who])]

    def forget() -> None:  # so that the call makes its connection
        if url[1]:
            client.disconnect_connection_pools()
        else:
            client.connection_pool.disconnect()

    mine, theirs = (lambda: ask(b"mine")), (lambda: ask(b"theirs"))
    assert interrupt_each(mine, theirs, PARTS, before=forget, tracer=CallTracer) > 20
    client.close()


def test_connections_are_made_while_another_thread_has_the_lock_of_logging(url: tuple[str, bool]) -> None:
    """As it stays for ever when an exception comes in the instant after it was taken, up to Python 3.12."""
    held, go = threading.Event(), threading.Event()
    keys = np.arange(3, dtype=np.uint64)
    one: Client = RedisServer(url[0], url[1], 10.0, 10.0)  # redis-py's first of all, which looks for levels
    with RedisStore(url[0], cluster=url[1], timeout=10, connect_timeout=10) as store:
        store.get_many(keys, 4)
        one.ask("PING")
    one.close()

    def hold() -> None:
        with logging._lock:  # type: ignore[attr-defined]
            held.set()
            go.wait(120)

    def ask() -> None:
        with RedisStore(url[0], cluster=url[1], timeout=10, connect_timeout=10, prefix="lock") as store:
            store.put_many(keys, np.ones((3, 4), np.float32), keys + np.uint64(1))
            assert store.get_many(keys, 4).found.all()
        server = RedisServer(url[0], url[1], 10.0, 10.0)
        assert server.ask("PING")
        server.close()

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert held.wait(60)
        within(ask)
    finally:
        go.set()
        holder.join()
