"""How commands to Redis become bytes, safe against exceptions of signal handlers."""

from __future__ import annotations

from typing import Any


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
