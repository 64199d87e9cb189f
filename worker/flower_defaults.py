"""How Flower starts when nobody says otherwise: for this machine only, to look at, not to touch.

``celery -A viber_courier.worker flower`` reads no configuration but ``flowerconfig.py`` of its
working directory.
Flower's own variables, its options and a ``--conf`` go before these defaults.
"""

from __future__ import annotations

import logging
import os
import sys
from ipaddress import ip_address
from itertools import count
from pathlib import Path
from typing import Any

from viber_courier.worker.log import set_up

DEFAULTS = {
    "FLOWER_ADDRESS": "127.0.0.1",
    "FLOWER_READ_ONLY": "true",  # else its pages stop workers and send tasks
    "FLOWER_TASKS_COLUMNS": "name,result,state,received,runtime,worker",
    "FLOWER_MAX_TASKS": "10000",
}


def install() -> None:
    """For a Flower that this process may become; Celery has loaded its options by now."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    if "flower.options" in sys.modules:
        options, passes = sys.modules["flower.options"].options, count(1)
        options.add_parse_callback(lambda: _parsed(options, next(passes)))


def _parsed(options: Any, times: int) -> None:
    """Flower has parsed its options. It does so again if it has read a configuration file."""
    set_up(logging.getLogger())
    options.format_task = options.format_task or summary
    if times == 1 and Path(options.conf).is_file():
        return
    if not (options.basic_auth or options.auth or options.unix_socket or near(options.address)):
        raise SystemExit(
            "Flower can't start: open to other machines, without a login."
            " Set COURIER_FLOWER_LOGIN and COURIER_FLOWER_PASSWORD_FILE and give"
            " --conf=ops/flowerconfig.py, or leave its address at 127.0.0.1"
        )


def summary(task: Any) -> Any:
    """A task as Flower shows it: Python's quotes say nothing there."""
    task.result = task.result and task.result.strip("'")
    return task


def near(address: str) -> bool:
    """Whether only this machine reaches it. Empty means all addresses."""
    try:
        return address == "localhost" or ip_address(address).is_loopback
    except ValueError:
        return False
