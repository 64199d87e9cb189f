-- Ends a waiting message, unless it is inside a request.
-- @include clock
-- @include move
-- @include bury
-- @include format
-- KEYS
--   guard            never exists: a cluster refuses the call while its slot moves
--   format           of what the store holds
--   results
--   counts
--   lanes[8]         the lane sets
--   dead             dead letters
--   record
--   content
-- ARGV
--   formats[2]       of the caller's version (lua/lib/format.lua)
--   time             '' for this server's clock
--   id
--   n                the number of events in the record that the caller read
--   attempts         the number of attempts in it
--   from             the status expected
--   to               the status to write
--   is_dead          '1' if the message becomes a dead letter
--   draft[5]         the event's parts
--   keep             how long the record is kept, in ms
--   keep_content     how long its content is kept, in ms
--   count            the counter of this end
--   fields...        name, value, ...
-- Reply one of
--   'done'     the message has ended
--   'again'    the record has changed since the caller read it
--   'busy'     the message is inside a request, or was when its worker died
--   'lost'     the record says that it waits, but it is in no lane
--   'gone'     it no longer waits
-- Events: one if 'done'.
local newer = unreadable(format, formats, true)
if newer then return newer end
local found = redis.call('HMGET', record, 'status', 'set', 'n', 'attempts')
if found[1] ~= from then return 'gone' end
if (found[3] or '0') ~= n or (found[4] or '0') ~= attempts then return 'again' end
local lane = lanes[tonumber(found[2])]
local score = redis.call('ZSCORE', lane, id)
if not score then return 'lost' end
if tonumber(score) % 4 == 2 then return 'busy' end
local change = {from = from, to = to, id = id, draft = draft, at = 1, provider = 'null',
  content = content, keep = keep, keep_content = keep_content, fields = {unpack(ARGV, fields)},
  size = #ARGV - fields + 1}
if not move(record, results, change) then return 'gone' end
redis.call('ZREM', lane, id)
redis.call('HINCRBY', counts, count, 1)
if is_dead == '1' then bury(dead, now(time), {id}) end
return 'done'
