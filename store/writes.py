"""What a worker writes for leased messages, in the form that settle.lua takes."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from viber_courier.schemas.event import Draft, provider_text
from viber_courier.schemas.status import Status
from viber_courier.store.records import Step, provider_fields, step_fields

NO_EVENT: Draft = ("", "", "", "", "")


class Write(NamedTuple):
    """A step and its event (``draft``), for all messages with the same result.

    ``was`` is the status expected. ``late``: the attempts that the record must have if the step is
    to be written without the lease; "": it needs the lease. ``suppresses``: the message's number is
    suppressed from now on.
    """

    was: Status
    step: Step
    draft: Draft = NO_EVENT
    counter: str = ""
    late: str = ""
    suppresses: bool = False


class Move(NamedTuple):
    """What is written for one message; ``provider_id``: if the provider has accepted it."""

    id: str
    write: Write
    provider_id: int | None = None


def grouped(moves: Sequence[Move]) -> tuple[list[Move], list[str | int]]:
    """Returns the moves in groups of the same result, and settle.lua's argument for them."""
    groups = defaultdict[Write, list[Move]](list)
    for move in moves:
        groups[move.write].append(move)
    moves = [move for group in groups.values() for move in group]
    tail: list[str | int] = [move.id for move in moves]
    for write, group in groups.items():
        tail += _group(write, group)
    return moves, tail


def _group(write: Write, moves: Sequence[Move]) -> list[str | int]:
    """Returns settle.lua's arguments for a group of messages with the same result."""
    step, shared = write.step, step_fields(write.step)
    accepted = step.place == "watch"
    place = "dead" if step.is_dead else step.place
    head = (len(moves), write.was, step.status or "", place, step.at, write.late, write.counter)
    own = len(provider_fields(0)) if accepted else 0
    tail: list[str | int] = [*head, *write.draft, len(shared), own, *shared]
    for move in moves:
        tail.append(provider_text(move.provider_id))
        if accepted and move.provider_id is not None:
            tail += provider_fields(move.provider_id)
    return tail
