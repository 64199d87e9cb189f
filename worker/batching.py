"""Forms requests: puts the fields that all messages of a request share into ``commonData``.

Only fields that every message has with an equal value are shared, and ``content`` only as a whole,
because it is unknown how the provider merges overrides (docs/provider-api.md#t8).
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from viber_courier.schemas.fields import VALIDITY
from viber_courier.store.records import Waiting, merge
from viber_courier.worker.policy import ALONE_AFTER, SMS_VALIDITY_DEFAULT, seconds_left

Message = dict[str, Any]
ADDRESS = "address"


def factor(messages: Sequence[Message]) -> tuple[Message, list[Message]]:
    """Returns the common part and the rest of each message; a single message has no common part."""
    if len(messages) < 2:
        return {}, list(messages)
    first, others = messages[0], messages[1:]
    common = {
        name: value
        for name, value in first.items()
        if name != ADDRESS and all(name in m and _is_same(m[name], value) for m in others)
    }
    if not common:
        return {}, list(messages)
    return common, [{k: v for k, v in m.items() if k not in common} for m in messages]


def assemble(messages: Sequence[Waiting], now: int) -> tuple[Message, list[Message]]:
    """Returns a request's common part and messages, as they are sent now."""
    first = messages[0].common
    if len(messages) > 1 and all(_brings_only_address(message, first) for message in messages):
        return {"type": "viber", **first}, [message.content or {} for message in messages]
    return factor([wire_message(message, now) for message in messages])


def _brings_only_address(message: Waiting, common: object) -> bool:
    """Returns whether a message adds nothing to this campaign's content but its address."""
    return message.common is common and len(message.content or ()) == 1 and not message.has_ttl


def wire_message(message: Waiting, now: int) -> Message:
    """Returns a message as it is sent now: with its type, and validities clipped to ``ttlSec``.

    A validity that is missing is added if the API's default is longer than the time left.
    """
    wire: Message = {"type": "viber", **merge(message.content or {}, message.common)}
    if message.has_ttl:
        left = seconds_left(message, now)
        _clip(wire, "validityPeriodSec", VALIDITY[1], left)
        if message.resend:
            _clip(wire, "smsValidityPeriodSec", SMS_VALIDITY_DEFAULT, left)
    return wire


def _is_same(one: object, other: object) -> bool:
    if one is other:  # usually a campaign's content
        return True
    if type(one) is not type(other) or one != other:
        return False
    if isinstance(one, dict) and isinstance(other, dict):  # True == 1 inside them, too
        return all(_is_same(value, other[name]) for name, value in one.items())
    return True


def _clip(wire: Message, name: str, default: int, left: int) -> None:
    if left < wire.get(name, default):
        wire[name] = min(left, VALIDITY[1])


def requests(messages: Sequence[Waiting]) -> tuple[list[list[Waiting]], list[Waiting]]:
    """Splits the messages of a claim into requests; also returns those that must be put back.

    Messages whose request was being halved come first, in requests as small as it had become, so
    that each task makes progress however slow the provider is. A message whose leases keep lapsing
    goes alone and last: if it kills its worker, no other lease lapses.
    """
    alone = [m for m in messages if m.lapses >= ALONE_AFTER]
    free = [m for m in messages if m.lapses < ALONE_AFTER and not m.max_batch]
    tied = [m for m in messages if m.lapses < ALONE_AFTER and m.max_batch]
    batches: list[list[Waiting]] = []
    for most, group in groupby(sorted(tied, key=_max_batch), key=_max_batch):
        same = list(group)
        batches += [same[i : i + most] for i in range(0, len(same), most)]
    return [batch for batch in (*batches, free, alone[:1]) if batch], alone[1:]


def _max_batch(message: Waiting) -> int:
    return message.max_batch
