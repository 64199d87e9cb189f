-- Take messages off the list of dead letters and erase their contents.
--
-- KEYS  1 dead letters   ARGV  1 record prefix  2 content prefix  3 ... ids
-- Reply how many were on the list. A message that has not ended keeps its content: its id was used
-- again after the record of the one on the list had expired.
local dropped = 0
for i = 3, #ARGV do
  dropped = dropped + redis.call('ZREM', KEYS[1], ARGV[i])
  if redis.call('HEXISTS', ARGV[1] .. ARGV[i], 'final') == 1 then
    redis.call('DEL', ARGV[2] .. ARGV[i])
  end
end
return dropped
