-- Rings for due messages that have no bell; removes events and dead letters that are too old, and suppressed
-- numbers that have not been so for a day. Notices a step of this server's clock, and brings back what a
-- step back has left ahead.
-- @include clock
-- @include bell
-- @include clock_step
-- @include suppressed
-- @include trim
-- @include format
-- KEYS
--   guard          never exists: a cluster refuses the call while its slot moves
--   format         of what the store holds
--   watch
--   watch_bell
--   lanes[8]       the lane sets
--   turns[4]       the lanes' lines (lua/lib/lines.lua)
--   held_lines[4]  those of paused campaigns
--   bells[4]       the lanes' bells
--   wakes          the wake list, which workers' listeners read
--   results
--   dead           dead letters
--   counts
--   swept          the instant of the latest sweep
--   clock          steps of the clock (lua/lib/clock_step.lua)
--   missed         events that groups have missed (lua/lib/trim.lua)
--   gates[2]
--   buckets[2]
--   fences[2]
--   pauses[5]      keys that exist while an operator has paused a lane, or polling
--   pace           the latest due time given to a dead letter sent again
--   registry       the campaigns
--   suppressed     the list of suppressed numbers
-- ARGV
--   formats[2]     of the caller's version (lua/lib/format.lua)
--   time           '' for this server's clock
--   unless_ms      do nothing if the latest sweep is less than so many ms old
--   bell_ms        how long a bell is set, in ms
--   keep_events    how long events are kept, in ms
--   keep           how long records of ended messages are kept, in ms
--   watch_word     the word for the wake list that makes a worker poll
--   words[4]       the lanes' names, for the wake list
--   records        prefix of the records' keys
--   campaigns      prefix of the campaigns' keys
--   full_lease     the longest lease, in us
--   step_ms        by how much the clock must step to be noticed, in ms
--   gap_us         the longest time from one sweep to the next, in us
--   expected_ms    the instant that it is by this clock, if it has not stepped; '' if the caller
--                  doesn't know
--   most           most members to bring back in this call
--   cursor         where to go on in the list of suppressed numbers, from '0'
-- Reply {now (ms), the latest sweep before (ms, 0: none), '1' if there is more to bring back, the next
-- cursor, the words that were left on the wake list ...}
local newer = unreadable(format, formats, true)
if newer then return newer end
local at, last = now(time), tonumber(redis.call('GET', swept) or 0)
local at_ms, step, lease = math.floor(at / 1000), tonumber(step_ms), tonumber(full_lease)
local ago = at_ms - last
local places = {sets = {watch, unpack(lanes)}, records = records, bells = {watch_bell, unpack(bells)}, pauses = pauses,
  gates = gates, instants = {pace, fences[1], fences[2], buckets[1], buckets[2]}, lanes = lanes, turns = turns,
  held_lines = held_lines, campaigns = campaigns}
if ago < -step then
  step_back(clock, at, last * 1000, tonumber(gap_us), lease, places)
elseif ago > step and expected_ms ~= '' and at_ms - tonumber(expected_ms) > step then
  -- It seems to have gone forward. Until a lease later, claims spare leases from before (claim.lua).
  for _, gate in ipairs(gates) do
    redis.call('HSET', gate, 'seen', text(last * 1000), 'held', text(at + lease))
  end
end
local unfinished = walk(clock, at, lease, places, tonumber(most))
local left = {text(at_ms), text(last), unfinished and '1' or '0', cursor}
if ago >= 0 and ago < tonumber(unless_ms) then return left end  -- below 0: the clock was set back
local function due(set) return #redis.call('ZRANGEBYSCORE', set, '-inf', text(at), 'LIMIT', 0, 1) > 0 end
if due(watch) and ring(watch_bell, wakes, watch_word, bell_ms) then left[5] = watch_word end
for lane = 1, 4 do
  local is_due = due(lanes[2 * lane - 1]) or due(lanes[2 * lane]) or due(turns[lane]) or due(held_lines[lane])
  if is_due and ring(bells[lane], wakes, words[lane], bell_ms) then
    left[#left + 1] = words[lane]
  end
end
if #left > 4 then redis.call('HINCRBY', counts, 'bells', #left - 4) end
redis.call('SET', swept, text(at_ms))
local losers = trim(results, missed, at_ms - tonumber(keep_events))
if losers > 0 then redis.call('HINCRBY', counts, 'events-missed', losers) end
redis.call('ZREMRANGEBYSCORE', dead, '-inf', text(at - tonumber(keep) * 1000))
redis.call('ZREMRANGEBYSCORE', registry, '-inf', text(at))
local page = redis.call('HSCAN', suppressed, cursor, 'COUNT', 200)
for i = 1, #page[2], 2 do
  local live, till = is_live(page[2][i + 1], at - 86400000000)  -- the clock may be ahead for now
  if till and not live and page[2][i] ~= 'key' then redis.call('HDEL', suppressed, page[2][i]) end
end
left[4] = page[1]
return left
