-- @include clock
-- A gate that all workers share: closed until an instant, then ajar for one probe at a time, and open
-- again after the first success. The hash has these fields:
--   until           closed until then (us); no such field: the gate is open
--   opened          the instant of the latest closing (us); failures of older requests don't count
--   probe           until then (us) a probe is on its way
--   row             failures in a row
--   step            closings in a row
--   reason          why it is closed
--   refused         messages refused alone in a row
--   silent          answered requests in a row that said nothing about any message
--   silent_since    the instant of the first of them (us)
--   window:<set>    how far the search for expired messages has come in a set

-- report(gate, at, r): applies what a request shows that began at r.begun. r.verdict is one of
--   'good'       it was answered; r.accepted: a message was accepted
--   'bad'        it failed; r.limit failures in a row close the gate, for r.base us, doubling to r.cap
--   'refused'    a message alone was refused; r.most in a row close the gate for r.pause us
--   ''           it shows nothing
-- r.silent: a /status was answered, and its answer says nothing about any message.
-- Unless the verdict is 'refused', r.pause > 0 closes the gate for so many us, for r.reason.
-- r.takes is how long a probe may take, in us, as in the claim.
-- Returns 'closed' or 'opened' if the gate has changed, else ''.
local function report(gate, at, r)
  local was = redis.call('HMGET', gate, 'until', 'opened', 'refused', 'probe')
  local fresh = r.begun >= tonumber(was[2] or 0)
  local function close(us)
    redis.call('HSET', gate, 'until', text(math.max(tonumber(was[1] or 0), at + us)),
      'opened', text(at), 'reason', r.reason)
    return was[1] and '' or 'closed'
  end
  if r.silent then
    redis.call('HINCRBY', gate, 'silent', 1)
    redis.call('HSETNX', gate, 'silent_since', text(at))
  end
  if r.verdict == 'good' then
    redis.call('HDEL', gate, 'until', 'opened', 'probe', 'row', 'step', 'reason')
    if r.accepted then redis.call('HDEL', gate, 'refused') end
    if not r.silent then redis.call('HDEL', gate, 'silent', 'silent_since') end
    return was[1] and 'opened' or ''
  end
  -- The probe's own answer lets the next probe through; that of an older request doesn't.
  if was[4] and r.begun >= tonumber(was[4]) - r.takes then redis.call('HDEL', gate, 'probe') end
  if r.verdict == 'refused' then
    return redis.call('HINCRBY', gate, 'refused', 1) >= r.most and close(r.pause) or ''
  end
  -- A request begun before the gate closed shows nothing new.
  if r.verdict == 'bad' and redis.call('HINCRBY', gate, 'row', 1) >= r.limit and fresh then
    local step = redis.call('HINCRBY', gate, 'step', 1)
    return close(math.max(r.pause, math.min(r.base * 2 ^ math.min(step - 1, 30), r.cap)))
  end
  return r.pause > 0 and close(r.pause) or ''
end
