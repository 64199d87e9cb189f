-- Look at lanes, watch set and result groups at one instant, for the exporter. Nothing is scanned.
--
-- KEYS  1 results  2 instant of the latest sweep
--       3 ... pairs of a set and the fence of its leases
-- ARGV  1 now ('' = TIME)  2 most different instants to look at in each set for leases
--       3 most groups to look at
-- Reply {now, latest sweep, sets, groups}
--   sets: how many, due, score of the oldest due ('' if none), leased (kind 1), inside (kind 2)
--     leased, inside: at least so many; leases share an instant, retries between them rarely do
--   groups: name, pending, lag ('' where Redis doesn't tell), id of the first event that it has not
--     been given ('' if none), id of its oldest unacknowledged event ('' if none)
-- Writes nothing.
#include clock
local at = now(ARGV[1])
local due = text(at)

local function leases(set, fence)
  local held, top = {0, 0}, text(tonumber(redis.call('GET', fence) or 0) + 3)
  for _ = 1, tonumber(ARGV[2]) do
    local score = redis.call('ZREVRANGEBYSCORE', set, top, '(' .. due, 'WITHSCORES', 'LIMIT', 0, 1)[2]
    if not score then break end
    local kind = tonumber(score) % 4
    if kind > 0 then held[kind] = held[kind] + redis.call('ZCOUNT', set, score, score) end
    top = '(' .. score
  end
  return held
end

local sets = {}
for i = 3, #KEYS, 2 do
  local oldest = redis.call('ZRANGEBYSCORE', KEYS[i], '-inf', due, 'WITHSCORES', 'LIMIT', 0, 1)[2]
  local held = leases(KEYS[i], KEYS[i + 1])
  sets[#sets + 1] = {redis.call('ZCARD', KEYS[i]), redis.call('ZCOUNT', KEYS[i], '-inf', due),
    oldest or '', held[1], held[2]}
end
local groups = {}
for i, flat in ipairs(redis.call('EXISTS', KEYS[1]) == 1 and redis.call('XINFO', 'GROUPS', KEYS[1]) or {}) do
  if i > tonumber(ARGV[3]) then break end
  local group = {}
  for k = 1, #flat, 2 do group[flat[k]] = flat[k + 1] end
  local new = redis.call('XRANGE', KEYS[1], '(' .. group['last-delivered-id'], '+', 'COUNT', 1)[1]
  local old = redis.call('XPENDING', KEYS[1], group.name)[2]
  groups[i] = {group.name, group.pending, group.lag or '', new and new[1] or '', old or ''}
end
return {due, redis.call('GET', KEYS[2]) or '', sets, groups}
