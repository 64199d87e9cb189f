-- The one door through which a message's status moves (schemas/status.py knows who may follow
-- whom; here names are only compared).
--
-- move(record, results, row):
--   row = {from, to, id, event, provider, content, keep, keep_content, fields}
--   from, to       the status expected and the one to write; to = '' leaves status and events alone
--   event          index in ARGV of the event's draft, five parts ('' the first: no event)
--   id, provider   what goes between them: the message's id, the provider's as JSON
--   content        key of the content; '' unless the message ends here
--   keep           ms that an ended record is kept, keep_content ms that its content is
--   fields         name, value, name, value ... written to the record in any case
-- Returns false, and writes nothing, if the status is another one or the message has ended.
local function move(record, results, row)
  local seen = redis.call('HMGET', record, 'status', 'final', 'n', 'row')
  if seen[1] ~= row.from or seen[2] then return false end
  local fields = row.fields
  if row.to ~= '' then
    fields[#fields + 1] = 'status'
    fields[#fields + 1] = row.to
  end
  local e, id = row.event, row.id
  if ARGV[e] ~= '' then
    local n = string.format('%.0f', (tonumber(seen[3]) or 0) + 1)
    fields[#fields + 1] = 'n'
    fields[#fields + 1] = n
    redis.call('XADD', results, '*', 'event', ARGV[e] .. id .. ':' .. n .. ARGV[e + 1] .. id
      .. ARGV[e + 2] .. id .. ARGV[e + 3] .. row.provider .. ARGV[e + 4])
  end
  if row.content ~= '' then
    fields[#fields + 1] = 'final'
    fields[#fields + 1] = '1'
  end
  if #fields > 0 then redis.call('HSET', record, unpack(fields)) end
  if row.content ~= '' then
    if seen[4] then
      redis.call('SET', row.content, seen[4], 'PX', row.keep_content)
      redis.call('HDEL', record, 'row')
    else
      redis.call('PEXPIRE', row.content, row.keep_content)
    end
    redis.call('PEXPIRE', record, row.keep)
  end
  return true
end
