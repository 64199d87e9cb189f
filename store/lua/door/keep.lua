-- Sets when the leases of held tasks are over.
-- @include clock
-- KEYS
--   held       the tags of tasks that are held
-- ARGV
--   time       '' for this server's clock
--   wait       how long from now on, in us
--   tags...
-- Reply nothing. A task that is done by now is not held again.
redis.call('ZREM', held, '') -- as in knock.lua
local ends = text(now(time) + tonumber(wait))
for i = tags, #ARGV do redis.call('ZADD', held, 'XX', ends, ARGV[i]) end
