"""``courier_outbox`` and ``courier_consume``."""
