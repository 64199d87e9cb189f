-- Reads a chunk of a campaign's index, and what became of its messages.
-- @include format
-- KEYS
--   guard       never exists: a cluster refuses the call while its slot moves
--   format      of what the store holds
--   rows        the campaign's index: in each entry the messages of one call, each as its row, ' ' and
--               its id, with ' ' between them
-- ARGV
--   formats[2]  of the caller's version (lua/lib/format.lua)
--   records     prefix of the records' keys
--   from        the entry to read first, from 0
--   skip        how many of its messages have been read already
--   most        most messages to read
--   fields...   record fields to return
-- Reply {from and skip of the next call, {row, id, fields ... of each message in turn}}: none behind the last
-- one. A missing record's fields are all false. Writes nothing.
local newer = unreadable(format, formats)
if newer then return newer end
local found, count, at, passed = {}, 0, tonumber(from), tonumber(skip)
repeat  -- few entries at once: each may be long
  local entries = redis.call('LRANGE', rows, at, at + 4)
  for _, entry in ipairs(entries) do
    local place = 0
    for row, id in string.gmatch(entry, '(%S+) (%S+)') do
      if count == tonumber(most) then return {at, place, found} end
      place = place + 1
      if place > passed then
        count = count + 1
        found[#found + 1] = row
        found[#found + 1] = id
        local values = redis.call('HMGET', records .. id, unpack(ARGV, fields))
        for k = 1, #values do found[#found + 1] = values[k] end
      end
    end
    at, passed = at + 1, 0
  end
until #entries < 5
return {at, 0, found}
