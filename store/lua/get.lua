-- Reads a record and its place in line at one instant.
-- KEYS
--   lanes[8]    the lane sets
--   record
-- ARGV
--   id
-- Reply {score or '', name, value, name, value ...}; {''} if unknown. Writes nothing.
local found = redis.call('HGETALL', record)
local set = redis.call('HGET', record, 'set')
table.insert(found, 1, set and redis.call('ZSCORE', lanes[tonumber(set)], id) or '')
return found
