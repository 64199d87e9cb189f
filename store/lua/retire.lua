-- Removes the names of consumers that have left a group, if nothing is pending in them.
-- KEYS
--   guard       never exists: a cluster refuses the call while its slot moves
--   results
-- ARGV
--   group
--   consumer    the one that leaves now ('': none)
--   idle_ms     any other has left if it has not read for so long, in ms
-- Reply the number of names removed. Removing a consumer deletes what is pending in it, so that both
-- happen in one step. One that comes back gets its name again at its next read.
local removed = 0
for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', results, group)) do
  local each = {}
  for k = 1, #flat, 2 do each[flat[k]] = flat[k + 1] end
  if each.pending == 0 and (each.name == consumer or each.idle >= tonumber(idle_ms)) then
    redis.call('XGROUP', 'DELCONSUMER', results, group, each.name)
    removed = removed + 1
  end
end
return removed
