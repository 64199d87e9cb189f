-- Gives back the tokens of messages that a claim took and that are put back without a request.
-- @include clock
-- @include bucket
-- KEYS
--   guard     never exists: a cluster refuses the call while its slot moves
--   bucket
-- ARGV
--   time      '' for this server's clock
--   cost      us in which one token comes (0: no rate limit)
--   count     how many
-- Reply 1. A repeat gives them back again, at most until the bucket is full.
spend(bucket, now(time), tonumber(cost), -tonumber(count))
return 1
