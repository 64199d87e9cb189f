-- Reads a campaign's messages that are inside no request, those due last first.
-- @include format
-- KEYS
--   guard       never exists: a cluster refuses the call while its slot moves
--   format      of what the store holds
--   lanes[8]    the lane sets
-- ARGV
--   formats[2]  of the caller's version (lua/lib/format.lua)
--   records     prefix of the records' keys
--   name        the campaign
--   most        most messages to read
--   fields...   record fields to return
-- Reply {id, fields ...} of each. Writes nothing.
local newer = unreadable(format, formats)
if newer then return newer end
local found = {}
for _, lane in ipairs(lanes) do
  local from, size = 0, 2 * most
  while #found < tonumber(most) do
    local members = redis.call('ZREVRANGE', lane .. ':' .. name, from, from + most - 1, 'WITHSCORES')
    for i = 1, #members, 2 do
      if #found < tonumber(most) and tonumber(members[i + 1]) % 4 < 2 then
        found[#found + 1] = {members[i], unpack(redis.call('HMGET', records .. members[i], unpack(ARGV, fields)))}
      end
    end
    if #members < size or from >= 10000 then break end
    from = from + most
  end
end
return found
