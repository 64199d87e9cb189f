-- Puts numbers on the list of suppressed ones, or takes them off it.
-- @include clock
-- @include format
-- @include suppressed
-- KEYS
--   guard         never exists: a cluster refuses the call while its slot moves
--   format        of what the store holds
--   suppressed    the list
--   counts
-- ARGV
--   formats[2]    of the caller's version (lua/lib/format.lua)
--   time          '' for this server's clock
--   fingerprint   of the key that the hashes were made with
--   keeps         '1': an entry that holds as long or longer stays
--   count         the counter of what this call changes
--   entries...    hash, why ('': take it off the list), until when (ms, 0: for good) and since when (ms,
--                 '': now) of each
-- Reply how many numbers are new on the list, or were on it. Removes entries that are over.
local newer = unreadable(format, formats, true)
if newer then return newer end
local wrong = other_key(redis.call('HGET', suppressed, 'key'), fingerprint)
if wrong then return wrong end
local at, changed = now(time), 0
for i = entries, #ARGV, 4 do
  local hash, why, till, since = unpack(ARGV, i, i + 3)
  local live, held = is_live(redis.call('HGET', suppressed, hash), at)
  if why == '' then
    redis.call('HDEL', suppressed, hash)
  elseif not (live and keeps == '1' and (held == 0 or till ~= '0' and tonumber(till) <= held)) then
    since = since ~= '' and since or text(math.floor(at / 1000))
    redis.call('HSET', suppressed, 'key', fingerprint, hash, till .. ' ' .. since .. ' ' .. why)
  end
  if (why == '') == (live or false) then changed = changed + 1 end
end
if changed > 0 then redis.call('HINCRBY', counts, count, changed) end
return changed
