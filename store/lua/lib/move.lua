-- The one door through which a message's status moves (schemas/status.py knows who may follow
-- whom; here names are only compared).
--
-- move(record, results, change):
--   change = {from, to, id, draft, at, provider, content, keep, keep_content, fields, size}
--   from, to       the status expected and the one to write; to = '' leaves status and events alone
--   draft, at      a table and where in it the event's five parts begin ('' the first: no event)
--   id, provider   what goes between them: the message's id, the provider's as JSON
--   content        key of the content; '' unless the message ends here
--   keep           ms that an ended record is kept, keep_content ms that its content is
--   fields         name, value, name, value ..., so many as size says: written in any case; there is
--                  room behind them, and the table may be used again for the next message
-- Returns false, and writes nothing, if the status is another one or the message has ended.
local call = redis.call
local function move(record, results, change)
  local found = call('HMGET', record, 'status', 'final', 'n', 'row')
  if found[1] ~= change.from or found[2] then return false end
  local fields, size, id, content = change.fields, change.size, change.id, change.content
  local draft, e = change.draft, change.at
  if change.to ~= '' then
    fields[size + 1], fields[size + 2] = 'status', change.to
    size = size + 2
  end
  if draft[e] ~= '' then
    local n = found[3] and string.format('%.0f', found[3] + 1) or '1'
    fields[size + 1], fields[size + 2] = 'n', n
    size = size + 2
    call('XADD', results, '*', 'event', draft[e] .. id .. ':' .. n .. draft[e + 1] .. id
      .. draft[e + 2] .. id .. draft[e + 3] .. change.provider .. draft[e + 4])
  end
  if content ~= '' then
    fields[size + 1], fields[size + 2] = 'final', '1'
    size = size + 2
  end
  if size > 0 then call('HSET', record, unpack(fields, 1, size)) end
  if content ~= '' then
    local own_content = found[4]
    if own_content then
      call('SET', content, own_content, 'PX', change.keep_content)
      call('HDEL', record, 'row')
    else
      call('PEXPIRE', content, change.keep_content)
    end
    call('PEXPIRE', record, change.keep)
  end
  return true
end
