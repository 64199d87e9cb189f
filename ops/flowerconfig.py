"""Flower with a login, as ``courier flower`` starts it; for Celery's own command: ``--conf=FILE``.

``COURIER_FLOWER_LOGIN`` and ``COURIER_FLOWER_PASSWORD``, either also as ``..._FILE``, are asked for
by basic authentication. Without them it starts for this machine only (worker/runtime/flower.py).
Flower's other options have variables of their own: ``FLOWER_ADDRESS``, ``FLOWER_PORT`` ...
"""

import os
from collections.abc import Mapping

from viber_courier.schemas.settings import read_value

LEAST = 8
"""Characters of a password."""


def _read(env: Mapping[str, str], name: str) -> str:
    try:
        return read_value(env, name)
    except ValueError as error:
        raise SystemExit(f"Flower can't start: {name}: {error}") from None


def _credentials(env: Mapping[str, str]) -> list[str]:
    login, password = (_read(env, f"COURIER_FLOWER_{name}") for name in ("LOGIN", "PASSWORD"))
    if not login and not password:
        return []
    wrong = not login.isascii() or not password.isascii() or not login or ":" in login
    if wrong or len(password) < LEAST:
        raise SystemExit(
            "Flower can't start: COURIER_FLOWER_LOGIN must be ASCII without a colon,"
            f" COURIER_FLOWER_PASSWORD ASCII of at least {LEAST} characters"
        )
    return [f"{login}:{password}"]


basic_auth = _credentials(os.environ)
