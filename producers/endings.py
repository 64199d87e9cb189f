"""Ends waiting messages from an app's side."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

from viber_courier.producers.namespace import Namespace
from viber_courier.schemas.event import RESENT, Change, render, render_open, resent
from viber_courier.schemas.status import DEAD, Reason, Status
from viber_courier.store.counters import status_field
from viber_courier.store.records import end_fields


class Ending(NamedTuple):
    """How a waiting message ends, and what its event tells of it; equal ones share a draft."""

    status: Status
    reason: Reason
    attempts: str = "0"
    unsure: int = 0
    metadata: str = ""
    resend_of: str = ""


def ending(fields: Mapping[str, str], status: Status, reason: Reason) -> Ending:
    """Returns the end of a message by the fields of its record.

    It is ``unconfirmed`` instead of ``status`` if an attempt was unsure.
    """
    unsure, attempts = int(fields.get("unsure", 0)), fields.get("attempts", "0")
    status = Status.UNCONFIRMED if unsure else status
    texts = fields.get("metadata", ""), fields.get("resendOf", "")
    return Ending(status, reason, attempts, unsure, *texts)


class Endings:
    """Ends messages that wait, many in one script call."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace, self._script = namespace, namespace.script("cancel")

    async def end(self, messages: Mapping[str, tuple[str, Ending]]) -> dict[str, str]:
        """Ends messages whose records are unchanged; returns cancel.lua's answer for each id.

        ``messages`` holds, by id, the number of events in the record and the end.
        """
        groups = defaultdict[Ending, list[tuple[str, str]]](list)
        for id, (n, how) in messages.items():
            groups[how].append((id, n))
        tail = [word for how, group in groups.items() for word in self._group(how, group)]
        ids = [id for group in groups.values() for id, _ in group]
        given: Any = {"from": Status.QUEUED, "tail": tail}
        answers = await self._namespace.ask(self._script, **given)
        return dict(zip(ids, answers, strict=True))

    def _group(self, how: Ending, messages: list[tuple[str, str]]) -> list[str | int]:
        change = Change(
            status=how.status,
            final=True,
            reason=how.reason,
            attempts=int(how.attempts),
            unsure=how.unsure,
            metadata=json.loads(how.metadata) if how.metadata else None,
            more=resent(how.resend_of),
        )
        draft = render(change, self._namespace.settings.namespace, self._namespace.clock())
        fields, is_dead = end_fields(how.reason), int(how.status in DEAD)
        head = (len(messages), how.status, is_dead, status_field(how.status, how.reason))
        tail = (word for message in messages for word in message)
        return [*head, *draft, how.attempts, len(fields), *fields, *tail]


def line_ends(namespace: str, now: float) -> dict[str, Any]:
    """Returns end_lines.lua's arguments for cancelled messages; ``now`` is the wall clock."""
    reason, ends = Reason.BY_REQUEST, list[str | int]()
    for status in (Status.CANCELLED, Status.UNCONFIRMED):
        draft = render_open(Change(status=status, final=True, reason=reason), namespace, now)
        ends += [status, int(status in DEAD), status_field(status, reason), *draft]
    return {"from": Status.QUEUED, "reason": reason, "sent_again": RESENT, "ends": ends}
