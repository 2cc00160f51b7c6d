"""A log in Redis Streams, for machines that share no disk (package `redis`, extra `[redis]`; Redis 6.2 or later)."""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from pepnet_infer.errors import UpdateError
from pepnet_infer.sync.delta import DeltaHead, read_head
from pepnet_infer.sync.redis_entry import Packed, pack
from pepnet_infer.sync.redis_scripts import ACKNOWLEDGE, FORGET, LOOK, PUT, TRIM
from pepnet_infer.sync.redis_server import RedisServer
from pepnet_infer.sync.redis_spool import Spool
from pepnet_infer.sync.transport import Entry, Kind, Position, Progress, bundle_version, check_follower, read_progress

_LOG = logging.getLogger("pepnet_infer.sync")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
_POSITION = re.compile(r"([0-9]{20})-([0-9]{20})")
#: Milliseconds after which the chunks of a writer that died are gone. An entry's chunks stay.
_UPLOAD_MS = 6 * 3600 * 1000
#: Seconds that one blocked read takes at most: whether the log is still the same is looked at between two.
_BLOCK_S = 1.0
_TRIM_AT_ONCE = 256  # entries in a script, which holds up everybody


class _State(NamedTuple):
    log: str  # "": there is none yet
    trimmed: Position
    bundle: list[str]  # position, upload, chunks, model version
    delta: list[str]  # the same, then what there is of the head
    bundles_trimmed: Position

    @property
    def last(self) -> Position:
        return max(self.bundle[0], self.delta[0])


class RedisLog:
    """A `Transport` over one Redis stream. One object serves any number of threads.

    A position is a stream id, both parts padded to 20 digits: deltas and bundles are in one stream, so their order is
    that of the text. Small files travel in the entry, others in chunks of 4 MiB with keys of their own, which are there
    before the entry and go with it. All keys begin with `{NAME}:`, so that a log is on one server of a cluster.

    A reader writes entries below `spool`, where several readers of a machine may share them. An entry that is damaged
    (its chunks were evicted, its names lead elsewhere) becomes an empty directory: whoever reads it refuses it.

    A server that is away, loads, or only reads is asked again for `patience_s`. An append whose answer was lost is
    asked about again, and never there twice; nor is a delta whose manifest is in the log already.

    When Redis was emptied and a new log begun, or its last seconds were lost in a crash, readers begin at the start of
    what is there: what they have is skipped, and what they cannot apply sends them to the newest bundle. A writer that
    put something that is gone is told so by UpdateError "log": followers may have it, so the way on is a full bundle,
    by `append_bundle`. To lose nothing, run Redis with `appendonly yes`, `appendfsync always` and
    `maxmemory-policy noeviction`.
    """

    def __init__(
        self,
        url: str,
        name: str = "pepnet",
        *,
        spool: str | os.PathLike[str],
        cluster: bool = False,
        timeout_s: float = 5.0,
        patience_s: float = 10.0,
    ) -> None:
        """`timeout_s`: how long a server may take for one answer. Raises UpdateError; asks no server yet."""
        if _NAME.fullmatch(name) is None:
            raise UpdateError("transport", f"name: expected letters, digits, dots and dashes, got {name[:100]!r}")
        for option, seconds in (("timeout_s", timeout_s), ("patience_s", patience_s)):
            if not 0 < seconds < 86400:
                raise UpdateError("transport", f"{option}: expected seconds above 0 and below a day, got {seconds}")
        self._server = RedisServer(url, cluster, timeout_s, patience_s)
        self._block_s = min(_BLOCK_S, timeout_s / 2)
        self._spool = Spool(Path(os.path.abspath(spool)))
        self._prefix = f"{{{name}}}:"
        self._stream, self._state, self._deltas, self._bundles, self._versions, self._followers = (
            self._prefix + part for part in ("log", "state", "deltas", "bundles", "versions", "progress")
        )
        self._lock = threading.Lock()
        self._read_from = ""  # the id of the log that was read last
        self._swept: tuple[str, Position, Position] | None = None
        self._put_in, self._put_last = "", ""  # the log and the position of what was put last

    def append(self, delta: Path) -> Position:
        """Puts a delta at the end; see `Transport.append`.

        Raises UpdateError "files" for one that is not as its manifest lists it, "log" when the log lost what this
        object put into it before.
        """
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
        """Puts a bundle at the end; see `Transport.append_bundle`. What was put before may be gone."""
        return self._put("bundle", bundle, ("", ""), "", f" {bundle_version(bundle)}")

    def read(self, after: Position, wait_s: float = 0.0, most: int = 64) -> list[Entry]:
        """Returns deltas after a position, or all when it is of a log that is no more; see `Transport.read`."""
        ends = time.monotonic() + wait_s
        cursor = _stream_id(after)
        while True:
            state = self._look()
            with self._lock:
                other = bool(state.log) and self._read_from not in ("", state.log)
                self._read_from = state.log or self._read_from
            if other or (state.log and after > state.last):
                if after:
                    _LOG.warning("the log is another one, or lost its end: read from its start")
                after, cursor = "", "0-0"
            left = ends - time.monotonic()
            block = ("BLOCK", max(1, int(min(left, self._block_s) * 1000))) if left > 0 else ()
            found = self._server.ask("XREAD", "COUNT", most, *block, "STREAMS", self._stream, cursor)
            read = _stream_entries(found)
            if read:
                cursor = read[-1][0]
            entries = [
                entry
                for stream_id, fields in read
                if fields.get(b"kind") == b"delta" and (entry := self._spooled("delta", stream_id, fields)) is not None
            ]
            if entries or ends <= time.monotonic():
                return entries

    def newest_bundle(self) -> Entry | None:
        """Returns the last full bundle, fetched if it is not in the spool."""
        while True:
            state = self._look()
            position = state.bundle[0]
            if not position:
                return None
            stream_id = _stream_id(position)
            there = self._spool.find(state.log, "bundle", position)
            if there is not None:
                return there
            found = _entries(self._server.ask("XRANGE", self._stream, stream_id, stream_id))
            entry = self._spooled("bundle", stream_id, found[0][1]) if found else None
            if entry is not None:
                return entry
            if self._look().bundle[0] == position:
                raise UpdateError("log", f"redis: expected the bundle at {position} in the stream, got none")

    def last_bundle(self) -> tuple[Position, int] | None:
        """Returns the last full bundle's place and model version; nothing of it is fetched."""
        item = self._look().bundle
        if not item[0]:
            return None
        try:
            return item[0], int(item[3])
        except (IndexError, ValueError) as error:
            raise UpdateError("log", f"redis: {item[0]}: expected the version of a bundle, got {item[3:]}") from error

    def last_delta(self) -> tuple[Position, DeltaHead] | None:
        """Returns the last delta; nothing of it is fetched."""
        item = self._look().delta
        if not item[0]:
            return None
        try:
            _, _, _, version, base, number, produced, schema = item
            return item[0], DeltaHead(int(base), int(version), int(number), float(produced), schema)
        except ValueError as error:
            raise UpdateError("log", f"redis: {self._deltas}: expected a delta's head, got {item!r:.200}") from error

    def acknowledge(self, follower: str, progress: Progress) -> None:
        """Notes how far a follower has come, as durably as Redis is set up to.

        A hash has it, and for those who look at the stream with Redis' own commands (XINFO GROUPS) a consumer group of
        the follower's name is set to the position. Nothing is pending in it: every follower reads the whole log.
        """
        check_follower(follower)
        said = json.dumps(progress._asdict())
        self._server.run(ACKNOWLEDGE, [self._stream, self._followers], follower, _stream_id(progress.position), said)

    def progress(self) -> dict[str, Progress]:
        """Returns how far each follower has come."""
        found = self._server.ask("HGETALL", self._followers)
        pairs = found.items() if isinstance(found, dict) else zip(found[::2], found[1::2], strict=True)
        texts = {name.decode("utf-8", "replace"): text for name, text in pairs}
        return {name: read_progress(f"{self._followers} {name}", texts[name]) for name in sorted(texts)}

    def trim(self, keep: int, silent_after_s: float = 86400.0) -> int:
        """Removes what nobody needs; see `Transport.trim`."""
        if keep < 0:
            raise UpdateError("transport", f"keep: expected 0 or more, got {keep}")
        progress, since = self.progress(), time.time() - silent_after_s
        heard = [p.position for p in progress.values() if p.at >= since]
        for name in [name for name, p in progress.items() if p.at < since]:
            self._server.run(FORGET, [self._stream, self._followers], name)
        edge = min((position or "0" for position in heard), default="")
        keys = [self._stream, self._state, self._deltas, self._bundles, self._versions]
        removed = 0
        while True:
            now = int(self._server.run(TRIM, keys, keep, edge, f"{self._prefix}blob:", _TRIM_AT_ONCE))
            removed += now
            if now < _TRIM_AT_ONCE:
                return removed

    def close(self) -> None:
        """Closes the connections. The spool stays."""
        self._server.close()

    def __enter__(self) -> RedisLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _put(self, kind: Kind, root: Path, expected: tuple[str, Position], version: str, said: str) -> Position:
        upload = secrets.token_hex(8)
        sent = 0

        def send(number: int, chunk: bytes) -> None:
            nonlocal sent
            sent = number + 1
            self._server.ask("SET", self._blob(upload, number), chunk, "PX", _UPLOAD_MS)

        try:
            packed = pack(root, kind, upload, send)
        except UpdateError:
            # Chunks that nothing names. Where Redis does not answer any more they go with their time.
            self._forget(upload, sent)
            raise
        came, log, at = self._enter(kind, upload, packed, expected, version, said)
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

    def _enter(
        self, kind: Kind, upload: str, packed: Packed, expected: tuple[str, Position], version: str, said: str
    ) -> tuple[str, str, str]:
        keys = [self._stream, self._state, self._deltas, self._bundles, self._versions]
        prefix = f"{self._prefix}blob:{upload}:"
        args: list[str | int] = [
            expected[0],
            secrets.token_hex(16),
            expected[1],
            kind,
            upload,
            prefix,
            packed.chunks,
            version,
        ]
        came, log, at = self._server.run(PUT, keys, *args, said, packed.manifest_hash, *packed.fields)
        return came.decode(), log.decode(), at.decode()

    def _forget(self, upload: str, chunks: int) -> None:
        try:
            for number in range(chunks):
                self._server.ask("UNLINK", self._blob(upload, number))
        except UpdateError as error:
            _LOG.warning("chunks of an append that failed stay for %d h: %s", _UPLOAD_MS // 3_600_000, error)

    def _look(self) -> _State:
        keys = [self._state, self._deltas, self._bundles]
        log, trimmed, bundle, delta, bundles_trimmed = (text.decode() for text in self._server.run(LOOK, keys))
        state = _State(log, trimmed, bundle.split(" "), delta.split(" "), bundles_trimmed)
        swept = (state.log, state.trimmed, state.bundles_trimmed)
        if state.log and swept != self._swept:
            self._spool.sweep(*swept)
            self._swept = swept
        return state

    def _spooled(self, kind: Kind, stream_id: str, fields: Mapping[bytes, bytes]) -> Entry | None:
        """Writes an entry into the spool. Returns None for one that was trimmed while it was read."""
        trimmed = False

        def get(upload: str, number: int) -> bytes | None:
            nonlocal trimmed
            chunk: bytes | None = self._server.ask("GET", self._blob(upload, number))
            if chunk is None and not self._server.ask("XRANGE", self._stream, stream_id, stream_id):
                trimmed = True
                raise UpdateError("transport", f"redis: {stream_id} was trimmed while it was read")
            return chunk

        log = fields.get(b"log", b"").decode("ascii", "replace")
        try:
            return self._spool.write(log, kind, _position(stream_id), fields, get)
        except UpdateError:
            if trimmed:
                return None
            raise

    def _blob(self, upload: str, number: int) -> str:
        return f"{self._prefix}blob:{upload}:{number}"


def _position(stream_id: str) -> Position:
    ms, _, seq = stream_id.partition("-")
    return f"{int(ms):020d}-{int(seq):020d}"


def _stream_id(position: Position) -> str:
    if not position:
        return "0-0"
    parts = _POSITION.fullmatch(position)
    if parts is None:
        raise UpdateError("log", f"position: expected one of a log in Redis, got {position[:80]!r}")
    return f"{int(parts[1])}-{int(parts[2])}"


def _stream_entries(found: Any) -> list[tuple[str, dict[bytes, bytes]]]:
    """Returns what XREAD found in the one stream that it was asked about, in either protocol's form."""
    if not found:
        return []
    values = next(iter(found.values())) if isinstance(found, dict) else found[0][1]
    return _entries(values[0] if isinstance(found, dict) and values and isinstance(values[0], list) else values)


def _entries(found: Any) -> list[tuple[str, dict[bytes, bytes]]]:
    entries = []
    for stream_id, fields in found:
        pairs = fields if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=True))
        entries.append((stream_id.decode(), pairs))
    return entries
