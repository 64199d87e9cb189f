-- Stores messages, each once, and wakes workers for those that are due now.
-- @include clock
-- @include bell
-- @include format
-- @include suppressed
-- KEYS
--   guard           never exists: a cluster refuses the call while its slot moves
--   format          of what the store holds
--   counts
--   common          the campaign's content; not touched if common_digest is ''
--   lanes[8]        the lane sets
--   bells[4]        the lanes' bells
--   wakes           the wake list, which workers' listeners read
--   dead            dead letters
--   pace            the latest due time given to a dead letter sent again
--   suppressed      the list of suppressed numbers
-- ARGV
--   formats[2]      of the caller's version (lua/lib/format.lua)
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
--   hashes          '' or the hash of each message's number, blank if it does not heed the list
--                   (lua/lib/suppressed.lua)
--   width           values of each message in the tail
--   tail...         messages (store/records.py): id, digest, lane set (1 to 8), due time ('': now),
--                   ttl in us, own content, number of fields, then name, value, name, value ...,
--                   padded to width with ''. The first value of a dead letter sent again is its id:
--                   it leaves the list, and its record names the new message
-- Reply {'ok', indexes from 0 of suppressed numbers: if there are any}, {'conflict', indexes} (for letters:
-- no longer on the list) or {'full'}. Only 'ok' has stored anything. Skips ids that are stored with the
-- same digest. Events: none.
local newer = unreadable(format, formats, true)
if newer then return newer end
local at, listed, wrong = now(time)
if hashes ~= '' then
  listed, wrong = suppressed_places(suppressed, hashes, at)
  if wrong then return wrong end
end
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

-- The records come last: if Redis refuses a command before that, a repeat stores the messages anew.
local places, due_now, tills, call = {}, {}, {}, redis.call
local next_due = gap and gap > 0 and tonumber(call('GET', pace) or 0)
for k, i in ipairs(fresh) do
  local set, due = tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  if next_due then
    next_due = math.max(at, next_due + gap)
    due = next_due + math.max((due or 0) - at, 0)  -- as far apart when sending hours begin
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
  tills[k] = till
  local members = places[set] or {}
  places[set] = members
  members[#members + 1] = text(due)
  members[#members + 1] = ARGV[i]
end
for set, members in pairs(places) do call('ZADD', lanes[set], unpack(members)) end
if #fresh > 0 then call('HINCRBY', counts, status, #fresh) end
if common_digest ~= '' and #fresh > 0 then
  local keep = math.ceil((latest - at) / 1000) + tonumber(keep_content)
  local left = call('PTTL', common)
  if left == -2 then
    call('SET', common, common_json, 'PX', text(keep))
  elseif left < keep then
    call('PEXPIRE', common, text(keep))
  end
end
if next_due and #fresh > 0 then
  call('SET', pace, text(next_due), 'PX', text(math.ceil((next_due + gap - at) / 1000) + 1))
end
local rung = 0
for lane = 1, 4 do
  if due_now[lane] and ring(bells[lane], wakes, words[lane], bell_ms) then rung = rung + 1 end
end
if rung > 0 then redis.call('HINCRBY', counts, 'bells', rung) end

-- One table serves all messages; what is behind a message's own size is another's.
local fields = {'status', status, 'job', '', 'set', '', 'until', '', 'common', common_digest}
local shared = common_digest ~= '' and 10 or 8
for k, i in ipairs(fresh) do
  local id, size, own_content = ARGV[i], shared, ARGV[i + 5]
  fields[4], fields[6], fields[8] = ARGV[i + 1], ARGV[i + 2], text(tills[k])
  if #own_content <= 64 then
    fields[size + 1], fields[size + 2] = 'row', own_content
    size = size + 2
  else
    call('SET', contents .. id, own_content)
  end
  local own = 2 * ARGV[i + 6]
  for f = 1, own do fields[size + f] = ARGV[i + 6 + f] end
  call('HSET', records .. id, unpack(fields, 1, size + own))
  if gap then
    call('ZREM', dead, ARGV[i + 8])
    call('HSET', records .. ARGV[i + 8], 'resentAs', id)
  end
end
local found = {}
for place in pairs(listed or found) do found[#found + 1] = place - 1 end
return {'ok', #found > 0 and found or nil}
