-- Looks at dead letters in the order in which they ended, a chunk at a time; or at one message.
-- @include clock
-- KEYS
--   dead         dead letters
-- ARGV
--   id           '' for a chunk
--   after        score after which to go on
--   most         members to look at
--   first        the first field's value wanted ('' = any)
--   second       the second field's likewise
--   records      prefix of the records
--   contents     prefix of the contents
--   commons      prefix of the campaigns' contents
--   ask          GET or EXISTS, done with contents
--   fields...    record fields to return; the first is one that every record has
-- Reply {score of the last on the list, score of the last looked at, members, shared}
--   members: {id, score (0: not on the list), own content, common digest, fields ...} each
--   shared: digest, content, digest, content ...
-- Scores of nothing are 0; contents are what GET or EXISTS say. Writes nothing.
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
