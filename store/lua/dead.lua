-- Reads dead letters in the order in which they ended, a chunk at a time; or one message.
-- @include clock
-- @include format
-- KEYS
--   guard        never exists: a cluster refuses the call while its slot moves
--   format       of what the store holds
--   dead         dead letters
-- ARGV
--   formats[2]   of the caller's version (lua/lib/format.lua)
--   id           the message, or '' for a chunk
--   after        the score after which the chunk begins
--   most         most members to read
--   first        value that the first field must have ('': any)
--   second       value that the second field must have ('': any)
--   records      prefix of the records' keys
--   contents     prefix of the contents' keys
--   commons      prefix of the keys of campaigns' contents
--   ask          the command for contents, GET or EXISTS
--   fields...    record fields to return; every record has the first one
-- Reply {score of the last letter on the list, score of the last one read, members, shared}
--   members    {id, score (0: not on the list), own content, {common digest, fields ...}} of each
--   shared     digest, content, digest, content ...
-- A score is 0 if there is none. A content is the reply to GET or EXISTS. Writes nothing.
local newer = unreadable(format, formats)
if newer then return newer end
local members, found, shared, known = {id}, {}, {}, {}
if id ~= '' then
  members[2] = redis.call('ZSCORE', dead, id) or 0
else
  members = redis.call('ZRANGEBYSCORE', dead, '(' .. after, '+inf', 'WITHSCORES', 'LIMIT', 0, most)
end
for i = 1, #members, 2 do
  local member = members[i]
  local values = redis.call('HMGET', records .. member, 'common', unpack(ARGV, fields))
  if values[2] and (first == '' or first == values[2]) and (second == '' or second == values[3]) then
    local digest = values[1]
    if digest and not known[digest] then
      known[digest] = true
      shared[#shared + 1] = digest
      shared[#shared + 1] = redis.call(ask, commons .. digest)
    end
    local content = redis.call(ask, contents .. member)
    found[#found + 1] = {member, text(tonumber(members[i + 1])), content, values}
  end
end
local top = redis.call('ZREVRANGE', dead, 0, 0, 'WITHSCORES')[2] or 0
return {text(tonumber(top)), text(tonumber(members[#members]) or 0), found, shared}
