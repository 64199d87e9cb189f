-- now(time): microseconds since 1970 by this server's clock, a multiple of four. Tests pass an
-- instant of their own as time, everybody else ''.
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

-- text(number): its digits; Lua's own tostring loses the end of numbers with 16 of them.
local function text(number) return string.format('%.0f', number) end
