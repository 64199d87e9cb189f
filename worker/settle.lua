-- Write what became of leased messages: status, record, event, next place, counters, in one step.
--
-- KEYS  1 once  2 set they were leased from  3 watch  4 results  5 counts
-- ARGV  1 record prefix  2 content prefix  3 lease held  4 keep ms  5 keep content ms  6 once ms
--       7 width, then for each message: id, from, to, place, score, late, head, tail, count,
--       pairs of fields, name, value ...; padded to width with ''
--       place: 'stay' (in its set, at score), 'watch' (at score) or 'end'
--       late: '1' if it is to be written though the lease is over, unless the message has ended,
--       has moved on or is inside another request
-- Reply one character for each message: '1' written, '0' the lease was another's by then.
-- A repeat with the same once key returns the same. Events: one for each written row with a head.
#include move
local before = redis.call('GET', KEYS[1])
if before then return before end
local width, mine, done = tonumber(ARGV[7]), tonumber(ARGV[3]), {}
for i = 8, #ARGV, width do
  local id, place, count = ARGV[i], ARGV[i + 3], 2 * tonumber(ARGV[i + 9])
  local score = tonumber(redis.call('ZSCORE', KEYS[2], id) or 0)
  local held = score - score % 4 == mine
  local written = false
  if held or (ARGV[i + 5] == '1' and score % 4 ~= 2) then
    local row = {from = ARGV[i + 1], to = ARGV[i + 2], head = ARGV[i + 6], tail = ARGV[i + 7],
      content = '', keep = ARGV[4], keep_content = ARGV[5], count = ARGV[i + 8], fields = {}}
    if place == 'end' then row.content = ARGV[2] .. id end
    for f = i + 10, i + 9 + count do row.fields[#row.fields + 1] = ARGV[f] end
    written = move(ARGV[1] .. id, id, KEYS[4], KEYS[5], row)
  end
  if written then
    if place == 'stay' then
      redis.call('ZADD', KEYS[2], ARGV[i + 4], id)
    else
      redis.call('ZREM', KEYS[2], id)
      if place == 'watch' then redis.call('ZADD', KEYS[3], ARGV[i + 4], id) end
    end
  end
  done[#done + 1] = written and '1' or '0'
end
local answer = table.concat(done)
redis.call('SET', KEYS[1], answer, 'PX', ARGV[6])
return answer
