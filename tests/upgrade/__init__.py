"""Landed versions beside this one: ``make test-upgrade``."""
