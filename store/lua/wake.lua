-- Leaves a word on the wake list.
-- @include bell
-- KEYS
--   guard    never exists: a cluster refuses the call while its slot moves
--   wakes    the wake list, which workers' listeners read
-- ARGV
--   word     a lane's name, or poll
-- Reply nothing.
wake(wakes, word)
