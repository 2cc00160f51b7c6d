"""A log in Redis Streams, for machines that share no disk (package `redis`, extra `[redis]`; Redis 6.2 or later)."""

from __future__ import annotations

import logging
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from pepnet_infer.errors import ConfigError, UpdateError
from pepnet_infer.process import forks
from pepnet_infer.process.closing import Closing
from pepnet_infer.quoting import clip, quote
from pepnet_infer.sync.delta import DeltaHead, read_head
from pepnet_infer.sync.logs import redis_protocol as protocol
from pepnet_infer.sync.logs.redis_entry import CHUNK, MOST_BYTES, Spool, blob, pack
from pepnet_infer.sync.logs.redis_server import RedisServer
from pepnet_infer.sync.logs.transport import (
    BundleHead,
    Entry,
    Kind,
    Position,
    Progress,
    Transport,
    bundle_version,
    check_follower,
    read_progress,
    trimmed_up_to,
)
from pepnet_infer.validation import check_option

_LOG = logging.getLogger("pepnet_infer.sync")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
#: Seconds that one blocked read takes at most: whether the log is still the same is looked at between two.
_BLOCK_S = 1.0
_TRIM_AT_ONCE = 256  # entries in a script, which holds up everybody
_AT_ONCE = 16 << 20  # bytes of entries in one answer
#: Milliseconds after which the chunks of a writer that died are gone. An entry's chunks stay.
_UPLOAD_MS = 6 * 3600 * 1000


class RedisLog(Closing, forks.OwnLock, Transport):
    """A `Transport` over one Redis stream. One object serves any number of threads.

    A position is a stream id, both parts padded to 20 digits: deltas and bundles are in one stream, so their order is
    that of the text. Small files travel in the entry, others in chunks of 4 MiB with keys of their own, which are there
    before the entry and go with it. All keys begin with `{NAME}:`, so that a log is on one server of a cluster.

    A reader writes entries below `spool`, where several readers of a machine may share them; what lies there of another
    log is removed. An entry that is damaged (its chunks were evicted, its names lead elsewhere), or that somebody else
    has put into the stream, comes with its fault and is not written.

    The log is begun by what is published first, or at once with `create`. Where there is none, `read` raises
    UpdateError "missing". A server that is away, loads, or only reads is asked again for `patience_s`. An append whose
    answer was lost is asked about again, and never there twice; nor is a delta whose manifest is in the log already.

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
        create: bool = False,
        cluster: bool = False,
        timeout_s: float = 5.0,
        patience_s: float = 10.0,
    ) -> None:
        """create: begins a log, if there is none, for followers that are there before their publisher.

        `timeout_s`: how long a server may take for one answer. Raises UpdateError, ConfigError for an option; without
        `create` no server is asked yet.
        """
        super().__init__()
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            raise ConfigError(f"name: expected letters, digits, dots and dashes, got {quote(name)}")
        check_option("create", create, bool)
        check_option("cluster", cluster, bool)
        for option, seconds in (("timeout_s", timeout_s), ("patience_s", patience_s)):
            check_option(option, seconds, Annotated[float, Meta(gt=0, le=86400)])
        self._server = RedisServer(url, cluster, timeout_s, patience_s)
        self._block_s = min(_BLOCK_S, timeout_s / 2)
        self._spool = Spool(Path(os.path.abspath(spool)))
        self.url, self.prefix = url, f"{{{name}}}:"  #: where the log lies: all its keys begin with the prefix
        self._stream, self._state, self._deltas, self._bundles, self._versions, self._followers, self._bell = (
            self.prefix + part for part in ("log", "state", "deltas", "bundles", "versions", "progress", "bell")
        )
        self._read_from = ""  # the id of the log that was read last
        self._swept: tuple[str, Position, Position] | None = None
        self._put_in, self._put_last = "", ""  # the log and the position of what was put last; locked
        if create:
            self._server.run(protocol.BEGIN, [self._state], secrets.token_hex(16))

    @property
    def read_from(self) -> str:
        """Which log was read last."""
        return self._read_from

    def identity(self) -> str:
        """Looks which log there is."""
        return self._there().log

    def append(self, delta: str | os.PathLike[str]) -> Position:
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
        with self.lock:
            expected = self._put_in, self._put_last
        return self._put("delta", Path(delta), expected, str(head.model_version), said)

    def append_bundle(self, bundle: str | os.PathLike[str]) -> Position:
        """Puts a bundle at the end; see `Transport.append_bundle`. What was put before may be gone."""
        return self._put("bundle", Path(bundle), ("", ""), "", f" {bundle_version(Path(bundle))}")

    def read(self, after: Position, wait_s: float = 0.0, most: int = 64) -> list[Entry]:
        """Returns deltas after a position, or all when it is of a log that is no more; see `Transport.read`."""
        ends = time.monotonic() + wait_s
        patience = None if wait_s <= 0 else ends  # of each question
        cursor = protocol.stream_id_of(after)
        while True:
            state = self._there(patience)
            other = self._read_from not in ("", state.log)
            self._read_from = state.log
            if other or after > state.last:
                after, cursor = "", "0-0"
            ended = cursor == protocol.LAST_ID
            found = [] if ended else self._range(state.log, f"({cursor}", "+", most, "delta", patience)
            if found:
                cursor = found[-1].stream_id
            deltas = (one for one in found if one.kind != "bundle")
            entries = [entry for one in deltas if (entry := self._spooled("delta", one, state.log)) is not None]
            left = ends - time.monotonic()
            if entries or left <= 0:
                return entries
            if not found:
                block = max(1, int(min(left, self._block_s) * 1000))
                bell = ("STREAMS", self._bell, state.bell)
                self._server.ask("XREAD", "COUNT", 1, "BLOCK", block, *bell, until=patience)

    def bundles(self) -> Iterator[BundleHead]:
        """Returns the full bundles, the newest first; before them, the fault of a stream that lacks its last delta."""
        state = self._look()
        lost = protocol.delta_head(state.delta)
        if lost is not None and lost[0] > state.in_stream:
            got = f"expected the delta to version {lost[1].model_version} at {lost[0]}, got a stream without it"
            error = UpdateError("log", f"redis: {self._stream}: {got}: append a full bundle")
            yield BundleHead(lost[0], -1, error)
        for item in reversed(self._server.ask("LRANGE", self._bundles, 0, -1)):
            yield protocol.bundle_head(item.decode("utf-8", "replace"))

    def bundle(self, position: Position) -> Entry | None:
        """Returns a full bundle, fetched if it is not in the spool."""
        log, stream_id = self._there().log, protocol.stream_id_of(position)
        path = self._spool.path(log, "bundle", position)
        if path.is_dir():
            return Entry(position, "bundle", path)
        found = self._range(log, stream_id, stream_id, 1, "bundle")
        entry = self._spooled("bundle", found[0], log) if found else None
        if entry is not None and entry.fault is not None:
            raise entry.fault
        return entry

    def last_delta(self) -> tuple[Position, DeltaHead] | None:
        """Returns the last delta; nothing of it is fetched."""
        found = protocol.delta_head(self._look().delta)
        if found is None:  # there is none, or somebody else's hand was in the list
            items = self._server.ask("LRANGE", self._deltas, 0, -1)
            heads = (protocol.delta_head(item.decode("utf-8", "replace")) for item in reversed(items))
            found = next((head for head in heads if head is not None), None)
        return found

    def acknowledge(self, follower: str, progress: Progress) -> None:
        """Notes how far a follower has come, as durably as Redis is set up to.

        A server that is away is not asked again: followers note it every few seconds. A hash has it, and for those who
        look at the stream with Redis' own commands (XINFO GROUPS) a consumer group of the follower's name is set to the
        position. Nothing is pending in it: every follower reads the whole log.
        """
        check_follower(follower)
        keys, said = [self._stream, self._followers, self._state], msgspec.json.encode(progress)
        stream_id = protocol.stream_id_of(progress.position)
        self._server.run(protocol.ACKNOWLEDGE, keys, follower, stream_id, said, until=0.0)

    def progress(self) -> dict[str, Progress]:
        """Returns how far each follower has come."""
        found = self._server.ask("HGETALL", self._followers)
        pairs = found.items() if isinstance(found, dict) else zip(found[::2], found[1::2], strict=True)
        said = {}
        for name, text in sorted((name.decode("utf-8", "backslashreplace"), text) for name, text in pairs):
            try:
                said[name] = read_progress(f"{self._followers} {name:.100}", text)
            except UpdateError as error:
                _LOG.warning("passed over: %s", clip(error))
        return said

    def trim(self, keep: int, silent_after_s: float = 86400.0) -> int:
        """Removes what nobody needs; see `Transport.trim`."""
        if keep < 0:
            raise UpdateError("transport", f"keep: expected 0 or more, got {keep}")
        self._there()
        last = self.last_bundle()
        if last is None:
            return 0
        edge, silent = trimmed_up_to(last[0], self.progress(), silent_after_s)
        for name in silent:
            self._server.run(protocol.FORGET, [self._stream, self._followers], name)
        keys = [self._stream, self._state, self._deltas, self._bundles, self._versions]
        removed = 0
        while True:
            now = int(self._server.run(protocol.TRIM, keys, keep, edge, f"{self.prefix}blob:", _TRIM_AT_ONCE, last[0]))
            removed += now
            if now < _TRIM_AT_ONCE:
                return removed

    def close(self) -> None:
        """Closes the connections. The spool stays."""
        self._server.close()

    def _put(self, kind: Kind, root: Path, expected: tuple[str, Position], version: str, said: str) -> Position:
        """Puts chunks first, then the entry that names them, in one step."""
        upload, sent = secrets.token_hex(8), list[str]()

        def send(number: int, chunk: bytes) -> None:
            sent.append(blob(self.prefix, upload, number))
            self._server.ask("SET", sent[-1], chunk, "PX", _UPLOAD_MS)

        try:
            fields, manifest_hash, chunks = pack(root, kind, upload, send)
        except UpdateError:
            # Chunks that nothing names. Where Redis does not answer any more they go with their time.
            self._forget(sent)
            raise
        given = *expected, kind, upload, blob(self.prefix, upload), chunks, version, said, manifest_hash
        keys = [self._stream, self._state, self._deltas, self._bundles, self._versions, self._bell]
        found: list[bytes] = self._server.run(protocol.PUT, keys, secrets.token_hex(16), *given, *fields)
        came, log, at = (text.decode() for text in found)
        if came != "put":
            self._forget(sent)
        if came == "other":
            raise UpdateError("log", f"redis: expected the log {expected[0]}, got {log or 'none'}: put a full bundle")
        if came == "lost":
            raise UpdateError("log", f"redis: expected {at} in the log, which lost its end: put a full bundle")
        if came == "chunk":
            raise UpdateError("transport", f"redis: {at}: expected a chunk just written, got none; is memory short?")
        with self.lock:
            self._put_in, self._put_last = log, max(at, self._put_last) if log == self._put_in else at
            if kind == "bundle":
                self._put_last = at
        return at

    def _forget(self, sent: list[str]) -> None:
        try:
            for key in sent:
                self._server.ask("UNLINK", key)
        except UpdateError as error:
            _LOG.warning("chunks of an append that failed stay for %d h: %s", _UPLOAD_MS // 3_600_000, error)

    def _there(self, until: float | None = None) -> protocol.State:
        """Looks what there is. Raises UpdateError "missing" where that is no log."""
        state = self._look(until)
        if not state.log:
            raise UpdateError(
                "missing",
                f"redis: {self._state}: expected a log, got none. A log begins with what is published first, or with "
                "RedisLog(url, create=True)",
            )
        return state

    def _look(self, until: float | None = None) -> protocol.State:
        keys = [self._state, self._deltas, self._bundles, self._stream, self._bell]
        state = protocol.read_state(self._server.run(protocol.LOOK, keys, until=until))
        swept = (state.log, state.trimmed, state.bundles_trimmed)
        if state.log and swept != self._swept:
            self._spool.sweep(*swept)
            self._swept = swept
        return state

    def _range(
        self, log: str, first: str, last: str, most: int, kind: Kind, until: float | None = None
    ) -> list[protocol.StreamEntry]:
        """Reads entries of the stream, and of bundles what they hold only where one is asked for."""
        bounds = most, MOST_BYTES[kind], _AT_ONCE, "yes" if kind == "bundle" else ""
        found = self._server.run(protocol.READ, [self._state, self._stream], first, last, *bounds, until=until)
        there, entries = protocol.read_entries(found)
        if there != log:
            raise UpdateError("transport", f"redis: expected the log {log}, got {there[:80]!r}: it was just replaced")
        return entries

    def _spooled(self, kind: Kind, found: protocol.StreamEntry, log: str) -> Entry | None:
        """Writes an entry into the spool. Returns None for one that was trimmed while it was read."""
        position = protocol.position_of(found.stream_id)
        whose = found.fields.get(b"log", b"").decode("ascii", "replace")
        fault = None
        if not found.fields:
            fault = UpdateError("size", f"redis: {found.stream_id}: expected a smaller entry, got {found.size} bytes")
        elif found.kind != kind or whose != log:
            fault = UpdateError(
                "foreign", f"redis: {found.stream_id}: expected a {kind} of this log, got another entry"
            )
        if fault is not None:
            return Entry(position, kind, self._spool.root / found.stream_id, fault)
        trimmed = False

        def get(upload: str, number: int) -> bytes | None:
            nonlocal trimmed
            # No more than a chunk, whatever is there: of what is longer, or shorter, the sizes say so.
            chunk: bytes = self._server.ask("GETRANGE", blob(self.prefix, upload, number), 0, CHUNK)
            if chunk:
                return chunk
            if not self._server.ask("XRANGE", self._stream, found.stream_id, found.stream_id):
                trimmed = True
                raise UpdateError("transport", f"redis: {found.stream_id} was trimmed while it was read")
            return None

        try:
            return self._spool.write(log, kind, position, found.fields, get)
        except UpdateError:
            if trimmed:
                return None
            raise
