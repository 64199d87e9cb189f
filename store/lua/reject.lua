-- Records a job that was refused outside of its app, and emits its only event.
-- @include clock
-- @include move
-- @include bury
-- @include format
-- KEYS
--   guard        never exists: a cluster refuses the call while its slot moves
--   format       of what the store holds
--   results
--   counts
--   dead         dead letters
--   record
-- ARGV
--   formats[2]   of the caller's version (lua/lib/format.lua)
--   time         '' for this server's clock
--   id
--   digest       the digest of the job
--   to           the status to write
--   draft[5]     the event's parts
--   keep         how long the record is kept, in ms
--   count        the counter of this end
--   fields...    name, value, ...
-- Reply 1 if this call or an earlier one with the same digest has recorded it, 0 if another message
-- has the id.
local newer = unreadable(format, formats, true)
if newer then return newer end
local known = redis.call('HGET', record, 'job')
if known then return known == digest and 1 or 0 end
local change = {from = false, to = to, id = id, draft = draft, at = 1, provider = 'null',
  content = record, keep = keep, keep_content = keep,
  fields = {'job', digest, unpack(ARGV, fields)}, size = #ARGV - fields + 3}
move(record, results, change)
redis.call('HINCRBY', counts, count, 1)
bury(dead, now(time), {id})
return 1
