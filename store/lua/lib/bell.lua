-- wake(list, word): leaves a word on the wake list, where it stands at most once.
local function wake(list, word)
  redis.call('LREM', list, 0, word)
  redis.call('RPUSH', list, word)
end

-- ring(bell, list, word, ms): sets a bell for so many ms and leaves its word on the wake list. Returns
-- false, and does nothing, if the bell is set: then its word or its task is on its way.
local function ring(bell, list, word, ms)
  if not redis.call('SET', bell, '1', 'NX', 'PX', ms) then return false end
  wake(list, word)
  return true
end
