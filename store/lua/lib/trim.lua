-- trim(results, missed, oldest): removes events older than oldest (ms). Notes in missed, by group, what
-- a group had not been delivered by then: id of the first of these events, and of the first that is
-- kept ('': none). The field '' holds an id that all events removed here are below. Returns how many
-- groups have missed events.
local function trim(results, missed, oldest)
  local first = redis.call('XRANGE', results, '-', '+', 'COUNT', 1)[1]
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
  redis.call('HSET', missed, '', kept and kept[1] or text(oldest) .. '-0')
  local groups = 0
  for group, id in pairs(unread) do
    if #redis.call('XRANGE', results, id, id) == 0 then
      local before = redis.call('HGET', missed, group)
      redis.call('HSET', missed, group, (before and string.match(before, '^%S+') or id) .. ' '
        .. (kept and kept[1] or ''))
      groups = groups + 1
    end
  end
  return groups
end
