-- Reads a record and the message's score in its lane, at one instant.
-- KEYS
--   guard       never exists: a cluster refuses the call while its slot moves
--   lanes[8]    the lane sets
--   record
-- ARGV
--   id
-- Reply {score, or '' if it is in no lane, then name, value, name, value ...}; {''} if there is no
-- record. Writes nothing.
local found = redis.call('HGETALL', record)
local set = redis.call('HGET', record, 'set')
table.insert(found, 1, set and redis.call('ZSCORE', lanes[tonumber(set)], id) or '')
return found
