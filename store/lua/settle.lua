-- Write what became of leased messages: status, record, event, next place, counters, in one step.
--
-- KEYS  1 once  2 set they were leased from  3 watch  4 results  5 counts  6 gate
--       7 the other gate, closed with this one by a pause that concerns both ('' if not)
--       8 dead letters  9 histograms of requests
-- ARGV  1 record prefix  2 content prefix  3 lease held  4 keep ms  5 keep content ms  6 once ms
--       7 now ('' = TIME)
--       8 what a request has shown, for the gate (gate.lua): verdict, begun, takes, taken, limit,
--         base, cap, most, pause, reason, name as JSON; '' where there was no request. With it counts and
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

local function held(k, late)
  local score = tonumber(scores[k] or 0)
  return score - score % 4 == mine or late ~= '' and score % 4 ~= 2
    and call('HGET', ARGV[1] .. ids[k], 'attempts') == late
end

-- The group whose own part begins at ARGV[g]; where its first message's does, and behind its last.
local function settle(g)
  local place, score, late, count = ARGV[g + 3], ARGV[g + 4], ARGV[g + 5], ARGV[g + 6]
  local shared, own = tonumber(ARGV[g + 12]), tonumber(ARGV[g + 13])
  local over, to, written = place == 'end' or place == 'dead', place == 'stay' and stay or watch, 0
  local row = {from = ARGV[g + 1], to = ARGV[g + 2], event = g + 7, keep = ARGV[4],
    keep_content = ARGV[5], content = '', fields = {unpack(ARGV, g + 14, g + 13 + shared)},
    size = shared + own}
  local fields, i = row.fields, g + 14 + shared
  for k = #done + 1, #done + ARGV[g] do
    local id = ids[k]
    row.id, row.provider = id, ARGV[i]
    for field = 1, own do fields[shared + field] = ARGV[i + field] end
    if over then row.content = ARGV[2] .. id end
    if held(k, late) and move(ARGV[1] .. id, KEYS[4], row) then
      if not over then
        to[#to + 1] = score
        to[#to + 1] = id
      end
      if place ~= 'stay' then gone[#gone + 1] = id end
      if place == 'dead' then dead[#dead + 1] = id end
      done[k], written = '1', written + 1
    else
      done[k] = '0'
    end
    i = i + 1 + own
  end
  if count ~= '' and written > 0 then counts[count] = (counts[count] or 0) + written end
  return i
end

local g = 10 + total
while g <= #ARGV do g = settle(g) end
if #gone > 0 then redis.call('ZREM', KEYS[2], unpack(gone)) end
if #stay > 0 then redis.call('ZADD', KEYS[2], unpack(stay)) end
if #watch > 0 then redis.call('ZADD', KEYS[3], unpack(watch)) end
if #dead > 0 then bury(KEYS[8], at, dead) end
local gate = ''
if ARGV[8] ~= '' then
  local shown = cjson.decode(ARGV[8])
  gate = report(KEYS[6], at, shown)
  if gate == 'closed' then counts[gate .. shown.name] = 1 end
  if KEYS[7] ~= '' then report(KEYS[7], at, shown) end
  for field, n in pairs(shown.counts) do counts[field] = (counts[field] or 0) + n end
  for field, n in pairs(shown.histograms) do redis.call('HINCRBY', KEYS[9], field, n) end
end
for count, n in pairs(counts) do redis.call('HINCRBY', KEYS[5], count, n) end
local answer = {table.concat(done), gate}
redis.call('SET', KEYS[1], table.concat(answer, ' '), 'PX', ARGV[6])
return answer
