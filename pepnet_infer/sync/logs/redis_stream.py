"""Positions and entries of a log as a Redis stream has them, and what a look at the log says."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from pepnet_infer.errors import UpdateError
from pepnet_infer.sync.delta import DeltaHead, check_head
from pepnet_infer.sync.logs.redis_entry import LOG_ID
from pepnet_infer.sync.logs.transport import BundleHead, Kind, Position

_POSITION = re.compile(r"([0-9]{20})-([0-9]{20})")
_STREAM_ID = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")
#: After this one a stream has none.
LAST_ID = f"{2**64 - 1}-{2**64 - 1}"


class State(NamedTuple):
    """What a look at the log says; "" for what there is none of."""

    log: str
    trimmed: Position
    bundles_trimmed: Position
    bundle: str  # an item of the list
    delta: str  # an item of the list
    in_stream: Position  # the last of what is in the stream
    last: Position  # the same, or a later one in the lists
    bell: str  # a stream id


class StreamEntry(NamedTuple):
    """An entry of the stream."""

    stream_id: str
    kind: Kind | None  # None: of none that we know
    size: int  # bytes
    fields: dict[bytes, bytes]  # empty where they were left out


def read_state(found: Any) -> State:
    """Returns what the script LOOK found. Raises UpdateError "log" where that is not what a log says."""
    try:
        items = [text.decode("utf-8", "replace") for text in found]  # the items of lists are looked at one by one
        log, trimmed, bundle, delta, bundles_trimmed, last, bell = items
        if log and LOG_ID.fullmatch(log) is None:
            raise UpdateError("log", f"redis: expected a log's id of 32 hex digits, got {log[:80]!r}")
        in_stream = position_of(last) if last else ""
        ends = [in_stream]
        ends += [at for item in (bundle, delta) if _POSITION.fullmatch(at := item.partition(" ")[0])]
        return State(log, trimmed, bundles_trimmed, bundle, delta, in_stream, max(ends), bell or "0-0")
    except ValueError as error:
        raise UpdateError("log", f"redis: expected the state of a log, got: {error!s:.200}") from error


def read_entries(found: Any) -> tuple[str, list[StreamEntry]]:
    """Returns what the script READ found: the log's id, and entries."""
    entries = []
    for stream_id, kind, size, values in found[1:]:
        known: Kind | None = "delta" if kind == b"delta" else "bundle" if kind == b"bundle" else None
        fields = dict(zip(values[::2], values[1::2], strict=True))
        entries.append(StreamEntry(stream_id.decode(), known, int(size), fields))
    return found[0].decode("utf-8", "replace"), entries


def bundle_head(item: str) -> BundleHead:
    """Returns what an item of the list of bundles says."""
    try:
        position, _, _, version = item.split(" ")
        if _POSITION.fullmatch(position) is None or not 0 <= int(version) < 1 << 63:
            raise ValueError(item)
        return BundleHead(position, int(version))
    except ValueError:
        error = UpdateError("log", f"redis: expected where a bundle stands, and its version, got {item[:200]!r}")
        return BundleHead(item[:80], -1, error)


def delta_head(item: str) -> tuple[Position, DeltaHead] | None:
    """Returns what an item of the list of deltas says; None for one that is none."""
    try:
        position, _, _, version, base, number, produced, schema = item.split(" ")
        if _POSITION.fullmatch(position) is None:
            return None
        head = DeltaHead(int(base), int(version), int(number), float(produced), schema)
        check_head("redis", head)
    except (ValueError, UpdateError):
        return None
    return position, head


def position_of(stream_id: str) -> Position:
    """Returns a stream id as a position. Raises ValueError."""
    parts = _STREAM_ID.fullmatch(stream_id)
    if parts is None:
        raise ValueError(f"expected a stream id, got {stream_id[:80]!r}")
    return f"{int(parts[1]):020d}-{int(parts[2]):020d}"


def stream_id_of(position: Position) -> str:
    """Returns a position as a stream id. Raises UpdateError for one of another log."""
    if not position:
        return "0-0"
    parts = _POSITION.fullmatch(position)
    if parts is None:
        raise UpdateError("log", f"position: expected one of a log in Redis, got {position[:80]!r}")
    return f"{int(parts[1])}-{int(parts[2])}"
