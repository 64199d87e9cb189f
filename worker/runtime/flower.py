"""How Flower starts when nobody says otherwise: for this machine only, to look at, not to touch.

Flower's own variables, its options and a ``--conf`` go before these defaults.
"""

import logging
import sys
from ipaddress import ip_address
from itertools import count
from pathlib import Path
from typing import Any

from viber_courier.worker.log import set_up

DEFAULTS = {
    "address": "127.0.0.1",
    "read_only": True,  # else its pages stop workers and send tasks
    "tasks_columns": "name,result,state,received,runtime,worker",
    "max_tasks": 10_000,
}


def install() -> None:
    """Change the defaults of Flower's options in a process that may become Flower.

    Celery's command line has loaded them before it loads our app, and Flower reads its variables
    and its command line afterwards. No environment is touched; other programs never read these.
    """
    if "flower.options" not in sys.modules:
        return
    options, passes = sys.modules["flower.options"].options, count(1)
    for name, value in DEFAULTS.items():
        setattr(options, name, value)
    options.add_parse_callback(lambda: _parsed(options, next(passes)))


def _parsed(options: Any, times: int) -> None:
    """Flower has parsed its options. It does so again if it has read a configuration file."""
    set_up(logging.getLogger())
    options.format_task = options.format_task or summary
    if times == 1 and Path(options.conf).is_file():
        return
    if not (options.basic_auth or options.auth or options.unix_socket or is_near(options.address)):
        raise SystemExit(
            "Flower can't start: open to other machines, without a login."
            " Set COURIER_FLOWER_LOGIN and COURIER_FLOWER_PASSWORD_FILE and start it with"
            " `courier flower`, or leave its address at 127.0.0.1"
        )


def summary(task: Any) -> Any:
    """A task as Flower shows it: Python's quotes say nothing there."""
    task.result = task.result and task.result.strip("'")
    return task


def is_near(address: str) -> bool:
    """Whether only this machine reaches it. Empty means all addresses."""
    try:
        return address == "localhost" or ip_address(address).is_loopback
    except ValueError:
        return False
