-- A token bucket that all workers share. The key holds the instant (us) at which the bucket is full
-- again; no key: it is full. One token comes each cost us (0: no limit), burst of them fit in.

-- tokens(bucket, at, cost, burst, wanted): returns how many tokens are in the bucket, and the us until
-- it holds the wanted number.
local function tokens(bucket, at, cost, burst, wanted)
  if cost == 0 then return math.huge, 0 end
  local ready = burst * cost - math.max(tonumber(redis.call('GET', bucket) or 0) - at, 0)
  return math.floor(ready / cost), math.max(math.min(wanted, burst) * cost - ready, 0)
end

-- spend(bucket, at, cost, count): takes count tokens out of the bucket.
local function spend(bucket, at, cost, count)
  if cost == 0 or count == 0 then return end
  local full = math.max(tonumber(redis.call('GET', bucket) or 0), at) + count * cost
  -- At millions of tokens a second the bucket may be full again in less than a ms.
  local ms = math.max(math.ceil((full - at) / 1000), 1)
  redis.call('SET', bucket, string.format('%.3f', full), 'PX', ms)
end
