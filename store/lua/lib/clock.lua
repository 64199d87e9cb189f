-- now(override): microseconds since 1970 by this server's clock, a multiple of four;
-- tests pass an instant of their own, everybody else ''.
local function now(override)
  local micros
  if override ~= '' then
    micros = tonumber(override)
  else
    local time = redis.call('TIME')
    micros = tonumber(time[1]) * 1000000 + tonumber(time[2])
  end
  return micros - micros % 4
end

-- Numbers of 16 digits lose their end in Lua's own tostring.
local function text(number) return string.format('%.0f', number) end
