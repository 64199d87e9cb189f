-- Lease the first due members of the most urgent set that has any, as far as the gate lets them.
--
-- KEYS  1 once  2 fence  3 bell of the lane served  4 gate  5 bucket  6 counts
--       7 ... sets, in groups of one rank, then for each group what is there while it is paused
-- ARGV  1 now ('' = TIME)  2 most members  3 lease us  4 '1' if this answers the bell
--       5 bell ms  6 record prefix  7 content prefix ('' if contents aren't wanted)
--       8 common prefix  9 sets per rank  10 once ms  11 us that a probe may take
--       12 one character for each set: '1' if its messages are probes by choice
--       13 the option's value that makes a message a probe by choice
--       14 us that a token takes to come (0: no limit)  15 most tokens in the bucket
--       16 '1' if each member costs a token, '0' if the whole claim costs one
--       17 tokens worth waiting for
--       18 ... record fields to return: one that every record has (where contents are wanted the
--       instant until which it may be sent), the option of 13, others
-- Reply {}, {us until there are tokens again, '1' if it is for the caller to come back then}
--   or {set's place among the sets, lease, now, more, members, commons, refused in a row}
--   more: '0' nothing else is due, '1' there is and its bell is on the way, '2' ring it,
--         '3' this is a probe, '4' there is but there are no tokens for it
--   members: id, kind as found, own content, common digest, fields ... of one after the other: each
--     table of a reply is a write to the socket of its own
--   commons: digest, content, digest, content ...; what is missing is false
-- A repeat with the same once key returns the same members.
-- Kinds (schemas/keys.py): 0 becomes 1; 1 and 2 lapsed, they stay what they are and are counted.
-- While the gate is closed, the bucket empty or a group paused only what must end is leased of it:
-- what is too old, or lapsed inside.
-- Where contents aren't wanted (/status) and the last request failed, there is one request at a
-- time: if it hangs, it takes one slot from those who send.
#include clock
#include bucket
local at, rank, contents = now(ARGV[1]), tonumber(ARGV[9]), ARGV[7] ~= ''
local due, size = text(at), tonumber(ARGV[2])
local last, paused = 6 + #ARGV[12], {}
for i, reason in ipairs(redis.call('MGET', unpack(KEYS, last + 1))) do paused[i] = reason end
local function halted(place) return paused[math.ceil((place - 6) / rank)] end
local function first(place, from, count)
  return redis.call('ZRANGEBYSCORE', KEYS[place], '-inf', due, 'WITHSCORES', 'LIMIT', from, count)
end

local function oldest()
  for group = 7, last, rank do
    local place, best
    for i = group, halted(group) and 0 or group + rank - 1 do
      local score = tonumber(first(i, 0, 1)[2])
      if score and (not best or score < best) then place, best = i, score end
    end
    if place then return place end
  end
end

local function must_end()
  for i = 7, contents and last or 0 do
    local window, name, found, looked = 10 * size, 'window:' .. KEYS[i], {}, 0
    local from = tonumber(redis.call('HGET', KEYS[4], name) or 0)
    local members = first(i, from, window)
    for k = 1, #members, 2 do
      local till = redis.call('HGET', ARGV[6] .. members[k], ARGV[18])
      looked = looked + 1
      if tonumber(members[k + 1]) % 4 == 2 or tonumber(till or 0) <= at then
        found[#found + 1] = members[k]
        found[#found + 1] = members[k + 1]
        if #found == 2 * size then break end
      end
    end
    local all = #members < 2 * window and 2 * looked == #members
    redis.call('HSET', KEYS[4], name, all and 0 or from + looked - #found / 2)
    if #found > 0 then return i, found end
  end
end

local function probe()
  local place, found
  for i = 7, last do
    local members = halted(i) and {} or first(i, 0, 20)
    for k = 1, #members, 2 do
      local record = redis.call('HMGET', ARGV[6] .. members[k], ARGV[18], ARGV[19])
      local score = tonumber(members[k + 1])
      if not contents or (score % 4 ~= 2 and tonumber(record[1] or 0) > at) then
        local option = record[2] or ''
        local chosen = option == ARGV[13] or (option == '' or not contents)
          and string.sub(ARGV[12], i - 6, i - 6) == '1'
        if chosen or not place then place, found = i, {members[k], members[k + 1]} end
        if chosen then return place, found end
      end
    end
  end
  return place, found
end

local place, lease, members
local gate = redis.call('HMGET', KEYS[4], 'until', 'refused', 'probe', 'row')
local open, free = not gate[1], tonumber(gate[3] or 0) <= at
local ajar = not open and tonumber(gate[1]) <= at and free
local wary = open and not contents and gate[4]
local cost, burst, each = tonumber(ARGV[14]), tonumber(ARGV[15]), ARGV[16] == '1'
local left, wait = tokens(KEYS[5], at, cost, burst, tonumber(ARGV[17]))
local before = redis.call('GET', KEYS[1])
if before then
  local set, given, more = string.match(before, '^(%d+) (%d+) (%d)$')
  place, lease, ajar = tonumber(set), tonumber(given), more == '3'
  members = redis.call('ZRANGEBYSCORE', KEYS[place], given, text(lease + 3), 'WITHSCORES')
else
  if ARGV[4] == '1' then redis.call('DEL', KEYS[3]) end
  if open and left > 0 and (free or not wary) then
    place = oldest()
    members = place and first(place, 0, each and math.min(size, left) or size)
    if place then
      local used = each and #members / 2 or 1
      take(KEYS[5], at, cost, used)
      left = left - used
      if wary then redis.call('HSET', KEYS[4], 'probe', text(at + tonumber(ARGV[11]))) end
    end
  elseif ajar then
    place, members = probe()
    -- Whoever comes meanwhile finds it closed; a probe that dies holds nothing shut for long.
    if place then redis.call('HSET', KEYS[4], 'probe', text(at + tonumber(ARGV[11]))) end
  end
  if not place then
    place, members = must_end()
    ajar = false
  end
  if not place and open and not wary and left < 1 and oldest() then
    -- One comes back for all, who need not come before; after a long wait the sweep rings.
    local ms, short = math.ceil(wait / 1000), wait <= 1000000
    local rung = redis.call('SET', KEYS[3], '1', 'NX', 'PX', short and ms + ARGV[5] or ms)
    return {text(wait), short and rung and '1' or '0'}
  end
  redis.call('HINCRBY', KEYS[6], place and 'claims' or 'claims:empty', 1)
  if not place then return {} end
  lease = math.max(at + tonumber(ARGV[3]), tonumber(redis.call('GET', KEYS[2]) or 0) + 4)
  redis.call('SET', KEYS[2], text(lease))
  local once = place .. ' ' .. text(lease) .. (ajar and ' 3' or ' 0')
  redis.call('SET', KEYS[1], once, 'PX', ARGV[10])
end

local rows, commons, known, leases = {}, {}, {}, {}
for i = 1, #members, 2 do
  local id, kind = members[i], tonumber(members[i + 1]) % 4
  local record = ARGV[6] .. id
  local lapsed = kind > 0 and not before and contents
  if lapsed and redis.call('EXISTS', record) == 1 then redis.call('HINCRBY', record, 'lapses', 1) end
  local values = redis.call('HMGET', record, 'row', 'common', unpack(ARGV, 18))
  if not values[3] then
    redis.call('ZREM', KEYS[place], id)  -- its record was deleted by hand: nothing is left to do
  else
    leases[#leases + 1] = text(lease + math.max(kind, 1))
    leases[#leases + 1] = id
    if contents then
      if not values[1] then values[1] = redis.call('GET', ARGV[7] .. id) end
      local digest = values[2]
      if digest and not known[digest] then
        known[digest] = true
        commons[#commons + 1] = digest
        commons[#commons + 1] = redis.call('GET', ARGV[8] .. digest)
      end
    end
    rows[#rows + 1] = id
    rows[#rows + 1] = kind
    for field = 1, #ARGV - 15 do rows[#rows + 1] = values[field] end
  end
end
if not before and #leases > 0 then redis.call('ZADD', KEYS[place], unpack(leases)) end

local more = ajar and '3' or '0'
if open and not wary and oldest() then
  more = left < 1 and '4' or redis.call('SET', KEYS[3], '1', 'NX', 'PX', ARGV[5]) and '2' or '1'
  if more == '2' then redis.call('HINCRBY', KEYS[6], 'bells', 1) end
end
return {place - 6, text(lease), due, more, rows, commons, tonumber(gate[2] or 0)}
