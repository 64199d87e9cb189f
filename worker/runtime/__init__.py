"""What Celery, kombu, billiard and Flower need to behave, each through a hook of theirs.

docs/decisions/0016-what-upstream-does-and-our-hooks.md lists them; tests/test_canaries.py fails
once upstream has mended one.
"""
