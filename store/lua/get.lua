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
local place = redis.call('HMGET', record, 'set', 'campaign')
local set = place[1] and lanes[tonumber(place[1])] .. (place[2] and ':' .. place[2] or '')
table.insert(found, 1, set and redis.call('ZSCORE', set, id) or '')
return found
