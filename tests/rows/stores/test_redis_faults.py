"""Servers that answer with errors, or that are no Redis: what a store and a log say of them, one by one."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from pepnet_infer import Engine
from pepnet_infer.errors import StoreError, UpdateError
from pepnet_infer.rows.stores.redis import RedisStore
from pepnet_infer.sync.logs.redis_server import RedisServer


@pytest.fixture
def answering() -> Iterator[Callable[[bytes, bool], str]]:
    """Returns `start(reply, closes)`, which answers each command with one reply, and returns the server's URL."""
    servers: list[socket.socket] = []

    def start(reply: bytes, closes: bool) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)

        def answer(client: socket.socket) -> None:
            with client:
                while data := client.recv(1 << 16):
                    client.sendall(reply * (1 if closes else data.count(b"*")))
                    if closes:
                        return

        def accept() -> None:
            while True:
                try:
                    client = server.accept()[0]
                except OSError:
                    return
                threading.Thread(target=answer, args=(client,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return f"redis://127.0.0.1:{server.getsockname()[1]}/0"

    yield start
    for server in servers:
        server.close()


FAULTS = [
    (b"-LOADING Redis is loading the dataset in memory\r\n", False, "BusyLoadingError: Redis is loading the dataset"),
    (b"-ERR max number of clients reached\r\n", True, "ConnectionError: max number of clients reached"),
    (b"-MASTERDOWN Link with MASTER is down\r\n", False, "MasterDownError: Link with MASTER is down"),
    (b"-CLUSTERDOWN Hash slot not served\r\n", False, "ClusterDownError: Hash slot not served"),
    (
        b"-NOAUTH Authentication required.\r\n",
        False,
        "AuthenticationError: .*the server wants a password, and got none",
    ),
    (b"-WRONGPASS invalid username-password pair\r\n", False, "AuthenticationError: invalid username-password pair"),
    (b"-NOPERM no permissions to run this command\r\n", False, "NoPermissionError: no permissions to run this command"),
    (b"", True, "ConnectionError: .*without TLS to a server that wants it: rediss://"),
    (b"\x15\x03\x03\x00\x02\x02\x46", True, "InvalidResponse: .*no Redis server, or one that wants TLS: rediss://"),
    (b"HTTP/1.1 400 Bad Request\r\n\r\n", True, "InvalidResponse: .*what answers is no Redis server"),
]


@pytest.mark.parametrize(("reply", "closes", "reason"), FAULTS)
def test_what_a_server_answers_is_said_at_load_and_by_a_log(
    answering: Callable[[bytes, bool], str], toy_bundle: Path, reply: bytes, closes: bool, reason: str
) -> None:
    url = answering(reply, closes)
    with pytest.raises(StoreError, match=f"redis: expected an answer, got {reason}"):
        Engine.load(toy_bundle, store=RedisStore(url, timeout=10))
    with pytest.raises(StoreError, match=r"redis: expected a server to connect to, got RedisClusterException: "):
        RedisStore(url, cluster=True, timeout=10)
    with pytest.raises(UpdateError, match=f"redis: PING: expected an answer, got: {reason}") as raised:
        RedisServer(url, False, 10.0, 0.0).ask("PING")
    assert raised.value.reason == "transport"


def test_why_a_cluster_cannot_be_opened_is_its_first_cause(answering: Callable[[bytes, bool], str]) -> None:
    """What redis-py makes of any error is that the node is no cluster's."""
    with pytest.raises(StoreError, match=r"RedisClusterException: .*NoPermissionError: no permissions"):
        RedisStore(answering(b"-NOPERM no permissions to run this command\r\n", False), cluster=True, timeout=10)


@pytest.mark.parametrize("reply", [b":7\r\n", b"$-1\r\n", b"+OK\r\n", b"*0\r\n"])
def test_answers_of_another_kind_are_store_errors(answering: Callable[[bytes, bool], str], reply: bytes) -> None:
    url, keys = answering(reply, False), np.zeros(1, np.uint64)
    store = RedisStore(url, timeout=10)
    with pytest.raises(StoreError, match="expected 1 values, got 0"):
        store.get_many(keys, 4)
    if reply != b":7\r\n":
        with pytest.raises(StoreError, match="redis: key 0: expected a number in answer"):
            store.put_many(keys, np.ones((1, 4), np.float32), keys)
    with pytest.raises(StoreError, match="redis: expected a server to connect to, got"):
        RedisStore(url, cluster=True, timeout=10)


def test_a_replica_says_that_it_cannot_be_written(answering: Callable[[bytes, bool], str]) -> None:
    store = RedisStore(answering(b"-READONLY You can't write against a read only replica.\r\n", False), timeout=10)
    with pytest.raises(StoreError, match="redis: expected an answer, got ReadOnlyError: You can't write"):
        store.delete_many(np.zeros(1, np.uint64), np.ones(1, np.uint64))
