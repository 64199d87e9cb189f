-- @include clock
-- A gate all workers share: closed until an instant, then ajar for one probe at a time, open again
-- with the first success. A hash: until, opened (us), probe (us until which one is on its way),
-- row (consecutive failures), step (closings in a row), reason, refused (messages refused alone in
-- a row), window:<set> (how far the look for what has expired has come). No field "until": open.

-- report(gate, at, r): what a request begun at r.begun has shown. r.verdict:
--   'good'    it was answered; r.taken: and something was accepted
--   'bad'     it failed; r.limit of them in a row close the gate, for r.base us, doubling to r.cap
--   'refused' a message alone was refused whole; r.most of them in a row close it for r.pause us
--   ''        says nothing
-- r.takes: us that a probe may take, as the claim has added them.
-- r.pause > 0 closes it for that long in any case but 'refused', for r.reason.
-- Returns 'closed' or 'opened' where that has changed, else ''.
local function report(gate, at, r)
  local was = redis.call('HMGET', gate, 'until', 'opened', 'refused', 'probe')
  local fresh = r.begun >= tonumber(was[2] or 0)
  local function close(us)
    redis.call('HSET', gate, 'until', text(math.max(tonumber(was[1] or 0), at + us)),
      'opened', text(at), 'reason', r.reason)
    return was[1] and '' or 'closed'
  end
  if r.verdict == 'good' then
    redis.call('HDEL', gate, 'until', 'opened', 'probe', 'row', 'step', 'reason')
    if r.taken then redis.call('HDEL', gate, 'refused') end
    return was[1] and 'opened' or ''
  end
  -- Only the probe itself makes room for the next: not what was begun before it.
  if was[4] and r.begun >= tonumber(was[4]) - r.takes then redis.call('HDEL', gate, 'probe') end
  if r.verdict == 'refused' then
    return redis.call('HINCRBY', gate, 'refused', 1) >= r.most and close(r.pause) or ''
  end
  -- A failure of a request begun before it closed tells nothing new.
  if r.verdict == 'bad' and redis.call('HINCRBY', gate, 'row', 1) >= r.limit and fresh then
    local step = redis.call('HINCRBY', gate, 'step', 1)
    return close(math.max(r.pause, math.min(r.base * 2 ^ math.min(step - 1, 30), r.cap)))
  end
  return r.pause > 0 and close(r.pause) or ''
end
