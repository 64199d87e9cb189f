-- Write what became of leased messages: status, record, event, next place, counters, in one step.
--
-- KEYS  1 once  2 set they were leased from  3 watch  4 results  5 counts  6 gate
--       7 the other gate, closed with this one by a pause that concerns both ('' if not)
--       8 dead letters
-- ARGV  1 record prefix  2 content prefix  3 lease held  4 keep ms  5 keep content ms  6 once ms
--       7 now ('' = TIME)
--       8 what a request has shown, for the gate (gate.lua): verdict, begun, taken, limit, base,
--         cap, most, pause, reason as JSON; '' where there was no request
--       9 width, then for each message: id, from, to, place, score, late, head, tail, count,
--       pairs of fields, name, value ...; padded to width with ''
--       place: 'stay' (in its set, at score), 'watch' (at score), 'end' or 'dead' (its end, too)
--       late: if not '', it is to be written though the lease is over, unless the message has
--       ended, is inside another request or its record shows other attempts than these
-- Reply {one character for each message: '1' written, '0' the lease was another's by then;
--   'closed' or 'opened' where that has changed at the gate, else ''}.
-- A repeat with the same once key returns the same. Events: one for each written row with a head.
#include clock
#include move
#include gate
#include bury
local before = redis.call('GET', KEYS[1])
if before then
  local flags, gate = string.match(before, '^(%d*) (%a*)$')
  return {flags, gate}
end
local at, width, mine = now(ARGV[7]), tonumber(ARGV[9]), tonumber(ARGV[3])
local ids, done, counts = {}, {}, {}
for i = 10, #ARGV, width do ids[#ids + 1] = ARGV[i] end
local scores = redis.call('ZMSCORE', KEYS[2], unpack(ids))
local stay, watch, gone, dead = {}, {}, {}, {}
for k, id in ipairs(ids) do
  local i = 10 + (k - 1) * width
  local score = tonumber(scores[k] or 0)
  local held, written = score - score % 4 == mine, false
  local place, late = ARGV[i + 3], ARGV[i + 5]
  local over = place == 'end' or place == 'dead'
  if held or (late ~= '' and score % 4 ~= 2
      and redis.call('HGET', ARGV[1] .. id, 'attempts') == late) then
    local fields = {unpack(ARGV, i + 10, i + 9 + 2 * tonumber(ARGV[i + 9]))}
    written = move(ARGV[1] .. id, KEYS[4], {from = ARGV[i + 1], to = ARGV[i + 2],
      head = ARGV[i + 6], tail = ARGV[i + 7], fields = fields, keep = ARGV[4],
      content = over and ARGV[2] .. id or '', keep_content = ARGV[5]})
  end
  done[k] = written and '1' or '0'
  if written then
    local count, to = ARGV[i + 8], place == 'stay' and stay or watch
    if not over then
      to[#to + 1] = ARGV[i + 4]
      to[#to + 1] = id
    end
    if place ~= 'stay' then gone[#gone + 1] = id end
    if place == 'dead' then dead[#dead + 1] = id end
    if count ~= '' then counts[count] = (counts[count] or 0) + 1 end
  end
end
if #gone > 0 then redis.call('ZREM', KEYS[2], unpack(gone)) end
if #stay > 0 then redis.call('ZADD', KEYS[2], unpack(stay)) end
if #watch > 0 then redis.call('ZADD', KEYS[3], unpack(watch)) end
if #dead > 0 then bury(KEYS[8], at, dead) end
for count, n in pairs(counts) do redis.call('HINCRBY', KEYS[5], count, n) end
local gate = ''
if ARGV[8] ~= '' then
  local shown = cjson.decode(ARGV[8])
  gate = report(KEYS[6], at, shown)
  if KEYS[7] ~= '' then report(KEYS[7], at, shown) end
end
local answer = {table.concat(done), gate}
redis.call('SET', KEYS[1], table.concat(answer, ' '), 'PX', ARGV[6])
return answer
