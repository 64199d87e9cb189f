-- trim(results, missed, oldest): removes events older than oldest (ms). Notes in missed, by group, what
-- a group had not been delivered by then: the id of the first of these events, and an id that all of
-- them are below. The field '' holds an id that all events removed by sweeps are below; whatever else
-- is gone was removed by hand. Returns how many groups have missed events.
local function trim(results, missed, oldest)
  local first = redis.call('XRANGE', results, '-', '+', 'COUNT', 1)[1]
  if redis.call('HEXISTS', missed, '') == 0 then
    redis.call('HSET', missed, '', first and first[1] or text(oldest) .. '-0')
  end
  if not first or tonumber(string.match(first[1], '^%d+')) >= oldest then return 0 end
  local unread = {}
  for _, flat in ipairs(redis.call('XINFO', 'GROUPS', results)) do
    local group = {}
    for k = 1, #flat, 2 do group[flat[k]] = flat[k + 1] end
    local event = redis.call('XRANGE', results, '(' .. group['last-delivered-id'], '+', 'COUNT', 1)[1]
    if event then unread[group.name] = event[1] end
  end
  redis.call('XTRIM', results, 'MINID', '~', text(oldest))
  local kept = redis.call('XRANGE', results, '-', '+', 'COUNT', 1)[1]
  if kept and kept[1] == first[1] then return 0 end
  local limit, groups = kept and kept[1] or text(oldest) .. '-0', 0
  redis.call('HSET', missed, '', limit)
  for group, id in pairs(unread) do
    if #redis.call('XRANGE', results, id, id) == 0 then
      local before = redis.call('HGET', missed, group) or id
      redis.call('HSET', missed, group, string.match(before, '^%S+') .. ' ' .. limit)
      groups = groups + 1
    end
  end
  return groups
end
