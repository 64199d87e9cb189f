-- Gives back the tokens of messages that a claim took and that are put back without a request.
-- @include clock
-- @include bucket
-- @include lines
-- KEYS
--   guard       never exists: a cluster refuses the call while its slot moves
--   bucket
--   lane_turns  the lane's lines (lua/lib/lines.lua)
--   lane_held   those of paused campaigns
-- ARGV
--   time        '' for this server's clock
--   cost        us in which one token comes (0: no rate limit)
--   count       how many
--   campaigns   prefix of the campaigns' keys
--   campaign    the campaign whose line they are from ('': none)
--   line        the line's member of lane_turns or lane_held
-- Reply 1. A repeat gives them back again, at most until the bucket is full.
-- If the campaign has a rate of its own, its bucket gets them back, too, and its line has its turn.
local at = now(time)
spend(bucket, at, tonumber(cost), -tonumber(count))
local rate = campaign ~= '' and redis.call('HGET', campaigns .. campaign, 'rate')
if rate then
  spend(campaigns .. campaign .. ':bucket', at, 1000000 / rate, -tonumber(count))
  line_up(lane_turns, lane_held, campaigns .. campaign, line, at)
end
return 1
