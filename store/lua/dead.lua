-- Look at dead letters in the order in which they ended, a chunk at a time; or at one message.
--
-- KEYS  1 dead letters
-- ARGV  1 id ('' for a chunk)  2 score after which to go on  3 most members to look at
--       4 first field's value wanted ('' = any)  5 second field's likewise
--       6 record prefix  7 content prefix  8 common prefix  9 GET or EXISTS, done with contents
--       10 ... record fields to return; the first is one that every record has
-- Reply {score of the last on the list, score of the last looked at, members, commons}
--   members: {id, score (0: not on the list), own content, common digest, fields ...} each
--   commons: digest, content, digest, content ...
-- Scores of nothing are 0; contents are what GET or EXISTS say. Writes nothing.
#include clock
local members, found, commons, known = {ARGV[1]}, {}, {}, {}
if ARGV[1] ~= '' then
  members[2] = redis.call('ZSCORE', KEYS[1], ARGV[1]) or 0
else
  members = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. ARGV[2], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[3])
end
for i = 1, #members, 2 do
  local id = members[i]
  local values = redis.call('HMGET', ARGV[6] .. id, 'common', unpack(ARGV, 10))
  if values[2] and (ARGV[4] == '' or ARGV[4] == values[2]) and (ARGV[5] == '' or ARGV[5] == values[3]) then
    local digest = values[1]
    if digest and not known[digest] then
      known[digest] = true
      commons[#commons + 1] = digest
      commons[#commons + 1] = redis.call(ARGV[9], ARGV[8] .. digest)
    end
    found[#found + 1] = {id, text(tonumber(members[i + 1])), redis.call(ARGV[9], ARGV[7] .. id), values}
  end
end
local top = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2] or 0
return {text(tonumber(top)), text(tonumber(members[#members]) or 0), found, commons}
