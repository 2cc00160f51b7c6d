"""A writable store that many machines share: Redis, one server or a cluster (package `redis`, extra `[redis]`)."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import structs

from pepnet_infer._kernels import SharedLock
from pepnet_infer.errors import StoreError
from pepnet_infer.process import forks
from pepnet_infer.process.closing import Closing
from pepnet_infer.rows.protocols import Rows
from pepnet_infer.rows.stores.record import HEADER, REMEMBER, Remember, RowDtype, decode, encode_deletions, encode_rows
from pepnet_infer.rows.stores.write_batch import check_deletion, check_keys, checked_batch
from pepnet_infer.schema.ids import Keys
from pepnet_infer.schema.row_batch import RowBatch
from pepnet_infer.validation import NotNegative, Options, Positive

try:
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.cluster import RedisCluster
    from redis.exceptions import (
        ClusterDownError,
        ConnectionError,
        RedisClusterException,
        RedisError,
        TimeoutError,
    )
    from redis.retry import Retry

    from pepnet_infer.rows.stores.redis_client import open_client, reason_of
    from pepnet_infer.rows.stores.redis_nodes import ClusterNodes, Command, OneNode
except ImportError as problem:
    raise StoreError(
        f"store: the package redis cannot be imported ({problem}): pip install 'pepnet-infer[redis]'"
    ) from (problem)

#: Keys are spread over this many hash tags, so that a batch to a cluster is at most as many commands.
BUCKETS = 256
_KEYS = 512  # of one command
_COMMANDS = 1024  # of a write, in one pipeline
_UNREACHABLE = (ConnectionError, TimeoutError, ClusterDownError, RedisClusterException, OSError)
_MAX_MILLISECONDS = 2.0**53

#: Sets a value unless one of the same or a newer version is there. Returns 1: set, 0: not newer, -dim: another width.
_WRITE = f"""
local old = redis.call('GETRANGE', KEYS[1], 0, {HEADER.itemsize - 1})
if #old == {HEADER.itemsize} then
  local format, _, dim, _, low, high = struct.unpack('<BBI2I4I4I4', old)
  local _, _, new_dim, _, new_low, new_high = struct.unpack('<BBI2I4I4I4', ARGV[1])
  if format == 1 then
    if dim ~= 0 and new_dim ~= 0 and dim ~= new_dim then return -dim end
    if high > new_high or (high == new_high and low >= new_low) then return 0 end
  end
end
redis.call('SET', KEYS[1], ARGV[1])
if ARGV[2] ~= '' then redis.call('PEXPIREAT', KEYS[1], ARGV[2]) end
return 1
"""
_WRITE_SHA = hashlib.sha1(_WRITE.encode()).hexdigest()


class RedisOptions(Options, frozen=True):
    """What `RedisStore` is opened with, but for the client and the clock."""

    cluster: bool
    prefix: str
    dtype: RowDtype
    connect_timeout: Positive
    timeout: Positive
    pause: NotNegative
    remember: Remember


class RedisStore(Closing):
    """A `WritableStore`. Any thread may call at any time, and any number of machines.

    A key is `PREFIX:{BUCKET}:` and the 8 bytes of the number, the largest first; values are laid out in `record.py`.
    Versions are compared by a script where the value is, one key a call. A batch is not one transaction: when a write
    raises, some of it may have been applied, and it may be sent again.
    """

    def __init__(
        self,
        client: str | Redis | RedisCluster,
        *,
        cluster: bool = False,
        prefix: str = "pepnet",
        dtype: RowDtype = "float32",
        connect_timeout: float = 0.1,
        timeout: float = 0.25,
        pause: float = 1.0,
        remember: float = REMEMBER,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`client`: a URL (of any server of it, for a `cluster`), or a client, with the timeouts and retries it has.

        `connect_timeout`, `timeout`: seconds that a server may take, with a URL; what fails is not tried again, but for
        a connection found closed. `pause`: seconds for which nobody asks after no server was reached; then one caller
        tries. `dtype`: of rows that are written. `remember`: seconds for which deletions and expired rows keep their
        version. Raises StoreError, ConfigError for an option; a single server is not asked yet, a cluster is.
        """
        options = RedisOptions(cluster, prefix, dtype, connect_timeout, timeout, pause, remember)
        self.dtype = dtype
        self.damaged = 0  # values read that were damaged, and so not found
        self._remember, self._clock = remember, clock
        self._tags = [f"{prefix}:{{{bucket:02x}}}:".encode() for bucket in range(BUCKETS)]
        self._lock, self._pause, self._resume = SharedLock(), pause, 0.0
        self._reason = ""  # why no server was reached
        self._owned = isinstance(client, str)
        self._given: dict[str, Any] = {"client": client, **structs.asdict(options), "clock": clock}
        self._opened: OneNode | ClusterNodes | None = self._connect()
        forks.register(forks.Stage.STORES, child=self._reset_after_fork)

    def __reduce__(self) -> tuple[object, ...]:
        """A store of a URL pickles as what it was opened with, the password in the URL included."""
        if not self._owned:
            raise TypeError("a store with a client that was given: give it a URL instead")
        return partial(RedisStore, **self._given), ()

    @property
    def _nodes(self) -> OneNode | ClusterNodes:
        opened = self._opened
        if opened is None:  # in a forked child, where its connections are the parent's, or after an interrupt
            opened = self._opened = self._connect()
        return opened

    def _connect(self) -> OneNode | ClusterNodes:
        given = self._given
        client: Any = given["client"]
        try:
            if self._owned:
                client = _connect(client, given["cluster"], given["connect_timeout"], given["timeout"])
            if client.get_encoder().decode_responses:
                raise StoreError("client: expected one that returns bytes, got decode_responses=True")
            return ClusterNodes(client) if isinstance(client, RedisCluster) else OneNode(client)
        except StoreError:
            raise
        except Exception as error:  # redis-py lets out what it did not expect of a server, and no one class of errors
            raise StoreError(f"redis: expected a server to connect to, got {self._reason_of(error)}") from error

    def _reset_after_fork(self) -> None:
        self._lock = SharedLock()
        if self._owned:
            forks.leak(self._opened)
            self._opened = None

    def get_many(self, keys: Keys, dim: int) -> RowBatch:
        """Returns what is there of `keys` [N]; see `Store.get_many`. A damaged value is not found, and counted."""
        check_keys(keys)
        names, buckets = self._names(keys)
        order = np.arange(keys.size) if self._nodes.any_slots else np.argsort(buckets, kind="stable")
        ends = [] if self._nodes.any_slots else (np.flatnonzero(np.diff(buckets[order])) + 1).tolist()
        commands, at = [], order.tolist()
        for begin, end in zip([0, *ends], [*ends, keys.size], strict=True):
            for first in range(begin, end, _KEYS):
                some = [names[i] for i in at[first : min(end, first + _KEYS)]]
                commands.append(Command(("MGET", *some), some[0]))
        values: list[bytes | None] = [None] * keys.size
        with self._asking():
            replies = self._nodes.run(commands)
        found = [value for reply in replies for value in (reply if isinstance(reply, list) else ())]
        if len(found) != keys.size:
            raise StoreError(f"redis: expected {keys.size} values, got {len(found)}")
        for i, value in zip(at, found, strict=True):
            values[i] = value
        got, damaged = decode(keys, values, dim, self._clock(), self._remember)
        if damaged.any():
            with self._lock.alone():
                self.damaged += int(damaged.sum())
        return got

    def check_reachable(self) -> None:
        """Reads something from each server, as `get_many` would. Raises StoreError with the reason where that fails.

        A server that is not reached, a password that is wrong or lacks, a user who may not read keys of the prefix, a
        database that is not there, TLS on one side only, a server that still loads its data.
        """
        names = [tag + b"check" for tag in self._tags]
        some = names[:1] if self._nodes.any_slots else names
        with self._asking():
            self._nodes.run([Command(("MGET", name), name) for name in some])

    def put_many(
        self,
        keys: Keys,
        rows: Rows,
        versions: npt.NDArray[np.uint64],
        scores: npt.NDArray[np.float32] | None = None,
        expires: npt.NDArray[np.float64] | None = None,
    ) -> int:
        """Writes rows [N, dim] that are newer; see `WritableStore.put_many`.

        A row of another width raises when the others have been written: widths are compared key by key, on the server.
        """
        batch = checked_batch(keys, rows, versions, scores, expires)
        return self._write(keys, encode_rows(batch, self.dtype), batch.expires, rows.shape[1])

    def delete_many(self, keys: Keys, versions: npt.NDArray[np.uint64]) -> int:
        """Deletes what is older; see `WritableStore.delete_many`."""
        check_deletion(keys, versions)
        now = self._clock()
        return self._write(keys, encode_deletions(keys, versions, now), np.full(keys.size, now), 0)

    def close(self) -> None:
        """Closes the connections, unless the client was given: then it is the giver's."""
        if self._owned:
            self._nodes.close()

    def _write(self, keys: Keys, values: Sequence[bytes], expires: npt.NDArray[np.float64], dim: int) -> int:
        names, _ = self._names(keys)
        commands = [
            Command(("EVALSHA", _WRITE_SHA, 1, name, value, _milliseconds(until)), name)
            for name, value, until in zip(names, values, (expires + self._remember).tolist(), strict=True)
        ]
        applied = 0
        for begin in range(0, len(commands), _COMMANDS):
            with self._asking():
                replies = self._nodes.run(commands[begin : begin + _COMMANDS], _WRITE)
            for key, reply in zip(keys[begin : begin + _COMMANDS].tolist(), replies, strict=True):
                if not isinstance(reply, int):
                    raise StoreError(f"redis: key {key}: expected a number in answer, got {reply!r:.100}")
                if reply < 0:
                    raise StoreError(f"key {key}: expected a row of width {-reply} as it has, got {dim}")
                applied += reply
        return applied

    def _names(self, keys: Keys) -> tuple[list[bytes], npt.NDArray[np.uint8]]:
        buckets = ((keys * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(56)).astype(np.uint8)
        numbers: list[bytes] = keys.astype(">u8").view("V8").tolist()
        tags = self._tags
        return [tags[bucket] + number for bucket, number in zip(buckets.tolist(), numbers, strict=True)], buckets

    def _reason_of(self, error: Exception) -> str:
        return reason_of(error, self._given["client"])

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Turns the client's errors into StoreError, and keeps callers away from servers that were just not reached."""
        with self._lock.alone():
            now, was_down = time.monotonic(), self._resume > 0
            if now < self._resume:
                left = self._resume - now
                raise StoreError(
                    f"redis: expected a server, got none (not asked for {left:.1f} s more): {self._reason}"
                )
            if was_down:
                self._resume = now + self._pause  # the others wait for how this one fares
        try:
            if was_down:
                self._nodes.refresh()
            yield
        except _UNREACHABLE as error:
            with self._lock.alone():
                self._resume, self._reason = time.monotonic() + self._pause, self._reason_of(error)
            raise StoreError(f"redis: expected an answer, got {self._reason}") from error
        except RedisError as error:
            self._resume = 0.0
            raise StoreError(f"redis: expected an answer, got {self._reason_of(error)}") from error
        except BaseException:
            # Ctrl-C, or a signal handler's timeout: its connections know what they still owe (`redis_client`), but the
            # client may have lost some, and count them as in use for ever.
            if self._owned:
                self._opened = None
            raise
        self._resume = 0.0


def _connect(url: Any, cluster: Any, connect_timeout: Any, timeout: Any) -> Redis | RedisCluster:
    # One attempt more, at once, and only where the connection was lost: it may have been closed while nobody used it.
    retry = Retry(NoBackoff(), 1, supported_errors=(ConnectionError,))
    return open_client(url, cluster, socket_connect_timeout=connect_timeout, socket_timeout=timeout, retry=retry)


def _milliseconds(until: float) -> int | str:
    """Returns when Redis may forget a key, '' for never."""
    return "" if until * 1000 >= _MAX_MILLISECONDS else math.ceil(until * 1000)
