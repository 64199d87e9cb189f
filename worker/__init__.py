"""Celery workers that send what is due and follow what was accepted (worker/celery.py)."""
