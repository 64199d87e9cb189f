"""The pytest plugin. pytest loads it wherever the package is installed: it imports nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from viber_courier.ops.testing.courier import Courier


@pytest.fixture
def courier() -> Iterator[Courier]:
    """Puts a courier in memory in place of Redis and workers, for one test."""
    from viber_courier.ops.testing.courier import Courier

    with Courier() as courier:
        yield courier
