"""What a publisher puts into a log in Redis: chunks first, then the entry that names them, in one step."""

from __future__ import annotations

import logging
import re
import secrets
from pathlib import Path

from pepnet_infer.errors import UpdateError
from pepnet_infer.process import forks
from pepnet_infer.sync.delta import read_head
from pepnet_infer.sync.logs.redis_entry import pack
from pepnet_infer.sync.logs.redis_scripts import PUT
from pepnet_infer.sync.logs.redis_server import RedisServer
from pepnet_infer.sync.logs.transport import Kind, Position, bundle_version

_LOG = logging.getLogger("pepnet_infer.sync")
#: Milliseconds after which the chunks of a writer that died are gone. An entry's chunks stay.
_UPLOAD_MS = 6 * 3600 * 1000


class RedisWriter(forks.OwnLock):
    """Puts entries, and knows what it put last. Safe from any thread."""

    def __init__(self, server: RedisServer, keys: list[str], prefix: str) -> None:
        """`keys`: those of the script PUT. `prefix`: of all keys of the log."""
        super().__init__()
        self._server, self._keys, self._prefix = server, keys, prefix
        self._put_in, self._put_last = "", ""  # the log and the position of what was put last

    def append(self, delta: Path) -> Position:
        """Puts a delta at the end; see `RedisLog.append`."""
        head = read_head(delta)
        said = f" {head.model_version} {head.base_version} {head.pass_number} {head.produced_at!r} {head.schema_hash}"
        if re.fullmatch(r"( \S+){5}", said) is None:
            raise UpdateError(
                "format", f"{delta}: expected a schema hash without blanks, got {head.schema_hash!r:.100}"
            )
        with self._lock:
            expected = self._put_in, self._put_last
        return self._put("delta", delta, expected, str(head.model_version), said)

    def append_bundle(self, bundle: Path) -> Position:
        """Puts a bundle at the end; see `RedisLog.append_bundle`."""
        return self._put("bundle", bundle, ("", ""), "", f" {bundle_version(bundle)}")

    def _put(self, kind: Kind, root: Path, expected: tuple[str, Position], version: str, said: str) -> Position:
        upload = secrets.token_hex(8)
        sent = 0

        def send(number: int, chunk: bytes) -> None:
            nonlocal sent
            sent = number + 1
            self._server.ask("SET", blob(self._prefix, upload, number), chunk, "PX", _UPLOAD_MS)

        try:
            packed = pack(root, kind, upload, send)
        except UpdateError:
            # Chunks that nothing names. Where Redis does not answer any more they go with their time.
            self._forget(upload, sent)
            raise
        given = *expected, kind, upload, blob(self._prefix, upload), packed.chunks, version, said, packed.manifest_hash
        found: list[bytes] = self._server.run(PUT, self._keys, secrets.token_hex(16), *given, *packed.fields)
        came, log, at = (text.decode() for text in found)
        if came != "put":
            self._forget(upload, packed.chunks)
        if came == "other":
            raise UpdateError("log", f"redis: expected the log {expected[0]}, got {log or 'none'}: put a full bundle")
        if came == "lost":
            raise UpdateError("log", f"redis: expected {at} in the log, which lost its end: put a full bundle")
        if came == "chunk":
            raise UpdateError("transport", f"redis: {at}: expected a chunk just written, got none; is memory short?")
        with self._lock:
            self._put_in, self._put_last = log, max(at, self._put_last) if log == self._put_in else at
            if kind == "bundle":
                self._put_last = at
        return at

    def _forget(self, upload: str, chunks: int) -> None:
        try:
            for number in range(chunks):
                self._server.ask("UNLINK", blob(self._prefix, upload, number))
        except UpdateError as error:
            _LOG.warning("chunks of an append that failed stay for %d h: %s", _UPLOAD_MS // 3_600_000, error)


def blob(prefix: str, upload: str, number: int | str = "") -> str:
    """Returns the key of a chunk, or what the keys of an upload's chunks begin with."""
    return f"{prefix}blob:{upload}:{number}"
