-- Lease the first due members of the most urgent set that has any.
--
-- KEYS  1 once  2 fence  3 bell of the lane served  4 ... sets to look at, in groups of one rank
-- ARGV  1 now ('' = TIME)  2 most members  3 lease us  4 '1' if this answers the bell
--       5 bell ms  6 record prefix  7 content prefix ('' if contents aren't wanted)
--       8 common prefix  9 sets per rank  10 once ms
--       11 ... record fields to return, the first one that every record has
-- Reply {} or {set's place among the sets, lease, now, more, members, commons}
--   more: '0' nothing else is due, '1' there is and its bell is on the way, '2' ring it
--   members: {id, kind as found, {own content, common digest, fields ...}} each
--   commons: digest, content, digest, content ...; what is missing is false
-- A repeat with the same once key returns the same members.
-- Kinds (schemas/keys.py): 0 becomes 1; 1 and 2 lapsed, they stay what they are and are counted.
#include clock
local at = now(ARGV[1])
local due, rank = text(at), tonumber(ARGV[9])
local function oldest(place)
  local first = redis.call('ZRANGEBYSCORE', KEYS[place], '-inf', due, 'WITHSCORES', 'LIMIT', 0, 1)
  return first[2] and tonumber(first[2])
end

local place, lease, members
local before = redis.call('GET', KEYS[1])
if before then
  local set, given = string.match(before, '^(%d+) (%d+)$')
  place, lease = tonumber(set), tonumber(given)
  members = redis.call('ZRANGEBYSCORE', KEYS[place], given, text(lease + 3), 'WITHSCORES')
else
  if ARGV[4] == '1' then redis.call('DEL', KEYS[3]) end
  for group = 4, #KEYS, rank do
    local best
    for i = group, group + rank - 1 do
      local first = oldest(i)
      if first and (not best or first < best) then place, best = i, first end
    end
    if place then break end
  end
  if not place then return {} end
  lease = math.max(at + tonumber(ARGV[3]), tonumber(redis.call('GET', KEYS[2]) or 0) + 4)
  redis.call('SET', KEYS[2], text(lease))
  redis.call('SET', KEYS[1], place .. ' ' .. text(lease), 'PX', ARGV[10])
  members = redis.call('ZRANGEBYSCORE', KEYS[place], '-inf', due, 'WITHSCORES', 'LIMIT', 0, ARGV[2])
end

local rows, commons, known, leases = {}, {}, {}, {}
for i = 1, #members, 2 do
  local id, kind = members[i], tonumber(members[i + 1]) % 4
  local record = ARGV[6] .. id
  local lapsed = kind > 0 and not before and ARGV[7] ~= ''
  if lapsed and redis.call('EXISTS', record) == 1 then redis.call('HINCRBY', record, 'lapses', 1) end
  local values = redis.call('HMGET', record, 'row', 'common', unpack(ARGV, 11))
  if not values[3] then
    redis.call('ZREM', KEYS[place], id)  -- its record was deleted by hand: nothing is left to do
  else
    leases[#leases + 1] = text(lease + math.max(kind, 1))
    leases[#leases + 1] = id
    if ARGV[7] ~= '' then
      if not values[1] then values[1] = redis.call('GET', ARGV[7] .. id) end
      local digest = values[2]
      if digest and not known[digest] then
        known[digest] = true
        commons[#commons + 1] = digest
        commons[#commons + 1] = redis.call('GET', ARGV[8] .. digest)
      end
    end
    rows[#rows + 1] = {id, kind, values}
  end
end
if not before and #leases > 0 then redis.call('ZADD', KEYS[place], unpack(leases)) end

local more = '0'
for i = 4, #KEYS do
  if oldest(i) then
    more = redis.call('SET', KEYS[3], '1', 'NX', 'PX', ARGV[5]) and '2' or '1'
    break
  end
end
return {place - 3, text(lease), due, more, rows, commons}
