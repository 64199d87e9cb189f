-- Writes the results of leased messages in one step: status, record, event, next place, counters.
-- @include clock
-- @include move
-- @include gate
-- @include bury
-- @include lines
-- @include tally
-- KEYS
--   guard            never exists: a cluster refuses the call while its slot moves
--   once             the answer to the first call, returned to repeats
--   set              the set or line that they were leased from
--   lane_turns       the lane's lines (lua/lib/lines.lua)
--   lane_held        those of paused campaigns
--   watch
--   results
--   counts
--   gate
--   other_gate       the gate that a pause for both closes, too
--   dead             dead letters
--   requests         histograms of requests
--   registry         the campaigns
-- ARGV
--   time             '' for this server's clock
--   records          prefix of the records' keys
--   contents         prefix of the contents' keys
--   campaigns        prefix of the campaigns' keys
--   campaign         the campaign whose line it is ('': none)
--   line             the line's member of lane_turns or lane_held
--   held             the lease held
--   said             the instant that it is for the caller, from which the scores were reckoned
--   step_ms          by how much the clock must step to be noticed, in ms
--   keep             how long the record of an ended message is kept, in ms
--   keep_content     how long its content is kept, in ms
--   once_ms          how long the answer is kept, in ms
--   signal           what the request shows, as JSON: the arguments of report (lua/lib/gate.lua), the
--                    gate's name, both (close the other gate, too), what to add to which fields of
--                    counts and histograms, and the fields of counts that get the instant (seen); ''
--                    if there was no request
--   total            number of messages
--   tail...          their ids, then groups of them in the same order. A group is: number of messages,
--                    from, to, place, score, late, count, the event's draft (5), number of shared and
--                    of own values (names and values), the shared ones, then for each message the
--                    provider's id as JSON and its own names and values
--     place    'stay' (in its set, at score), 'watch' (in the watch set, at score), 'end', or 'dead'
--              (ends as a dead letter)
--     late     if not '': write it even without the lease, unless the message has ended, is inside
--              another request, or its record has another number of attempts than this
-- Reply {one character for each message: '1' written, '0' lease lost;
--   'closed' or 'opened' if the gate has changed, else ''}
-- A repeat with the same once key gets the same reply. Events: one for each message written with a
-- draft.
local before = redis.call('GET', once)
if before then
  local flags, change = string.match(before, '^(%d*) (%a*)$')
  return {flags, change}
end
local at, mine = now(time), tonumber(held)
total = tonumber(total)
local ids, written_flags, added = {unpack(ARGV, tail, tail + total - 1)}, {}, {}
local scores = redis.call('ZMSCORE', set, unpack(ids))
local stay, followed, gone, buried, tallies, inside = {}, {}, {}, {}, {}, 0
local waits, earliest = set == watch and 0 or 1, math.huge
-- us that the clock has gone back since the messages were leased
local back = tonumber(said) - at
back = back > tonumber(step_ms) * 1000 and back - back % 4 or 0

local function is_held(k, late)
  local score = tonumber(scores[k] or 0)
  return score - score % 4 == mine or late ~= '' and score % 4 ~= 2
    and call('HGET', records .. ids[k], 'attempts') == late
end

-- Writes the group that begins at ARGV[g]; returns the index after it.
local function settle(g)
  local place, score, late, count = ARGV[g + 3], ARGV[g + 4], ARGV[g + 5], ARGV[g + 6]
  local shared, own = tonumber(ARGV[g + 12]), tonumber(ARGV[g + 13])
  local over, to, written = place == 'end' or place == 'dead', place == 'stay' and stay or followed, 0
  local change = {from = ARGV[g + 1], to = ARGV[g + 2], draft = ARGV, at = g + 7, keep = keep,
    keep_content = keep_content, content = '', fields = {unpack(ARGV, g + 14, g + 13 + shared)},
    size = shared + own, tallies = tallies, now = text(at), count = count, waits = place ~= 'stay' and waits or 0}
  local fields, i = change.fields, g + 14 + shared
  for k = #written_flags + 1, #written_flags + ARGV[g] do
    local id = ids[k]
    change.id, change.provider = id, ARGV[i]
    for field = 1, own do fields[shared + field] = ARGV[i + field] end
    if over then change.content = contents .. id end
    if is_held(k, late) and move(records .. id, results, change) then
      if not over then
        to[#to + 1] = back > 0 and text(tonumber(score) - back) or score
        to[#to + 1] = id
        if place == 'stay' then earliest = math.min(earliest, to[#to - 1]) end
      end
      if place ~= 'stay' then gone[#gone + 1] = id end
      if place == 'dead' then buried[#buried + 1] = id end
      written_flags[k], written = '1', written + 1
      if tonumber(scores[k] or 0) % 4 == 2 then inside = inside + 1 end
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
if campaign ~= '' then
  add(tallies, campaign, 'inside', -inside)
  if #stay > 0 then line_up(lane_turns, lane_held, campaigns .. campaign, line, math.max(at, earliest)) end
end
write_tallies(tallies, campaigns, registry, at, keep)
if #followed > 0 then redis.call('ZADD', watch, unpack(followed)) end
if #buried > 0 then bury(dead, at, buried) end
local gate_change = ''
if signal ~= '' then
  local request = cjson.decode(signal)
  gate_change = report(gate, at, request)
  -- Silence ends with the last message asked for: it says nothing of messages that come later.
  if request.silent and call('EXISTS', watch) == 0 then
    call('HDEL', gate, 'silent', 'silent_since')
  end
  if gate_change == 'closed' then added[gate_change .. ':' .. request.name] = 1 end
  if request.both then report(other_gate, at, request) end
  for field, n in pairs(request.counts) do added[field] = (added[field] or 0) + n end
  for _, field in ipairs(request.seen) do redis.call('HSET', counts, field, text(at)) end
  for field, n in pairs(request.histograms) do redis.call('HINCRBY', requests, field, n) end
end
for count, n in pairs(added) do redis.call('HINCRBY', counts, count, n) end
local answer = {table.concat(written_flags), gate_change}
redis.call('SET', once, table.concat(answer, ' '), 'PX', once_ms)
return answer
