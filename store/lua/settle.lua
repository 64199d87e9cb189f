-- Writes what became of leased messages: status, record, event, next place, counters, in one step.
-- @include clock
-- @include move
-- @include gate
-- @include bury
-- KEYS
--   once             the answer to the first call, for its repeats
--   set              that they were leased from
--   watch
--   results
--   counts
--   gate
--   other_gate       closed with this one by a pause that concerns both
--   dead             dead letters
--   requests         histograms of requests
-- ARGV
--   time             '' for this server's
--   records          prefix of the records
--   contents         prefix of the contents
--   held             the lease held
--   keep             ms that an ended record is kept
--   keep_content     ms that its content is
--   once_ms          how long the answer is kept
--   signal           what a request has shown, for the gate (lua/lib/gate.lua), as JSON: verdict,
--                    begun, takes, accepted, limit, base, cap, most, pause, both, reason, name, and what
--                    it adds to which fields of counts and histograms; '' where there was no request
--   total            how many messages
--   tail...          their ids, then groups of them in that order: how many, from, to, place, score,
--                    late, count, the event's draft (5), how many fields are shared and are of each
--                    one's own (names and values), the shared, then for each message the provider's
--                    id as JSON and its own fields
--   place: 'stay' (in its set, at score), 'watch' (at score), 'end' or 'dead' (its end, too)
--   late: if not '', it is to be written though the lease is over, unless the message has ended, is
--         inside another request or its record shows other attempts than these
-- Reply {one character for each message: '1' written, '0' the lease was another's by then;
--   'closed' or 'opened' where that has changed at the gate, else ''}.
-- A repeat with the same once key returns the same. Events: one for each written one with a draft.
local before = redis.call('GET', once)
if before then
  local flags, change = string.match(before, '^(%d*) (%a*)$')
  return {flags, change}
end
local at, mine = now(time), tonumber(held)
total = tonumber(total)
local ids, written_flags, added = {unpack(ARGV, tail, tail + total - 1)}, {}, {}
local scores = redis.call('ZMSCORE', set, unpack(ids))
local stay, followed, gone, buried = {}, {}, {}, {}

local function is_held(k, late)
  local score = tonumber(scores[k] or 0)
  return score - score % 4 == mine or late ~= '' and score % 4 ~= 2
    and call('HGET', records .. ids[k], 'attempts') == late
end

-- The group whose own part begins at ARGV[g]; where its first message's does, and behind its last.
local function settle(g)
  local place, score, late, count = ARGV[g + 3], ARGV[g + 4], ARGV[g + 5], ARGV[g + 6]
  local shared, own = tonumber(ARGV[g + 12]), tonumber(ARGV[g + 13])
  local over, to, written = place == 'end' or place == 'dead', place == 'stay' and stay or followed, 0
  local change = {from = ARGV[g + 1], to = ARGV[g + 2], draft = ARGV, at = g + 7, keep = keep,
    keep_content = keep_content, content = '', fields = {unpack(ARGV, g + 14, g + 13 + shared)},
    size = shared + own}
  local fields, i = change.fields, g + 14 + shared
  for k = #written_flags + 1, #written_flags + ARGV[g] do
    local id = ids[k]
    change.id, change.provider = id, ARGV[i]
    for field = 1, own do fields[shared + field] = ARGV[i + field] end
    if over then change.content = contents .. id end
    if is_held(k, late) and move(records .. id, results, change) then
      if not over then
        to[#to + 1] = score
        to[#to + 1] = id
      end
      if place ~= 'stay' then gone[#gone + 1] = id end
      if place == 'dead' then buried[#buried + 1] = id end
      written_flags[k], written = '1', written + 1
    else
      written_flags[k] = '0'
    end
    i = i + 1 + own
  end
  if count ~= '' and written > 0 then added[count] = (added[count] or 0) + written end
  return i
end

local g = tail + total
while g <= #ARGV do g = settle(g) end
if #gone > 0 then redis.call('ZREM', set, unpack(gone)) end
if #stay > 0 then redis.call('ZADD', set, unpack(stay)) end
if #followed > 0 then redis.call('ZADD', watch, unpack(followed)) end
if #buried > 0 then bury(dead, at, buried) end
local gate_change = ''
if signal ~= '' then
  local request = cjson.decode(signal)
  gate_change = report(gate, at, request)
  if gate_change == 'closed' then added[gate_change .. ':' .. request.name] = 1 end
  if request.both then report(other_gate, at, request) end
  for field, n in pairs(request.counts) do added[field] = (added[field] or 0) + n end
  for field, n in pairs(request.histograms) do redis.call('HINCRBY', requests, field, n) end
end
for count, n in pairs(added) do redis.call('HINCRBY', counts, count, n) end
local answer = {table.concat(written_flags), gate_change}
redis.call('SET', once, table.concat(answer, ' '), 'PX', once_ms)
return answer
