"""This version, as if it stored what only it can read: ``<python> next.py -m celery ...``."""

from __future__ import annotations

import runpy
import sys

from viber_courier.store import format

format.FORMAT = format.NEEDED = format.FORMAT + 1

if __name__ == "__main__":
    first, *words = sys.argv[1:]
    sys.argv[1:] = words[1:] if first == "-m" else words
    if first == "-m":
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(first, run_name="__main__")
