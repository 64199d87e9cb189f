-- Ends messages of a cancelled campaign that are inside no request, those due last first.
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
--   turns[4]         the lanes' lines (lua/lib/lines.lua)
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
--   name             the campaign
--   most             most messages to end
--   from             the status expected
--   reason           why they end
--   sent_again[2]    what the event has before and after the id of the letter that a message sends again
--   ends...          two ends: of messages that have not left, and of those that may have. An end is: the
--                    status to write, '1' if they become dead letters, the counter of this end, and the
--                    event's draft, whose last part is in five pieces, with the number of attempts, that
--                    of unsure ones, the metadata, and sent_again in between
-- Reply how many messages have ended. Events: one for each.
-- Workers leave the lines to the caller for a second more.
local newer = unreadable(format, formats, true)
if newer then return newer end
local at, buried, tallies, total = now(time), {}, {}, 0

local function new_end(e)
  return {from = from, to = ARGV[e], is_dead = ARGV[e + 1] == '1', count = ARGV[e + 2], ended = 0,
    draft = {unpack(ARGV, e + 3, e + 6)}, at = 1, last = {unpack(ARGV, e + 7, e + 11)}, provider = 'null',
    keep = keep, keep_content = keep_content, fields = {'reason', reason}, size = 2, tallies = tallies,
    now = text(at), waits = 1}
end
local unsent, unsure = new_end(ends), new_end(ends + 12)

-- Returns whether a message is no longer in its line.
local fields = {unpack(READ)}
for _, field in ipairs({'attempts', 'unsure', 'metadata', 'resendOf'}) do fields[#fields + 1] = field end
local function finish(id)
  local found = call('HMGET', records .. id, unpack(fields))
  if not found[1] then return true end  -- its record was deleted by hand
  local change = tonumber(found[8] or 0) > 0 and unsure or unsent
  local last, letter = change.last, found[10]
  change.draft[5] = last[1] .. (found[7] or '0') .. last[2] .. (found[8] or '0') .. last[3]
    .. (found[9] or '{}') .. last[4] .. (letter and sent_again[1] .. letter .. sent_again[2] or '') .. last[5]
  change.id, change.content = id, contents .. id
  if not move(records .. id, results, change, found) then return false end
  change.ended = change.ended + 1
  if change.is_dead then buried[#buried + 1] = id end
  return true
end

for set, lane in ipairs(lanes) do
  local line, offset, removed, size = lane .. ':' .. name, 0, {}, 2 * most
  while total < tonumber(most) do
    local members = call('ZREVRANGE', line, offset, offset + most - 1, 'WITHSCORES')
    for i = 1, #members, 2 do
      if total < tonumber(most) and tonumber(members[i + 1]) % 4 < 2 and finish(members[i]) then
        removed[#removed + 1] = members[i]
        total = total + 1
      end
    end
    if #members < size or offset >= 10000 then break end
    offset = offset + most
  end
  if #removed > 0 then
    call('ZREM', line, unpack(removed))
    call('ZADD', turns[math.ceil(set / 2)], 'XX', 'GT', text(at + 1000000), 1 - set % 2 .. ':' .. name)
  end
end
for _, change in ipairs({unsent, unsure}) do
  if change.ended > 0 then call('HINCRBY', counts, change.count, change.ended) end
end
if #buried > 0 then bury(dead, at, buried) end
write_tallies(tallies, campaigns, registry, at, keep)
return total
