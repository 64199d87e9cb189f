-- Record a job that was refused after it had left its app, and its one event.
--
-- KEYS  1 results  2 counts  3 dead letters
-- ARGV  1 record key  2 id  3 digest of what was asked  4 status  5 head  6 tail  7 keep ms
--       8 count  9 ... fields
-- Reply 1 if recorded now or by an earlier call with the same digest, 0 if the id is taken.
#include clock
#include move
#include bury
local digest = redis.call('HGET', ARGV[1], 'job')
if digest then return digest == ARGV[3] and 1 or 0 end
local row = {from = false, to = ARGV[4], head = ARGV[5], tail = ARGV[6], content = ARGV[1],
  keep = ARGV[7], keep_content = ARGV[7], fields = {'job', ARGV[3], unpack(ARGV, 9)}}
move(ARGV[1], KEYS[1], row)
redis.call('HINCRBY', KEYS[2], ARGV[8], 1)
bury(KEYS[3], now(''), {ARGV[2]})
return 1
