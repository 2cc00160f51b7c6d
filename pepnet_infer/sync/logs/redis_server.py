"""Asking a Redis server, or a cluster, that may be away for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pepnet_infer.errors import UpdateError
from pepnet_infer.process import forks
from pepnet_infer.quoting import clip

try:
    from redis import exceptions
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    from pepnet_infer.rows.stores.redis_client import open_client, reason_of
except ImportError as problem:
    raise UpdateError(
        "transport", f"redis: the package redis cannot be imported ({problem}): pip install 'pepnet-infer[redis]'"
    ) from problem

#: Of a server that starts, loads its data, is not the master yet or cannot be reached.
_PASSING = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.MasterDownError,
    exceptions.ClusterDownError,
    exceptions.TryAgainError,
    exceptions.RedisClusterException,
    OSError,
)
_FOR_GOOD = (exceptions.AuthenticationError, exceptions.AuthorizationError)  # of those above
_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.5  # the first pause, then twice as long each time


class RedisServer:
    """Commands that are tried again, with growing pauses, for `patience_s`. Safe from any thread."""

    def __init__(self, url: str, cluster: bool, timeout_s: float, patience_s: float) -> None:
        """Asks nobody yet. Raises UpdateError for a URL that is none."""
        self._url, self._cluster, self._patience = url, cluster, patience_s
        self._options: dict[str, Any] = {
            "socket_connect_timeout": min(timeout_s, 1.0),
            "socket_timeout": timeout_s,
            "retry": Retry(NoBackoff(), 0),  # `_attempt` does that: it knows for how long
        }
        forks.register(forks.Stage.STORES, child=self._reset_after_fork)
        self._client: Any = None  # of its methods each returns a value or an awaitable, by their types
        if not cluster:
            try:
                self._client = open_client(url, False, **self._options)
            except ValueError as error:
                raise UpdateError("transport", f"redis: expected a URL, got: {error}") from error
            if self._client.get_encoder().decode_responses:
                raise UpdateError("transport", "redis: expected a URL without decode_responses, got it set")

    def _reset_after_fork(self) -> None:
        forks.leak(self._client)  # its connections are the parent's
        self._client = None

    def ask(self, *command: bytes | str | int | float, until: float | None = None) -> Any:
        """Sends one command that may be sent twice, until `until` of `time.monotonic` if that is given.

        Raises UpdateError "transport" when there is no answer.
        """
        return self._attempt(str(command[0]), lambda client: client.execute_command(*command), until)

    def run(self, script: str, keys: list[str], *args: bytes | str | int | float, until: float | None = None) -> Any:
        """Runs a script that may be run twice. See `ask`."""
        if self._cluster:
            # A registered script is loaded on every master of a cluster, so that one that is away, and has nothing of
            # the log, would stand in its way.
            return self.ask("EVAL", script, len(keys), *keys, *args, until=until)
        return self._attempt("EVALSHA", lambda client: client.register_script(script)(keys, args), until)

    def _attempt(self, name: str, work: Callable[[Any], Any], until: float | None) -> Any:
        until, pause = time.monotonic() + self._patience if until is None else until, _PAUSE_S
        while True:
            try:
                return work(self._connected())
            except (exceptions.RedisError, ValueError, OSError) as error:
                passing = isinstance(error, _PASSING) and not isinstance(error, _FOR_GOOD)
                if not passing or time.monotonic() + pause > until:
                    raise UpdateError(
                        "transport", f"redis: {name}: expected an answer, got: {clip(reason_of(error, self._url))}"
                    ) from error
            except BaseException:
                self._client = None  # Ctrl-C: the client may have lost a connection, and count it as in use for ever
                raise
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def close(self) -> None:
        """Closes the connections."""
        if self._client is not None:
            self._client.close()

    def _connected(self) -> Any:
        if self._client is None:
            self._client = open_client(self._url, self._cluster, **self._options)
        return self._client
