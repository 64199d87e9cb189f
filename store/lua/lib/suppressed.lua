-- @include clock
-- The list of suppressed numbers is a hash:
--   key       the fingerprint of the key that hashes are made with
--   <hash>    until when the number is suppressed (ms, 0: for good), since when (ms), and why

-- other_key(held, given): returns an error reply if the list's key is not the given one; by fingerprints.
local function other_key(held, given)
  if held and held ~= given then return redis.error_reply('OTHERKEY ' .. held .. ' ' .. given) end
end

-- is_live(entry, at): returns whether an entry of the list holds, and until when (ms).
local function is_live(entry, at)
  local till = entry and tonumber(string.match(entry, '^%d+'))
  return till and (till == 0 or till * 1000 > at), till
end

-- suppressed_places(list, hashes, at): returns a table with the places, from 1, of hashes on the list;
-- or nil and an error reply. hashes is '' or the fingerprint of their key (12 characters), then hashes of
-- 16 characters each; blanks are none.
local function suppressed_places(list, hashes, at)
  local wanted, places, found = {}, {}, {}
  for place = 1, (#hashes - 12) / 16 do
    local hash = string.sub(hashes, 16 * place - 3, 16 * place + 12)
    if string.sub(hash, 1, 1) ~= ' ' then
      wanted[#wanted + 1] = hash
      places[#places + 1] = place
    end
  end
  if #wanted == 0 then return found end
  local held = redis.call('HMGET', list, 'key', unpack(wanted))
  local wrong = other_key(held[1], string.sub(hashes, 1, 12))
  if wrong then return nil, wrong end
  for k, place in ipairs(places) do found[place] = is_live(held[k + 1], at) or nil end
  return found
end
