"""The outbox: a job is written in the app's transaction, and sent after its commit.

Its id is fixed in its row, and Redis takes an id once. So a process may end at any point, and the
row is sent again until it is marked.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.db import connections, router, transaction
from django.utils import timezone

from viber_courier.django.conf import producer
from viber_courier.django.models import REFUSED, SENT, WAITING, OutboxMessage, in_django
from viber_courier.producers.rows import fresh_id
from viber_courier.schemas.errors import Conflict, QueueFull
from viber_courier.schemas.fields import TTL_DEFAULT
from viber_courier.schemas.message import named, parse_job, require_in_time
from viber_courier.store.connection import StoreUnavailable

if TYPE_CHECKING:
    from viber_courier import types

logger = logging.getLogger(__name__)

BATCH = 400
"""Rows that are sent in one round trip. Older SQLite takes 999 values in a query: two for each."""
MOST_PAUSE = 5.0
"""Longest time for which requests don't try a Redis that failed, in seconds."""
EXPIRED = "expired: it waited in the outbox for longer than ttlSec"

_pause_until = 0.0


def write(job: types.Job, using: str | None) -> str:
    """Does what enqueue_on_commit says."""
    now, db = time.time(), using or router.db_for_write(OutboxMessage)
    given: Any = named(job, producer().settings.source)
    parsed = parse_job(given, now)
    id, rows = parsed.id or fresh_id(), OutboxMessage.objects.using(db)
    known = rows.exclude(status=REFUSED).filter(id=id, digest=parsed.digest)
    if parsed.wait < 0 and not known.exists():
        require_in_time(parsed)
    end = max(now, (parsed.send_at or 0) / 1e6) + (parsed.ttl or TTL_DEFAULT)
    values = {
        "job": json.dumps({**given, "id": id}, default=dict),  # any Mapping is a job
        "digest": parsed.digest,
        "status": WAITING,
        "reason": "",
        "created_at": timezone.now(),
        "expires_at": in_django(datetime.fromtimestamp(end, UTC)),
        "ended_at": None,
    }
    made = OutboxMessage(id=id, **values)
    rows.bulk_create([made], ignore_conflicts=True)
    row = rows.get(id=id) if parsed.id else made
    if row.status == REFUSED:
        rows.filter(id=id).update(**values)
    elif row.digest != parsed.digest:
        raise Conflict(id)
    if row.status != SENT:
        transaction.on_commit(_Sending(id, db), using=db, robust=True)
    return id


class _Sending:
    """Sends ``id`` after the commit, and with it all others of its transaction: ``ids``."""

    def __init__(self, id: str, db: str) -> None:
        hooks = (hook for _, hook, *_ in reversed(connections[db].run_on_commit))
        latest = next((hook for hook in hooks if isinstance(hook, _Sending)), None)
        self._id, self._db = id, db
        self._ids: dict[str, None] = latest._ids if latest else {}
        self._ids[id] = None
        self.__qualname__ = "enqueue_on_commit"  # for Django's log, if it raises

    def __call__(self) -> None:
        """Is called once for each message: the first call sends all.

        In a test's transaction, which Django never commits, it is a message's own.
        """
        ids = [self._id] if connections[self._db].in_atomic_block else list(self._ids)
        for id in ids:
            self._ids.pop(id, None)
        for start in range(0, len(ids), BATCH):
            if not _send_at_once(ids[start : start + BATCH], self._db):
                break


def _send_at_once(ids: Sequence[str], db: str) -> bool:
    """Sends rows that wait, unless Redis has just failed: then courier_outbox does.

    Requests leave it alone for ten times as long as the failed try took, so that an outage costs
    them little of their time. Returns whether all were sent.
    """
    global _pause_until
    if (began := time.monotonic()) < _pause_until:
        return False
    # A savepoint that was rolled back has taken its rows along.
    found = OutboxMessage.objects.using(db).filter(status=WAITING).in_bulk(ids)
    if not (rows := [found[id] for id in ids if id in found]):
        return True
    if _pause_until:  # it failed last time: one request finds out, and the others go on
        _pause_until = began + MOST_PAUSE
    error, _pause_until = send(rows, db), 0.0
    if error:
        if error.__cause__:  # Redis was asked in vain; QueueFull is an answer
            failed = time.monotonic()
            _pause_until = failed + min(10 * (failed - began), MOST_PAUSE)
        left = [row.id for row in rows if row.id not in error.accepted]
        about = {"message_id": left[0], "messages": len(left), "error": str(error)}
        logger.warning("left in the outbox", extra=about)
    return not error


def send_waiting(db: str) -> tuple[int, Exception | None]:
    """Sends the oldest rows that wait; returns how many it tried, and what send returns.

    Where the database can, the rows are locked: others that send side by side skip them.
    """
    features: Any = connections[db].features
    can_lock = features.has_select_for_update
    rows = OutboxMessage.objects.using(db).filter(status=WAITING).order_by("created_at")
    rows = rows.select_for_update(skip_locked=features.has_select_for_update_skip_locked)
    # SQLite would keep all others from writing, for as long as Redis takes.
    with transaction.atomic(using=db) if can_lock else nullcontext():
        found = list(rows[:BATCH])
        return len(found), send(found, db) if found else None


def send(rows: Sequence[OutboxMessage], db: str) -> StoreUnavailable | QueueFull | None:
    """Sends rows, and marks those that Redis has and those that are refused.

    Returns the error for which the others must wait.
    """
    sent, refused, wait = list[str](), dict[str, str](), None

    def refuse(_: int, job: Any, error: Exception) -> None:
        refused[job["id"]] = str(error)

    try:
        late = [row.id for row in rows if row.expires_at <= timezone.now()]
        for id in late:  # it may have been stored before a crash
            if producer().get(id):
                sent.append(id)
            else:
                refused[id] = EXPIRED
        jobs = [json.loads(row.job) for row in rows if row.id not in late]
        sent += producer().enqueue_many(jobs, on_invalid=refuse)
    except (StoreUnavailable, QueueFull) as error:
        sent += error.accepted
        wait = error
    now, objects = timezone.now(), OutboxMessage.objects.using(db)
    digests = {row.digest for row in rows}  # a refused row may have got another job meanwhile
    objects.filter(id__in=sent, digest__in=digests).update(status=SENT, job="", ended_at=now)
    for id, reason in refused.items():
        logger.error("message refused", extra={"message_id": id, "error": reason})
        found = objects.filter(id=id, status=WAITING, digest__in=digests)
        found.update(status=REFUSED, reason=reason, ended_at=now)
    return wait


def prune(db: str) -> None:
    """Deletes rows that ended long ago; erases the content of those that were refused before."""
    now, ended = timezone.now(), OutboxMessage.objects.using(db).exclude(status=WAITING)
    limit = timedelta(seconds=producer().settings.retention)
    ended.filter(ended_at__lt=now - limit).delete()
    limit = timedelta(seconds=producer().settings.content_retention)
    ended.filter(status=REFUSED, ended_at__lt=now - limit).exclude(job="").update(job="")
