-- Reads the state of lanes, watch set and result groups at one instant, without a scan.
-- @include clock
-- KEYS
--   guard        never exists: a cluster refuses the call while its slot moves
--   results
--   swept        the instant of the latest sweep
--   registry     the campaigns
--   sets...      groups of four: a set, the fence of its leases, and the two sorted sets of its lane's
--                lines (lua/lib/lines.lua), which count as a part of the set
-- ARGV
--   time         '' for this server's clock
--   instants     most different scores to examine in each set, and each line, for leases
--   lines        most lines to examine in each sorted set
--   most         most groups to examine
--   campaigns    prefix of the campaigns' keys
--   shown        most campaigns to tell, 0: none; four times as many are read to find the newest
--   ahead        those that are kept for less than so long from now (us) are not read
-- Reply {now, latest sweep, sets, groups, campaigns, campaigns left out}
--   sets      {members, due, score of the oldest due ('': none), leased (kind 1), inside a request
--             (kind 2), waiting in paused campaigns} of each, of which only members, leased and inside
--             count paused campaigns; leased and inside are lower bounds: retries may hide some
--   groups    {name, pending, lag ('' if Redis doesn't tell), id of the first event not delivered
--             ('': none), id of the oldest unacknowledged event ('': none)} of each
--   campaigns {name, its hash, due lines} of each, the newest first; due lines are {number of the set
--             among sets, score of the oldest due}, of those that are not paused
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

local looked, due_lines = {}, {}
for i = sets, #KEYS, 4 do
  local sum = {0, 0, '', 0, 0, 0}
  local function count(key, is_paused, name)
    local held, size = leases(key, KEYS[i + 1]), redis.call('ZCARD', key)
    sum[1], sum[4], sum[5] = sum[1] + size, sum[4] + held[1], sum[5] + held[2]
    if is_paused then
      sum[6] = sum[6] + size - held[1] - held[2]
    else
      local oldest = redis.call('ZRANGEBYSCORE', key, '-inf', due, 'WITHSCORES', 'LIMIT', 0, 1)[2]
      if oldest and name then
        due_lines[name] = due_lines[name] or {}
        table.insert(due_lines[name], {#looked + 1, oldest})
      end
      if oldest and (sum[3] == '' or tonumber(oldest) < tonumber(sum[3])) then sum[3] = oldest end
      sum[2] = sum[2] + redis.call('ZCOUNT', key, '-inf', due)
    end
  end
  count(KEYS[i])
  for queue = i + 2, i + 3 do
    for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[queue], '-inf', '+inf', 'LIMIT', 0, lines)) do
      if string.sub(member, 1, 1) == string.sub(KEYS[i], -1) then
        count(KEYS[i] .. string.sub(member, 2), queue == i + 3, string.sub(member, 3))
      end
    end
  end
  looked[#looked + 1] = sum
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
local kept, left_out = {}, 0
if tonumber(shown) > 0 then
  local since = text(at + tonumber(ahead))
  for _, name in ipairs(redis.call('ZREVRANGEBYSCORE', registry, '+inf', since, 'LIMIT', 0, 4 * shown)) do
    local fields, created = redis.call('HGETALL', campaigns .. name), 0
    for k = 1, #fields, 2 do
      if fields[k] == 'created' then created = tonumber(fields[k + 1]) end
    end
    if created > 0 then kept[#kept + 1] = {name, fields, due_lines[name] or {}, created} end
  end
  table.sort(kept, function(one, two) return one[4] > two[4] end)
  left_out = math.max(0, redis.call('ZCOUNT', registry, since, '+inf') - tonumber(shown))
  for k = #kept, tonumber(shown) + 1, -1 do kept[k] = nil end
end
return {due, redis.call('GET', swept) or '', looked, groups, kept, left_out}
