"""Dumps in tests/golden, worked off by this version and by the one before it."""

from __future__ import annotations

import pytest

from tests.conftest import Courier, Start
from tests.test_upgrade import FORMATS, Landed, Provider, app, dump, finish, landed, provider
from tests.upgrade.versions import before
from viber_courier import Producer

__all__ = ["app", "dump", "landed", "provider"]


@pytest.mark.parametrize("dump", [*FORMATS[:-2], FORMATS[-1]], indirect=True)
def test_this_version_finishes_all_of_it(
    landed: Landed, provider: Provider, app: Producer, courier: Courier, start_worker: Start
) -> None:
    finish(landed, provider, app, courier, start_worker)


@pytest.mark.parametrize("dump", FORMATS[-1:], indirect=True)
def test_the_version_before_finishes_what_this_one_has_stored(
    landed: Landed, provider: Provider, app: Producer, courier: Courier, start_worker: Start
) -> None:
    provider.quotes = False
    words = ("-m", "celery", "-A", "viber_courier.worker", "worker")
    finish(landed, provider, app, courier, start_worker, before().command(*words))
