-- Leases the first due members of the most urgent set that has any, if the gate allows it.
-- @include clock
-- @include bell
-- @include bucket
-- @include format
-- KEYS
--   guard          never exists: a cluster refuses the call while its slot moves
--   format         of what the store holds
--   once           the answer to the first call, returned to repeats
--   fence          the latest lease given
--   bell           the bell of the lane served
--   wakes          the wake list, which workers' listeners read
--   gate
--   bucket
--   counts
--   swept          the instant of the latest sweep
--   groups...      groups of sets, the most urgent first; each is its sets, then the key that exists
--                  while the group is paused
-- ARGV
--   formats[2]     of the caller's version (lua/lib/format.lua)
--   time           '' for this server's clock
--   size           most members to lease
--   lease          its length in us
--   gap_us         the longest time from one sweep to the next, in us
--   answered       '1' if this claim answers the bell
--   bell_ms        how long a bell is set, in ms
--   word           the lane's name, or poll, for the wake list
--   records        prefix of the records' keys
--   contents       prefix of the contents' keys; '' if contents aren't wanted (/status)
--   commons        prefix of the keys of campaigns' contents
--   rank           sets in a group
--   once_ms        how long the answer is kept, in ms
--   probe_us       how long a probe may take, in us
--   resent         one character for each set: '1' if its messages are preferred as probes
--   choice         the value of the option that makes a message preferred as a probe
--   cost           us in which one token comes (0: no rate limit)
--   burst          most tokens in the bucket
--   each           '1' if each member costs a token, '0' if the whole claim costs one
--   wanted         how many tokens are worth waiting for
--   option         the record field that choice is compared with
--   fields...      record fields to return: first one that every record has (if contents are wanted,
--                  the instant until which the message may be sent), then others
-- Reply one of
--   {}                      nothing is due
--   {us, '1' or '0'}        the bucket is empty for so long; '1': this caller claims again then
--   {index of the set, lease, now, more, members, shared, messages refused in a row}
--     more       '0' nothing else is due; '1' more is due, and its bell is rung; '3' this is a probe;
--                '4' more is due, but there are no tokens for it
--     members    id, kind as found, own content, common digest, fields ... of each in turn: Redis
--                writes each table of a reply to the socket by itself
--     shared     digest, content, digest, content ...; a missing content is false
-- A repeat with the same once key gets the same members.
-- Kinds (store/keys.py): 0 becomes 1. Members found with 1 or 2 have lapsed: they keep their kind,
-- and the lapse is counted.
-- When the gate is closed, the lane paused or the bucket empty, the claim leases only messages that
-- must end: expired, or lapsed inside a request.
-- If the clock may have stepped forward, leases that were live at the latest sweep before it are left
-- alone for as long as one lasts: their holders are at work (lua/lib/clock_step.lua).
-- If contents aren't wanted and the last request failed, there is one request at a time: one that
-- hangs takes only one slot away from sending.
local newer = unreadable(format, formats, true)
if newer then return newer end
local at, has_contents = now(time), contents ~= ''
local due = text(at)
size, rank, lease = tonumber(size), tonumber(rank), tonumber(lease)
local sets, pauses = {}, {}
for g = groups, #KEYS, rank + 1 do
  for i = g, g + rank - 1 do sets[#sets + 1] = KEYS[i] end
  pauses[#pauses + 1] = KEYS[g + rank]
end
local paused = redis.call('MGET', swept, unpack(pauses))
local state = redis.call('HMGET', gate, 'until', 'refused', 'probe', 'row', 'seen', 'held')
local seen, gap = tonumber(paused[1] or 0) * 1000, tonumber(gap_us)
if seen == 0 or at - seen <= gap then seen = tonumber(state[6] or 0) > at and tonumber(state[5]) end
local function halted(place) return paused[math.ceil(place / rank) + 1] end
local function first(place, from, count)
  local most, found = seen and count + 5000 or count, {}
  local members = redis.call('ZRANGEBYSCORE', sets[place], '-inf', due, 'WITHSCORES', 'LIMIT', from, most)
  if not seen then return members end
  for i = 1, #members, 2 do
    local score = tonumber(members[i + 1])
    if (score % 4 == 0 or score < seen or score > seen + gap + lease) and #found < 2 * count then
      found[#found + 1] = members[i]
      found[#found + 1] = members[i + 1]
    end
  end
  return found
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
      local record = redis.call('HMGET', records .. members[k], ARGV[fields], option)
      local score = tonumber(members[k + 1])
      if not has_contents or (score % 4 ~= 2 and tonumber(record[1] or 0) > at) then
        local chosen = record[2] == choice or (not record[2] or not has_contents)
          and string.sub(resent, i, i) == '1'
        if chosen or not place then place, found = i, {members[k], members[k + 1]} end
        if chosen then return place, found end
      end
    end
  end
  return place, found
end

local place, new, members
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
    -- Until then other claims find the gate closed; if the probe dies, the next may follow.
    if place then redis.call('HSET', gate, 'probe', text(at + tonumber(probe_us))) end
  end
  if not place then
    place, members = must_end()
    ajar = false
  end
  if not place and open and not wary and left < 1 and oldest() then
    -- One caller claims again, for all of them; after a long wait the sweep rings instead.
    local ms, short = math.ceil(wait_us / 1000), wait_us <= 1000000
    local rung = redis.call('SET', bell, '1', 'NX', 'PX', short and ms + bell_ms or ms)
    return {text(wait_us), short and rung and '1' or '0'}
  end
  redis.call('HINCRBY', counts, place and 'claims' or 'claims:empty', 1)
  if not place then return {} end
  new = math.max(at + lease, tonumber(redis.call('GET', fence) or 0) + 4)
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
    redis.call('ZREM', sets[place], id)  -- its record was deleted by hand
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
    for v = 1, #ARGV - fields + 3 do claimed[#claimed + 1] = values[v] end
  end
end
if not before and #leases > 0 then redis.call('ZADD', sets[place], unpack(leases)) end

local more = ajar and '3' or '0'
if open and not wary and oldest() then
  more = left < 1 and '4' or '1'
  if more == '1' and ring(bell, wakes, word, bell_ms) then redis.call('HINCRBY', counts, 'bells', 1) end
end
return {place, text(new), due, more, claimed, shared, tonumber(state[2] or 0)}
