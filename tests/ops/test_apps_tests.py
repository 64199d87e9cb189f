"""An app's own tests where nothing but the wheel and its extra ``testing`` is installed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.ops.test_installs import Venv
from tests.test_package import Builds, builds

__all__ = ["builds"]

ENV = {"COURIER_REDIS_URL": "redis://not-in-tests.invalid", "DJANGO_SETTINGS_MODULE": "project"}
PROJECT = """
SECRET_KEY = "x"
USE_TZ = True
INSTALLED_APPS = ["orders"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
"""
MODELS = """
from django.db import models

class Order(models.Model):
    phone = models.CharField(max_length=15)
    told = models.CharField(max_length=20, default="")
"""
VIEWS = """
from django.db import transaction
from viber_courier import Producer, StoreUnavailable
from orders.models import Order

producer = Producer.from_env()

def pay(phone):
    order = Order.objects.create(phone=phone)
    transaction.on_commit(lambda: tell(order))
    return f"order-{order.pk}"

def tell(order):
    try:
        text = {"text": f"Order {order.pk} is paid"}
        producer.enqueue({"id": f"order-{order.pk}", "subject": "Shop", "priority": "high",
                          "contentType": "text", "content": text, "address": order.phone})
    except StoreUnavailable:
        Order.objects.filter(pk=order.pk).update(told="later")

def consume():
    for event in producer.results("orders", "web-1", block=0):
        order = Order.objects.get(pk=event.subject.removeprefix("order-"))
        order.told = event.status
        order.save()
        event.ack()
"""
# What it takes to reach delivered, undelivered and an outage: ten lines.
TESTS = """
from django.test import TransactionTestCase
from orders import views
from viber_courier import StoreUnavailable
from viber_courier.testing import CourierMixin

class PayTest(CourierMixin, TransactionTestCase):
    def test_pay(self):
        self.courier.deliver(views.pay("79250000001"))
        self.courier.finish(views.pay("79250000002"), "undelivered", reason="user-blocked")
        self.courier.fail_next(StoreUnavailable)
        views.pay("79250000003")
        views.consume()
        told = list(views.Order.objects.order_by("pk").values_list("told", flat=True))
        self.assertEqual(told, ["delivered", "undelivered", "later"])
"""


@pytest.fixture(scope="module")
def venv(builds: Builds, tmp_path_factory: pytest.TempPathFactory) -> Venv:
    made = Venv(tmp_path_factory.mktemp("venv"))
    made.install(f"viber-courier[testing] @ {builds.wheel.as_uri()}")
    return made


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """The app of the guide with its tests, as it is printed there."""
    text = (ROOT / "docs" / "guide.md").read_text()
    for name, code in re.findall(r"<!-- (\w+\.py) -->\n```py\n(.+?)```", text, re.S):
        (tmp_path / name).write_text(code)
    return tmp_path


def test_the_extra_brings_no_worker(venv: Venv, tmp_path: Path) -> None:
    names = "import importlib.metadata as m; print(*(d.name.lower() for d in m.distributions()))"
    found = set(venv.run("python", "-c", names, cwd=tmp_path).split())
    assert {"viber-courier", "fakeredis", "lupa", "pytest"} <= found
    assert not found & {"celery", "kombu", "requests", "aiohttp", "click", "pytest-xdist"}


def test_the_guides_tests_run_with_pytest_and_with_unittest(venv: Venv, shop: Path) -> None:
    said = venv.run("pytest", "-q", "-W", "error", "--strict-config", cwd=shop, **ENV)
    assert re.search("^5 passed", said, re.M), said
    venv.run("python", "-m", "unittest", "test_orders", cwd=shop, **ENV)


def test_they_run_in_several_processes_and_in_any_order(venv: Venv, shop: Path) -> None:
    venv.install("pytest-xdist")
    for n in range(8):
        (shop / f"test_again_{n}.py").write_text((shop / "test_shop.py").read_text())
    said = venv.run("pytest", "-q", "-n", "2", "--dist", "worksteal", cwd=shop, **ENV)
    assert re.search(f"^{5 + 8 * 4} passed", said, re.M), said


def test_a_django_app_runs_its_tests_with_djangos_own_runner(venv: Venv, tmp_path: Path) -> None:
    venv.install("django>=5.2")
    (tmp_path / "project.py").write_text(PROJECT)
    app = tmp_path / "orders"
    app.mkdir()
    files = {"__init__": "", "models": MODELS, "views": VIEWS, "tests": TESTS}
    for name, code in files.items():
        (app / f"{name}.py").write_text(code)
    venv.run("python", "-W", "error", "-m", "django", "test", cwd=tmp_path, **ENV)


def test_without_the_fixture_a_test_says_which_redis_it_has_missed(venv: Venv, shop: Path) -> None:
    code = "import shop\n\ndef test_it():\n    shop.producer.enqueue(shop.job(1, '79250000001'))\n"
    (shop / "test_forgot.py").write_text(code)
    command = "import subprocess, sys; print(subprocess.run([sys.executable, '-m', 'pytest', "
    command += "'test_forgot.py'], capture_output=True, text=True).stdout)"
    said = venv.run("python", "-c", command, cwd=shop, **ENV)
    assert "StoreUnavailable: Redis can't be used now" in said
    assert "not-in-tests.invalid" in said
