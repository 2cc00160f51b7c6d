"""Clients of Redis whose connections outlive no exception that comes between two instructions, and their commands.

redis-py gives a connection back to its pool although replies are still to come, or although it was never logged in nor
its database selected, where a signal handler's exception, Ctrl-C or `PyThreadState_SetAsyncExc` ends a call outside of
the few lines that it guards. The next call of any thread would take the replies of the former for its own, or read
another database. So each connection knows whether all of its commands have their replies, and one of which that is not
so is made anew before it is used.

The protocol is RESP2: with RESP3 redis-py 8 asks every connection that it makes for notifications of maintenance, takes
the lock of Python's `logging` to say that a server has none, and no longer looks whether a connection has replies. Up
to Python 3.12 that lock, which is the process's, stays taken when an exception comes in the instant after it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from redis import Redis
from redis.cluster import RedisCluster
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ConnectionError,
    InvalidResponse,
    MovedError,
    RedisClusterException,
    ResponseError,
    TimeoutError,
    TryAgainError,
)

Reply = Any  # bytes, int, None, a list of these: what the protocol has
_Base: Any = object  # each class of redis-py's, which have no types for this


class CommandPacker:
    """Counts commands, and hands hiredis no numbers, which redis-py itself puts into the handshake of each connection.

    hiredis 3 has Python make text of them, which runs signal handlers, and ends the process by SIGSEGV where one of
    them raises: Ctrl-C while a connection is made. Text and bytes it takes as they are.
    """

    def __init__(self, packer: Any) -> None:
        """packer: redis-py's own, whichever it takes."""
        self._packer = packer
        #: how many commands were packed, each before it is sent
        self.packed = 0

    def pack(self, *args: object) -> list[bytes]:
        """Returns a command as Redis reads it. Raises redis's DataError for what is no text, bytes or number."""
        self.packed += 1
        plain: list[Any] = [str(arg).encode() if type(arg) in (int, float) else arg for arg in args]
        packed: list[bytes] = self._packer.pack(*plain)
        return packed


class WholeReplies(_Base):  # type: ignore[misc]
    """Beside a class of redis-py's: a connection that says it cannot be used while replies to it are to come."""

    _command_packer: CommandPacker
    _sock: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._read, self._ready = 0, False
        super().__init__(*args, **kwargs)

    def _construct_command_packer(self, packer: Any) -> CommandPacker:
        return CommandPacker(super()._construct_command_packer(packer))

    def connect_check_health(self, *args: Any, **kwargs: Any) -> None:
        """Connects where it is not, and logs in. Without an end the connection is never ready."""
        if self._sock:
            return
        self._ready, self._read = False, self._command_packer.packed
        super().connect_check_health(*args, **kwargs)
        self._ready = True

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """Reads the reply to one command."""
        try:
            reply = super().read_response(*args, **kwargs)
        except ResponseError:  # it is one; after any other error redis-py has closed the connection
            self._read += 1
            raise
        self._read += 1
        return reply

    def can_read(self, *args: Any, **kwargs: Any) -> bool:
        """Whether there is, or will be, something to read: a pool makes such a connection anew."""
        if self._sock and not (self._ready and self._read == self._command_packer.packed):
            return True
        return bool(super().can_read(*args, **kwargs))


def _whole(connection: type) -> type[WholeReplies]:
    return type(f"Whole{connection.__name__}", (WholeReplies, connection), {})


_BY_SCHEME = {
    "redis": _whole(Connection),
    "rediss": _whole(SSLConnection),
    "unix": _whole(UnixDomainSocketConnection),
}


def open_client(url: str, cluster: bool, **options: Any) -> Redis | RedisCluster:
    """Returns a client of a URL; a single server is not asked yet, a cluster is.

    options: redis-py's. Raises ValueError for a URL that is none, and what a cluster raises.
    """
    scheme = urlsplit(url).scheme
    options = {"protocol": 2, "max_connections": 1 << 31, **_without_notifications(), **options}
    if scheme in _BY_SCHEME:  # else redis-py says what is wrong with it
        options["connection_class"] = _BY_SCHEME[scheme]
    if cluster:
        # Of a cluster's URL redis-py takes the class that belongs to its scheme, and else the one that is given.
        plain = "redis" + url[len(scheme) :] if scheme == "rediss" else url
        return RedisCluster.from_url(plain, **options)
    return Redis.from_url(url, **options)


def _without_notifications() -> dict[str, Any]:
    """For a URL that asks for RESP3, where redis-py has these notifications."""
    try:
        from redis.maint_notifications import MaintNotificationsConfig
    except ImportError:
        return {}
    return {"maint_notifications_config": MaintNotificationsConfig(enabled=False)}


class Command(NamedTuple):
    """One command about keys of one slot."""

    args: tuple[bytes | str | int, ...]
    key: bytes  # one of its keys: says which server it goes to


class Nodes:
    """The servers behind a client. Of a cluster each has one pipeline with the commands for it, one after the other.

    redis-py's own cluster pipeline is not used: it sends what fails again, one command at a time, each with its own
    timeouts and retries, which makes of one server that hangs a wait of many seconds.
    """

    def __init__(self, client: Redis | RedisCluster) -> None:
        self._client: Any = client  # most of the methods of a cluster's have no types
        #: Whether keys of different slots may not be in one command.
        self.has_slots = isinstance(client, RedisCluster)

    def run(self, commands: Sequence[Command], script: str | None = None) -> list[Reply]:
        """Returns one reply a command; raises what the client raises, and the first error among the replies.

        `script` is loaded before them wherever they go, so that EVALSHA always finds it. Where slots of a cluster have
        moved the map of slots is read anew, once.
        """
        replies = self._ask(commands, script)
        if self.has_slots:
            moved = [i for i, reply in enumerate(replies) if isinstance(reply, MovedError)]
            if moved:
                self.refresh()
                for i, reply in zip(moved, self._ask([commands[i] for i in moved], script), strict=True):
                    replies[i] = reply
            for i, reply in enumerate(replies):
                if isinstance(reply, AskError | TryAgainError) and not isinstance(reply, MovedError):
                    replies[i] = self._one_by_one(commands[i], script)  # its slot is on its way at this moment
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    def refresh(self) -> None:
        """Looks anew which server of a cluster has what, after one could not be reached."""
        if self.has_slots:
            self._client.nodes_manager.initialize()

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def _ask(self, commands: Sequence[Command], script: str | None) -> list[Reply]:
        if not self.has_slots:
            return _pipelined(self._client, commands, script)
        by_node: dict[str, list[int]] = {}
        for i, command in enumerate(commands):
            by_node.setdefault(self._client.get_node_from_key(command.key).name, []).append(i)
        replies: list[Reply] = [None] * len(commands)
        for name, at in by_node.items():
            connection = self._client.get_redis_connection(self._client.get_node(node_name=name))
            for i, reply in zip(at, _pipelined(connection, [commands[i] for i in at], script), strict=True):
                replies[i] = reply
        return replies

    def _one_by_one(self, command: Command, script: str | None) -> Reply:
        """Follows the keys of a command to where they are by now: while a slot moves they are on two servers."""
        if command.args[0] == "MGET":
            return [self._client.execute_command("GET", key) for key in command.args[1:]]
        return self._client.execute_command("EVAL", script, *command.args[2:])


def _pipelined(client: Redis, commands: Sequence[Command], script: str | None) -> list[Reply]:
    """Returns one reply a command, an exception for one that failed. Raises when the server could not be asked."""
    pipeline: Any = client.pipeline(transaction=False)
    if script is not None:
        # Not a registered script: its pipeline asks for EXISTS in a round trip of its own, whose answer it does not
        # check, and the script may be flushed before it is run.
        pipeline.execute_command("SCRIPT LOAD", script)
    for command in commands:
        pipeline.execute_command(*command.args)
    replies: list[Reply] = pipeline.execute(raise_on_error=False)
    if script is not None and isinstance(replies[0], Exception):
        raise replies[0]
    replies = replies if script is None else replies[1:]
    if len(replies) != len(commands):
        raise ResponseError(f"expected {len(commands)} replies, got {len(replies)}")
    return replies


def reason_of(error: Exception, url: object) -> str:
    """Returns what kind of error it is, what server or client said, and what that means where they do not say.

    url: what the client was opened with; a client that was given says nothing of TLS.
    """
    if isinstance(error, RedisClusterException):  # its text is redis-py's own guess
        first: BaseException = error
        while (before := first.__cause__ or first.__context__) is not None:
            first = before
        if isinstance(first, Exception) and not isinstance(first, RedisClusterException):
            return f"{type(error).__name__}: {str(error).removesuffix(str(first))}{reason_of(first, url)}"
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, AuthenticationError):
        asked = "HELLO must" in said or "Authentication required" in said  # by newer and older clients
        return f"{said} (the server wants a password, and got none)" if asked else said
    if isinstance(error, ConnectionError | TimeoutError) and isinstance(url, str) and url.startswith("rediss:"):
        return f"{said} (the URL asks for TLS; a server without it does not answer: redis://…)"
    if isinstance(error, InvalidResponse):
        return f"{said} (what answers is no Redis server, or one that wants TLS: rediss://…)"
    closed = ("closed by server", "reset by peer", "Broken pipe")
    if isinstance(error, ConnectionError) and any(word in said for word in closed):
        return f"{said} (so ends one without TLS to a server that wants it: rediss://…; or to one in protected mode)"
    return said
