-- Sets the bell if a task is due. Brings back leases that a step of the clock has left too far ahead.
-- @include clock
-- KEYS
--   lists[4]   tasks as Celery clients leave them, by priority
--   held       the tags of tasks that are held
--   taken      how many were taken off the lists
--   bell
--   mark       the instant of an earlier look, and what 'taken' must reach so that all tasks of then
--              are taken
-- ARGV
--   time       '' for this server's clock
--   longest    how long a task may be held at most, in us
--   bell_ms    how long a bell is set, in ms
-- Reply 0: nothing is due; 1: a task is, and its bell is on its way; 2: the caller rings
-- The first write is one that Redis never refuses: the others pass then, also when memory is used up.
redis.call('ZREM', held, '')
local at, waiting = now(time), 0
for _, tag in ipairs(redis.call('ZRANGEBYSCORE', held, '(' .. text(at + tonumber(longest)), '+inf', 'LIMIT', 0, 1000)) do
  redis.call('ZADD', held, text(at), tag)
end
for _, list in ipairs(lists) do waiting = waiting + redis.call('LLEN', list) end
local before = tonumber(redis.call('GET', taken) or 0)
local mark_at, reach = unpack(redis.call('HMGET', mark, 'at', 'reach'))
if waiting == 0 then
  if mark_at then redis.call('DEL', mark) end
elseif not mark_at or before >= tonumber(reach) or tonumber(mark_at) > at then
  redis.call('HSET', mark, 'at', text(at), 'reach', before + waiting)
end
if waiting == 0 and #redis.call('ZRANGEBYSCORE', held, '-inf', text(at), 'LIMIT', 0, 1) == 0 then return 0 end
return redis.call('SET', bell, '1', 'NX', 'PX', bell_ms) and 2 or 1
