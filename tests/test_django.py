"""viber_courier.django in a project of docs/django.md, with Redis in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.django_shop import Shop

pytest.importorskip("django", reason="needs the extra django")


def test_the_page_and_the_promises_run_by_djangos_own_runner(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    said = shop.manage("test", "--shuffle")
    assert "\nOK" in said and "no issues" in said, said


def test_the_models_have_their_migration(tmp_path: Path) -> None:
    said = Shop(tmp_path).manage("makemigrations", "--check", "viber_courier")
    assert "No changes detected" in said
