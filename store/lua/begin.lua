-- Renews the lease of messages, right before a request with them or after it.
-- @include clock
-- @include suppressed
-- @include lines
-- KEYS
--   guard       never exists: a cluster refuses the call while its slot moves
--   once        the answer to the first call, returned to repeats
--   fence       the latest lease given
--   set         the lane set or line that they were leased from
--   lane_turns  the lane's lines (lua/lib/lines.lua)
--   lane_held   those of paused campaigns
--   suppressed  the list of suppressed numbers
-- ARGV
--   time        '' for this server's clock
--   held        the lease held
--   lease       its length in us
--   kind        2: a request begins, 1: none does (store/keys.py)
--   once_ms     how long the answer is kept, in ms
--   records     prefix of the records' keys
--   hashes      '' or the hash of each message's number, blank if it does not heed the list
--               (lua/lib/suppressed.lua)
--   campaigns   prefix of the campaigns' keys
--   campaign    the campaign whose line it is ('': none)
--   line        the line's member of lane_turns or lane_held
--   ids...
-- Reply {new lease, now, one character for each id: '1' held, '0' lease lost, '2' held, but no request
-- begins with it: its number is suppressed}.
-- A repeat with the same once key gets the same reply.
-- No request begins with messages of a campaign that is paused or cancelled: they are due again, and
-- their lease counts as lost.
local at = now(time)
local before = redis.call('GET', once)
if before then
  local given, answered, flags = string.match(before, '^(%d+) (%d+) (%d*)$')
  return {given, answered, flags}
end
local new = math.max(at + tonumber(lease), tonumber(redis.call('GET', fence) or 0) + 4)
local flags, leases, mine, inside = {}, {}, tonumber(held), 0
local state = campaign ~= '' and redis.call('HMGET', campaigns .. campaign, 'paused', 'stopped')
local stopped = state and kind == '2' and (state[1] or state[2])
local listed = hashes ~= '' and not stopped and suppressed_places(suppressed, hashes, at) or {}
local next_score, put_off, size = text(stopped and at or new + tonumber(kind)), text(new + 1), 0
local scores = redis.call('ZMSCORE', set, unpack(ARGV, ids))
for i, score in ipairs(scores) do
  score = score and tonumber(score) or 0
  if score - score % 4 == mine then
    local id = ARGV[ids + i - 1]
    local stops = listed[i] and redis.call('HEXISTS', records .. id, 'ignoreSuppression') == 0
    local begins = kind == '2' and not stopped and not stops
    flags[i] = stopped and '0' or stops and '2' or '1'
    size = size + 2
    leases[size - 1], leases[size] = stops and put_off or next_score, id
    inside = inside + (begins and 1 or 0) - (score % 4 == 2 and 1 or 0)
  else
    flags[i] = '0'
  end
end
if size > 0 then redis.call('ZADD', set, unpack(leases)) end
if state and inside ~= 0 then redis.call('HINCRBY', campaigns .. campaign, 'inside', inside) end
if stopped and size > 0 then line_up(lane_turns, lane_held, campaigns .. campaign, line, at) end
redis.call('SET', fence, text(new))
local answer = {text(new), text(at), table.concat(flags)}
redis.call('SET', once, table.concat(answer, ' '), 'PX', once_ms)
return answer
