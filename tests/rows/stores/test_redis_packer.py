"""Commands to Redis, and Ctrl-C while they are made or answered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

hiredis = pytest.importorskip("hiredis")

from redis.connection import HiredisRespSerializer  # noqa: E402
from redis.exceptions import DataError  # noqa: E402

from pepnet_infer.errors import StoreError, UpdateError  # noqa: E402
from pepnet_infer.rows.stores import redis  # noqa: E402
from pepnet_infer.rows.stores.redis_client import CommandPacker, open_client  # noqa: E402
from pepnet_infer.sync.logs import redis_server  # noqa: E402


def test_hiredis_gets_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[object, ...]] = []
    pack = hiredis.pack_command
    monkeypatch.setattr(hiredis, "pack_command", lambda args: given.append(args) or pack(args))
    packer = CommandPacker(HiredisRespSerializer())
    assert packer.pack("CLIENT NO-EVICT", 3, 1.5, b"\0\xff", "text") == [
        b"*6\r\n$6\r\nCLIENT\r\n$8\r\nNO-EVICT\r\n$1\r\n3\r\n$3\r\n1.5\r\n$2\r\n\0\xff\r\n$4\r\ntext\r\n"
    ]
    assert {type(arg) for args in given for arg in args} <= {bytes, str}
    with pytest.raises(DataError):
        packer.pack("GET", None)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://127.0.0.1:1/3?protocol=3", "Connection"),
        ("rediss://127.0.0.1:1/3", "SSLConnection"),
        ("unix:///nowhere", "UnixDomainSocketConnection"),
    ],
)
def test_a_store_packs_its_handshake_with_it_over_every_kind_of_connection(url: str, kind: str) -> None:
    pool = open_client(url, cluster=False).connection_pool  # type: ignore[union-attr]
    connection: Any = pool.make_connection()
    assert isinstance(connection._command_packer, CommandPacker)
    assert kind in [one.__name__ for one in type(connection).__mro__]
    assert not getattr(connection, "maint_notifications_config", None)


def opened(monkeypatch: pytest.MonkeyPatch, module: Any) -> list[Any]:
    """Returns the list of clients that a module opens from here on."""
    clients: list[Any] = []

    def open_it(*args: Any, **options: Any) -> Any:
        clients.append(open_client(*args, **options))
        return clients[-1]

    monkeypatch.setattr(module, "open_client", open_it)
    return clients


def test_so_does_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    clients = opened(monkeypatch, redis_server)
    redis_server.RedisServer("redis://127.0.0.1:1/3", False, 1.0, 0.0)
    assert isinstance(clients[0].connection_pool.make_connection()._command_packer, CommandPacker)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_interrupted_call_leaves_its_connections(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def interrupted(*_: object) -> None:
        raise error

    clients = opened(monkeypatch, redis)
    store = redis.RedisStore("redis://127.0.0.1:1/3")
    with monkeypatch.context() as patch:
        patch.setattr(redis.Nodes, "run", interrupted)
        with pytest.raises(error):
            store.get_many(np.array([1], np.uint64), 4)
    with pytest.raises(StoreError):
        store.get_many(np.array([1], np.uint64), 4)
    assert len(clients) == 2  # on the connections of the first replies may be waiting


def test_an_interrupted_command_of_a_log_leaves_its_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    clients = opened(monkeypatch, redis_server)
    server = redis_server.RedisServer("redis://127.0.0.1:1/3", False, 1.0, 0.0)
    monkeypatch.setattr(clients[0], "execute_command", interrupted)
    with pytest.raises(KeyboardInterrupt):
        server.ask("PING")
    with pytest.raises(UpdateError):
        server.ask("PING")
    assert len(clients) == 2
