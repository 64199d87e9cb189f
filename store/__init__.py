"""All that knows Redis: keys, connections, scripts, records. No other package spells a key."""
