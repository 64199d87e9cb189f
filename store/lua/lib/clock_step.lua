-- @include clock
-- What the store does when this server's clock steps (docs/decisions/0029-steps-of-redis-s-clock.md).
-- clock is a hash with the latest step (at, by: store/clock.py) and, after a step back, with the state
-- of the walk through the sets that brings back what it left ahead:
--   back      how far it went back (us); no such field: no walk is left to do
--   due       what was to be due by then (us) was due before the step
--   lapse     from then on (us) leases from before the step have lapsed
--   set       the set that the walk is in: 1 for watch, then the lanes
--   score     the score that it has come to there
--   skip      so many members of this score were left where they are
--   lines     the campaigns' lines of that moment, which the walk visits after the lanes

-- shift(key, us): takes so many us off the instant that a key holds.
local function shift(key, us)
  local held = redis.call('GET', key)
  if held then redis.call('SET', key, text(tonumber(held) - us), 'KEEPTTL') end
end

-- look_at_lines(at, keys): has claims look at all lines of campaigns, to find out when each is due; returns
-- their keys. A campaign's own bucket is full again.
local function look_at_lines(at, keys)
  local lines = {}
  for lane = 1, 4 do
    for _, queue in ipairs({keys.turns[lane], keys.held_lines[lane]}) do
      for _, member in ipairs(redis.call('ZREVRANGE', queue, 0, -1)) do
        local set, name = 2 * lane - 1 + tonumber(string.sub(member, 1, 1)), string.sub(member, 3)
        lines[#lines + 1] = keys.lanes[set] .. ':' .. name
        redis.call('ZADD', queue, 'LT', text(at), member)
        redis.call('DEL', keys.campaigns .. name .. ':bucket')
      end
    end
  end
  return lines
end

-- step_back(clock, at, last, gap, lease, keys): brings back what stands in keys, and begins the walk.
-- last is the latest instant (us) known of the clock before, gap how far behind it may be.
local function step_back(clock, at, last, gap, lease, keys)
  local back = last - at
  back = back - back % 4
  redis.call('DEL', unpack(keys.bells))
  for _, key in ipairs(keys.instants) do shift(key, back) end
  for _, key in ipairs(keys.pauses) do
    local left = redis.call('PTTL', key)
    if left > 0 then redis.call('PEXPIRE', key, text(math.max(1, left - math.floor(back / 1000)))) end
  end
  for _, key in ipairs(keys.gates) do
    for _, field in ipairs({'until', 'opened', 'probe'}) do
      local held = redis.call('HGET', key, field)
      if held then redis.call('HSET', key, field, text(tonumber(held) - back)) end
    end
    redis.call('HDEL', key, 'seen', 'held')
  end
  redis.call('HSET', clock, 'lines', table.concat(look_at_lines(at, keys), ' '), 'back', text(back), 'due', text(last + gap), 'lapse', text(at + lease),
    'set', 1, 'score', text(at + 1), 'skip', 0)
  redis.call('HDEL', clock, 'second')
end

-- walk(clock, at, lease, keys, most): goes on with the walk through keys.sets and the lines, by most members;
-- returns whether the next call has more to do. The first round brings back what was due, retries and
-- polls. A message that an app has dated stays, and so does a lease: its score is its holder's token,
-- and it may have been given since the step. The second round, a lease later, ends the leases that no
-- living holder can have.
local function walk(clock, at, lease, keys, most)
  local state = redis.call('HMGET', clock, 'back', 'due', 'lapse', 'set', 'score', 'skip', 'second', 'lines')
  local place, score, skip, second = tonumber(state[4]), state[5], tonumber(state[6]), state[7]
  local back, due, lapse = tonumber(state[1]), tonumber(state[2]), tonumber(state[3])
  if not back or second and at < lapse then return false end
  local sets = keys.sets
  for line in string.gmatch(state[8] or '', '%S+') do sets[#sets + 1] = line end
  local members = redis.call('ZRANGEBYSCORE', sets[place], score, '+inf', 'WITHSCORES', 'LIMIT', skip, most)
  local ahead = second and 0 or redis.call('ZCOUNT', sets[place], text(at + 1), text(due))
  local function follows(id)
    if place == 1 then return true end  -- a poll
    local found = redis.call('HMGET', keys.records .. id, 'attempts', 'resendOf')
    return (found[1] or '0') ~= '0' or found[2]
  end
  local function target(id, from)
    local kind = from % 4
    if second then return kind > 0 and from > at + lease and at + kind end
    if kind > 0 or from <= at then return false end
    if from <= due then  -- keeps its place: the last of them is due now
      ahead = ahead - 1
      return at - 4 * ahead
    end
    return follows(id) and from - back
  end
  local moved = {}
  for i = 1, #members, 2 do
    local to = target(members[i], tonumber(members[i + 1]))
    if members[i + 1] ~= score then score, skip = members[i + 1], 0 end
    if to then
      moved[#moved + 1] = text(to)
      moved[#moved + 1] = members[i]
    else
      skip = skip + 1
    end
  end
  for i = 1, #moved, 4000 do
    redis.call('ZADD', sets[place], unpack(moved, i, math.min(i + 3999, #moved)))
  end
  if #moved > 0 and place > 9 then look_at_lines(at, keys) end
  if #members == 2 * most then
    redis.call('HSET', clock, 'score', score, 'skip', skip)
    return true
  end
  local over = place == #sets
  redis.call('HSET', clock, 'set', over and 1 or place + 1, 'skip', 0,
    'score', text((second or over) and lapse + lease or at + 1))
  if over and second then redis.call('HDEL', clock, 'back', 'second', 'lines') end
  if over and not second then redis.call('HSET', clock, 'second', 1) end
  return not over
end
