-- Reads the state of lanes, watch set and result groups at one instant, without a scan.
-- @include clock
-- KEYS
--   guard        never exists: a cluster refuses the call while its slot moves
--   results
--   swept        the instant of the latest sweep
--   sets...      pairs: a set, and the fence of its leases
-- ARGV
--   time         '' for this server's clock
--   instants     most different scores to examine in each set for leases
--   most         most groups to examine
-- Reply {now, latest sweep, sets, groups}
--   sets      {members, due, score of the oldest due ('': none), leased (kind 1), inside a request
--             (kind 2)} of each; the last two are lower bounds, because retries may hide some leases
--   groups    {name, pending, lag ('' if Redis doesn't tell), id of the first event not delivered
--             ('': none), id of the oldest unacknowledged event ('': none)} of each
-- Writes nothing.
local at = now(time)
local due = text(at)

local function leases(set, fence)
  local held, top = {0, 0}, text(tonumber(redis.call('GET', fence) or 0) + 3)
  for _ = 1, tonumber(instants) do
    local score = redis.call('ZREVRANGEBYSCORE', set, top, '(' .. due, 'WITHSCORES', 'LIMIT', 0, 1)[2]
    if not score then break end
    local kind = tonumber(score) % 4
    if kind > 0 then held[kind] = held[kind] + redis.call('ZCOUNT', set, score, score) end
    top = '(' .. score
  end
  return held
end

local looked = {}
for i = sets, #KEYS, 2 do
  local oldest = redis.call('ZRANGEBYSCORE', KEYS[i], '-inf', due, 'WITHSCORES', 'LIMIT', 0, 1)[2]
  local held = leases(KEYS[i], KEYS[i + 1])
  looked[#looked + 1] = {redis.call('ZCARD', KEYS[i]), redis.call('ZCOUNT', KEYS[i], '-inf', due),
    oldest or '', held[1], held[2]}
end
local groups = {}
for i, flat in ipairs(redis.call('EXISTS', results) == 1 and redis.call('XINFO', 'GROUPS', results) or {}) do
  if i > tonumber(most) then break end
  local group = {}
  for k = 1, #flat, 2 do group[flat[k]] = flat[k + 1] end
  local new = redis.call('XRANGE', results, '(' .. group['last-delivered-id'], '+', 'COUNT', 1)[1]
  local old = redis.call('XPENDING', results, group.name)[2]
  groups[i] = {group.name, group.pending, group.lag or '', new and new[1] or '', old or ''}
end
return {due, redis.call('GET', swept) or '', looked, groups}
