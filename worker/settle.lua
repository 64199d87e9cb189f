-- Write what became of leased messages: status, record, event, next place, counters, in one step.
--
-- KEYS  1 once  2 set they were leased from  3 watch  4 results  5 counts  6 gate
--       7 the other gate, closed with this one by a pause that concerns both ('' if not)
--       8 dead letters  9 histograms of requests
-- ARGV  1 record prefix  2 content prefix  3 lease held  4 keep ms  5 keep content ms  6 once ms
--       7 now ('' = TIME)
--       8 what a request has shown, for the gate (gate.lua): verdict, begun, takes, taken, limit,
--         base, cap, most, pause, reason as JSON; '' where there was no request. With it counts and
--         histograms: what it adds to which fields
--       9 how many messages, their ids, then groups of them in that order: how many, from, to, place,
--       score, late, count, the event's draft (5), how many fields are shared and are of each one's
--       own (names and values), the shared, then for each message the provider's id as JSON and its
--       own fields
--       place: 'stay' (in its set, at score), 'watch' (at score), 'end' or 'dead' (its end, too)
--       late: if not '', it is to be written though the lease is over, unless the message has
--       ended, is inside another request or its record shows other attempts than these
-- Reply {one character for each message: '1' written, '0' the lease was another's by then;
--   'closed' or 'opened' where that has changed at the gate, else ''}.
-- A repeat with the same once key returns the same. Events: one for each written row with a draft.
#include clock
#include move
#include gate
#include bury
local before = redis.call('GET', KEYS[1])
if before then
  local flags, gate = string.match(before, '^(%d*) (%a*)$')
  return {flags, gate}
end
local at, mine, total = now(ARGV[7]), tonumber(ARGV[3]), tonumber(ARGV[9])
local ids, done, counts = {unpack(ARGV, 10, 9 + total)}, {}, {}
local scores = redis.call('ZMSCORE', KEYS[2], unpack(ids))
local stay, watch, gone, dead = {}, {}, {}, {}

-- The k-th message, whose part is ARGV[i]; its group's own part begins at ARGV[g].
local function settle(k, i, g, shared, own)
  local id, score, place, late = ids[k], tonumber(scores[k] or 0), ARGV[g + 3], ARGV[g + 5]
  local over = place == 'end' or place == 'dead'
  if score - score % 4 ~= mine and (late == '' or score % 4 == 2
      or redis.call('HGET', ARGV[1] .. id, 'attempts') ~= late) then return false end
  local fields = {unpack(ARGV, g + 14, g + 13 + shared)}
  for field = i + 1, i + own do fields[#fields + 1] = ARGV[field] end
  if not move(ARGV[1] .. id, KEYS[4], {from = ARGV[g + 1], to = ARGV[g + 2], id = id,
      event = g + 7, provider = ARGV[i], fields = fields, keep = ARGV[4],
      content = over and ARGV[2] .. id or '', keep_content = ARGV[5]}) then return false end
  local count, to = ARGV[g + 6], place == 'stay' and stay or watch
  if not over then
    to[#to + 1] = ARGV[g + 4]
    to[#to + 1] = id
  end
  if place ~= 'stay' then gone[#gone + 1] = id end
  if place == 'dead' then dead[#dead + 1] = id end
  if count ~= '' then counts[count] = (counts[count] or 0) + 1 end
  return true
end

local g = 10 + total
while g <= #ARGV do
  local shared, own = tonumber(ARGV[g + 12]), tonumber(ARGV[g + 13])
  local i = g + 14 + shared
  for _ = 1, tonumber(ARGV[g]) do
    done[#done + 1] = settle(#done + 1, i, g, shared, own) and '1' or '0'
    i = i + 1 + own
  end
  g = i
end
if #gone > 0 then redis.call('ZREM', KEYS[2], unpack(gone)) end
if #stay > 0 then redis.call('ZADD', KEYS[2], unpack(stay)) end
if #watch > 0 then redis.call('ZADD', KEYS[3], unpack(watch)) end
if #dead > 0 then bury(KEYS[8], at, dead) end
local gate = ''
if ARGV[8] ~= '' then
  local shown = cjson.decode(ARGV[8])
  gate = report(KEYS[6], at, shown)
  if KEYS[7] ~= '' then report(KEYS[7], at, shown) end
  for field, n in pairs(shown.counts) do counts[field] = (counts[field] or 0) + n end
  for field, n in pairs(shown.histograms) do redis.call('HINCRBY', KEYS[9], field, n) end
end
for count, n in pairs(counts) do redis.call('HINCRBY', KEYS[5], count, n) end
local answer = {table.concat(done), gate}
redis.call('SET', KEYS[1], table.concat(answer, ' '), 'PX', ARGV[6])
return answer
