-- Find what is due and has no doorbell on its way; forget events and dead letters past their time.
--
-- KEYS  1 results  2 watch  3 bell of watch  4-11 lane sets  12-15 bells by lane
--       16 dead letters  17 counts  18 instant of the latest
-- ARGV  1 now ('' = TIME)  2 bell ms  3 ms that events are kept  4 ms that ended records are
-- Reply places of the bells to ring: 0 poll, 1-4 lanes.
#include clock
local at = now(ARGV[1])
local function due(set) return #redis.call('ZRANGEBYSCORE', set, '-inf', text(at), 'LIMIT', 0, 1) > 0 end
local function rung(bell) return redis.call('SET', bell, '1', 'NX', 'PX', ARGV[2]) end
local ring = {}
if due(KEYS[2]) and rung(KEYS[3]) then ring[1] = 0 end
for lane = 1, 4 do
  if (due(KEYS[2 + 2 * lane]) or due(KEYS[3 + 2 * lane])) and rung(KEYS[11 + lane]) then
    ring[#ring + 1] = lane
  end
end
if #ring > 0 then redis.call('HINCRBY', KEYS[17], 'bells', #ring) end
redis.call('SET', KEYS[18], text(math.floor(at / 1000)))
redis.call('XTRIM', KEYS[1], 'MINID', '~', text(math.floor(at / 1000) - tonumber(ARGV[3])))
redis.call('ZREMRANGEBYSCORE', KEYS[16], '-inf', text(at - tonumber(ARGV[4]) * 1000))
return ring
