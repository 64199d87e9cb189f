-- unreadable(format, mine, writes): returns an error reply if only newer versions can read what the
-- store holds, or nobody knows, else nil. format is a hash (store/format.py):
--   written    the newest format that has been written
--   needed     the oldest format whose versions can read it
-- mine has these two of the caller's version. If it writes, the hash is kept: numbers only go up.
local function unreadable(format, mine, writes)
  local held = redis.call('HMGET', format, 'written', 'needed')
  if held[1] == mine[1] and held[2] == mine[2] then return nil end
  local written, needed = tonumber(held[1] or 0), tonumber(held[2] or 0)
  if not (written and needed) then return redis.error_reply('UNREADABLE numbers') end
  if needed > tonumber(mine[1]) then
    return redis.error_reply('UNREADABLE ' .. written .. ' ' .. needed .. ' ' .. mine[1])
  end
  if writes and tonumber(mine[1]) > written then redis.call('HSET', format, 'written', mine[1]) end
  if writes and tonumber(mine[2]) > needed then redis.call('HSET', format, 'needed', mine[2]) end
end
