-- Reads a campaign, and pauses, resumes or cancels it: moves its lines between turns and held lines.
-- @include clock
-- @include bell
-- @include tally
-- @include format
-- KEYS
--   guard          never exists: a cluster refuses the call while its slot moves
--   format         of what the store holds
--   registry       the campaigns
--   lanes[8]       the lane sets
--   turns[4]       the lanes' lines (lua/lib/lines.lua)
--   held_lines[4]  those of paused campaigns
--   bells[4]       the lanes' bells
--   wakes          the wake list, which workers' listeners read
-- ARGV
--   formats[2]     of the caller's version (lua/lib/format.lua)
--   time           '' for this server's clock
--   campaigns      prefix of the campaigns' keys
--   name
--   act            'read', 'open', 'pause', 'resume' or 'cancel'
--   value          for 'pause' the reason, for 'open' the rate in messages/s
--   keep           how long a campaign without messages is kept, in ms
--   bell_ms        how long a bell is set, in ms
--   words[4]       the lanes' names, for the wake list
-- Reply {now, '1' if it is unknown or cancelled and can't be changed so, name, value ... of its hash}:
--   created, added ...  (lua/lib/tally.lua)
--   paused              the reason; no such field: it is not paused
--   stopped             when it was cancelled (us)
--   rate                most messages a second, if it has a rate of its own
--   served, pace, began  how fast it goes (lua/claim.lua)
--   later               messages in its lines that are not due, or inside a request
--   looked:<set>        how far the look for what must end has come in a line
-- 'open' and 'pause' make a campaign that is unknown.
local newer = unreadable(format, formats, act ~= 'read')
if newer then return newer end
local at, campaign = now(time), campaigns .. name
local known = redis.call('HMGET', campaign, 'created', 'stopped')
local makes = act == 'open' or act == 'pause'
local refused = act ~= 'read' and (known[2] and act ~= 'cancel' or not known[1] and not makes)

-- Moves the campaign's lines to where they are looked at next, at once.
local function move_lines(from, to)
  for lane = 1, 4 do
    for flag = 0, 1 do
      local member = flag .. ':' .. name
      if redis.call('ZREM', from[lane], member) == 1 then
        redis.call('ZADD', to[lane], text(at), member)
        if to == turns then ring(bells[lane], wakes, words[lane], bell_ms) end
      end
    end
  end
end

if not refused and act ~= 'read' then
  if act == 'open' then
    redis.call('HSET', campaign, 'rate', value)
  elseif act == 'pause' then
    redis.call('HSET', campaign, 'paused', value)
    move_lines(turns, held_lines)
  else
    if act == 'cancel' and not known[2] then redis.call('HSET', campaign, 'stopped', text(at)) end
    redis.call('HDEL', campaign, 'paused', 'served', 'pace', 'began')
    move_lines(held_lines, turns)
    if act == 'cancel' then move_lines(turns, turns) end
  end
  if not known[1] then
    redis.call('HSET', campaign, 'created', text(at))
    retire(campaigns, registry, name, at, keep)
  end
end
local later = 0
for n = 1, 8 do later = later + redis.call('ZCOUNT', lanes[n] .. ':' .. name, '(' .. text(at), '+inf') end
return {text(at), refused and '1' or '', 'later', later, unpack(redis.call('HGETALL', campaign))}
