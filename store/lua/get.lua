-- Reads a record and the message's score in its lane, at one instant.
-- @include format
-- KEYS
--   guard       never exists: a cluster refuses the call while its slot moves
--   format      of what the store holds
--   lanes[8]    the lane sets
--   record
-- ARGV
--   formats[2]  of the caller's version (lua/lib/format.lua)
--   id
-- Reply {score, or '' if it is in no lane, then name, value, name, value ...}; {''} if there is no
-- record. Writes nothing.
local newer = unreadable(format, formats)
if newer then return newer end
local found = redis.call('HGETALL', record)
local set = redis.call('HGET', record, 'set')
table.insert(found, 1, set and redis.call('ZSCORE', lanes[tonumber(set)], id) or '')
return found
