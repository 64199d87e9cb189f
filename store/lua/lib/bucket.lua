-- A token bucket that all workers share: a string, the instant (us) at which it is full again; no
-- key: it is full. A token takes cost us to come (0: no limit), burst tokens fit in.

-- tokens(bucket, at, cost, burst, wanted): how many are in it, and us until the wanted number is.
local function tokens(bucket, at, cost, burst, wanted)
  if cost == 0 then return math.huge, 0 end
  local ready = burst * cost - math.max(tonumber(redis.call('GET', bucket) or 0) - at, 0)
  return math.floor(ready / cost), math.max(math.min(wanted, burst) * cost - ready, 0)
end

-- spend(bucket, at, cost, count): takes so many tokens out of it.
local function spend(bucket, at, cost, count)
  if cost == 0 or count == 0 then return end
  local full = math.max(tonumber(redis.call('GET', bucket) or 0), at) + count * cost
  -- At millions a second it may be full again within the clock's grain.
  local ms = math.max(math.ceil((full - at) / 1000), 1)
  redis.call('SET', bucket, string.format('%.3f', full), 'PX', ms)
end
