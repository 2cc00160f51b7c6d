"""What is said with a Redis that holds a log: scripts, each one step, and how their answers are read.

All keys of a log share a hash tag, so that a cluster runs them: `log` a stream, `state` a hash (log: which log this is,
without which there is none; trimmed and bundles_trimmed: the last that went), `deltas` and `bundles` lists of what is
in the stream, in order, `versions` a hash (model version: its delta), `progress` a hash, `bell` a stream of one entry
that changes with every put: those who wait block on it, for an entry of the log may be of any size.

An item of the two lists is text with blanks between: position, upload, number of its chunks, then of a delta its model
version, base version, pass, time and schema hash. Numbers stay text: a number in Lua has 53 bits.
"""

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

#: Looks what there is → log id, last trimmed delta, last bundle, last delta, last trimmed bundle, last of the stream,
#: last of the bell; '' for none. KEYS: state, deltas, bundles, log, bell.
LOOK = """
local function last(key)
  local found = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)
  return found[1] and found[1][1] or ''
end
return {
  redis.call('HGET', KEYS[1], 'log') or '',
  redis.call('HGET', KEYS[1], 'trimmed') or '',
  redis.call('LINDEX', KEYS[3], -1) or '',
  redis.call('LINDEX', KEYS[2], -1) or '',
  redis.call('HGET', KEYS[1], 'bundles_trimmed') or '',
  last(KEYS[4]),
  last(KEYS[5])
}
"""

#: Begins a log, if there is none. KEYS: state. ARGV: an id for a new log. → the log's id.
BEGIN = """
redis.call('HSETNX', KEYS[1], 'log', ARGV[1])
return redis.call('HGET', KEYS[1], 'log')
"""

#: Reads entries. KEYS: state, log. ARGV: first stream id, last, how many at most, bytes of one at most, bytes of all
#: that are returned at once, whether bundles are read too.
#: → the log's id, then of each: stream id, kind, bytes, and fields unless it is a bundle, or too large.
READ = """
local found = redis.call('XRANGE', KEYS[2], ARGV[1], ARGV[2], 'COUNT', ARGV[3])
local entries, all = {redis.call('HGET', KEYS[1], 'log') or ''}, 0
for _, entry in ipairs(found) do
  local fields, size, kind = entry[2], 0, ''
  for i = 1, #fields, 2 do
    size = size + #fields[i] + #fields[i + 1]
    if fields[i] == 'kind' then kind = string.sub(fields[i + 1], 1, 40) end
  end
  local left_out = size > tonumber(ARGV[4]) or (kind == 'bundle' and ARGV[6] == '')
  if not left_out then all = all + size end
  if all > tonumber(ARGV[5]) and #entries > 1 and not left_out then break end
  entries[#entries + 1] = {entry[1], kind, tostring(size), left_out and {} or fields}
end
return entries
"""

#: Puts an entry whose chunks are there at the end. KEYS: log, state, deltas, bundles, versions, bell. ARGV: an id
#: for a new log, the log expected or '', the last position that this writer put or '', kind, upload, prefix of its
#: chunks, their number, model version, what an item has after the chunks, the manifest's hash, then the stream's
#: fields.
#: A script that fails is not undone: what may fail, for a key that somebody else has made, comes before the entry is
#: put, and its chunks lose their time after that.
#: → what came of it, then the log's id, then the position or what stood in the way:
#: put, there (put before), other (log), lost (what this writer put last), chunk (is gone).
PUT = """
local log = redis.call('HGET', KEYS[2], 'log')
if ARGV[2] ~= '' and log ~= ARGV[2] then return {'other', log or '', ''} end
local kind, upload, chunks = ARGV[4], ARGV[5], tonumber(ARGV[7])
local list = kind == 'delta' and KEYS[3] or KEYS[4]
local function position(item) return item and string.match(item, '^%S+') or '' end
local delta = position(redis.call('LINDEX', KEYS[3], -1) or nil)
local bundle = redis.call('LINDEX', KEYS[4], -1) or ''
if kind == 'delta' then
  local seen = redis.call('HGET', KEYS[5], ARGV[8])
  if seen then
    local hash, from, at = string.match(seen, '^(%S+) (%S+) (%S+)$')
    if hash == ARGV[10] then return {from == upload and 'put' or 'there', log, at} end
  end
  if ARGV[3] ~= '' and ARGV[3] > delta and ARGV[3] > position(bundle) then return {'lost', log, ARGV[3]} end
else
  local at, from = string.match(bundle, '^(%S+) (%S+)')
  if from == upload then return {'put', log, at} end
end
for i = 0, chunks - 1 do
  local key = ARGV[6] .. i
  if redis.call('EXISTS', key) == 0 then return {'chunk', log or '', key} end
end
if not log then
  log = ARGV[1]
  redis.call('HSET', KEYS[2], 'log', log)
end
local fields = {'log', log}
for i = 11, #ARGV do fields[#fields + 1] = ARGV[i] end
redis.call('XADD', KEYS[6], 'MAXLEN', 1, '*', 'put', 1)
local id = redis.call('XADD', KEYS[1], '*', unpack(fields))
for i = 0, chunks - 1 do redis.call('PERSIST', ARGV[6] .. i) end
local ms, seq = string.match(id, '^(%d+)-(%d+)$')
local at = string.rep('0', 20 - #ms) .. ms .. '-' .. string.rep('0', 20 - #seq) .. seq
redis.call('RPUSH', list, at .. ' ' .. upload .. ' ' .. chunks .. ARGV[9])
if kind == 'delta' then redis.call('HSET', KEYS[5], ARGV[8], ARGV[10] .. ' ' .. upload .. ' ' .. at) end
return {'put', log, at}
"""

#: Notes a follower's progress, in a consumer group of its own too, for those who look at the stream itself.
#: KEYS: log, progress, state. ARGV: follower, stream id, progress as JSON. → whether there is a log.
ACKNOWLEDGE = """
if redis.call('HEXISTS', KEYS[3], 'log') == 0 then return 0 end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
if redis.call('EXISTS', KEYS[1]) == 1 then
  local done = redis.pcall('XGROUP', 'SETID', KEYS[1], ARGV[1], ARGV[2])
  if done.err then redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], ARGV[2]) end
end
return 1
"""

#: Forgets a follower. KEYS: log, progress. ARGV: follower.
FORGET = """
redis.call('HDEL', KEYS[2], ARGV[1])
redis.pcall('XGROUP', 'DESTROY', KEYS[1], ARGV[1])
return 1
"""

#: Removes at most so many entries. KEYS: log, state, deltas, bundles, versions. ARGV: deltas to keep, the position up
#: to which deltas may go, prefix of all chunks, how many, the bundle that stays. → how many.
#: What somebody else has put into the stream goes when all of ours before it have gone; of the lists, what is no item.
#: The chunks of an item end where a thousand in a row are not there: somebody else's item may say any number.
TRIM = """
local function parts(item)
  local at, upload, chunks, version = string.match(item, '^(%d+%-%d+) (%x+) (%d+) ?(%S*)')
  if at and #chunks < 8 then return at, upload, tonumber(chunks), version end
end
local function id(at)
  local ms, seq = string.match(at, '^0*(%d+)%-0*(%d+)$')
  return ms .. '-' .. seq
end
local function remove(at, upload, chunks)
  redis.call('XDEL', KEYS[1], id(at))
  local missing = 0
  for i = 0, chunks - 1 do
    missing = redis.call('UNLINK', ARGV[3] .. upload .. ':' .. i) == 0 and missing + 1 or 0
    if missing == 1000 then break end
  end
end
local gone, most = 0, tonumber(ARGV[4])
while gone < most and redis.call('LLEN', KEYS[3]) > tonumber(ARGV[1]) do
  local at, upload, chunks, version = parts(redis.call('LINDEX', KEYS[3], 0))
  if at and at > ARGV[2] then break end
  redis.call('LPOP', KEYS[3])
  if at then
    remove(at, upload, chunks)
    local seen = redis.call('HGET', KEYS[5], version)
    if seen and string.sub(seen, -#at) == at then redis.call('HDEL', KEYS[5], version) end
    redis.call('HSET', KEYS[2], 'trimmed', at)
  end
  gone = gone + 1
end
while gone < most and redis.call('LLEN', KEYS[4]) > 1 do
  local at, upload, chunks = parts(redis.call('LINDEX', KEYS[4], 0))
  if at and at >= ARGV[5] then break end
  redis.call('LPOP', KEYS[4])
  if at then
    remove(at, upload, chunks)
    redis.call('HSET', KEYS[2], 'bundles_trimmed', at)
  end
  gone = gone + 1
end
if gone < most then
  local first = ARGV[5]
  local at = parts(redis.call('LINDEX', KEYS[3], 0) or '')
  if at and at < first then first = at end
  gone = gone + redis.call('XTRIM', KEYS[1], 'MINID', id(first))
end
return gone
"""


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
