-- Ends waiting messages, unless they are inside a request.
-- @include clock
-- @include move
-- @include bury
-- @include format
-- @include tally
-- KEYS
--   guard            never exists: a cluster refuses the call while its slot moves
--   format           of what the store holds
--   results
--   counts
--   lanes[8]         the lane sets
--   dead             dead letters
--   registry         the campaigns
-- ARGV
--   formats[2]       of the caller's version (lua/lib/format.lua)
--   time             '' for this server's clock
--   records          prefix of the records' keys
--   contents         prefix of the contents' keys
--   campaigns        prefix of the campaigns' keys
--   keep             how long the record of an ended message is kept, in ms
--   keep_content     how long its content is kept, in ms
--   from             the status expected
--   tail...          groups of messages that end alike. A group is: number of messages, the status to
--                    write, '1' if they become dead letters, the counter of this end, the event's
--                    draft (5), the number of attempts in the records that the caller read, number of
--                    shared values, these values (name, value, ...), then for each message its id and
--                    the number of events in its record as read
-- Reply one for each message, in order:
--   'done'     the message has ended
--   'again'    the record has changed since the caller read it
--   'busy'     the message is inside a request, or was when its worker died
--   'lost'     the record says that it waits, but it is in no lane
--   'before'   it has ended before, for the first shared value's reason: an earlier call's, or a worker's
--   'gone'     it no longer waits
-- Events: one for each 'done'.
local newer = unreadable(format, formats, true)
if newer then return newer end
local states, removed, buried, tallies, at = {}, {}, {}, {}, now(time)

local function finish(id, n, attempts, change)
  local found = call('HMGET', records .. id, 'status', 'set', 'n', 'attempts', 'campaign', 'reason')
  if found[1] ~= from then return found[6] == change.fields[2] and 'before' or 'gone' end
  if (found[3] or '0') ~= n or (found[4] or '0') ~= attempts then return 'again' end
  local set = lanes[tonumber(found[2])] .. (found[5] and ':' .. found[5] or '')
  local score = call('ZSCORE', set, id)
  if not score then return 'lost' end
  if tonumber(score) % 4 == 2 then return 'busy' end
  change.id, change.content = id, contents .. id
  if not move(records .. id, results, change) then return 'gone' end
  removed[set] = removed[set] or {}
  table.insert(removed[set], id)
  return 'done'
end

local g = tail
while g <= #ARGV do
  local is_dead, count, attempts, shared = ARGV[g + 2], ARGV[g + 3], ARGV[g + 9], tonumber(ARGV[g + 10])
  local change = {from = from, to = ARGV[g + 1], draft = ARGV, at = g + 4, provider = 'null', keep = keep,
    keep_content = keep_content, fields = {unpack(ARGV, g + 11, g + 10 + shared)}, size = shared,
    tallies = tallies, now = text(at), count = count, waits = 1}
  local first, ended = g + 11 + shared, 0
  g = first + 2 * ARGV[g]
  for i = first, g - 1, 2 do
    local state = finish(ARGV[i], ARGV[i + 1], attempts, change)
    states[#states + 1] = state
    if state == 'done' then
      ended = ended + 1
      if is_dead == '1' then buried[#buried + 1] = ARGV[i] end
    end
  end
  if ended > 0 then call('HINCRBY', counts, count, ended) end
end
for set, ids in pairs(removed) do call('ZREM', set, unpack(ids)) end
if #buried > 0 then bury(dead, at, buried) end
write_tallies(tallies, campaigns, registry, at, keep)
return states
