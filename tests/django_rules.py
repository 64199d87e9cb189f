"""What viber_courier.django promises: tests of tests/django_shop.py's project, by Django's runner.

Redis is in memory (viber_courier.testing); the database is the project's.
"""

from __future__ import annotations

import json
import os
import threading
import time
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any
from unittest import mock

from django.conf import settings
from django.contrib.auth.models import User
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command, load_command_class
from django.db import connections, transaction
from django.test import TestCase, TransactionTestCase, override_settings
from django.utils import timezone
from shop.models import Order

from viber_courier import (
    Conflict,
    Event,
    InvalidMessage,
    Producer,
    QueueFull,
    StoreUnavailable,
)
from viber_courier.django import courier_settings, enqueue_on_commit, message_changed, producer
from viber_courier.django.deliveries import apply
from viber_courier.django.models import Delivery, OutboxMessage
from viber_courier.django.outbox import send_waiting
from viber_courier.testing import Courier, CourierMixin


def job(id: str, **more: Any) -> Any:
    fixed = {"subject": "Shop", "priority": "low", "contentType": "text", "address": "79250000001"}
    return {"id": id, "content": {"text": "x"}, **fixed, **more}


def row(id: str) -> OutboxMessage:
    return OutboxMessage.objects.get(id=id)


def outbox(*options: str) -> str:
    out = StringIO()
    call_command("courier_outbox", *options, stdout=out)
    return out.getvalue()


class OutboxTest(CourierMixin, TransactionTestCase):
    """Real transactions, as an app has them."""

    def sent(self) -> list[str]:
        return [asked.id for asked in self.courier.outbox]

    def test_a_message_goes_with_its_order_and_leaves_no_content(self) -> None:
        with transaction.atomic():
            order = Order.objects.create(phone="79250000001")
            enqueue_on_commit(job("a"))
            self.assertEqual((self.sent(), row("a").status), ([], "waiting"))
        self.assertEqual(self.sent(), ["a"])
        self.assertEqual((row("a").status, row("a").job), ("sent", ""))
        self.assertEqual(self.courier.outbox[0].job["source"], "shop")
        self.assertTrue(Order.objects.filter(pk=order.pk).exists())

    def test_a_rollback_takes_the_message_with_it(self) -> None:
        with self.assertRaises(RuntimeError), transaction.atomic():
            enqueue_on_commit(job("a"))
            raise RuntimeError
        with transaction.atomic():
            enqueue_on_commit(job("b"))
            with self.assertRaises(RuntimeError), transaction.atomic():
                enqueue_on_commit(job("c"))
                raise RuntimeError
        with transaction.atomic():
            point = transaction.savepoint()
            enqueue_on_commit(job("d"))
            transaction.savepoint_rollback(point)
        outbox("--once")
        self.assertEqual(self.sent(), ["b"])
        self.assertEqual([*OutboxMessage.objects.values_list("id", flat=True)], ["b"])

    def test_messages_of_a_transaction_go_together(self) -> None:
        producer().enqueue(job("m7", subject="Another"))
        calls = list[int]()
        enqueue_many = Producer.enqueue_many

        def spy(made: Producer, jobs: Any, **more: Any) -> Any:
            calls.append(len(jobs))
            return enqueue_many(made, jobs, **more)

        ids = [f"m{n}" for n in range(450)]
        with mock.patch.object(Producer, "enqueue_many", spy), transaction.atomic():
            given = [enqueue_on_commit(job(id)) for id in ids[:300]]
            with self.assertRaises(RuntimeError), transaction.atomic():
                enqueue_on_commit(job("b"))
                raise RuntimeError
            point = transaction.savepoint()
            enqueue_on_commit(job("d"))
            transaction.savepoint_rollback(point)
            given += [enqueue_on_commit(job(id)) for id in ids[300:]]
            enqueue_on_commit(job("m1"))
            self.assertEqual(calls, [])
        # Two round trips, in the order of the calls; one that Redis refuses leaves the others
        self.assertEqual((len(calls), sum(calls)), (2, 450))
        self.assertEqual(given, ids)
        self.assertEqual(self.sent(), ["m7", *(id for id in ids if id != "m7")])
        self.assertEqual(row("m7").status, "refused")
        self.assertEqual(OutboxMessage.objects.filter(status="sent").count(), 449)
        # And of the next transaction the next
        with transaction.atomic():
            enqueue_on_commit(job("next"))
        self.assertEqual(self.sent()[-1], "next")

    def test_what_of_a_transaction_redis_can_not_take_waits(self) -> None:
        hooks = list[Any]()
        for error in (StoreUnavailable, QueueFull):
            self.courier.fail_next(error)
            logged = self.assertLogs("viber_courier.django.outbox", "WARNING")
            with logged as logs, transaction.atomic():
                for n in range(3):
                    enqueue_on_commit(job(f"{error.__name__}-{n}"))
                transaction.on_commit(lambda e=error: hooks.append(e))
            self.assertIn("left in the outbox", logs.output[0])
        self.assertEqual(OutboxMessage.objects.filter(status="waiting").count(), 6)
        self.assertEqual(len(hooks), 2)
        outbox("--once")
        self.assertEqual(len(self.sent()), 6)

    def test_what_breaks_after_the_commit_is_logged_and_does_not_reach_the_request(self) -> None:
        hooks = list[str]()
        broken = mock.patch.object(Producer, "enqueue_many", side_effect=RuntimeError)
        with broken, self.assertLogs("django.db.backends.base", "ERROR"), transaction.atomic():
            for id in ("a", "b"):
                enqueue_on_commit(job(id))
            transaction.on_commit(lambda: hooks.append("ours"))
        self.assertEqual((self.sent(), hooks), ([], ["ours"]))
        outbox("--once")
        self.assertEqual(self.sent(), ["a", "b"])

    def test_a_wrong_job_is_refused_in_the_request(self) -> None:
        for wrong in (job("a", ttlSec=1), "no job", job("a", colour="red")):
            with self.assertRaises(InvalidMessage):
                enqueue_on_commit(wrong)
        self.assertFalse(OutboxMessage.objects.exists())

    def test_hours_that_come_too_late_are_refused_in_the_request(self) -> None:
        now = datetime.now(UTC)
        start, end = (f"{now + timedelta(hours=n):%H:%M}" for n in (6, 7))
        late = job("a", ttlSec=600, sendWindow={"from": start, "to": end, "zone": "UTC"})
        with self.assertRaisesMessage(InvalidMessage, "sendWindow: doesn't open before"):
            enqueue_on_commit(late)
        self.assertFalse(OutboxMessage.objects.exists())
        # Unless it is a call repeated, of a message that was written in time
        self.courier.fail_next(StoreUnavailable)
        with mock.patch("viber_courier.django.outbox.require_in_time"):
            enqueue_on_commit(late)
        self.courier.fail_next(StoreUnavailable)
        self.assertEqual(enqueue_on_commit(late), "a")
        self.assertEqual(row("a").status, "waiting")

    def test_an_id_is_one_message(self) -> None:
        first = enqueue_on_commit({**job("a"), "id": None} | {"id": "a"})
        self.assertEqual(enqueue_on_commit(job(first)), "a")
        with self.assertRaises(Conflict), transaction.atomic():
            enqueue_on_commit(job("a", subject="Another"))
        made = job("x")
        del made["id"]
        ids = {enqueue_on_commit(made), enqueue_on_commit(made)}
        self.assertEqual(len(ids), 2)
        self.assertEqual({*self.sent()}, {"a", *ids})

    def test_what_redis_can_not_take_now_waits(self) -> None:
        for error in (StoreUnavailable, QueueFull):
            self.courier.fail_next(error)
            enqueue_on_commit(job(error.__name__))
        self.assertEqual(self.sent(), [])
        self.assertIn("waiting 2", outbox("--status"))
        self.courier.full()
        with self.assertRaisesMessage(CommandError, "the queue is full"):
            outbox("--once")
        self.courier.full(False)
        outbox("--once")
        self.assertEqual(self.sent(), ["StoreUnavailable", "QueueFull"])
        self.assertIn("waiting 0", outbox("--status"))

    def test_a_message_that_was_stored_before_a_crash_is_only_marked(self) -> None:
        self.courier.fail_next(StoreUnavailable("stored, and no answer"), stored=True)
        enqueue_on_commit(job("a"))
        self.assertEqual((self.sent(), row("a").status), (["a"], "waiting"))
        outbox("--once")
        self.assertEqual((self.sent(), row("a").status), (["a"], "sent"))
        # Also if there is no time left for it
        OutboxMessage.objects.update(status="waiting", job=json.dumps(job("a")))
        OutboxMessage.objects.update(expires_at=timezone.now())
        outbox("--once")
        self.assertEqual(row("a").status, "sent")

    def test_what_is_refused_is_kept_with_its_reason_and_can_be_asked_for_again(self) -> None:
        self.courier.producer.enqueue(job("a", subject="Another"))
        with self.assertLogs("viber_courier.django", "ERROR"):
            enqueue_on_commit(job("a"))
        self.assertEqual(row("a").status, "refused")
        self.assertIn("was accepted before with another job", row("a").reason)
        # A rule has become stricter while it waited
        self.courier.fail_next(StoreUnavailable)
        enqueue_on_commit(job("b"))
        OutboxMessage.objects.filter(id="b").update(job=json.dumps(job("b", subject="S" * 99)))
        with self.assertLogs("viber_courier.django", "ERROR"):
            outbox("--once")
        self.assertIn("subject", row("b").reason)
        self.assertIn("refused 2", outbox("--status"))
        enqueue_on_commit(job("b", subject="Short"))
        self.assertEqual((row("b").status, row("b").reason, self.sent()[-1]), ("sent", "", "b"))

    def test_a_message_that_has_waited_too_long_is_not_sent(self) -> None:
        self.courier.fail_next(StoreUnavailable)
        enqueue_on_commit(job("code", ttlSec=60))
        left = row("code").expires_at - row("code").created_at
        self.assertAlmostEqual(left.total_seconds(), 60, delta=1)
        OutboxMessage.objects.update(expires_at=timezone.now())
        with self.assertLogs("viber_courier.django", "ERROR"):
            outbox("--once")
        self.assertEqual((self.sent(), row("code").status), ([], "refused"))
        self.assertIn("expired", row("code").reason)

    def test_ended_rows_are_pruned_and_refused_ones_lose_their_content_first(self) -> None:
        enqueue_on_commit(job("old"))
        enqueue_on_commit(job("new"))
        days = [timezone.now() - timedelta(days=n) for n in (8, 2)]
        OutboxMessage.objects.filter(id="old").update(ended_at=days[0])
        OutboxMessage.objects.filter(id="new").update(status="refused", job="x", ended_at=days[1])
        outbox("--once")
        self.assertEqual([*OutboxMessage.objects.values_list("id", "job")], [("new", "")])

    def test_status_fails_while_a_message_waits_for_long(self) -> None:
        self.courier.fail_next(StoreUnavailable)
        enqueue_on_commit(job("a"))
        OutboxMessage.objects.update(created_at=timezone.now() - timedelta(seconds=90))
        with self.assertRaisesRegex(CommandError, r"waiting 1, the oldest for 9\d s"):
            outbox("--status")

    def test_after_a_try_that_took_long_requests_leave_it_to_the_command(self) -> None:
        # It began, failed after 2 s; requests pause for 5 s more, and then don't
        clock = mock.Mock(time=time.time, monotonic=iter([10.0, 12.0, 16.9, 17.1, 17.2]).__next__)
        name = "viber_courier.django.outbox"
        with mock.patch(f"{name}.time", clock), mock.patch(f"{name}._pause_until", 0.0):
            error = StoreUnavailable("hung")
            error.__cause__ = TimeoutError()
            self.courier.fail_next(error)
            for id in ("a", "b", "c"):
                enqueue_on_commit(job(id))
        self.assertEqual(self.sent(), ["c"])
        outbox("--once")
        self.assertEqual(self.sent(), ["c", "a", "b"])

    def test_one_request_alone_finds_out_whether_redis_is_back(self) -> None:
        tries: list[str] = []

        def slow(rows: list[OutboxMessage], _: str) -> None:
            tries.append(rows[0].id)
            enqueue_on_commit(job("b"))  # another request, while this one waits for Redis

        name = "viber_courier.django.outbox"
        with mock.patch(f"{name}.send", slow), mock.patch(f"{name}._pause_until", 0.1):
            enqueue_on_commit(job("a"))
        self.assertEqual(tries, ["a"])
        enqueue_on_commit(job("b"))
        self.assertEqual(self.sent(), ["b"])

    def test_a_row_that_another_is_sending_is_left_to_it(self) -> None:
        if not connections["default"].features.has_select_for_update_skip_locked:
            self.skipTest("needs a database with SKIP LOCKED")
        self.courier.fail_next(StoreUnavailable)
        enqueue_on_commit(job("a"))
        found: list[Any] = []

        def other() -> None:
            found.append(send_waiting("default"))
            connections.close_all()

        with transaction.atomic():
            OutboxMessage.objects.select_for_update().get(id="a")
            thread = threading.Thread(target=other)
            thread.start()
            thread.join(10)
        self.assertEqual(found, [(0, None)])


class CapturedTest(CourierMixin, TestCase):
    """A transaction that Django never commits."""

    def test_a_block_sends_what_was_written_in_it(self) -> None:
        enqueue_on_commit(job("before"))
        with self.captureOnCommitCallbacks(execute=True):
            enqueue_on_commit(job("a"))
            enqueue_on_commit(job("b"))
        enqueue_on_commit(job("after"))
        self.assertEqual([asked.id for asked in self.courier.outbox], ["a", "b"])


class TogetherTest(TransactionTestCase):
    """Tests with a courier beside tests without."""

    def test_a_redis_that_was_away_for_one_test_is_there_for_the_next(self) -> None:
        pause = mock.patch("viber_courier.django.outbox._pause_until", float("inf"))
        with pause, Courier() as courier:
            enqueue_on_commit(job("a"))
        self.assertEqual(len(courier.outbox), 1)


class DeliveryTest(CourierMixin, TestCase):
    """Events into deliveries, and the signal."""

    def setUp(self) -> None:
        self.seen: list[tuple[str, int, str]] = []
        message_changed.connect(self.note)
        self.addCleanup(message_changed.disconnect, self.note)

    def note(self, *, event: Event, delivery: Delivery, **_: Any) -> None:
        saved = Delivery.objects.get(id=delivery.id)
        self.seen.append((event.subject, event.sequence, saved.status))

    def test_a_delivery_is_the_latest_event(self) -> None:
        ids = [producer().enqueue(job(id, smsText="x")) for id in ("a", "b")]
        self.courier.sms(ids, "delivered", reason="user-blocked")
        call_command("courier_consume", "--group", "crm", "--once")
        found = Delivery.objects.get(id="a")
        self.assertEqual((found.status, found.final), ("sms_delivered", True))
        self.assertEqual((found.reason, found.source), ("user-blocked", "shop"))
        self.assertEqual([each["state"] for each in found.sms], ["delivered"])
        record = self.courier.producer.get("a")
        self.assertEqual(found.provider_id, record and record.provider_id)
        self.assertIn(("a", found.sequence, "sms_delivered"), self.seen)
        call_command("courier_consume", "--group", "crm", "--once")
        self.assertEqual(len(self.seen), len({*self.seen}))

    def test_an_event_that_comes_again_or_too_late_changes_nothing(self) -> None:
        sent, read = Event.make("a", "sent", sequence=2), Event.make("a", "read", sequence=3)
        first = Event.make("a", "submitted", sequence=1)
        apply([first, read, sent], "default")
        apply([read], "default")
        self.assertEqual(self.seen, [("a", 1, "submitted"), ("a", 3, "read")])
        self.assertEqual(Delivery.objects.get().status, "read")

    def test_an_id_that_is_used_again_after_its_record_is_gone_has_its_events(self) -> None:
        first, read = (Event.make("a", s, sequence=n) for n, s in ((1, "sent"), (2, "read")))
        apply([first, read], "default")
        Delivery.objects.update(changed_at=timezone.now() - timedelta(days=7))
        apply([first, read, first], "default")
        self.assertEqual(self.seen, [("a", 1, "sent"), ("a", 2, "read")] * 2)

    def test_a_receiver_that_raises_rolls_back(self) -> None:
        events = [Event.make("a", "submitted"), Event.make("b", "submitted")]
        with (
            mock.patch.object(self, "seen", None),
            self.assertRaises(AttributeError),
        ):
            apply(events, "default")
        self.assertFalse(Delivery.objects.exists())
        apply(events, "default")
        self.assertEqual(len(self.seen), 2)

    def test_only_events_of_the_source(self) -> None:
        self.courier.deliver([producer().enqueue(job("a", source=name)) for name in ("shop",)])
        self.courier.deliver(producer().enqueue(job("b", source="other")))
        call_command("courier_consume", "--group", "one", "--once")
        self.assertEqual({id for id, *_ in self.seen}, {"a"})
        call_command("courier_consume", "--group", "two", "--source", "", "--once")
        self.assertEqual({id for id, *_ in self.seen}, {"a", "b"})


class AdminTest(CourierMixin, TestCase):
    """Pages of the admin."""

    def test_pages_are_read_only_and_show_no_phone_number(self) -> None:
        self.client.force_login(User.objects.create_superuser("root"))
        self.courier.fail_next(StoreUnavailable)
        with self.captureOnCommitCallbacks(execute=True):
            enqueue_on_commit(job("order-1"))
        apply([Event.make("order-1", "read")], "default")
        for name in ("outboxmessage", "delivery"):
            base = f"/admin/viber_courier/{name}/"
            for path in (base, f"{base}?q=order-", f"{base}order-1/change/"):
                page = self.client.get(path)
                self.assertContains(page, "order-1")
                self.assertNotContains(page, "79250000001")
            self.assertNotContains(self.client.get(f"{base}?q=other"), "order-1")
            self.assertEqual(self.client.get(f"{base}add/").status_code, 403)
            self.assertEqual(self.client.post(f"{base}order-1/change/").status_code, 403)
            self.assertEqual(self.client.post(f"{base}order-1/delete/").status_code, 403)


class SettingsTest(CourierMixin, TestCase):
    """``COURIER``."""

    def test_keys_are_those_of_the_settings_and_the_rest_is_read_from_the_environment(self) -> None:
        env = {"NAMESPACE": "env", "REDIS_URL_FILE": "/no/such", "SOURCE": "env"}
        env = {f"COURIER_{name}": text for name, text in env.items()}
        given = {"REDIS_URL": "redis://r:1/0", "SOURCE": "shop-2", "RETENTION": None}
        given |= {"POLL_DELAYS": [1, 2], "MAX_QUEUED": 5}
        with mock.patch.dict(os.environ, env), override_settings(COURIER=given):
            found = producer().settings
        self.assertEqual((found.redis_url, found.source), ("redis://r:1/0", "shop-2"))
        self.assertEqual((found.namespace, found.retention), ("env", 604800))
        self.assertEqual((found.poll_delays, found.max_queued), ((1, 2), 5))
        self.assertEqual(producer().settings.source, "shop")

    def test_each_fault_is_an_error_of_check(self) -> None:
        for wrong, text in (
            ({"REDISURL": "x"}, "unknown REDISURL; known are"),
            ({"API_PASSWORD": "x"}, "unknown API_PASSWORD; known are"),
            ({"REDIS_URL": "http://x"}, "COURIER_REDIS_URL: must"),
            ({"RETENTION": "long", "SOURCE": "a b"}, "COURIER_RETENTION: must"),
            ("redis://x", "must be a dict"),
        ):
            with override_settings(COURIER=wrong):
                (error,) = run_checks()
                self.assertEqual(error.id, "viber_courier.E001")
                self.assertIn(text, error.msg)
                self.assertRaises(ImproperlyConfigured, courier_settings)
        self.assertEqual(run_checks(databases=["default"], include_deployment_checks=False), [])

    def test_a_database_without_transactions_is_an_error_of_check(self) -> None:
        default = connections["default"]
        for lacking in (
            mock.patch.object(default.features, "supports_transactions", False),
            mock.patch.dict(default.settings_dict, AUTOCOMMIT=False),  # nothing would be marked
        ):
            with lacking:
                (error,) = run_checks(databases=["default"])
            self.assertEqual(error.id, "viber_courier.E002")

    def test_without_time_zones(self) -> None:
        with override_settings(USE_TZ=False), self.captureOnCommitCallbacks(execute=True):
            enqueue_on_commit(job("a"))
            apply([Event.make("a", "read", status_at="2026-11-23T10:00:00Z")], "default")
            self.assertIsNone(Delivery.objects.get().changed_at.tzinfo)
        self.assertTrue(settings.USE_TZ)

    def test_a_time_zone_that_a_request_activates_shortens_no_message(self) -> None:
        self.courier.fail_next(StoreUnavailable)
        with override_settings(USE_TZ=False):
            with timezone.override("Pacific/Honolulu"), self.captureOnCommitCallbacks(execute=True):
                enqueue_on_commit(job("a", ttlSec=3600))
            outbox("--once")
        self.assertEqual(row("a").status, "sent")


class Elsewhere:
    """A router to a database of the messages' own."""

    def db_for_write(self, *_: Any, **__: Any) -> str:
        return "elsewhere"


class RouterTest(TestCase):
    """Where the commands look."""

    def test_commands_look_where_the_router_says(self) -> None:
        with override_settings(DATABASE_ROUTERS=[Elsewhere()]):
            for name in ("outbox", "consume"):
                command = load_command_class("viber_courier.django", f"courier_{name}")
                parser = command.create_parser("manage.py", name)
                self.assertEqual(parser.get_default("database"), "elsewhere")
