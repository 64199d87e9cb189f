"""The statuses of a message, and which may follow which. All rules of order come from NEXT."""

from enum import StrEnum


class Status(StrEnum):
    """A message's status. Events and records hold these names, so they never change."""

    QUEUED = "queued"
    SENDING = "sending"
    SUBMITTED = "submitted"
    SENT = "sent"
    DELIVERED = "delivered"
    READ = "read"
    SMS_SENT = "sms_sent"
    SMS_DELIVERED = "sms_delivered"
    UNDELIVERED = "undelivered"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    EXPIRED = "expired"
    UNCONFIRMED = "unconfirmed"
    LOST = "lost"


class Reason(StrEnum):
    """Why a message ended as it did. Other reasons are a provider's code or ``http-<code>``."""

    ATTEMPTS = "attempts"
    TTL = "ttl"
    CRASHED = "crashed"
    UNSURE = "unsure"
    INVALID = "invalid"
    CONFLICT = "conflict"
    SMS_UNDELIVERED = "sms-undelivered"
    PROVIDER_FAILED = "provider-failed"
    BY_REQUEST = "by-request"
    TRACKING_ENDED = "tracking-ended"
    CONTENT_GONE = "content-gone"
    ALL_REFUSED = "all-refused"
    NO_PROVIDER_ID = "no-provider-id"
    SUPPRESSED = "suppressed"


S = Status
_ENDS = frozenset({S.UNDELIVERED, S.FAILED, S.CANCELLED})
_UNSENT = frozenset({S.REJECTED, S.EXPIRED, S.FAILED, S.CANCELLED, S.UNCONFIRMED})

NEXT: dict[Status, frozenset[Status]] = {
    # A late answer makes `queued` -> `submitted` possible without `sending` in between.
    # `lost` from there: accepted, but without a usable id.
    S.QUEUED: frozenset({S.SENDING, S.SUBMITTED, S.LOST}) | _UNSENT,
    S.SENDING: frozenset({S.QUEUED, S.SUBMITTED, S.LOST}) | _UNSENT,
    S.SUBMITTED: frozenset({S.SENT, S.DELIVERED, S.READ, S.SMS_SENT, S.SMS_DELIVERED, S.LOST})
    | _ENDS,
    S.SENT: frozenset({S.DELIVERED, S.READ, S.SMS_SENT, S.SMS_DELIVERED}) | _ENDS,
    S.DELIVERED: frozenset({S.READ}),
    S.SMS_SENT: frozenset({S.DELIVERED, S.READ, S.SMS_DELIVERED, S.LOST}) | _ENDS,
    **{
        end: frozenset()
        for end in (S.READ, S.SMS_DELIVERED, S.REJECTED, S.EXPIRED, S.UNCONFIRMED, S.LOST, *_ENDS)
    },
}
"""The statuses that may follow each (docs/design.md, section 4). One without any is final."""


def is_final(status: Status, closed: bool = False) -> bool:
    """Returns whether a status is final; ``closed``: tracking has closed the message in it."""
    return closed or not NEXT[status]


DEAD = frozenset({S.FAILED, S.UNCONFIRMED, S.REJECTED, S.LOST})
"""Statuses of dead letters: messages that end in one go to the list of dead letters."""
