"""Dumps in tests/golden, worked off by this version and by the one before it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Courier, Start
from tests.test_upgrade import FORMATS, Landed, Provider, app, dump, finish, landed, provider
from tests.upgrade.versions import LANDED, before
from viber_courier import Producer
from viber_courier.store.format import FORMAT

__all__ = ["app", "dump", "landed", "provider"]


def test_there_is_a_dump_of_each_landed_format_and_of_this_one() -> None:
    assert (*dict.fromkeys([*(format for format, _ in LANDED), FORMAT]),) == FORMATS


@pytest.mark.parametrize("dump", [*FORMATS[:-2], FORMATS[-1]], indirect=True)
def test_this_version_finishes_all_of_it(
    landed: Landed,
    provider: Provider,
    app: Producer,
    courier: Courier,
    start_worker: Start,
    tmp_path: Path,
) -> None:
    finish(landed, provider, app, courier, start_worker, tmp_path)


@pytest.mark.parametrize("dump", FORMATS[-1:], indirect=True)
def test_the_version_before_finishes_what_this_one_has_stored(
    landed: Landed,
    provider: Provider,
    app: Producer,
    courier: Courier,
    start_worker: Start,
    tmp_path: Path,
) -> None:
    provider.quotes = False
    words = ("-m", "celery", "-A", "viber_courier.worker", "worker")
    finish(landed, provider, app, courier, start_worker, tmp_path, before().command(*words))
