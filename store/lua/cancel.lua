-- End a message that waits and is not inside a request.
--
-- KEYS  1 results  2 counts  3-10 lane sets  11 dead letters ('' if this end is none)
-- ARGV  1 record key  2 id  3 n as the caller saw it  4 attempts likewise
--       5 from  6 to  7-11 the event's draft  12 content key  13 keep ms  14 keep content ms
--       15 count  16 ... fields
-- Reply 'done', 'again' (the record has changed since the caller saw it), 'busy' (inside a
-- request, or it was when its worker died), 'lost' (it is in no lane, though its record waits) or
-- 'gone' (it doesn't wait any more). Events: one if 'done'.
#include clock
#include move
#include bury
local seen = redis.call('HMGET', ARGV[1], 'status', 'set', 'n', 'attempts')
if seen[1] ~= ARGV[5] then return 'gone' end
if (seen[3] or '0') ~= ARGV[3] or (seen[4] or '0') ~= ARGV[4] then return 'again' end
local lane = KEYS[2 + tonumber(seen[2])]
local score = redis.call('ZSCORE', lane, ARGV[2])
if not score then return 'lost' end
if tonumber(score) % 4 == 2 then return 'busy' end
local row = {from = ARGV[5], to = ARGV[6], id = ARGV[2], event = 7, provider = 'null',
  content = ARGV[12], keep = ARGV[13], keep_content = ARGV[14], fields = {unpack(ARGV, 16)}, size = #ARGV - 15}
if not move(ARGV[1], KEYS[1], row) then return 'gone' end
redis.call('ZREM', lane, ARGV[2])
redis.call('HINCRBY', KEYS[2], ARGV[15], 1)
if KEYS[11] ~= '' then bury(KEYS[11], now(''), {ARGV[2]}) end
return 'done'
