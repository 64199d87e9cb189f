-- Rings for due messages that have no bell; removes events and dead letters that are too old.
-- @include clock
-- @include bell
-- KEYS
--   guard          never exists: a cluster refuses the call while its slot moves
--   watch
--   watch_bell
--   lanes[8]       the lane sets
--   bells[4]       the lanes' bells
--   wakes          the wake list, which workers' listeners read
--   results
--   dead           dead letters
--   counts
--   swept          the instant of the latest sweep
-- ARGV
--   time           '' for this server's clock
--   unless_ms      do nothing if the latest sweep is less than so many ms old
--   bell_ms        how long a bell is set, in ms
--   keep_events    how long events are kept, in ms
--   keep           how long records of ended messages are kept, in ms
--   watch_word     the word for the wake list that makes a worker poll
--   words[4]       the lanes' names, for the wake list
-- Reply the words that were left on the wake list.
local at = now(time)
local ago = math.floor(at / 1000) - tonumber(redis.call('GET', swept) or 0)
if ago >= 0 and ago < tonumber(unless_ms) then return {} end  -- below 0: the clock was set back
local function due(set) return #redis.call('ZRANGEBYSCORE', set, '-inf', text(at), 'LIMIT', 0, 1) > 0 end
local left = {}
if due(watch) and ring(watch_bell, wakes, watch_word, bell_ms) then left[1] = watch_word end
for lane = 1, 4 do
  if (due(lanes[2 * lane - 1]) or due(lanes[2 * lane])) and ring(bells[lane], wakes, words[lane], bell_ms) then
    left[#left + 1] = words[lane]
  end
end
if #left > 0 then redis.call('HINCRBY', counts, 'bells', #left) end
redis.call('SET', swept, text(math.floor(at / 1000)))
redis.call('XTRIM', results, 'MINID', '~', text(math.floor(at / 1000) - tonumber(keep_events)))
redis.call('ZREMRANGEBYSCORE', dead, '-inf', text(at - tonumber(keep) * 1000))
return left
