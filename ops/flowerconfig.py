"""Flower with a login, as ``courier flower`` starts it; for Celery's own command: ``--conf=FILE``.

``COURIER_FLOWER_LOGIN`` and ``COURIER_FLOWER_PASSWORD``, either also as ``..._FILE``, are asked for
by basic authentication. Without them it starts for this machine only (worker/runtime/flower.py).
Flower's other options have variables of their own: ``FLOWER_ADDRESS``, ``FLOWER_PORT`` ...
"""

import os

from viber_courier.ops.console.accounts import read_login
from viber_courier.schemas.errors import ConfigError

try:
    _login = read_login(os.environ, "FLOWER")
except ConfigError as error:
    _faults = "; ".join(f"{name} {fault}" for name, fault in error.faults.items())
    raise SystemExit(f"Flower can't start: {_faults}") from None
basic_auth = [":".join(_login)] if _login else []
