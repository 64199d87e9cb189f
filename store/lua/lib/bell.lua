-- wake(list, word): leaves a word for the workers' listeners; it stands there once, however often.
local function wake(list, word)
  redis.call('LREM', list, 0, word)
  redis.call('RPUSH', list, word)
end

-- ring(bell, list, word, ms): sets a bell that isn't set, for so long, and leaves its word. Returns
-- whether it did: a bell that is set has its word or its task on the way.
local function ring(bell, list, word, ms)
  if not redis.call('SET', bell, '1', 'NX', 'PX', ms) then return false end
  wake(list, word)
  return true
end
