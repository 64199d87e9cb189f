-- The one door through which a message's status moves (schemas/status.py knows who may follow
-- whom; here names are only compared).
--
-- move(record, results, row):
--   row = {from, to, id, event, provider, content, keep, keep_content, fields, size}
--   from, to       the status expected and the one to write; to = '' leaves status and events alone
--   event          index in ARGV of the event's draft, five parts ('' the first: no event)
--   id, provider   what goes between them: the message's id, the provider's as JSON
--   content        key of the content; '' unless the message ends here
--   keep           ms that an ended record is kept, keep_content ms that its content is
--   fields         name, value, name, value ..., so many as size says: written in any case; there is
--                  room behind them, and the row may be used again for the next message
-- Returns false, and writes nothing, if the status is another one or the message has ended.
local call = redis.call
local function move(record, results, row)
  local seen = call('HMGET', record, 'status', 'final', 'n', 'row')
  if seen[1] ~= row.from or seen[2] then return false end
  local fields, size, e, id, content = row.fields, row.size, row.event, row.id, row.content
  if row.to ~= '' then
    fields[size + 1], fields[size + 2] = 'status', row.to
    size = size + 2
  end
  if ARGV[e] ~= '' then
    local n = seen[3] and string.format('%.0f', seen[3] + 1) or '1'
    fields[size + 1], fields[size + 2] = 'n', n
    size = size + 2
    call('XADD', results, '*', 'event', ARGV[e] .. id .. ':' .. n .. ARGV[e + 1] .. id
      .. ARGV[e + 2] .. id .. ARGV[e + 3] .. row.provider .. ARGV[e + 4])
  end
  if content ~= '' then
    fields[size + 1], fields[size + 2] = 'final', '1'
    size = size + 2
  end
  if size > 0 then call('HSET', record, unpack(fields, 1, size)) end
  if content ~= '' then
    if seen[4] then
      call('SET', content, seen[4], 'PX', row.keep_content)
      call('HDEL', record, 'row')
    else
      call('PEXPIRE', content, row.keep_content)
    end
    call('PEXPIRE', record, row.keep)
  end
  return true
end
