"""``courier gateway``: messages and their events by HTTP, for programs in any language."""
