"""Values and words: what a message, a status, an event and the wire are. No I/O, no clock."""
