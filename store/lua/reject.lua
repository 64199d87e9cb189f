-- Record a job that was refused after it had left its app, and its one event.
--
-- KEYS  1 results  2 counts  3 dead letters
-- ARGV  1 record key  2 id  3 digest of what was asked  4 status  5-9 the event's draft
--       10 keep ms  11 count  12 ... fields
-- Reply 1 if recorded now or by an earlier call with the same digest, 0 if the id is taken.
#include clock
#include move
#include bury
local digest = redis.call('HGET', ARGV[1], 'job')
if digest then return digest == ARGV[3] and 1 or 0 end
local row = {from = false, to = ARGV[4], id = ARGV[2], event = 5, provider = 'null',
  content = ARGV[1], keep = ARGV[10], keep_content = ARGV[10],
  fields = {'job', ARGV[3], unpack(ARGV, 12)}, size = #ARGV - 9}
move(ARGV[1], KEYS[1], row)
redis.call('HINCRBY', KEYS[2], ARGV[11], 1)
bury(KEYS[3], now(''), {ARGV[2]})
return 1
