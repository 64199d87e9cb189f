-- Leaves a word on the wake list.
-- @include bell
-- KEYS
--   wakes    the wake list, which workers' listeners read
-- ARGV
--   word     a lane's name, or poll
-- Reply nothing.
wake(wakes, word)
