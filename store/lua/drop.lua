-- Removes messages from the list of dead letters and erases their contents.
-- @include format
-- KEYS
--   guard       never exists: a cluster refuses the call while its slot moves
--   format      of what the store holds
--   dead        dead letters
-- ARGV
--   formats[2]  of the caller's version (lua/lib/format.lua)
--   records     prefix of the records' keys
--   contents    prefix of the contents' keys
--   ids...
-- Reply how many were on the list.
-- A message that has not ended keeps its content: it is a newer one with the id of a letter whose
-- record has expired.
local newer = unreadable(format, formats, true)
if newer then return newer end
local dropped = 0
for i = ids, #ARGV do
  dropped = dropped + redis.call('ZREM', dead, ARGV[i])
  if redis.call('HEXISTS', records .. ARGV[i], 'final') == 1 then
    redis.call('DEL', contents .. ARGV[i])
  end
end
return dropped
