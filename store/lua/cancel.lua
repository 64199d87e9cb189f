-- Ends a message that waits and is not inside a request.
-- @include clock
-- @include move
-- @include bury
-- KEYS
--   results
--   counts
--   lanes[8]         the lane sets
--   dead             dead letters
--   record
--   content
-- ARGV
--   time             '' for this server's
--   id
--   n                as the caller saw it
--   attempts         likewise
--   from             status expected
--   to               status to write
--   is_dead          '1' if this end is a dead letter
--   draft[5]         the event's
--   keep             ms that the record is kept
--   keep_content     ms that its content is
--   count            counter of this end
--   fields...        name, value, ...
-- Reply 'done', 'again' (the record has changed since the caller saw it), 'busy' (inside a
-- request, or it was when its worker died), 'lost' (it is in no lane, though its record waits) or
-- 'gone' (it doesn't wait any more). Events: one if 'done'.
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
