"""Values and words: jobs, statuses, events, requests and replies, settings. No clock.

Only schemas/settings.py reads anything: the environment, and the files that it names.
"""
