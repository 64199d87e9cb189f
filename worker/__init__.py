"""Celery workers that send what is due and follow what was accepted (worker/celery.py)."""

from importlib.util import find_spec

if find_spec("requests") is None:
    raise SystemExit("a worker needs requests: pip install 'viber-courier[worker]'")
