-- Renews the lease of messages, right before a request with them or after it.
-- @include clock
-- @include suppressed
-- KEYS
--   guard       never exists: a cluster refuses the call while its slot moves
--   once        the answer to the first call, returned to repeats
--   fence       the latest lease given
--   set         the lane set that they were leased from
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
--   ids...
-- Reply {new lease, now, one character for each id: '1' held, '0' lease lost, '2' held, but no request
-- begins with it: its number is suppressed}.
-- A repeat with the same once key gets the same reply.
local at = now(time)
local before = redis.call('GET', once)
if before then
  local given, answered, flags = string.match(before, '^(%d+) (%d+) (%d*)$')
  return {given, answered, flags}
end
local new = math.max(at + tonumber(lease), tonumber(redis.call('GET', fence) or 0) + 4)
local flags, leases, mine = {}, {}, tonumber(held)
local listed = hashes ~= '' and suppressed_places(suppressed, hashes, at) or {}
local scores = redis.call('ZMSCORE', set, unpack(ARGV, ids))
for i, score in ipairs(scores) do
  score = score and tonumber(score) or 0
  if score - score % 4 == mine then
    local id = ARGV[ids + i - 1]
    local stops = listed[i] and redis.call('HEXISTS', records .. id, 'ignoreSuppression') == 0
    flags[i] = stops and '2' or '1'
    leases[#leases + 1] = text(new + (stops and 1 or tonumber(kind)))
    leases[#leases + 1] = id
  else
    flags[i] = '0'
  end
end
if #leases > 0 then redis.call('ZADD', set, unpack(leases)) end
redis.call('SET', fence, text(new))
local answer = {text(new), text(at), table.concat(flags)}
redis.call('SET', once, table.concat(answer, ' '), 'PX', once_ms)
return answer
