-- Takes what a group has missed off its lists, for the one reader that tells of it.
-- KEYS
--   guard       never exists: a cluster refuses the call while its slot moves
--   results
--   missed
--   once        the answer to the first call, returned to repeats
-- ARGV
--   group
--   take        '1': take the note of what sweeps have deleted before the group had it
--   once_ms     how long the answer is kept, in ms
--   entries...  deleted events that are pending in the group
-- Reply the note ('': none), and how many of the entries were pending until now.
-- A repeat with the same once key gets the same reply: else a lost reply would be a silent loss.
local before = redis.call('HGETALL', once)
if #before > 0 then return {string.sub(before[1], 2), tonumber(before[2])} end
local note, acked = take == '1' and redis.call('HGET', missed, group) or '', 0
if entries <= #ARGV then acked = redis.call('XACK', results, group, unpack(ARGV, entries)) end
if note ~= '' then redis.call('HDEL', missed, group) end
if acked > 0 or note ~= '' then
  redis.call('HSET', once, 'n' .. note, acked)
  redis.call('PEXPIRE', once, once_ms)
end
return {note, acked}
