-- Leaves a word for the workers' listeners.
-- @include bell
-- KEYS
--   wakes    the list they wait at
-- ARGV
--   word     a lane or poll
-- Reply nothing.
wake(wakes, word)
