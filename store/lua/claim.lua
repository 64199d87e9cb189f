-- Leases the first due members of the most urgent set that has any, if the gate allows it.
-- @include clock
-- @include bell
-- @include bucket
-- @include format
-- KEYS
--   guard          never exists: a cluster refuses the call while its slot moves
--   format         of what the store holds
--   once           the answer to the first call, returned to repeats
--   fence          the latest lease given
--   bell           the bell of the lane served
--   wakes          the wake list, which workers' listeners read
--   gate
--   bucket
--   counts
--   swept          the instant of the latest sweep
--   groups...      groups of sets, the most urgent first; each is its sets, the lines of campaigns, those
--                  of paused ones (lua/lib/lines.lua), and the key that exists while the group is
--                  paused
-- ARGV
--   formats[2]     of the caller's version (lua/lib/format.lua)
--   time           '' for this server's clock
--   size           most members to lease
--   lease          its length in us
--   gap_us         the longest time from one sweep to the next, in us
--   answered       '1' if this claim answers the bell
--   bell_ms        how long a bell is set, in ms
--   word           the lane's name, or poll, for the wake list
--   records        prefix of the records' keys
--   contents       prefix of the contents' keys; '' if contents aren't wanted (/status)
--   commons        prefix of the keys of shared contents
--   campaigns      prefix of the campaigns' keys
--   rank           sets in a group
--   once_ms        how long the answer is kept, in ms
--   probe_us       how long a probe may take, in us
--   resent         one character for each set: '1' if its messages are preferred as probes
--   choice         the value of the option that makes a message preferred as a probe
--   cost           us in which one token comes (0: no rate limit)
--   burst          most tokens in the bucket
--   each           '1' if each member costs a token, '0' if the whole claim costs one
--   wanted         how many tokens are worth waiting for
--   option         the record field that choice is compared with
--   fields...      record fields to return: first one that every record has (if contents are wanted,
--                  the instant until which the message may be sent), then others
-- Reply one of
--   {}                      nothing is due
--   {us, '1' or '0'}        the bucket is empty for so long; '1': this caller claims again then
--   {index of the set, lease, now, more, members, shared, messages refused in a row, the campaign ('':
--    none), '1' if it is cancelled: the messages must end}
--     more       '0' nothing else is due; '1' more is due, and its bell is rung; '3' this is a probe;
--                '4' more is due, but there are no tokens for it
--     members    id, kind as found, own content, common digest, fields ... of each in turn: Redis
--                writes each table of a reply to the socket by itself
--     shared     digest, content, digest, content ...; a missing content is false
-- A repeat with the same once key gets the same members.
-- Kinds (store/keys.py): 0 becomes 1. Members found with 1 or 2 have lapsed: they keep their kind,
-- and the lapse is counted.
-- When the gate is closed, the lane paused or the bucket empty, the claim leases only messages that
-- must end: expired, or lapsed inside a request.
-- If the clock may have stepped forward, leases that were live at the latest sweep before it are left
-- alone for as long as one lasts: their holders are at work (lua/lib/clock_step.lua).
-- A campaign's messages come from one of its lines. Lines take turns, and every second claim serves what
-- has no campaign. Of a paused campaign only messages that must end are leased.
-- If contents aren't wanted and the last request failed, there is one request at a time: one that
-- hangs takes only one slot away from sending.
local newer = unreadable(format, formats, true)
if newer then return newer end
local at, has_contents = now(time), contents ~= ''
local due = text(at)
size, rank, lease = tonumber(size), tonumber(rank), tonumber(lease)
local sets, turns, held_lines, pauses, queues = {}, {}, {}, {}, {}
for g = groups, #KEYS, rank + 3 do
  for i = g, g + rank - 1 do sets[#sets + 1] = KEYS[i] end
  turns[#turns + 1], held_lines[#held_lines + 1] = KEYS[g + rank], KEYS[g + rank + 1]
  pauses[#pauses + 1] = KEYS[g + rank + 2]
  queues[#queues + 1], queues[#queues + 2] = KEYS[g + rank], KEYS[g + rank + 1]
end
local has_lines = redis.call('EXISTS', unpack(queues)) > 0
local paused = redis.call('MGET', swept, unpack(pauses))
local state = redis.call('HMGET', gate, 'until', 'refused', 'probe', 'row', 'seen', 'held')
local seen, gap = tonumber(paused[1] or 0) * 1000, tonumber(gap_us)
if seen == 0 or at - seen <= gap then seen = tonumber(state[6] or 0) > at and tonumber(state[5]) end
local function first(key, from, count)
  local most, found = seen and count + 5000 or count, {}
  local members = redis.call('ZRANGEBYSCORE', key, '-inf', due, 'WITHSCORES', 'LIMIT', from, most)
  if not seen then return members end
  for i = 1, #members, 2 do
    local score = tonumber(members[i + 1])
    if (score % 4 == 0 or score < seen or score > seen + gap + lease) and #found < 2 * count then
      found[#found + 1] = members[i]
      found[#found + 1] = members[i + 1]
    end
  end
  return found
end

-- What may be served is a table: place, the number of its lane set; key, the set or line; members, if
-- they are known already. That of a line also has name, the campaign's; queue, turns or held; member,
-- the line's there; rate and tokens, if it has a bucket of its own; is_cancelled.

-- Returns the members of a window of key that must end, if there are any, and whether the window held all
-- that is due; hash[field] is where it begins.
local function ending(key, hash, field)
  local window, found, looked = 10 * size, {}, 0
  local from = tonumber(redis.call('HGET', hash, field) or 0)
  local members = first(key, from, window)
  for k = 1, #members, 2 do
    local till = redis.call('HGET', records .. members[k], ARGV[fields])
    looked = looked + 1
    if tonumber(members[k + 1]) % 4 == 2 or tonumber(till or 0) <= at then
      found[#found + 1] = members[k]
      found[#found + 1] = members[k + 1]
      if #found == 2 * size then break end
    end
  end
  local all = #members < 2 * window and 2 * looked == #members
  redis.call('HSET', hash, field, all and 0 or from + looked - #found / 2)
  return #found > 0 and found, all
end

-- Returns the members of a cancelled campaign's line that no worker holds, due or not.
local function cancelled(key)
  local found = first(key, 0, size)
  if #found > 0 then return found end
  local members = redis.call('ZRANGEBYSCORE', key, due, '+inf', 'WITHSCORES', 'LIMIT', 0, size + 1000)
  for k = 1, #members, 2 do
    if tonumber(members[k + 1]) % 4 == 0 and #found < 2 * size then
      found[#found + 1] = members[k]
      found[#found + 1] = members[k + 1]
    end
  end
  return #found > 0 and found
end

-- Notes when a line is looked at next: when its earliest message is due, and no sooner than after. That
-- of a cancelled campaign is looked at again until it gives no more: its messages may be due later.
local function requeue(line, after)
  local earliest = tonumber(redis.call('ZRANGEBYSCORE', line.key, '-inf', '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2])
  if earliest and line.is_cancelled and line.members then earliest = after end
  if earliest then
    redis.call('ZADD', line.queue, text(math.max(earliest, after)), line.member)
  else
    redis.call('ZREM', line.queue, line.member)
  end
end

-- Returns the lines of a group whose turn has come, the first ones first.
local function lines_of(group, queue)
  local found = {}
  local members = has_lines and redis.call('ZRANGEBYSCORE', queue, '-inf', due, 'LIMIT', 0, 20) or {}
  for _, member in ipairs(members) do
    local name = string.sub(member, 3)
    local place = (group - 1) * rank + string.sub(member, 1, 1) + 1
    found[#found + 1] = {place = place, key = sets[place] .. ':' .. name, name = name, queue = queue,
      member = member}
  end
  return found
end

-- Takes so many tokens out of the bucket of a campaign that has a rate of its own. Returns how many are
-- left, and in how many us it is worth a look again.
local function tokens_of(line, used)
  local own, cost = campaigns .. line.name .. ':bucket', 1000000 / line.rate
  spend(own, at, cost, used)
  local left, us = tokens(own, at, cost, math.max(1, line.rate), math.max(1, math.floor(line.rate / 10)))
  return left, left < 1 and us or 0
end

local function plain(group)
  local place, best
  for i = (group - 1) * rank + 1, group * rank do
    local score = tonumber(first(sets[i], 0, 1)[2])
    if score and (not best or score < best) then place, best = i, score end
  end
  return place and {place = place, key = sets[place]}
end

local function next_line(group)
  for _, line in ipairs(lines_of(group, turns[group])) do
    local known, wait = redis.call('HMGET', campaigns .. line.name, 'rate', 'stopped'), 0
    line.is_cancelled, line.rate = known[2], tonumber(known[1])
    if known[2] then
      line.members = cancelled(line.key)
    elseif line.rate then
      line.tokens, wait = tokens_of(line, 0)
    end
    if line.members or not known[2] and line.tokens ~= 0 and #first(line.key, 0, 1) > 0 then return line end
    requeue(line, at + wait)
  end
end

local function next_held(group, serves)
  local line = lines_of(group, held_lines[group])[1]
  if not line or not serves then return line end
  local all
  line.members, all = ending(line.key, campaigns .. line.name, 'looked:' .. line.place)
  if line.members then return line end
  requeue(line, at + (all and 10000000 or 1000000))
end

-- What a lane has without a campaign is served at every second claim, if both is due.
local ORDERS = {{plain, next_line, next_held}, {next_line, next_held, plain}, {plain, next_held, next_line},
  {next_held, next_line, plain}}
local function most_urgent(serves)
  for group = 1, #turns do
    local turn = has_lines and 'turn:' .. turns[group]
    local order = turn and tonumber(redis.call('HGET', gate, turn) or 0) % 4 + 1
    for _, look in ipairs(paused[group + 1] and {} or turn and ORDERS[order] or {plain}) do
      local found = look(group, serves)
      if found then
        if turn and serves then redis.call('HINCRBY', gate, turn, 1) end
        return found
      end
    end
  end
end

local function must_end()
  for place = 1, has_contents and #sets or 0 do
    local members = ending(sets[place], gate, 'window:' .. sets[place])
    if members then return {place = place, key = sets[place], members = members} end
  end
  for group = 1, #turns do
    local line = lines_of(group, turns[group])[1]
    if line then
      local campaign = campaigns .. line.name
      line.is_cancelled = redis.call('HGET', campaign, 'stopped')
      line.members = line.is_cancelled and cancelled(line.key)
        or ending(line.key, campaign, 'looked:' .. line.place)
      if line.members then return line end
      requeue(line, at)
    end
    line = next_held(group, true)
    if line then return line end
  end
end

local function probe()
  local best
  local function consider(spot)
    local members = first(spot.key, 0, 20)
    for k = 1, #members, 2 do
      local record = redis.call('HMGET', records .. members[k], ARGV[fields], option)
      local score = tonumber(members[k + 1])
      if not has_contents or (score % 4 ~= 2 and tonumber(record[1] or 0) > at) then
        local chosen = record[2] == choice or (not record[2] or not has_contents)
          and string.sub(resent, spot.place, spot.place) == '1'
        if chosen or not best then
          best = spot
          best.members = {members[k], members[k + 1]}
        end
        if chosen then return true end
      end
    end
  end
  for group = 1, #turns do
    if not paused[group + 1] then
      for i = (group - 1) * rank + 1, group * rank do
        if consider({place = i, key = sets[i]}) then return best end
      end
      local line = next_line(group)
      if line and not line.is_cancelled and consider(line) then return best end
    end
  end
  return best
end

-- Returns in how many us a campaign with a rate of its own has its turn, if that is soon.
local function soon()
  for group = 1, has_lines and #turns or 0 do
    local found = paused[group + 1] and {} or redis.call('ZRANGEBYSCORE', turns[group], '(' .. due,
      text(at + 200000), 'WITHSCORES', 'LIMIT', 0, 5)
    for k = 1, #found, 2 do
      if redis.call('HEXISTS', campaigns .. string.sub(found[k], 3), 'rate') == 1 then return found[k + 1] - at end
    end
  end
end

local served, new, members
local open, free = not state[1], tonumber(state[3] or 0) <= at
local ajar = not open and tonumber(state[1]) <= at and free
local wary = open and not has_contents and state[4]
cost, burst, each = tonumber(cost), tonumber(burst), each == '1'
local left, wait_us = tokens(bucket, at, cost, burst, tonumber(wanted))
local before = redis.call('GET', once)
if before then
  local place, given, more, name, is_cancelled = string.match(before, '^(%d+) (%d+) (%d) (%S*) (1?)$')
  place, new, ajar = tonumber(place), tonumber(given), more == '3'
  served = {place = place, key = sets[place] .. (name ~= '' and ':' .. name or ''), name = name,
    is_cancelled = is_cancelled ~= ''}
  members = redis.call('ZRANGEBYSCORE', served.key, given, text(new + 3), 'WITHSCORES')
else
  if answered == '1' then redis.call('DEL', bell) end
  if open and left > 0 and (free or not wary) then
    served = most_urgent(true)
    if served and not served.members then
      local most = math.min(size, each and left or size, served.tokens or size)
      served.members = first(served.key, 0, most)
      local used = each and #served.members / 2 or 1
      served.sends = used
      spend(bucket, at, cost, used)
      left = left - used
      if wary then redis.call('HSET', gate, 'probe', text(at + tonumber(probe_us))) end
    end
  elseif ajar then
    served = probe()
    -- Until then other claims find the gate closed; if the probe dies, the next may follow.
    if served then
      served.sends = 1
      redis.call('HSET', gate, 'probe', text(at + tonumber(probe_us)))
    end
  end
  if not served then
    served = must_end()
    ajar = false
  end
  if not served and open and not wary then
    local rated = left >= 1 and soon()
    if rated then wait_us = rated end
    if rated or left < 1 and most_urgent() then
      -- One caller claims again, for all of them; after a long wait the sweep rings instead.
      local ms, short = math.ceil(wait_us / 1000), wait_us <= 1000000
      local rung = redis.call('SET', bell, '1', 'NX', 'PX', short and ms + bell_ms or ms)
      return {text(wait_us), short and rung and '1' or '0'}
    end
  end
  redis.call('HINCRBY', counts, served and 'claims' or 'claims:empty', 1)
  if not served then return {} end
  members = served.members
  new = math.max(at + lease, tonumber(redis.call('GET', fence) or 0) + 4)
  redis.call('SET', fence, text(new))
  redis.call('SET', once, served.place .. ' ' .. text(new) .. (ajar and ' 3 ' or ' 0 ') .. (served.name or '')
    .. (served.is_cancelled and ' 1' or ' '), 'PX', once_ms)
end

-- Notes that a line was served: when its turn is next, and the pace of its campaign, which is how many
-- messages left it of late, each weighed by e to the minus of the minutes since.
local function note_service()
  local wait = 0
  if served.sends then
    if served.rate then served.tokens, wait = tokens_of(served, served.sends) end
    local campaign = campaigns .. served.name
    local known = redis.call('HMGET', campaign, 'served', 'pace', 'began')
    local pace = known[1] and known[2] * math.exp(math.min(0, known[1] - at) / 60000000) or 0
    redis.call('HSET', campaign, 'served', text(at), 'pace', string.format('%.3f', pace + served.sends),
      'began', known[3] or text(at))
  end
  requeue(served, at + wait)
end

-- Returns an empty table if a member has no record, else: own content, common digest, fields ...
-- HGETALL takes two thirds of the time of an HMGET with so many fields, of which a record has few.
local row_size, places = #ARGV - fields + 3, {row = 1, common = 2}
for v = 3, row_size do places[ARGV[fields + v - 3]] = v end
local function read(record)
  local found, values = redis.call('HGETALL', record), {}
  for i = 1, #found, 2 do
    local place = places[found[i]]
    if place then values[place] = found[i + 1] end
  end
  return values
end

-- The places are counted, and each score is made a text once: a message has some twenty values.
local claimed, shared, known, leases, l, c = {}, {}, {}, {}, 0, 0
local renewed = text(new + 1)
local scores = {[0] = renewed, renewed, text(new + 2), text(new + 3)}
for i = 1, #members, 2 do
  local id, kind = members[i], tonumber(members[i + 1]) % 4
  local record = records .. id
  local lapsed = kind > 0 and not before and has_contents
  if lapsed and redis.call('EXISTS', record) == 1 then redis.call('HINCRBY', record, 'lapses', 1) end
  local values = read(record)
  if not values[3] then
    redis.call('ZREM', served.key, id)  -- its record was deleted by hand
  else
    leases[l + 1], leases[l + 2], l = scores[kind], id, l + 2
    if has_contents then
      if not values[1] then values[1] = redis.call('GET', contents .. id) end
      local digest = values[2]
      if digest and not known[digest] then
        known[digest] = true
        shared[#shared + 1] = digest
        shared[#shared + 1] = redis.call('GET', commons .. digest)
      end
    end
    claimed[c + 1], claimed[c + 2], c = id, kind, c + 2
    for v = 1, row_size do claimed[c + v] = values[v] or false end
    c = c + row_size
  end
end
if not before and #leases > 0 then redis.call('ZADD', served.key, unpack(leases)) end
if not before and served.queue then note_service() end

local more = ajar and '3' or '0'
if open and not wary and most_urgent() then
  more = left < 1 and '4' or '1'
  if more == '1' and ring(bell, wakes, word, bell_ms) then redis.call('HINCRBY', counts, 'bells', 1) end
elseif open and not wary and soon() then
  more = '4'
end
return {served.place, text(new), due, more, claimed, shared, tonumber(state[2] or 0), served.name or '',
  served.is_cancelled and '1' or ''}
