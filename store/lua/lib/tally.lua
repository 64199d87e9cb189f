-- @include clock
-- Counts what happens to the messages of campaigns, in tables, and writes each number once a script.
-- The hash of a campaign has these counters, beside what lua/campaign.lua writes:
--   added, resent      messages stored, and how many of them send a dead letter again
--   waiting, inside    messages in its lines, and how many of them are inside a request
--   ended              messages that have ended
--   <status>[:reason]  messages that entered the status, as in counts
--   left:<status>      messages that came from there to another status, unless they waited

-- add(tallies, name, field, n): adds to a counter of a campaign.
local function add(tallies, name, field, n)
  local fields = tallies[name] or {}
  tallies[name] = fields
  fields[field] = (fields[field] or 0) + n
end

-- retire(campaigns, registry, name, at, keep): if all messages of a campaign have ended, it expires so many
-- ms from now. The registry holds when each one does.
local function retire(campaigns, registry, name, at, keep)
  local campaign = campaigns .. name
  local found = redis.call('HMGET', campaign, 'added', 'ended')
  if found[1] ~= found[2] then return end
  redis.call('PEXPIRE', campaign, keep)
  redis.call('PEXPIRE', campaign .. ':rows', keep)
  redis.call('ZADD', registry, text(at + keep * 1000), name)
end

-- write_tallies(tallies, campaigns, registry, at, keep): writes what add has counted.
local function write_tallies(tallies, campaigns, registry, at, keep)
  for name, fields in pairs(tallies) do
    for field, n in pairs(fields) do
      if n ~= 0 then redis.call('HINCRBY', campaigns .. name, field, n) end
    end
    if fields.ended then retire(campaigns, registry, name, at, keep) end
  end
end
