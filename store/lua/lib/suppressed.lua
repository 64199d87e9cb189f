-- @include clock
-- other_key(list, fingerprint): returns an error reply if the list of suppressed numbers has hashes of
-- another key. list is a hash:
--   key       the fingerprint of the key
--   <hash>    until when the number is suppressed (ms, 0: for good), since when (ms), and why
local function other_key(list, fingerprint)
  local held = redis.call('HGET', list, 'key')
  if not held or held == fingerprint then return nil end
  return redis.error_reply('OTHERKEY ' .. held .. ' ' .. fingerprint)
end

-- is_live(entry, at): returns whether an entry of the list holds, and until when (ms).
local function is_live(entry, at)
  local till = entry and tonumber(string.match(entry, '^%d+'))
  return till and (till == 0 or till * 1000 > at), till
end

-- suppressed_places(list, hashes, at): returns the places, from 1, of hashes on the list, as a table.
-- Each hash has 16 characters; blanks are none.
local function suppressed_places(list, hashes, at)
  local wanted, places, found = {}, {}, {}
  for place = 1, #hashes / 16 do
    local hash = string.sub(hashes, 16 * place - 15, 16 * place)
    if string.sub(hash, 1, 1) ~= ' ' then
      wanted[#wanted + 1] = hash
      places[#places + 1] = place
    end
  end
  if #wanted == 0 then return found end
  for k, entry in ipairs(redis.call('HMGET', list, unpack(wanted))) do
    if entry and is_live(entry, at) then found[places[k]] = true end
  end
  return found
end
