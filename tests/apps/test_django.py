"""viber_courier.django from the wheel: real Redis, SQLite and PostgreSQL, killed programs."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from tests.apps.conftest import environment
from tests.conftest import Start, common_job, free_port, wait_for
from tests.django_shop import FILES, PAGE, Shop
from tests.postgres import postgres
from viber_courier import Producer
from viber_courier.ops.redis_server import RedisServer
from viber_courier.store.keys import Keys

PAY = "from shop.models import Order; print(Order.objects.create(phone='79250000001').pay())"
ROLLED_BACK = """
from django.db import transaction
from shop.models import Order
with transaction.atomic():
    Order.objects.create(phone='79250000001').pay()
    transaction.set_rollback(True)
"""
PAY_MANY = """
from shop.models import Order
for n in range({count}):
    Order.objects.create(phone="79250000001").pay()
"""
DELIVERIES = """
import json
from viber_courier.django.models import Delivery
print(json.dumps([*Delivery.objects.values_list("id", "status", "sequence")]))
"""


@pytest.fixture(scope="session")
def python(pip_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment with Django, as an app installs it."""
    programs = environment(tmp_path_factory.mktemp("django") / "env")
    install = [programs / "pip", "install", "viber-courier[django,testing,databases]"]
    subprocess.run(install, check=True, env={**os.environ, **pip_env})
    return programs / "python"


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    with ExitStack() as stack:
        env = {}
        if request.param == "postgresql":
            address = dict(pair.split("=") for pair in stack.enter_context(postgres()).split())
            env["PGHOST"] = address["host"]
        yield env


def handles_term(pid: int) -> bool:
    (caught,) = re.findall(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


class Place:
    """The shop, its Redis, and its programs."""

    def __init__(self, folder: Path, python: Path, redis: RedisServer, **env: str) -> None:
        self.redis = redis
        env |= {"COURIER_REDIS_URL": redis.url, "COURIER_NAMESPACE": "shop"}
        self.shop, self.producer = Shop(folder, python, **env), Producer.from_env(env)
        self.shop.manage("migrate", "--run-syncdb")

    @contextmanager
    def program(self, *args: str) -> Iterator[subprocess.Popen[str]]:
        """A command of manage.py that ends by TERM with 0."""
        said = self.shop.folder / "said"
        with said.open("a") as out, self.shop.start(*args, stderr=out) as process:
            try:
                yield process
                wait_for(lambda: handles_term(process.pid), 30)  # it may just have been started
                process.terminate()
                assert process.wait(15) == 0
            finally:
                process.kill()

    def killed_again_and_again(self, args: list[str], seconds: list[float]) -> None:
        for each in seconds:
            with self.shop.start(*args) as process:
                time.sleep(each)
                process.kill()

    def stored(self) -> set[str]:
        """The ids of what Redis has."""
        start = Keys("shop").records
        keys: list[str] = [*self.producer.redis.scan_iter(f"{start}*", count=1000)]
        return {key.removeprefix(start) for key in keys}

    def query(self, code: str) -> Any:
        return json.loads(self.shop.run(f"import json\n{code}"))

    def outbox(self) -> dict[str, int]:
        return dict(
            self.query(
                "from django.db.models import Count\n"
                "from viber_courier.django.models import OutboxMessage\n"
                "rows = OutboxMessage.objects.values_list('status').order_by('status')\n"
                "print(json.dumps([*rows.annotate(Count('id'))]))"
            )
        )


@pytest.fixture
def place(tmp_path: Path, python: Path, database: dict[str, str]) -> Iterator[Place]:
    server = RedisServer(tmp_path / "redis", free_port())
    (tmp_path / "redis").mkdir()
    server.start()
    (tmp_path / "project").mkdir()
    made = Place(tmp_path / "project", python, server, **database)
    with closing(made.producer):
        yield made
    server.stop()


def test_from_the_wheel_the_promises_hold(
    python: Path, tmp_path: Path, database: dict[str, str]
) -> None:
    # Given nothing but the wheel, its extras and the page; any Redis would be a mistake
    nowhere = {"COURIER_REDIS_URL": "redis://not-in-tests.invalid"}
    shop = Shop(tmp_path, python, **nowhere, **database)
    # Then Django's own runner is content, and warns of nothing
    said = shop.manage("test", "--shuffle")
    assert "\nOK" in said and "no issues" in said, said
    assert ("skipped" in said) == (not database)
    where = shop.run("import viber_courier.django; print(viber_courier.django.__file__)")
    assert str(python.parents[1]) in where
    said = shop.run("import sys, shop.models\nprint(*{n.partition('.')[0] for n in sys.modules})")
    assert not {"celery", "kombu", "requests", "aiohttp", "click"} & {*said.split()}


def test_the_page_leads_from_nothing_to_a_result(
    python: Path, tmp_path: Path, system_env: dict[str, str], start_worker: Start
) -> None:
    start_worker()
    (folder := tmp_path / "project").mkdir()
    env = {"PATH": f"{python.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    env |= {"COURIER_NAMESPACE": system_env["COURIER_NAMESPACE"]}

    def shell(block: str) -> str:
        run = ["bash", "-euo", "pipefail", "-c", block]
        return subprocess.run(
            run, cwd=folder, env=env, check=True, stdout=subprocess.PIPE, text=True, timeout=60
        ).stdout

    # When the page is followed from its first block to its last
    start, tables, look = re.findall(r"(?s)```sh\n(.+?)```", PAGE)
    shell(start.partition("\n")[2])  # pip install is the environment
    for name, text in FILES.items():
        text = text.replace("redis://localhost:6379/0", system_env["COURIER_REDIS_URL"])
        with (folder / name).open("a" if "settings" in name else "w") as file:
            file.write(text)
    shell(tables)
    programs = [["courier_outbox"], ["courier_consume", "--group", "shop"]]
    started = [
        subprocess.Popen([python, "manage.py", *each], cwd=folder, env=env) for each in programs
    ]
    try:
        # Then the order is told that its message was read
        pay, told = look.splitlines()
        shell(pay)
        wait_for(lambda: shell(told).split()[-1] == "read", 30)
        assert (
            "OK"
            in subprocess.run(
                [python, "manage.py", "test"], cwd=folder, env=env, check=True, capture_output=True
            ).stderr.decode()
        )
    finally:
        for process in started:
            process.terminate()
        assert [process.wait(15) for process in started] == [0, 0]


def test_an_order_paid_while_redis_is_away_is_sent_within_a_second_of_its_return(
    place: Place,
) -> None:
    with place.program("courier_outbox"):
        # Given an order that is sent at once, and Redis gone
        paid = [place.shop.run(PAY)]
        assert place.producer.get(paid[0]) is not None
        late, said = list[float](), place.shop.folder / "said"
        for away in (1, 2, 3):
            known = len(said.read_text())
            place.redis.stop()
            # When two orders are paid, and one of them rolls back
            began = time.monotonic()
            paid.append(place.shop.run(PAY))
            assert time.monotonic() - began < 15
            place.shop.run(ROLLED_BACK)
            assert place.outbox() == {"sent": away, "waiting": 1}
            # it sits it out
            wait_for(lambda n=known: "the outbox waits" in said.read_text()[n:], 30)
            # Then the one is sent within a second of Redis's return, and the other never
            place.redis.start()
            began = time.monotonic()
            wait_for(lambda: place.producer.get(paid[-1]), 10)
            late.append(time.monotonic() - began)
        assert median(late) < 1, late
    assert place.outbox() == {"sent": 4}
    assert place.stored() == {*paid}
    assert "waiting 0" in place.shop.manage("courier_outbox", "--status")


def test_a_redis_that_hangs_costs_a_request_five_seconds_once(place: Place) -> None:
    pid = place.producer.redis.info()["process_id"]  # type: ignore[index]
    os.kill(pid, signal.SIGSTOP)
    try:
        code = "import time\nfrom shop.models import Order\n"
        code += "def pay():\n    began = time.monotonic()\n"
        code += "    Order.objects.create(phone='79250000001').pay()\n"
        code += "    return time.monotonic() - began\n"
        code += "print(json.dumps([pay() for _ in range(4)]))"
        first, *others = place.query(code)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert max(others) < first / 5
    place.shop.manage("courier_outbox", "--once")
    assert place.outbox() == {"sent": 4}
    assert len(place.stored()) == 4


STEPS = {
    "before the commit": "mock.patch('django.db.transaction.on_commit', die)",
    "after it": "mock.patch('viber_courier.django.outbox.send', die)",
    "when Redis has it": "mock.patch.object(Producer, 'enqueue_many', store_and_die)",
}
KILLED = """
import os, signal
from unittest import mock
from django.core.management import call_command
from shop.models import Order
from viber_courier import Producer

store = Producer.enqueue_many

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def store_and_die(*args, **named):
    die(store(*args, **named))

with {step}:
    {do}
"""


def test_killed_between_each_two_steps_it_loses_and_doubles_nothing(place: Place) -> None:
    # Given requests that are killed at each step
    for step in STEPS.values():
        do = "Order.objects.create(phone='79250000001').pay()"
        place.shop.run(KILLED.format(step=step, do=do), ends=-signal.SIGKILL)
    paid = "from shop.models import Order\nrows = Order.objects.filter(paid=True)\n"
    ids = place.query(f"{paid}print(json.dumps([f'order-{{row.pk}}' for row in rows]))")
    assert len(ids) == 2 and place.stored() < {*ids}
    # And then courier_outbox, too
    for step in (STEPS["after it"], STEPS["when Redis has it"]):
        do = "call_command('courier_outbox', '--once')"
        place.shop.run(KILLED.format(step=step, do=do), ends=-signal.SIGKILL)
        assert place.outbox() == {"waiting": 2}
    # When it comes to its end, then what was paid is sent, once
    place.shop.manage("courier_outbox", "--once")
    assert place.outbox() == {"sent": 2}
    assert place.stored() == {*ids}


def test_killed_again_and_again_the_outbox_loses_and_doubles_nothing(place: Place) -> None:
    # Given Redis away, orders paid by two processes, some of which are killed, too
    chance, count = random.Random(1), 400
    with place.shop.start("shell", "-c", PAY_MANY.format(count=10)) as first:
        assert first.wait(30) == 0
    assert len(place.stored()) == 10
    place.redis.stop()
    payers = [place.shop.start("shell", "-c", PAY_MANY.format(count=count)) for _ in range(2)]
    wait_for(lambda: place.outbox().get("waiting", 0) > 20, 60)
    payers[0].kill()
    # When Redis comes and goes while senders are killed at any point
    ended = threading.Event()

    def come_and_go() -> None:
        while not ended.is_set():
            place.redis.start()
            ended.wait(chance.uniform(0.3, 1.5))
            place.redis.stop()
            ended.wait(chance.uniform(0.1, 0.4))

    moves = threading.Thread(target=come_and_go)
    moves.start()
    pauses = [[chance.uniform(0.5, 1.6) for _ in range(6)] for _ in range(2)]
    kills = [
        threading.Thread(target=place.killed_again_and_again, args=(["courier_outbox"], each))
        for each in pauses
    ]
    for each in kills:
        each.start()
    for each in kills:
        each.join()
    ended.set()
    moves.join()
    for payer in payers:
        payer.wait(100)
    place.redis.start()
    # Then what was paid is sent once, and what was not paid isn't
    with place.program("courier_outbox"):
        wait_for(lambda: "waiting" not in place.outbox(), 30)
    paid = "from shop.models import Order\nrows = Order.objects.filter(paid=True)\n"
    ids = place.query(f"{paid}print(json.dumps([f'order-{{row.pk}}' for row in rows]))")
    assert place.outbox() == {"sent": len(ids)}
    assert place.stored() == {*ids}
    assert len(ids) > count
    # And its content has left the database
    left = "from viber_courier.django.models import OutboxMessage as O\n"
    assert place.query(f"{left}print(O.objects.exclude(job='').count())") == 0


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_programs_outlive_the_connections_of_their_database(place: Place) -> None:
    with place.program("courier_outbox"), place.program("courier_consume", "--group", "crm"):
        # Given programs that have worked, and whose connections are then broken off
        id = place.shop.run(PAY)
        assert place.producer.cancel(id)
        wait_for(lambda: place.query(DELIVERIES) == [[id, "cancelled", 1]], 30)
        place.query(
            "from django.db import connection\n"
            "select = 'SELECT pg_terminate_backend(pid) FROM pg_stat_activity '\n"
            "select += 'WHERE pid <> pg_backend_pid() AND backend_type = %s'\n"
            "connection.cursor().execute(select, ['client backend'])\n"
            "print(0)"
        )
        # When messages come again, then both go on
        place.redis.stop()
        id = place.shop.run(PAY)
        place.redis.start()
        wait_for(lambda: place.producer.get(id), 5)
        assert place.producer.cancel(id)
        wait_for(lambda: [id, "cancelled", 1] in place.query(DELIVERIES), 30)


def test_two_senders_share_the_work(place: Place) -> None:
    place.redis.stop()
    with place.shop.start("shell", "-c", PAY_MANY.format(count=3)) as payer:
        assert payer.wait(60) == 0
    copies = """
from viber_courier.django.models import OutboxMessage
rows = [*OutboxMessage.objects.all()]
for n in range(1000):
    row = rows[n % len(rows)]
    job = {**json.loads(row.job), "id": f"copy-{n}"}
    row.id, row.job = f"copy-{n}", json.dumps(job)
    row.save(force_insert=True)
print(0)
"""
    place.query(copies)
    place.redis.start()
    with place.program("courier_outbox"), place.program("courier_outbox"):
        wait_for(lambda: place.outbox() == {"sent": 1003}, 60)
    assert len(place.stored()) == 1003


def test_killed_every_two_seconds_deliveries_equal_the_ledger(place: Place) -> None:
    # Given a receiver that writes each event down, unless it was before
    models = place.shop.folder / "shop" / "models.py"
    models.write_text(
        models.read_text() + "\n\nclass Told(models.Model):\n"
        "    event = models.CharField(max_length=80, unique=True)\n\n\n"
        "@receiver(message_changed)\ndef tell(event, **kwargs):\n"
        "    Told.objects.create(event=event.id)\n"
    )
    place.shop.manage("migrate", "--run-syncdb")
    total, chance = 3000, random.Random(1)

    def load() -> None:
        for start in range(0, total, 100):
            rows = [{"id": f"m{n}", "address": "79250000001"} for n in range(start, start + 100)]
            common = {**common_job(), "source": "shop"}
            for id in place.producer.enqueue_many(rows, common=common):  # type: ignore[arg-type]
                assert place.producer.cancel(id)

    loader = threading.Thread(target=load)
    loader.start()
    args = ["courier_consume", "--group", "crm", "--consumer", "crm-0", "--batch", "50"]
    place.killed_again_and_again(args, [chance.uniform(1.5, 2.5) for _ in range(5)])
    loader.join()
    with place.program(*args):
        wait_for(lambda: pending(place) == (0, 0), 60)
    stream: Any = place.producer.redis.xrange(Keys("shop").results)
    ledger = [json.loads(fields["event"]) for _, fields in stream]
    found = place.query(DELIVERIES)
    assert sorted(map(tuple, found)) == sorted((e["subject"], "cancelled", 1) for e in ledger)
    assert len(found) == total
    told = place.query("from shop.models import Told\nprint(Told.objects.count())")
    assert told == total


def pending(place: Place) -> tuple[int, int]:
    """What is unacknowledged, and what is unread."""
    groups: Any = place.producer.redis.xinfo_groups(Keys("shop").results)
    if not groups:  # on a busy machine each was killed before it had read
        return 0, 1
    (group,) = groups
    stream: Any = place.producer.redis.xinfo_stream(Keys("shop").results)
    unread = int(stream["last-generated-id"] != group["last-delivered-id"])
    return int(group["pending"]), unread
