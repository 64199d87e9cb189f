-- now(time): returns microseconds since 1970 by this server's clock, a multiple of four. Tests pass
-- another instant as time; all other callers pass ''.
local function now(time)
  local micros
  if time ~= '' then
    micros = tonumber(time)
  else
    local clock = redis.call('TIME')
    micros = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
  end
  return micros - micros % 4
end

-- text(number): returns its digits. Lua's tostring would round a number of 16 digits.
local function text(number) return string.format('%.0f', number) end
