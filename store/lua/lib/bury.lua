-- @include clock
-- bury(dead, at, ids): puts messages that have just ended on the list of dead letters. Each gets its
-- own score, higher than all others, so that a reader who continues from a score misses none.
local function bury(dead, at, ids)
  local last = redis.call('ZREVRANGE', dead, 0, 0, 'WITHSCORES')[2]
  local first, entries = math.max(at, tonumber(last or 0) + 1), {}
  for k, id in ipairs(ids) do
    entries[#entries + 1] = text(first + k - 1)
    entries[#entries + 1] = id
  end
  redis.call('ZADD', dead, unpack(entries))
end
