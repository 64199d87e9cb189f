-- Stores messages, each once, and wakes workers for those that are due now.
-- @include clock
-- @include bell
-- KEYS
--   counts
--   common          the campaign's content; not touched if common_digest is ''
--   lanes[8]        the lane sets
--   bells[4]        the lanes' bells
--   wakes           the wake list, which workers' listeners read
--   dead            dead letters
--   pace            the latest due time given to a dead letter sent again
-- ARGV
--   time            '' for this server's clock
--   records         prefix of the records' keys
--   contents        prefix of the contents' keys
--   max_queued      most messages that may wait (0: no limit)
--   bell_ms         how long a bell is set, in ms
--   words[4]        the lanes' names, for the wake list
--   status          the status to write
--   common_digest   '' without a campaign
--   common_json     the campaign's content
--   keep_content    how long it is kept after its last message's deadline, in ms
--   gap             '' or, for dead letters sent again, us from one to the next (0: all at once)
--   width           values of each message in the tail
--   tail...         messages (store/records.py): id, digest, lane set (1 to 8), due time ('': now),
--                   ttl in us, own content, number of fields, then name, value, name, value ...,
--                   padded to width with ''. The first value of a dead letter sent again is its id:
--                   it leaves the list, and its record names the new message
-- Reply {'ok'}, {'conflict', indexes from 0} (for letters: no longer on the list) or {'full'}. Only
-- 'ok' has written anything. Skips ids that are stored with the same digest. Events: none.
local at = now(time)
gap, width = tonumber(gap), tonumber(width)
local fresh, conflicts, latest = {}, {}, at
local function gone(old)
  return not redis.call('ZSCORE', dead, old) or redis.call('HEXISTS', records .. old, 'final') == 0
end
for i = tail, #ARGV, width do
  local digest = redis.call('HGET', records .. ARGV[i], 'job')
  if not digest and not (gap and gone(ARGV[i + 8])) then
    fresh[#fresh + 1] = i
  elseif digest ~= ARGV[i + 1] then
    conflicts[#conflicts + 1] = (i - tail) / width
  end
end
if #conflicts > 0 then return {'conflict', conflicts} end
local most = tonumber(max_queued)
if most > 0 and #fresh > 0 then
  local waiting = #fresh
  for _, lane in ipairs(lanes) do waiting = waiting + redis.call('ZCARD', lane) end
  if waiting > most then return {'full'} end
end

local places, due_now = {}, {}
local next_due = gap and gap > 0 and tonumber(redis.call('GET', pace) or 0)
for k, i in ipairs(fresh) do
  local id, set = ARGV[i], tonumber(ARGV[i + 2])
  local due = tonumber(ARGV[i + 3])
  if next_due then
    next_due = math.max(at, next_due + gap)
    due = next_due
  end
  if due and due > at then
    due = due - due % 4
  else
    -- Distinct scores keep a lane first in, first out. None is later than now.
    due = at - 4 * (#fresh - k)
    due_now[math.ceil(set / 2)] = true
  end
  local till = math.max(due, at) + tonumber(ARGV[i + 4])
  if till > latest then latest = till end
  local fields = {'status', status, 'job', ARGV[i + 1], 'set', ARGV[i + 2], 'until', text(till)}
  if common_digest ~= '' then
    fields[9] = 'common'
    fields[10] = common_digest
  end
  local own_content = ARGV[i + 5]
  if #own_content <= 64 then
    fields[#fields + 1] = 'row'
    fields[#fields + 1] = own_content
  else
    redis.call('SET', contents .. id, own_content)
  end
  for f = i + 7, i + 6 + 2 * tonumber(ARGV[i + 6]) do fields[#fields + 1] = ARGV[f] end
  redis.call('HSET', records .. id, unpack(fields))
  if gap then
    redis.call('ZREM', dead, ARGV[i + 8])
    redis.call('HSET', records .. ARGV[i + 8], 'resentAs', id)
  end
  places[set] = places[set] or {}
  table.insert(places[set], text(due))
  table.insert(places[set], id)
end
for set, members in pairs(places) do redis.call('ZADD', lanes[set], unpack(members)) end
if #fresh > 0 then redis.call('HINCRBY', counts, status, #fresh) end
if common_digest ~= '' and #fresh > 0 then
  local keep = math.ceil((latest - at) / 1000) + tonumber(keep_content)
  local left = redis.call('PTTL', common)
  if left == -2 then
    redis.call('SET', common, common_json, 'PX', text(keep))
  elseif left < keep then
    redis.call('PEXPIRE', common, text(keep))
  end
end
if next_due and #fresh > 0 then
  redis.call('SET', pace, text(next_due), 'PX', text(math.ceil((next_due + gap - at) / 1000) + 1))
end
local rung = 0
for lane = 1, 4 do
  if due_now[lane] and ring(bells[lane], wakes, words[lane], bell_ms) then rung = rung + 1 end
end
if rung > 0 then redis.call('HINCRBY', counts, 'bells', rung) end
return {'ok'}
