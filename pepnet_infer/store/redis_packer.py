"""How commands to Redis become bytes, safe against exceptions of signal handlers."""

from __future__ import annotations

from typing import Any

from redis.connection import HiredisRespSerializer


class CommandPacker:
    """Hands hiredis no numbers, which redis-py itself puts into the handshake of each connection.

    hiredis 3 has Python make text of them, which runs signal handlers, and ends the process by SIGSEGV where one of
    them raises: Ctrl-C while a connection is made. Text and bytes it takes as they are.
    """

    def __init__(self) -> None:
        self._packer = HiredisRespSerializer()

    def pack(self, *args: object) -> list[bytes]:
        """Returns a command as Redis reads it. Raises redis's DataError for what is no text, bytes or number."""
        plain: list[Any] = [str(arg).encode() if type(arg) in (int, float) else arg for arg in args]
        packed: list[bytes] = self._packer.pack(*plain)
        return packed
