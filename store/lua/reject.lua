-- Records a job that was refused after it had left its app, and its one event.
-- @include clock
-- @include move
-- @include bury
-- KEYS
--   results
--   counts
--   dead         dead letters
--   record
-- ARGV
--   time         '' for this server's
--   id
--   digest       of what was asked
--   to           status to write
--   draft[5]     the event's
--   keep         ms that the record is kept
--   count        counter of this end
--   fields...    name, value, ...
-- Reply 1 if recorded now or by an earlier call with the same digest, 0 if the id is taken.
local known = redis.call('HGET', record, 'job')
if known then return known == digest and 1 or 0 end
local change = {from = false, to = to, id = id, draft = draft, at = 1, provider = 'null',
  content = record, keep = keep, keep_content = keep,
  fields = {'job', digest, unpack(ARGV, fields)}, size = #ARGV - fields + 3}
move(record, results, change)
redis.call('HINCRBY', counts, count, 1)
bury(dead, now(time), {id})
return 1
