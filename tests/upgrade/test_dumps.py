"""What versions before the latest landed one have stored is worked off, too: tests/golden."""

from __future__ import annotations

import pytest

from tests.conftest import Courier, Start
from tests.test_upgrade import FORMATS, Landed, Provider, app, dump, finish, landed, provider
from viber_courier import Producer

__all__ = ["app", "dump", "landed", "provider"]


@pytest.mark.parametrize("dump", FORMATS[:-1], indirect=True)
def test_all_that_a_landed_version_left_is_finished(
    landed: Landed, provider: Provider, app: Producer, courier: Courier, start_worker: Start
) -> None:
    finish(landed, provider, app, courier, start_worker)
