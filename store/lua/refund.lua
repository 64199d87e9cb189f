-- Gives back what a claim took for messages with which no request begins: their tokens, or the turn of
-- a probe.
-- @include clock
-- @include bucket
-- KEYS
--   guard     never exists: a cluster refuses the call while its slot moves
--   gate
--   bucket
-- ARGV
--   time      '' for this server's clock
--   cost      us in which one token comes (0: no rate limit)
--   count     how many
--   probe     '1': the claim was a probe's, which takes no tokens
-- Reply 1. A repeat gives them back again, at most until the bucket is full.
if probe == '1' then
  redis.call('HDEL', gate, 'probe')
else
  spend(bucket, now(time), tonumber(cost), -tonumber(count))
end
return 1
