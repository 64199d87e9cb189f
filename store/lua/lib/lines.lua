-- @include clock
-- Lines: a campaign's waiting messages stand in a line of their own for each lane set, the key of which
-- is the set's, ':' and the campaign's name. Two sorted sets of each lane say when each line is
-- looked at next: turns, and held for the lines of paused campaigns. Their member for a line is the
-- digit of resendSms, ':' and the name (docs/decisions/0041-campaigns.md).

-- line_up(turns, held, campaign, member, at): notes that a line has a message due at an instant.
local function line_up(turns, held, campaign, member, at)
  local state = redis.call('HMGET', campaign, 'paused', 'stopped')
  -- Paused: it is looked at for what must end, once a second at most.
  if state[1] then return redis.call('ZADD', held, 'LT', text(at + 1000000), member) end
  -- What is left of a cancelled campaign ends now, whenever it is due.
  redis.call('ZADD', turns, 'LT', state[2] and '0' or text(at), member)
end
