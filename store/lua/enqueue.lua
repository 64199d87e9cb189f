-- Store messages, each once, and say which doorbells to ring.
--
-- KEYS  1 results  2 counts  3 common content ('' if none)  4-11 lane sets  12-15 bells by lane
--       16 dead letters  17 pace
-- ARGV  1 now ('' = TIME)  2 record prefix  3 content prefix  4 most waiting (0: no limit)
--       5 bell ms  6 status to write  7 common content  8 ms that content is kept
--       9 the common content's digest  10 width
--       11 '' or, of dead letters sent again, us between one and the next (0: all at once)
--       then for each message: id, digest, lane set 1-8, due ('' = now), ttl in us,
--       own content, pairs of fields, name, value ...; padded to width with ''. Of a dead letter
--       sent again the first pair's value is its id: it leaves the list, its record names the new
-- Reply {'ok', bells to ring}, {'conflict', rows} (of letters: not on the list any more) or
--   {'full'}; only 'ok' has written anything.
-- Ids stored before with the same digest are passed over. Events: none.
#include clock
local at = now(ARGV[1])
local width, gap, head = tonumber(ARGV[10]), tonumber(ARGV[11]), 11
local fresh, conflicts, latest = {}, {}, at
local function gone(old)
  return not redis.call('ZSCORE', KEYS[16], old) or redis.call('HEXISTS', ARGV[2] .. old, 'final') == 0
end
for i = head + 1, #ARGV, width do
  local digest = redis.call('HGET', ARGV[2] .. ARGV[i], 'job')
  if not digest and not (gap and gone(ARGV[i + 8])) then
    fresh[#fresh + 1] = i
  elseif digest ~= ARGV[i + 1] then
    conflicts[#conflicts + 1] = (i - head - 1) / width
  end
end
if #conflicts > 0 then return {'conflict', conflicts} end
local most = tonumber(ARGV[4])
if most > 0 and #fresh > 0 then
  local waiting = #fresh
  for i = 4, 11 do waiting = waiting + redis.call('ZCARD', KEYS[i]) end
  if waiting > most then return {'full'} end
end

local places, due_now = {}, {}
local pace = gap and gap > 0 and tonumber(redis.call('GET', KEYS[17]) or 0)
for k, i in ipairs(fresh) do
  local id, set = ARGV[i], tonumber(ARGV[i + 2])
  local due = tonumber(ARGV[i + 3])
  if pace then
    pace = math.max(at, pace + gap)
    due = pace
  end
  if due and due > at then
    due = due - due % 4
  else
    -- Distinct scores keep a lane first in, first out; none lies ahead of now.
    due = at - 4 * (#fresh - k)
    due_now[math.ceil(set / 2)] = true
  end
  local till = math.max(due, at) + tonumber(ARGV[i + 4])
  if till > latest then latest = till end
  local fields = {'status', ARGV[6], 'job', ARGV[i + 1], 'set', ARGV[i + 2], 'until', text(till)}
  if KEYS[3] ~= '' then
    fields[9] = 'common'
    fields[10] = ARGV[9]
  end
  local own = ARGV[i + 5]
  if #own <= 64 then
    fields[#fields + 1] = 'row'
    fields[#fields + 1] = own
  else
    redis.call('SET', ARGV[3] .. id, own)
  end
  for f = i + 7, i + 6 + 2 * tonumber(ARGV[i + 6]) do fields[#fields + 1] = ARGV[f] end
  redis.call('HSET', ARGV[2] .. id, unpack(fields))
  if gap then
    redis.call('ZREM', KEYS[16], ARGV[i + 8])
    redis.call('HSET', ARGV[2] .. ARGV[i + 8], 'resentAs', id)
  end
  places[set] = places[set] or {}
  table.insert(places[set], text(due))
  table.insert(places[set], id)
end
for set, pairs_ in pairs(places) do redis.call('ZADD', KEYS[3 + set], unpack(pairs_)) end
if #fresh > 0 then redis.call('HINCRBY', KEYS[2], ARGV[6], #fresh) end
if KEYS[3] ~= '' and #fresh > 0 then
  local keep = math.ceil((latest - at) / 1000) + tonumber(ARGV[8])
  local left = redis.call('PTTL', KEYS[3])
  if left == -2 then
    redis.call('SET', KEYS[3], ARGV[7], 'PX', text(keep))
  elseif left < keep then
    redis.call('PEXPIRE', KEYS[3], text(keep))
  end
end
if pace and #fresh > 0 then
  redis.call('SET', KEYS[17], text(pace), 'PX', text(math.ceil((pace + gap - at) / 1000) + 1))
end
local ring = {}
for lane = 1, 4 do
  if due_now[lane] and redis.call('SET', KEYS[11 + lane], '1', 'NX', 'PX', ARGV[5]) then
    ring[#ring + 1] = lane
  end
end
if #ring > 0 then redis.call('HINCRBY', KEYS[2], 'bells', #ring) end
return {'ok', ring}
