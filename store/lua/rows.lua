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
--   from        the first entry to read, from 0
--   most        messages after which no further entry is read
--   fields...   record fields to return
-- Reply {the next entry to read (0: none), {row, id, fields ...} of each message}. A missing record's
-- fields are all false. Writes nothing.
local newer = unreadable(format, formats)
if newer then return newer end
-- An entry holds one message or hundreds: reading many at once could read a hundred times too much.
local found, taken, step = {}, 0, 1
repeat
  local entries = redis.call('LRANGE', rows, from + taken, from + taken + step - 1)
  for _, entry in ipairs(entries) do
    if #found >= tonumber(most) then break end
    for row, id in string.gmatch(entry, '(%S+) (%S+)') do
      found[#found + 1] = {row, id, unpack(redis.call('HMGET', records .. id, unpack(ARGV, fields)))}
    end
    taken = taken + 1
  end
  step = 2 * step
until #entries == 0 or #found >= tonumber(most)
return {taken > 0 and from + taken or 0, found}
