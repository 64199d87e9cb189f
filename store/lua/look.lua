-- Looks at lanes, watch set and result groups at one instant. Nothing is scanned.
-- @include clock
-- KEYS
--   results
--   swept        the instant of the latest sweep
--   sets...      pairs of a set and the fence of its leases
-- ARGV
--   time         '' for this server's
--   instants     most different instants to look at in each set for leases
--   most         groups to look at
-- Reply {now, latest sweep, sets, groups}
--   sets: how many, due, score of the oldest due ('' if none), leased (kind 1), inside (kind 2)
--     leased, inside: at least so many; leases share an instant, retries between them rarely do
--   groups: name, pending, lag ('' where Redis doesn't tell), id of the first event that it has not
--     been given ('' if none), id of its oldest unacknowledged event ('' if none)
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
