"""A writable store that many machines share: Redis, one server or a cluster (package `redis`, extra `[redis]`)."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import structs

from pepnet_infer._kernels import SharedLock
from pepnet_infer.errors import StoreError
from pepnet_infer.process import forks
from pepnet_infer.rows.stores.record import HEADER, REMEMBER, Remember, RowDtype, encode
from pepnet_infer.rows.stores.writable import RecordStore, check_keys, key_bytes
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

    from pepnet_infer.rows.stores.redis_client import Command, Nodes, open_client, reason_of
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


class RedisStore(RecordStore):
    """A `WritableStore`. Any thread may call at any time, and any number of machines.

    A key is `PREFIX:{BUCKET}:` and the 8 bytes of the number, the largest first; values are laid out in `record.py`.
    Versions are compared by a script where the value is, one key a call. A batch is not one transaction: when a write
    raises, as for a row of another width than is there, some of it may have been applied, and it may be sent again.
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
        self._options = RedisOptions(cluster, prefix, dtype, connect_timeout, timeout, pause, remember)
        super().__init__(dtype, remember, clock)
        self._client = client
        self._tags = [f"{prefix}:{{{bucket:02x}}}:".encode() for bucket in range(BUCKETS)]
        self.lock = SharedLock()  #: of what is known about servers that were not reached; a child gets a new one
        self._resume = 0.0
        self._reason = ""  # why no server was reached
        self._opened: Nodes | None = self._connect()
        forks.register(forks.Stage.STORES, child=self._reset_after_fork)

    def __reduce__(self) -> tuple[object, ...]:
        """A store of a URL pickles as what it was opened with, the password in the URL included."""
        if not isinstance(self._client, str):
            raise TypeError("a store with a client that was given: give it a URL instead")
        return partial(RedisStore, self._client, clock=self._clock, **structs.asdict(self._options)), ()

    @property
    def _nodes(self) -> Nodes:
        opened = self._opened
        if opened is None:  # in a forked child, where its connections are the parent's, or after an interrupt
            opened = self._opened = self._connect()
        return opened

    def _connect(self) -> Nodes:
        client: Any = self._client
        try:
            if isinstance(client, str):
                options = self._options
                client = open_client(
                    client,
                    options.cluster,
                    socket_connect_timeout=options.connect_timeout,
                    socket_timeout=options.timeout,
                    # At once, and only where the connection was lost: it may have been closed while nobody used it.
                    retry=Retry(NoBackoff(), 1, supported_errors=(ConnectionError,)),
                )
            if client.get_encoder().decode_responses:
                raise StoreError("client: expected one that returns bytes, got decode_responses=True")
            return Nodes(client)
        except StoreError:
            raise
        except Exception as error:  # redis-py lets out what it did not expect of a server, and no one class of errors
            reason = reason_of(error, self._client)
            raise StoreError(f"redis: expected a server to connect to, got {reason}") from error

    def _reset_after_fork(self) -> None:
        self.lock = SharedLock()
        if isinstance(self._client, str):
            forks.leak(self._opened)
            self._opened = None

    def get_many(self, keys: Keys, dim: int) -> RowBatch:
        """Returns what is there of `keys` [N]; see `Store.get_many`. A damaged value is not found, and counted."""
        check_keys(keys)
        names, buckets = self._names(keys)
        order, ends = np.arange(keys.size), [keys.size]
        if self._nodes.has_slots:  # keys of a bucket are of one slot
            order = np.argsort(buckets, kind="stable")
            ends = [*(np.flatnonzero(np.diff(buckets[order])) + 1).tolist(), keys.size]
        commands, at = [], order.tolist()
        for begin, end in zip([0, *ends], ends, strict=False):
            for first in range(begin, end, _KEYS):
                some = [names[i] for i in at[first : min(end, first + _KEYS)]]
                commands.append(Command(("MGET", *some), some[0]))
        with self._asking():
            replies = self._nodes.run(commands)
        found = [value for reply in replies for value in (reply if isinstance(reply, list) else ())]
        if len(found) != keys.size:
            raise StoreError(f"redis: expected {keys.size} values, got {len(found)}")
        return RowBatch.nothing(keys.size, dim).put(order, self._decode(keys[order], found, dim))

    def check_reachable(self) -> None:
        """Reads something from each server, as `get_many` would. Raises StoreError with the reason where that fails.

        A server that is not reached, a password that is wrong or lacks, a user who may not read keys of the prefix, a
        database that is not there, TLS on one side only, a server that still loads its data.
        """
        names = [tag + b"check" for tag in self._tags]
        some = names if self._nodes.has_slots else names[:1]
        with self._asking():
            self._nodes.run([Command(("MGET", name), name) for name in some])

    def close(self) -> None:
        """Closes the connections, unless the client was given: then it is the giver's."""
        if isinstance(self._client, str):
            self._nodes.close()

    def _write(self, batch: RowBatch) -> int:
        keys, (names, _) = batch.keys, self._names(batch.keys)
        commands = [
            Command(("EVALSHA", _WRITE_SHA, 1, name, value, _milliseconds(until)), name)
            for name, value, until in zip(
                names, encode(batch, self.dtype), (batch.expires + self._remember).tolist(), strict=True
            )
        ]
        applied = 0
        for begin in range(0, len(commands), _COMMANDS):
            with self._asking():
                replies = self._nodes.run(commands[begin : begin + _COMMANDS], _WRITE)
            for key, reply in zip(keys[begin : begin + _COMMANDS].tolist(), replies, strict=True):
                if not isinstance(reply, int):
                    raise StoreError(f"redis: key {key}: expected a number in answer, got {reply!r:.100}")
                if reply < 0:
                    dim = batch.rows.shape[1]
                    raise StoreError(f"key {key}: expected a row of width {-reply} as it has, got {dim}")
                applied += reply
        return applied

    def _names(self, keys: Keys) -> tuple[list[bytes], npt.NDArray[np.uint8]]:
        buckets = ((keys * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(56)).astype(np.uint8)
        tags = self._tags
        return [tags[bucket] + key for bucket, key in zip(buckets.tolist(), key_bytes(keys), strict=True)], buckets

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Turns the client's errors into StoreError, and keeps callers away from servers that were just not reached."""
        with self.lock.alone():
            now, was_down = time.monotonic(), self._resume > 0
            if now < self._resume:
                left = self._resume - now
                raise StoreError(
                    f"redis: expected a server, got none (not asked for {left:.1f} s more): {self._reason}"
                )
            if was_down:
                self._resume = now + self._options.pause  # the others wait for how this one fares
        try:
            if was_down:
                self._nodes.refresh()
            yield
        except _UNREACHABLE as error:
            with self.lock.alone():
                self._resume = time.monotonic() + self._options.pause
                self._reason = reason_of(error, self._client)
            raise StoreError(f"redis: expected an answer, got {self._reason}") from error
        except RedisError as error:
            self._resume = 0.0
            raise StoreError(f"redis: expected an answer, got {reason_of(error, self._client)}") from error
        except BaseException:
            # Ctrl-C, or a signal handler's timeout: its connections know what they still owe (`redis_client`), but the
            # client may have lost some, and count them as in use for ever.
            if isinstance(self._client, str):
                self._opened = None
            raise
        self._resume = 0.0


def _milliseconds(until: float) -> int | str:
    """Returns when Redis may forget a key, '' for never."""
    return "" if until * 1000 >= _MAX_MILLISECONDS else math.ceil(until * 1000)
