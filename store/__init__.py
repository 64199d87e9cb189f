"""Everything that knows Redis: keys, connections, scripts, records."""
