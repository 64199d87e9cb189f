"""Mends what Celery, kombu, billiard and Flower do wrong, through hooks of their own.

docs/decisions/0016-what-upstream-does-and-our-hooks.md lists them. When upstream mends a fault, a
test of tests/test_canaries.py fails.
"""
