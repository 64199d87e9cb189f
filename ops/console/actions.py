"""What an operator can do, on record: once for the command line and the console."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any

from viber_courier import Campaign, Producer, Progress, Suppression
from viber_courier.ops.console.audit import Actor, operator, record
from viber_courier.producers.dead import Resent
from viber_courier.producers.preview import mask
from viber_courier.schemas.status import Status
from viber_courier.store.connection import store_errors
from viber_courier.store.keys import Keys


class Actions:
    """Acts for one person. Every call raises StoreUnavailable; nothing is done without a record."""

    def __init__(self, producer: Producer, actor: Actor) -> None:
        self.producer, self._actor = producer, actor
        self._keys = Keys(producer.settings.namespace)

    def record(self, what: str, on: str = "", how: str = "") -> None:
        """Writes an entry of the audit stream."""
        record(self.producer, self._actor, what, on, how)

    def pause(self, names: Sequence[str], reason: str, seconds: float | None) -> None:
        """Pauses lanes and polling, for so long or until they are resumed."""
        self.record("pause", " ".join(names), f"for {seconds:g} s: {reason}" if seconds else reason)
        ms = round(seconds * 1000) if seconds else None
        with store_errors(), self.producer.redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.set(self._keys.paused(name), reason[:200], px=ms)
            pipe.execute()

    def resume(self, names: Sequence[str]) -> list[str]:
        """Resumes lanes and polling; returns those that were paused."""
        self.record("resume", " ".join(names))
        with store_errors(), self.producer.redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.delete(self._keys.paused(name))
            return [name for name, was in zip(names, pipe.execute(), strict=True) if was]

    def cancel(self, id: str) -> str:
        """Cancels a message; returns ``cancelled``, or the status that it has instead."""
        self.record("cancel", id)
        if self.producer.cancel(id):
            return "cancelled"
        found = self.producer.get(id)
        if found is None:
            return "unknown"
        # The provider has a status of the same name.
        by_provider = found.status == Status.CANCELLED
        return "cancelled by the provider" if by_provider else str(found.status)

    def resend(self, id: str, unconfirmed: bool) -> str:
        """Sends a dead letter again; returns the new message's id. Raises DeadLetterError ..."""
        self.record("resend", id, "unconfirmed, too" if unconfirmed else "")
        return self.producer.dead.resend(id, unconfirmed)

    def resend_many(self, rate: float, unconfirmed: bool, **chosen: Any) -> Resent:
        """Sends all dead letters again that have this status and reason."""
        more = ", unconfirmed, too" if unconfirmed else ""
        self.record("resend", _letters(**chosen), f"{rate:g} a second{more}")
        return self.producer.dead.resend_many(rate=rate, unconfirmed=unconfirmed, **chosen)

    def drop(self, id: str) -> None:
        """Drops a dead letter. Raises NotDead."""
        self.record("drop", id)
        self.producer.dead.drop(id)

    def drop_many(self, **chosen: Any) -> int:
        """Drops all dead letters that have this status and reason; returns how many."""
        self.record("drop", _letters(**chosen))
        return self.producer.dead.drop_many(**chosen)

    def pause_campaign(self, name: str, reason: str) -> Progress:
        """Pauses a campaign. Raises CampaignCancelled."""
        return self._campaign("pause campaign", name, reason).pause(reason)

    def resume_campaign(self, name: str) -> Progress:
        """Resumes a campaign. Raises CampaignCancelled."""
        return self._campaign("resume campaign", name).resume()

    def cancel_campaign(self, name: str) -> Progress:
        """Cancels a campaign."""
        return self._campaign("cancel campaign", name).cancel()

    def _campaign(self, what: str, name: str, how: str = "") -> Campaign:
        found = self.producer.campaign(name)
        self.record(what, name, how)
        return found

    def suppress(self, phones: Collection[str], reason: str, until: datetime | None) -> int:
        """Suppresses numbers, for good or until then; returns how many were not."""
        self.record("suppress", _numbers(phones), reason)
        return self.producer.suppressions.add_many(phones, reason, until)

    def unsuppress(self, phones: Collection[str]) -> int:
        """Lets numbers get messages again; returns how many were suppressed."""
        self.record("unsuppress", _numbers(phones))
        return self.producer.suppressions.remove_many(phones)

    def import_suppressions(self, entries: Iterable[Suppression]) -> int:
        """Adds entries of another list; returns how many are new."""
        self.record("import suppressions")
        return self.producer.suppressions.import_(entries)


def of_operator() -> Actions:
    """Returns the Actions of who runs this command. Raises ConfigError."""
    return Actions(Producer.from_env(), operator())


def _numbers(phones: Collection[str]) -> str:
    return mask(*phones) if len(phones) == 1 else f"{len(phones)} numbers"


def _letters(status: str | None, reason: str | None) -> str:
    """Returns which dead letters are meant, in words."""
    return " ".join(part for part in ("all dead letters", status or "", reason or "") if part)
