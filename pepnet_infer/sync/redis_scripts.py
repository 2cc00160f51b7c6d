"""What has to happen in Redis in one step, as scripts. All keys of a log share a hash tag, so that a cluster runs them.

The keys: `log` a stream, `state` a hash (log: which log this is; trimmed and bundles_trimmed: the
last that went), `deltas` and
`bundles` lists of what is in the stream, in order, `versions` a hash (model version: its delta), `progress` a hash.

An item of the two lists is text with blanks between: position, upload, number of its chunks, then of a delta its model
version, base version, pass, time and schema hash. Numbers stay text: a number in Lua has 53 bits.
"""

from __future__ import annotations

#: Looks what there is → log id, last trimmed delta, last bundle, last delta, last trimmed bundle; '' for none.
#: KEYS: state, deltas, bundles.
LOOK = """
return {
  redis.call('HGET', KEYS[1], 'log') or '',
  redis.call('HGET', KEYS[1], 'trimmed') or '',
  redis.call('LINDEX', KEYS[3], -1) or '',
  redis.call('LINDEX', KEYS[2], -1) or '',
  redis.call('HGET', KEYS[1], 'bundles_trimmed') or ''
}
"""

#: Puts an entry whose chunks are there at the end. KEYS: log, state, deltas, bundles, versions. ARGV: the log expected
#: or '', an id for a new log, the last position that this writer put or '', kind, upload, prefix of its chunks, their
#: number, model version, what an item has after the chunks, the manifest's hash, then the stream's fields.
#: → what came of it, then the log's id, then the position or what stood in the way:
#: put, there (put before), other (log), lost (what this writer put last), chunk (is gone).
PUT = """
local log = redis.call('HGET', KEYS[2], 'log')
if ARGV[1] ~= '' and log ~= ARGV[1] then return {'other', log or '', ''} end
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
  redis.call('PERSIST', key)
  if redis.call('EXISTS', key) == 0 then return {'chunk', log or '', key} end
end
if not log then
  log = ARGV[2]
  redis.call('HSET', KEYS[2], 'log', log)
end
local fields = {'log', log}
for i = 11, #ARGV do fields[#fields + 1] = ARGV[i] end
local id = redis.call('XADD', KEYS[1], '*', unpack(fields))
local ms, seq = string.match(id, '^(%d+)-(%d+)$')
local at = string.rep('0', 20 - #ms) .. ms .. '-' .. string.rep('0', 20 - #seq) .. seq
redis.call('RPUSH', list, at .. ' ' .. upload .. ' ' .. chunks .. ARGV[9])
if kind == 'delta' then redis.call('HSET', KEYS[5], ARGV[8], ARGV[10] .. ' ' .. upload .. ' ' .. at) end
return {'put', log, at}
"""

#: Notes a follower's progress, in a consumer group of its own too, for those who look at the stream itself.
#: KEYS: log, progress. ARGV: follower, stream id, progress as JSON.
ACKNOWLEDGE = """
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
#: to which followers are or '' for all, prefix of all chunks, how many. → how many.
TRIM = """
local function parts(item) return string.match(item, '^(%S+) (%S+) (%S+) ?(%S*)') end
local function remove(item)
  local at, upload, chunks = parts(item)
  local ms, seq = string.match(at, '^0*(%d+)%-0*(%d+)$')
  redis.call('XDEL', KEYS[1], ms .. '-' .. seq)
  for i = 0, tonumber(chunks) - 1 do redis.call('UNLINK', ARGV[3] .. upload .. ':' .. i) end
end
local newest = redis.call('LINDEX', KEYS[4], -1)
if not newest then return 0 end
local edge = parts(newest)
if ARGV[2] ~= '' and ARGV[2] < edge then edge = ARGV[2] end
local gone, most = 0, tonumber(ARGV[4])
while gone < most and redis.call('LLEN', KEYS[3]) > tonumber(ARGV[1]) do
  local item = redis.call('LINDEX', KEYS[3], 0)
  local at, _, _, version = parts(item)
  if at > edge then break end
  remove(item)
  redis.call('LPOP', KEYS[3])
  local seen = redis.call('HGET', KEYS[5], version)
  if seen and string.sub(seen, -#at) == at then redis.call('HDEL', KEYS[5], version) end
  redis.call('HSET', KEYS[2], 'trimmed', at)
  gone = gone + 1
end
while gone < most and redis.call('LLEN', KEYS[4]) > 1 do
  local item = redis.call('LPOP', KEYS[4])
  remove(item)
  redis.call('HSET', KEYS[2], 'bundles_trimmed', (parts(item)))
  gone = gone + 1
end
return gone
"""
