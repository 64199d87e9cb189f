"""Flower's defaults for our app: reachable from this machine only, and read-only.

Flower's own variables, its options and a ``--conf`` override them.
"""

import logging
import sys
from itertools import count
from pathlib import Path
from typing import Any

from viber_courier.schemas.settings import is_near
from viber_courier.worker.log import set_up

DEFAULTS = {
    "address": "127.0.0.1",
    "read_only": True,  # otherwise its pages can stop workers and send tasks
    "tasks_columns": "name,result,state,received,runtime,worker",
    "max_tasks": 10_000,
}


def install() -> None:
    """Changes the defaults of Flower's options, if Celery's command line has loaded them.

    It does so before it loads our app; Flower reads its variables and its command line afterwards.
    No variable is set, so other programs are not affected.
    """
    if "flower.options" not in sys.modules:
        return
    options, passes = sys.modules["flower.options"].options, count(1)
    for name, value in DEFAULTS.items():
        setattr(options, name, value)
    options.add_parse_callback(lambda: _parsed(options, next(passes)))


def _parsed(options: Any, times: int) -> None:
    """Checks Flower's options once they are parsed: again after a configuration file, if any."""
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
    """Returns a task as Flower shows it, without quotes around its result."""
    task.result = task.result and task.result.strip("'")
    return task
