-- Stores messages, each once, and wakes workers for those that are due now.
-- @include clock
-- @include bell
-- @include format
-- @include suppressed
-- @include lines
-- KEYS
--   guard           never exists: a cluster refuses the call while its slot moves
--   format          of what the store holds
--   counts
--   common          the content that the messages share; not touched if common_digest is ''
--   lanes[8]        the lane sets
--   bells[4]        the lanes' bells
--   wakes           the wake list, which workers' listeners read
--   dead            dead letters
--   pace            the latest due time given to a dead letter sent again
--   suppressed      the list of suppressed numbers
--   turns[4]        the lanes' lines, by when each is served next (lua/lib/lines.lua)
--   held_lines[4]   those of paused campaigns
--   registry        the campaigns
-- ARGV
--   formats[2]      of the caller's version (lua/lib/format.lua)
--   time            '' for this server's clock
--   records         prefix of the records' keys
--   contents        prefix of the contents' keys
--   max_queued      most messages that may wait (0: no limit)
--   bell_ms         how long a bell is set, in ms
--   words[4]        the lanes' names, for the wake list
--   status          the status to write
--   campaigns       prefix of the campaigns' keys
--   common_digest   '' if the messages share no content
--   common_json     the shared content
--   keep_content    how long it is kept after its last message's deadline, in ms
--   gap             '' or, for dead letters sent again, us from one to the next (0: all at once)
--   hashes          '' or the hash of each message's number, blank if it does not heed the list
--                   (lua/lib/suppressed.lua)
--   width           values of each message in the tail
--   tail...         messages (store/records.py): id, digest, lane set (1 to 8), due time ('': now),
--                   ttl in us, own content, number of fields, then name, value, name, value ...,
--                   padded to width with ''. The lane set of a campaign's message is followed by ':',
--                   the campaign's name, ':' and its row ('-': none). The first value of a dead letter sent
--                   again is its id: it leaves the list, and its record names the new message
-- Reply {'ok', indexes from 0 of suppressed numbers: if there are any}, {'conflict', indexes} (for letters:
-- no longer on the list), {'cancelled', indexes of messages of cancelled campaigns} or {'full'}. Only
-- 'ok' has stored anything. Skips ids that are stored with the same digest. Events: none.
local newer = unreadable(format, formats, true)
if newer then return newer end
local at, listed = now(time)
if hashes ~= '' then
  local found, wrong = suppressed_places(suppressed, hashes, at)
  if wrong then return wrong end
  listed = found
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
  for lane = 1, 4 do
    for _, queue in ipairs({turns[lane], held_lines[lane]}) do
      for _, member in ipairs(redis.call('ZREVRANGE', queue, 0, -1)) do
        local set = 2 * lane - 1 + tonumber(string.sub(member, 1, 1))
        waiting = waiting + redis.call('ZCARD', lanes[set] .. string.sub(member, 2))
      end
    end
  end
  if waiting > most then return {'full'} end
end

-- The records come last: if Redis refuses a command before that, a repeat stores the messages anew.
local places, place_of, due_now, tills, call = {}, {}, {}, {}, redis.call
local stored, cancelled = {}, {}

-- Returns a lane set, or a campaign's line in it, and what comes to stand there.
local function new_place(word)
  local digit, name = string.match(word, '^(%d):?(.*)$')
  local set = tonumber(digit)
  local place = {set = digit, lane = math.ceil(set / 2), key = lanes[set], members = {}}
  if name ~= '' then
    place.name, place.key, place.due = name, lanes[set] .. ':' .. name, math.huge
    place.member = 1 - set % 2 .. ':' .. name
    if not stored[name] then
      local known = call('HMGET', campaigns .. name, 'stopped', 'created', 'added', 'ended')
      stored[name] = {is_cancelled = known[1], is_new = not known[2], is_over = known[3] == known[4]}
    end
    place.rows = stored[name]
  end
  return place
end

local last_till, last_text
local next_due = gap and gap > 0 and tonumber(call('GET', pace) or 0)
for k, i in ipairs(fresh) do
  local due, word, row = tonumber(ARGV[i + 3]), ARGV[i + 2], nil
  if #word > 1 then word, row = string.match(word, '^(.*):([%d-]+)$') end
  local place = places[word] or new_place(word)
  places[word], place_of[k] = place, place
  if next_due then
    next_due = math.max(at, next_due + gap)
    due = next_due + math.max((due or 0) - at, 0)  -- as far apart when sending hours begin
  end
  if due and due > at then
    due = due - due % 4
  else
    -- Distinct scores keep a lane first in, first out. None is later than now.
    due = at - 4 * (#fresh - k)
    due_now[place.lane] = true
  end
  local till = math.max(due, at) + tonumber(ARGV[i + 4])
  if till > latest then latest = till end
  if till ~= last_till then last_till, last_text = till, text(till) end
  tills[k] = last_text
  if row then
    place.rows[#place.rows + 1] = row .. ' ' .. ARGV[i]
    if due < place.due then place.due = due end
    if place.rows.is_cancelled then cancelled[#cancelled + 1] = (i - tail) / width end
  end
  local members = place.members
  members[#members + 1] = text(due)
  members[#members + 1] = ARGV[i]
end
if #cancelled > 0 then return {'cancelled', cancelled} end
for _, place in pairs(places) do call('ZADD', place.key, unpack(place.members)) end
for name, rows in pairs(stored) do
  local campaign = campaigns .. name
  if rows.is_new then call('HSET', campaign, 'created', text(at)) end
  call('RPUSH', campaign .. ':rows', table.concat(rows, ' '))
  if rows.is_over then
    call('PERSIST', campaign)
    call('PERSIST', campaign .. ':rows')
    call('ZADD', registry, '+inf', name)
  end
end
for _, place in pairs(places) do
  if place.name then
    local lane, campaign = place.lane, campaigns .. place.name
    line_up(turns[lane], held_lines[lane], campaign, place.member, math.max(at, place.due))
  end
end
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
  fields[4], fields[6], fields[8] = ARGV[i + 1], place_of[k].set, tills[k]
  if #own_content <= 64 then
    fields[size + 1], fields[size + 2] = 'row', own_content
    size = size + 2
  else
    call('SET', contents .. id, own_content)
  end
  if place_of[k].name then
    fields[size + 1], fields[size + 2] = 'campaign', place_of[k].name
    size = size + 2
  end
  local own = 2 * ARGV[i + 6]
  for f = 1, own do fields[size + f] = ARGV[i + 6 + f] end
  call('HSET', records .. id, unpack(fields, 1, size + own))
  if gap then
    call('ZREM', dead, ARGV[i + 8])
    call('HSET', records .. ARGV[i + 8], 'resentAs', id)
  end
end
for name, rows in pairs(stored) do
  for _, field in ipairs({'added', 'waiting', gap and 'resent'}) do
    call('HINCRBY', campaigns .. name, field, #rows)
  end
end
local found = {}
for place in pairs(listed or found) do found[#found + 1] = place - 1 end
return {'ok', #found > 0 and found or nil}
