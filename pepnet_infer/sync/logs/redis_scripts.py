"""What has to happen in Redis in one step, as scripts. All keys of a log share a hash tag, so that a cluster runs them.

The keys: `log` a stream of deltas and bundles, `bundles` a list of the stream ids of the bundles in it, `state` a hash
(log: which log this is, without which there is none; last: the position that was put last), `progress` a hash, `bell` a
stream of one entry that changes with every put: readers block on it, for an entry of the log may be of any size.
"""

from __future__ import annotations

_FIELDS_OF = """
local function fields_of(entry)
  local fields = {}
  for i = 1, #entry[2], 2 do fields[entry[2][i]] = entry[2][i + 1] end
  return fields
end
local function position_of(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return string.rep('0', 20 - #ms) .. ms .. '-' .. string.rep('0', 20 - #seq) .. seq
end
"""

#: Looks what there is → log id, last position that was put, first and last stream id in the log, the first bundle, the
#: last stream id of the bell; '' for none. KEYS: state, log, bundles, bell.
LOOK = """
local function first(command, key, from, to)
  local found = redis.call(command, key, from, to, 'COUNT', 1)
  return found[1] and found[1][1] or ''
end
return {
  redis.call('HGET', KEYS[1], 'log') or '',
  redis.call('HGET', KEYS[1], 'last') or '',
  first('XRANGE', KEYS[2], '-', '+'),
  first('XREVRANGE', KEYS[2], '+', '-'),
  redis.call('LINDEX', KEYS[3], 0) or '',
  first('XREVRANGE', KEYS[4], '+', '-')
}
"""

#: Begins a log, if there is none. KEYS: state. ARGV: an id for a new log. → the log's id.
BEGIN = """
redis.call('HSETNX', KEYS[1], 'log', ARGV[1])
return redis.call('HGET', KEYS[1], 'log')
"""

#: Reads entries. KEYS: state, log. ARGV: XRANGE or XREVRANGE, where it begins and ends, how many at most, bytes of one
#: at most. → the log's id, then of each entry: stream id, bytes, and its fields unless there are more bytes than that.
READ = """
local entries = {redis.call('HGET', KEYS[1], 'log') or ''}
for _, entry in ipairs(redis.call(ARGV[1], KEYS[2], ARGV[2], ARGV[3], 'COUNT', ARGV[4])) do
  local size = 0
  for _, part in ipairs(entry[2]) do size = size + #part end
  entries[#entries + 1] = {entry[1], size, size > tonumber(ARGV[5]) and {} or entry[2]}
end
return entries
"""

#: Puts an entry whose chunks are there at the end. KEYS: log, state, bundles, bell. ARGV: the log expected or '', an id
#: for a new log, the last position that this writer put or '', prefix of the keys of its chunks, then the fields.
#: Whether the entry is there already is looked at from the end back to an earlier model version; versions are compared
#: as text, because a number in Lua has 53 bits.
#: A script that fails is not undone: what may fail, for a key that somebody else has made, comes before the entry is
#: put, and its chunks lose their time after that.
#: → what came of it, then the log's id, then the stream id or what stood in the way:
#: put, there (put before), other (log), lost (what this writer put last), chunk (is gone).
PUT = (
    _FIELDS_OF
    + """
local log = redis.call('HGET', KEYS[2], 'log')
if ARGV[1] ~= '' and log ~= ARGV[1] then return {'other', log or '', ''} end
local new = fields_of({'', {unpack(ARGV, 5)}})
local function earlier(one, other) return #one < #other or (#one == #other and one < other) end
local from = '+'
while from ~= '' do
  local found = redis.call('XREVRANGE', KEYS[1], from, '-', 'COUNT', 16)
  from = found[16] and '(' .. found[16][1] or ''
  for _, entry in ipairs(found) do
    local there = fields_of(entry)
    if there.log == log and string.match(there.model_version or '', '^%d+$') then
      if there.upload == new.upload then return {'put', log, entry[1]} end
      local same = there.kind == 'delta' and new.kind == 'delta' and there.manifest == new.manifest
      if same then return {'there', log, entry[1]} end
      if earlier(there.model_version, new.model_version) then from = '' end
    end
  end
end
if ARGV[3] > (redis.call('HGET', KEYS[2], 'last') or '') then return {'lost', log, ARGV[3]} end
for i = 0, new.chunks - 1 do
  local key = ARGV[4] .. i
  if redis.call('EXISTS', key) == 0 then return {'chunk', log or '', key} end
end
redis.call('LLEN', KEYS[3])
if not log then
  log = ARGV[2]
  redis.call('HSET', KEYS[2], 'log', log)
end
redis.call('XADD', KEYS[4], 'MAXLEN', 1, '*', 'put', 1)
local id = redis.call('XADD', KEYS[1], '*', 'log', log, unpack(ARGV, 5))
for i = 0, new.chunks - 1 do redis.call('PERSIST', ARGV[4] .. i) end
redis.call('HSET', KEYS[2], 'last', position_of(id))
if new.kind == 'bundle' then redis.call('RPUSH', KEYS[3], id) end
return {'put', log, id}
"""
)

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

#: Removes what nobody needs of the entries before the bundle that stays: bundles, and deltas and what somebody else has
#: put up to where all followers are. KEYS: log, bundles. ARGV: where to begin, the bundle that stays, the position up
#: to which followers are, deltas to keep, prefix of the keys of all chunks, how many entries to look at.
#: → how many went, and the last stream id that was looked at, '' at the end.
TRIM = (
    _FIELDS_OF
    + """
local free = redis.call('XLEN', KEYS[1]) - redis.call('LLEN', KEYS[2]) - ARGV[4]
local gone, last = 0, ''
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], ARGV[1], '(' .. ARGV[2], 'COUNT', ARGV[6])) do
  local fields = fields_of(entry)
  last = entry[1]
  local bundle = fields.kind == 'bundle'
  if bundle or (free > 0 and position_of(last) <= ARGV[3]) then
    local upload, chunks = string.match(fields.upload or '', '^%x+$'), string.match(fields.chunks or '', '^%d+$')
    if upload and chunks and #chunks < 8 then
      for i = 0, chunks - 1 do redis.call('UNLINK', ARGV[5] .. upload .. ':' .. i) end
    end
    redis.call('XDEL', KEYS[1], last)
    if bundle then redis.call('LREM', KEYS[2], 1, last) else free = free - 1 end
    gone = gone + 1
  end
end
while last == '' and redis.call('LLEN', KEYS[2]) > 1 do
  local first = redis.call('LINDEX', KEYS[2], 0)
  local ms = string.match(first, '^(%d+)%-%d+$')
  if ms and #ms < 20 and position_of(first) >= position_of(ARGV[2]) then break end
  redis.call('LPOP', KEYS[2])
end
return {gone, last}
"""
)
