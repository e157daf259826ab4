"""What is done in Redis in one step: appending to a log, reading it, and keeping the list of who is there.

Decides the keys and their contents. Leaves running the scripts to the buses. Invariants: a message has its offset, is in
the log and on its way to every follower, or none of it; a key is given one offset; a Redis that was started again
begins new epochs, as it may have forgotten the last it said.
"""

from __future__ import annotations

from typing import Final

STATE_SECONDS: Final = 30 * 24 * 3600
"""How long the place in the log of a quiet topic is remembered: much longer than messages, so that quiet is no gap."""

# One slot of a cluster for all keys of a topic: the part in braces is what is hashed.
STATE: Final = "{{{}}}:state"
LOG: Final = "{{{}}}:log"
KEY: Final = "{{{}}}:key:{}"
SEEN: Final = "{{{}}}:seen"
COUNTS: Final = "{{{}}}:counts"

STAMPED: Final = "s"
PLAIN: Final = "p"

# KEYS[1] the state, KEYS[2] the log; ARGV[1] a new epoch. Without leave to ask INFO, restarts show by lost state only.
_OPEN: Final = """
local run = ''
local info = redis.pcall('INFO', 'server')
if type(info) == 'string' then run = string.match(info, 'run_id:(%w+)') or '' end
local state = redis.call('HMGET', KEYS[1], 'epoch', 'run', 'offset')
local epoch, offset = state[1], tonumber(state[3] or '0')
if not epoch or state[2] ~= run then
  epoch, offset = ARGV[1], 0
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'run', run, 'offset', 0)
  redis.call('EXPIRE', KEYS[1], ARGV[2])
end
"""

# KEYS[3] the message's key, KEYS[4] the topic; ARGV[3] the text, [4] messages kept, [5] for milliseconds, [6] PUBLISH.
APPEND: Final = (
    _OPEN
    + """
local stamp = redis.call('GET', KEYS[3])
if stamp and string.sub(stamp, 1, #epoch + 1) == epoch .. ':' then
  return {epoch, tonumber(string.sub(stamp, #epoch + 2))}
end
offset = redis.call('HINCRBY', KEYS[1], 'offset', 1)
local number = string.format('%d', offset)
redis.call('XADD', KEYS[2], 'MAXLEN', '=', ARGV[4], number .. '-0', 't', ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('SET', KEYS[3], epoch .. ':' .. number, 'PX', ARGV[5])
redis.call(ARGV[6], KEYS[4], 's' .. epoch .. ':' .. number .. ':' .. ARGV[3])
return {epoch, offset}
"""
)

# ARGV[3] after which offset, [4] how many at most.
READ: Final = (
    _OPEN
    + """
if ARGV[4] == '0' then return {epoch, offset, {}} end
return {epoch, offset, redis.call('XRANGE', KEYS[2], '(' .. ARGV[3] .. '-0', '+', 'COUNT', ARGV[4])}
"""
)

# KEYS: until when each user and process is there, counts of these by user, the topic. ARGV: milliseconds, this process,
# PUBLISH, the known version, and as JSON who is here and who is gone. The counts hold the version as well.
ATTEND: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSETNX', KEYS[2], 'version', string.format('%d', now))
local before = redis.call('HGET', KEYS[2], 'version')
local joined, left = {}, {}
local function lose(user)
  if redis.call('HINCRBY', KEYS[2], user, -1) <= 0 then
    redis.call('HDEL', KEYS[2], user)
    left[#left + 1] = user
  end
end
for _, number in ipairs(cjson.decode(ARGV[5])) do
  local user = string.format('%d', number)
  if redis.call('ZADD', KEYS[1], now + ARGV[1], user .. '|' .. ARGV[2]) == 1 then
    if redis.call('HINCRBY', KEYS[2], user, 1) == 1 then joined[#joined + 1] = user end
  end
end
for _, number in ipairs(cjson.decode(ARGV[6])) do
  local user = string.format('%d', number)
  if redis.call('ZREM', KEYS[1], user .. '|' .. ARGV[2]) == 1 then lose(user) end
end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. string.format('%d', now))) do
  redis.call('ZREM', KEYS[1], member)
  lose(string.match(member, '^(%d+)|'))
end
local version = before
if #joined + #left > 0 then
  version = redis.call('HINCRBY', KEYS[2], 'version', 1)
  local notice = '{"version":' .. string.format('%d', version) .. ',"joined":[' .. table.concat(joined, ',')
  redis.call(ARGV[3], KEYS[3], 'p' .. notice .. '],"left":[' .. table.concat(left, ',') .. ']}')
end
redis.call('PEXPIRE', KEYS[1], 2 * ARGV[1])
redis.call('PEXPIRE', KEYS[2], 2 * ARGV[1])
if before == ARGV[4] then return {tonumber(version)} end
return {tonumber(version), redis.call('HKEYS', KEYS[2])}
"""
