"""Commands to one Redis server, or to those of a cluster, many in one round trip. Nothing is tried more than twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from redis import Redis
from redis.cluster import RedisCluster
from redis.exceptions import AskError, MovedError, ResponseError, TryAgainError

Reply = Any  # bytes, int, None, a list of these: what the protocol has


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
