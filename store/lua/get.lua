-- A record and its place in line, seen at one instant.
--
-- KEYS  1-8 lane sets   ARGV  1 record key  2 id
-- Reply {score or '', name, value, name, value ...}; {''} if unknown. Writes nothing.
local record = redis.call('HGETALL', ARGV[1])
local set = redis.call('HGET', ARGV[1], 'set')
table.insert(record, 1, set and redis.call('ZSCORE', KEYS[tonumber(set)], ARGV[2]) or '')
return record
