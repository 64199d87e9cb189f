"""Moves messages on as workers do, with answers that a test has made up.

Everything else is a worker's: the claim, the mark before a request, the decision about an answer,
and the script that writes it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import redis

from viber_courier.schemas.event import SmsState
from viber_courier.schemas.lanes import LANES
from viber_courier.schemas.settings import Settings
from viber_courier.schemas.status import NEXT, Reason, Status
from viber_courier.schemas.wire import STATES, StatusEntry, sms_leg
from viber_courier.store.leases import Lease, Store
from viber_courier.store.records import Record, Waiting, job_options, record_values
from viber_courier.worker.codes import SYSTEM
from viber_courier.worker.decisions import Decider
from viber_courier.worker.outcome import (
    Accepted,
    Outcome,
    Refused,
    Retryable,
    Statuses,
    Unsure,
)
from viber_courier.worker.policy import ALONE_AFTER

S, R = Status, Reason
FIRST = 4
"""An instant before all others, in microseconds: what is due then is claimed alone."""
SMS_STATES = ("enqueued", "sent", "delivered", "undelivered")
REFUSAL = "error-address-unknown"
"""The code of a refusal for which the test names none."""
_WORDS = {status: word for word, status in reversed(STATES.items())}
"""The provider's word for each status; of two words, the one in its document."""
_OWN_REASONS: Mapping[Status, tuple[Reason, ...]] = {
    S.EXPIRED: (R.TTL,),
    S.UNCONFIRMED: (R.UNSURE,),
    S.SENT: (R.TRACKING_ENDED,),
    S.LOST: (R.TRACKING_ENDED, R.NO_PROVIDER_ID),
    S.UNDELIVERED: (R.SMS_UNDELIVERED,),
    S.FAILED: (R.PROVIDER_FAILED, R.ATTEMPTS, R.CRASHED, R.CONTENT_GONE),
}
_CODED = frozenset({S.UNDELIVERED, S.FAILED, S.CANCELLED, S.REJECTED, S.SMS_DELIVERED})
"""Ends whose reason may be a word of the provider's."""
_UNSENT = frozenset({S.REJECTED, S.EXPIRED, S.UNCONFIRMED})
_UNSENT_REASONS = frozenset({R.ATTEMPTS, R.CRASHED, R.CONTENT_GONE, R.NO_PROVIDER_ID})
"""Ends, and reasons of ends, of messages that nobody can follow."""
_FAILURES = frozenset({S.UNDELIVERED, S.FAILED})
_ENDS = [each for each in Status if not NEXT[each] or each in (S.DELIVERED, S.SENT)]


class Impossible(ValueError):
    """A test asks for a change that no message in this status goes through."""


class Life:
    """Moves the messages of one namespace on. ``numbers``: ids of the provider's."""

    def __init__(self, client: redis.Redis, settings: Settings, numbers: Iterator[int]) -> None:
        self._numbers, self._reasons = numbers, dict[str, str | None]()
        settings = replace(settings, batch_size=1, status_batch_size=1, rate_limit=0.0)
        self._client, self._settings = client, replace(settings, poll_rate_limit=0.0)
        self._first = Store(client, self._settings, now=lambda: FIRST)
        self._store, self._decider = Store(client, self._settings), Decider(self._settings)

    def record(self, id: str) -> Record:
        """Returns a message's record. Raises Impossible if there is none."""
        return Record(**record_values(id, self._fields(id), 0))

    def accept(self, id: str) -> None:
        """Has the provider accept a waiting message: it is ``submitted``."""
        self._require(self.record(id), S.SUBMITTED)
        self._answer(id, Accepted(next(self._numbers)))

    def deliver(self, id: str) -> None:
        """Has Viber deliver a message, which was accepted before or is now."""
        self._require(self.record(id), S.DELIVERED)
        self._poll(id, _WORDS[S.DELIVERED])

    def sms(self, id: str, state: str, reason: str | None) -> None:
        """Has the SMS of a message that Viber did not reach come into this state."""
        if state not in SMS_STATES:
            raise Impossible(f"an SMS is {', '.join(SMS_STATES)}; not {state!r}")
        was = self.record(id)
        if not job_options(self._fields(id))["resendSms"]:
            raise Impossible(f"message {id!r} has no SMS: its job doesn't resend as SMS")
        segment = SmsState(was.sms[0].id if was.sms else str(next(self._numbers)), state)
        leg = sms_leg([segment])
        if leg is not None and (leg != was.status or was.final):
            self._require(was, leg)
        reason = self._reasons[id] = reason or self._reasons.get(id)  # each answer repeats it
        self._poll(id, _WORDS[S.UNDELIVERED], reason, (segment,))

    def finish(self, id: str, status: str, reason: str | None) -> None:
        """Ends a message in this status."""
        was = self.record(id)
        end = self._require_end(was, status, reason)
        if end in _UNSENT or reason in _UNSENT_REASONS:
            if was.status != S.QUEUED:
                raise Impossible(f"message {id!r} is {was.status}: it was sent, it can't end so")
            self._end_unsent(id, end, reason)
        elif end == S.SMS_DELIVERED:
            self.sms(id, "delivered", reason)
        elif reason == R.SMS_UNDELIVERED or (was.status == S.SMS_SENT and end in _FAILURES):
            if reason not in (None, R.SMS_UNDELIVERED) or end != S.UNDELIVERED:
                raise Impossible(f"message {id!r} is sms_sent: only its SMS can still fail")
            self.sms(id, "undelivered", None)
        else:
            word, error = _WORDS.get(end), None if reason in set(R) else reason
            if end not in (was.status, S.LOST):
                self._poll(id, word, error)
            if not self.record(id).final:
                self._poll(id, word, error, closing=True)

    def _fields(self, id: str) -> dict[str, str]:
        found: Any = self._client.hgetall(self._store.keys.records + id)
        if not found:
            raise Impossible(f"there is no message with the id {id!r}")
        return dict(found)

    def _require(self, was: Record, to: Status) -> None:
        """Raises Impossible unless the message may come into this status."""
        if was.final:
            why = f" ({was.reason})" if was.reason else ""
            raise Impossible(f"message {was.id!r} has ended {was.status}{why}: nothing follows")
        accepted = NEXT[S.SUBMITTED] if was.status == S.QUEUED else frozenset()
        if to not in NEXT[was.status] | accepted:
            raise Impossible(f"message {was.id!r} is {was.status}: {to} can't follow")

    def _require_end(self, was: Record, status: str, reason: str | None) -> Status:
        if status not in _ENDS:
            raise Impossible(f"a message ends {', '.join(_ENDS)}; not {status!r}")
        end, is_ours = Status(status), reason in set(R)
        if reason == R.BY_REQUEST:
            raise Impossible("an app cancels with producer.cancel(id)")
        allowed = reason in _OWN_REASONS.get(end, ()) if is_ours else end in _CODED
        if reason is not None and not allowed:
            raise Impossible(f"a message never ends {end} for the reason {reason!r}")
        if end != was.status or was.final:
            self._require(was, end)
        return end

    def _claim(self, id: str) -> Lease[Waiting]:
        """Claims this message, and no other that waits: it is due first, also before its sendAt."""
        fields, keys = self._fields(id), self._store.keys
        lane, resend = LANES[(int(fields["set"]) - 1) // 2], 1 - int(fields["set"]) % 2
        place = keys.lanes[int(fields["set"]) - 1]
        if name := fields.get("campaign"):
            place += f":{name}"
            self._client.zadd(keys.queues(lane)[0], {f"{resend}:{name}": 0}, xx=True)
        if self._client.zscore(place, id) is not None:
            self._client.zadd(place, {id: FIRST})
        lease = self._first.claim("low", answered=True)
        if not isinstance(lease, Lease):
            raise Impossible(f"message {id!r} can't leave: its lane is paused")
        return lease

    def _answer(self, id: str, outcome: Outcome, **other: Any) -> None:
        """Sends a message, and settles this answer to its request."""
        lease = self._claim(id)
        held = self._store.begin(lease, lease.messages)
        if held.suppressed:
            self._store.settle(held, self._decider.suppressed(held.suppressed))
            raise Impossible(f"message {id!r} can't be sent: its number is suppressed")
        decider = replace(self._decider, settings=replace(self._settings, **other))
        self._store.settle(held, decider.sent(held.messages, [outcome], held.server_now()))

    def _end_unsent(self, id: str, end: Status, reason: str | None) -> None:
        if reason == R.CRASHED:
            self._triage(id, lapses=ALONE_AFTER + 1)
        elif reason == R.CONTENT_GONE:
            self._triage(id, content=None)
        elif end == S.EXPIRED:
            self._triage(id, until=0)
        elif reason == R.ATTEMPTS:
            self._answer(id, Retryable(SYSTEM), max_attempts=1)
        elif end == S.LOST:
            self._answer(id, Accepted(None))
        elif end == S.REJECTED:
            self._answer(id, Refused(reason or REFUSAL))
        else:
            while not self.record(id).final:  # sent again as often as the settings say
                self._answer(id, Unsure("made up"))

    def _triage(self, id: str, **found: Any) -> None:
        """Settles a message that a claim found so."""
        lease = self._claim(id)
        (message,) = lease.messages
        moves = self._decider.claimed([message._replace(**found)], FIRST)[1]
        self._store.settle(lease, moves)

    def _poll(
        self,
        id: str,
        word: str | None,
        error: str | None = None,
        sms: tuple[SmsState, ...] = (),
        closing: bool = False,
    ) -> None:
        """Settles an answer about a message; ``closing``: at the end of its tracking."""
        if self.record(id).status == S.QUEUED:
            self.accept(id)
        self._client.zadd(self._store.keys.watch, {id: FIRST})
        lease = self._first.claim_watched(answered=True)
        if not isinstance(lease, Lease):
            raise Impossible(f"message {id!r} isn't followed: polling is paused")
        ((message,), (seconds, micros)) = lease.messages, self._client.time()
        entry = StatusEntry(
            message.provider_id, "ok", word, STATES.get(word or ""), None, error, sms
        )
        at = message.tracked if closing else seconds * 1_000_000 + micros
        answer = Statuses({message.provider_id: entry} if word else {})
        self._store.settle(lease, self._decider.polled([message], answer, at))
