-- @include tally
-- Every change of a message's status goes through move. It only compares names: schemas/status.py
-- says which status may follow which.
--
-- An event of a record with a campaign names it, and one with a source names that last of all:
-- schemas/event.py relies on that place.
--
-- move(record, results, change, found):
--   change = {from, to, id, draft, at, provider, content, keep, keep_content, fields, size, tallies, now,
--     count, waits}
--   from, to         the status expected, and the one to write ('': leave it as it is)
--   draft, at        a table, and the index in it of the event's five parts (the first '': no event)
--   id, provider     the message's id and the provider's id as JSON, which go between the parts
--   content          the key of the content if the message ends here, else ''
--   keep             how long the record of an ended message is kept, in ms
--   keep_content     how long its content is kept, in ms
--   fields, size     size values to write: name, value, name, value ...; move uses the places behind
--                    them, and the caller may use the table again
--   tallies          what is counted for campaigns (lua/lib/tally.lua)
--   now              this instant, in us, as text
--   count            the counter of the new status ('': it is not entered)
--   waits            1 if the message has waited and does no more, else 0
--   found            the values of READ in the record, if the caller has read them
-- Returns false, and writes nothing, if the status is another one or the message has ended.
local call, READ = redis.call, {'status', 'final', 'n', 'source', 'campaign', 'row'}
local function move(record, results, change, found)
  found = found or call('HMGET', record, unpack(READ, 1, change.content == '' and 5 or 6))
  if found[1] ~= change.from or found[2] then return false end
  local fields, size, id, content = change.fields, change.size, change.id, change.content
  local draft, e, campaign = change.draft, change.at, found[5]
  if change.to ~= '' then
    fields[size + 1], fields[size + 2] = 'status', change.to
    size = size + 2
  end
  if draft[e] ~= '' then
    local n = found[3] and text(found[3] + 1) or '1'
    fields[size + 1], fields[size + 2] = 'n', n
    size = size + 2
    local last = draft[e + 4]
    if campaign then last = string.sub(last, 1, -3) .. ',"campaign":"' .. campaign .. '"}}' end
    if found[4] then last = string.sub(last, 1, -3) .. ',"source":"' .. found[4] .. '"}}' end
    call('XADD', results, '*', 'event', draft[e] .. id .. ':' .. n .. draft[e + 1] .. id
      .. draft[e + 2] .. id .. draft[e + 3] .. change.provider .. last)
  end
  if content ~= '' then
    fields[size + 1], fields[size + 2] = 'final', campaign and change.now or '1'
    size = size + 2
  end
  if size > 0 then call('HSET', record, unpack(fields, 1, size)) end
  if content ~= '' then
    local own_content = found[6]
    if own_content then
      call('SET', content, own_content, 'PX', change.keep_content)
      call('HDEL', record, 'row')
    else
      call('PEXPIRE', content, change.keep_content)
    end
    call('PEXPIRE', record, change.keep)
  end
  if campaign then
    local tallies = change.tallies
    add(tallies, campaign, 'waiting', -change.waits)
    if change.waits == 0 and change.count ~= '' then add(tallies, campaign, 'left:' .. change.from, 1) end
    if change.count ~= '' then add(tallies, campaign, change.count, 1) end
    if content ~= '' then add(tallies, campaign, 'ended', 1) end
  end
  return true
end
