-- Renew the lease of messages still held, as inside a request (kind 2) or not any more (kind 1).
--
-- KEYS  1 once  2 fence  3 lane set
-- ARGV  1 now ('' = TIME)  2 lease held  3 lease us  4 kind  5 once ms  6 ... ids
-- Reply {new lease, now, one character for each id: '1' held, '0' not ours any more}.
-- A repeat with the same once key returns the same.
#include clock
local at = now(ARGV[1])
local before = redis.call('GET', KEYS[1])
if before then
  local given, seen, held = string.match(before, '^(%d+) (%d+) (%d*)$')
  return {given, seen, held}
end
local lease = math.max(at + tonumber(ARGV[3]), tonumber(redis.call('GET', KEYS[2]) or 0) + 4)
local held, leases, mine = {}, {}, tonumber(ARGV[2])
local scores = redis.call('ZMSCORE', KEYS[3], unpack(ARGV, 6))
for i, score in ipairs(scores) do
  score = score and tonumber(score) or 0
  if score - score % 4 == mine then
    held[i] = '1'
    leases[#leases + 1] = text(lease + tonumber(ARGV[4]))
    leases[#leases + 1] = ARGV[5 + i]
  else
    held[i] = '0'
  end
end
if #leases > 0 then redis.call('ZADD', KEYS[3], unpack(leases)) end
redis.call('SET', KEYS[2], text(lease))
local answer = {text(lease), text(at), table.concat(held)}
redis.call('SET', KEYS[1], table.concat(answer, ' '), 'PX', ARGV[5])
return answer
