"""``courier send``: enqueues one message."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Callable
from typing import Any

import click

from viber_courier import Producer
from viber_courier.ops.commands.terminal import Failure, command, emit, json_option
from viber_courier.schemas.lanes import LANES
from viber_courier.store.connection import StoreUnavailable
from viber_courier.store.refusals import refusal

_TEXTS = {
    "id": ("--id", str, "Your own id: with it you can repeat the command and send once."),
    "address": ("--to", str, "Phone number, international. `ps` shows it: or use stdin."),
    "subject": ("--subject", str, "The sender name that the provider registered."),
    "priority": ("--priority", click.Choice(LANES), "The lane."),
    "text": ("--text", str, "The text."),
    "imageUrl": ("--image", str, "URL of an image, alone or above text and button."),
    "caption": ("--caption", str, "Label of the button."),
    "action": ("--action", str, "URL that the button opens."),
    "smsText": ("--sms-text", str, "Text of an SMS if Viber doesn't deliver. Costs money."),
    "smsSrcAddress": ("--sms-from", str, "Sender of the SMS."),
    "sendAt": ("--at", str, "Not before: ISO 8601 with zone, 2026-11-23T10:00:00+03:00."),
    "ttlSec": ("--ttl", int, "Seconds after which it expires unsent."),
    "validityPeriodSec": ("--validity", int, "Seconds that the provider may try Viber."),
    "smsValidityPeriodSec": ("--sms-validity", int, "Seconds that the provider may try the SMS."),
    "comment": ("--comment", str, "Shown in the provider's reports."),
    "source": ("--source", str, "The app, for readers that name one. [env COURIER_SOURCE]"),
    "onUnsure": ("--on-unsure", click.Choice(["park", "resend"]), "If it may have been sent."),
}
"""Options by the field that they set; those of the content go to ``content``."""
_CONTENT = ("text", "imageUrl", "caption", "action")


def _options(function: Callable[..., None]) -> Callable[..., None]:
    for name, (flag, kind, text) in reversed(_TEXTS.items()):
        function = click.option(flag, name, type=kind, help=text)(function)
    return function


@command(
    partly="the job is wrong, or its id belongs to another job",
    away="Redis can't be used, or the queue is full",
)
@_options
@click.option("--metadata", multiple=True, metavar="NAME=VALUE", help="Returned in its events.")
@json_option
def send(as_json: bool, metadata: tuple[str, ...], **options: Any) -> None:
    """Store one message and print its id.

    Without options it reads the job from stdin, as JSON (docs/guide.md).
    """
    given = {name: value for name, value in options.items() if value is not None}
    job = _job(given, metadata) if given or metadata else _read()
    if isinstance(job, dict) and job.get("id") is None:
        job = {**job, "id": str(uuid.uuid4())}
    try:
        id = Producer.from_env().enqueue(job)
    except StoreUnavailable as error:
        if refusal(error) or "nothing was stored" in str(error):
            raise
        text = f"{error}. It may be stored: repeat with the id {job['id']}, and it is sent once"
        raise StoreUnavailable(text) from error.__cause__
    emit({"id": id}) if as_json else click.echo(id)


def _job(given: dict[str, Any], metadata: tuple[str, ...]) -> Any:
    content = {name: given.pop(name) for name in _CONTENT if name in given}
    kind = "button" if content.keys() & {"caption", "action"} else "text"
    kind = "image" if content.keys() == {"imageUrl"} else kind
    if metadata:
        given["metadata"] = dict(pair.partition("=")[::2] for pair in metadata)
    return {**given, "contentType": kind, "content": content}


def _read() -> Any:
    if sys.stdin is None or sys.stdin.isatty():
        raise click.UsageError("say what to send, by options or as JSON on stdin")
    try:
        return json.loads(sys.stdin.buffer.read())
    except (ValueError, RecursionError):
        raise Failure("stdin is not JSON: nothing was stored") from None
