-- Leases the first due members of the most urgent set that has any, as far as the gate lets them.
-- @include clock
-- @include bell
-- @include bucket
-- KEYS
--   once           the answer to the first call, for its repeats
--   fence          the latest lease given
--   bell           of the lane served
--   wakes          the list at which workers' listeners wait
--   gate
--   bucket
--   counts
--   groups...      most urgent first, of each its sets and the key that is there while it is paused
-- ARGV
--   time           '' for this server's
--   size           most members
--   lease          us
--   answered       '1' if this answers the bell
--   bell_ms        how long a bell is set
--   word           what wakes whoever serves this lane
--   records        prefix of the records
--   contents       prefix of the contents; '' if contents aren't wanted (/status)
--   commons        prefix of the campaigns' contents
--   rank           sets in a group
--   once_ms        how long the answer is kept
--   probe_us       how long a probe may take
--   resent         one character for each set: '1' if its messages are probes by choice
--   choice         the option's value that makes a message a probe by choice
--   cost           us that a token takes to come (0: no limit)
--   burst          most tokens in the bucket
--   each           '1' if each member costs a token, '0' if the whole claim costs one
--   wanted         tokens worth waiting for
--   fields...      record fields to return: one that every record has (where contents are wanted the
--                  instant until which it may be sent), the option of choice, others
-- Reply {}, {us until there are tokens again, '1' if it is for the caller to come back then}
--   or {set's place among the sets, lease, now, more, members, shared, refused in a row}
--   more: '0' nothing else is due, '1' there is and its bell is on the way, '3' this is a probe,
--         '4' there is but there are no tokens for it
--   members: id, kind as found, {own content, common digest, fields ...} of one after the other
--   shared: digest, content, digest, content ...; what is missing is false
-- A repeat with the same once key returns the same members.
-- Kinds (store/keys.py): 0 becomes 1; 1 and 2 lapsed, they stay what they are and are counted.
-- While the gate is closed, the bucket empty or a group paused, only messages that must end are
-- leased of it: expired, or lapsed inside a request.
-- Where contents aren't wanted and the last request failed, there is one request at a time: if it
-- hangs, it takes one slot from those who send.
local at, has_contents = now(time), contents ~= ''
local due = text(at)
size, rank = tonumber(size), tonumber(rank)
local sets, pauses = {}, {}
for g = groups, #KEYS, rank + 1 do
  for i = g, g + rank - 1 do sets[#sets + 1] = KEYS[i] end
  pauses[#pauses + 1] = KEYS[g + rank]
end
local paused = redis.call('MGET', unpack(pauses))
local function halted(place) return paused[math.ceil(place / rank)] end
local function first(place, from, count)
  return redis.call('ZRANGEBYSCORE', sets[place], '-inf', due, 'WITHSCORES', 'LIMIT', from, count)
end

local function oldest()
  for group = 1, #sets, rank do
    local place, best
    for i = group, halted(group) and 0 or group + rank - 1 do
      local score = tonumber(first(i, 0, 1)[2])
      if score and (not best or score < best) then place, best = i, score end
    end
    if place then return place end
  end
end

local function must_end()
  for place = 1, has_contents and #sets or 0 do
    local window, name, found, looked = 10 * size, 'window:' .. sets[place], {}, 0
    local from = tonumber(redis.call('HGET', gate, name) or 0)
    local members = first(place, from, window)
    for k = 1, #members, 2 do
      local till = redis.call('HGET', records .. members[k], ARGV[fields])
      looked = looked + 1
      if tonumber(members[k + 1]) % 4 == 2 or tonumber(till or 0) <= at then
        found[#found + 1] = members[k]
        found[#found + 1] = members[k + 1]
        if #found == 2 * size then break end
      end
    end
    local all = #members < 2 * window and 2 * looked == #members
    redis.call('HSET', gate, name, all and 0 or from + looked - #found / 2)
    if #found > 0 then return place, found end
  end
end

local function probe()
  local place, found
  for i = 1, #sets do
    local members = halted(i) and {} or first(i, 0, 20)
    for k = 1, #members, 2 do
      local record = redis.call('HMGET', records .. members[k], ARGV[fields], ARGV[fields + 1])
      local score = tonumber(members[k + 1])
      if not has_contents or (score % 4 ~= 2 and tonumber(record[1] or 0) > at) then
        local option = record[2] or ''
        local chosen = option == choice or (option == '' or not has_contents)
          and string.sub(resent, i, i) == '1'
        if chosen or not place then place, found = i, {members[k], members[k + 1]} end
        if chosen then return place, found end
      end
    end
  end
  return place, found
end

local place, new, members
local state = redis.call('HMGET', gate, 'until', 'refused', 'probe', 'row')
local open, free = not state[1], tonumber(state[3] or 0) <= at
local ajar = not open and tonumber(state[1]) <= at and free
local wary = open and not has_contents and state[4]
cost, burst, each = tonumber(cost), tonumber(burst), each == '1'
local left, wait_us = tokens(bucket, at, cost, burst, tonumber(wanted))
local before = redis.call('GET', once)
if before then
  local set, given, more = string.match(before, '^(%d+) (%d+) (%d)$')
  place, new, ajar = tonumber(set), tonumber(given), more == '3'
  members = redis.call('ZRANGEBYSCORE', sets[place], given, text(new + 3), 'WITHSCORES')
else
  if answered == '1' then redis.call('DEL', bell) end
  if open and left > 0 and (free or not wary) then
    place = oldest()
    members = place and first(place, 0, each and math.min(size, left) or size)
    if place then
      local used = each and #members / 2 or 1
      spend(bucket, at, cost, used)
      left = left - used
      if wary then redis.call('HSET', gate, 'probe', text(at + tonumber(probe_us))) end
    end
  elseif ajar then
    place, members = probe()
    -- Whoever comes meanwhile finds it closed; a probe that dies holds nothing shut for long.
    if place then redis.call('HSET', gate, 'probe', text(at + tonumber(probe_us))) end
  end
  if not place then
    place, members = must_end()
    ajar = false
  end
  if not place and open and not wary and left < 1 and oldest() then
    -- One comes back for all, who need not come before; after a long wait the sweep rings.
    local ms, short = math.ceil(wait_us / 1000), wait_us <= 1000000
    local rung = redis.call('SET', bell, '1', 'NX', 'PX', short and ms + bell_ms or ms)
    return {text(wait_us), short and rung and '1' or '0'}
  end
  redis.call('HINCRBY', counts, place and 'claims' or 'claims:empty', 1)
  if not place then return {} end
  new = math.max(at + tonumber(lease), tonumber(redis.call('GET', fence) or 0) + 4)
  redis.call('SET', fence, text(new))
  redis.call('SET', once, place .. ' ' .. text(new) .. (ajar and ' 3' or ' 0'), 'PX', once_ms)
end

local claimed, shared, known, leases = {}, {}, {}, {}
for i = 1, #members, 2 do
  local id, kind = members[i], tonumber(members[i + 1]) % 4
  local record = records .. id
  local lapsed = kind > 0 and not before and has_contents
  if lapsed and redis.call('EXISTS', record) == 1 then redis.call('HINCRBY', record, 'lapses', 1) end
  local values = redis.call('HMGET', record, 'row', 'common', unpack(ARGV, fields))
  if not values[3] then
    redis.call('ZREM', sets[place], id)  -- its record was deleted by hand: nothing is left to do
  else
    leases[#leases + 1] = text(new + math.max(kind, 1))
    leases[#leases + 1] = id
    if has_contents then
      if not values[1] then values[1] = redis.call('GET', contents .. id) end
      local digest = values[2]
      if digest and not known[digest] then
        known[digest] = true
        shared[#shared + 1] = digest
        shared[#shared + 1] = redis.call('GET', commons .. digest)
      end
    end
    claimed[#claimed + 1] = id
    claimed[#claimed + 1] = kind
    claimed[#claimed + 1] = values
  end
end
if not before and #leases > 0 then redis.call('ZADD', sets[place], unpack(leases)) end

local more = ajar and '3' or '0'
if open and not wary and oldest() then
  more = left < 1 and '4' or '1'
  if more == '1' and ring(bell, wakes, word, bell_ms) then redis.call('HINCRBY', counts, 'bells', 1) end
end
return {place, text(new), due, more, claimed, shared, tonumber(state[2] or 0)}
