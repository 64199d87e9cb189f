-- Takes tasks into a process's hands: those whose lease is over, then the oldest of the lists. The former
-- are half of them at most while the lists have any: very many may be held for later (an eta).
-- @include clock
-- KEYS
--   lists[4]    tasks as Celery clients leave them, by priority, the oldest last
--   held        the tags of tasks that are held; the score is when their lease is over
--   bodies      the tasks that are held, by tag
--   taken       how many were taken off the lists; the latest tag
--   bell
-- ARGV
--   time        '' for this server's clock
--   lease       how long they are held, in us
--   most        most tasks
--   most_bytes  no more tasks once they have so many bytes
-- Reply {tag, task, tag, task ...}
-- A task is never in no place: it leaves its list in the step that notes who has it until when.
-- Whatever Redis may refuse is called before RPOP, because a script that fails is not undone. That DEL is
-- first lets the others pass when memory is used up.
redis.call('DEL', bell)
local at, found, size = now(time), {}, 0
local ends = text(at + tonumber(lease))
local waiting = 0
for _, list in ipairs(lists) do waiting = waiting + redis.call('LLEN', list) end
local function full(share) return #found >= share * 2 * most or size >= share * most_bytes end
local function give(tag, body) found[#found + 1], found[#found + 2], size = tag, body, size + #body end
for _, tag in ipairs(redis.call('ZRANGEBYSCORE', held, '-inf', text(at), 'LIMIT', 0, most)) do
  if full(waiting > 0 and 0.5 or 1) then break end
  redis.call('ZADD', held, ends, tag)
  give(tag, redis.call('HMGET', bodies, tag)[1] or '')
end
for _, list in ipairs(lists) do
  for _ = 1, redis.call('LLEN', list) do
    if full(1) then return found end
    local tag = text(redis.call('INCR', taken))
    redis.call('ZADD', held, ends, tag)
    redis.call('HSET', bodies, tag, '')
    local body = redis.call('RPOP', list)
    redis.call('HSET', bodies, tag, body)
    give(tag, body)
  end
end
return found
