"""``courier send``: one message."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import click

from viber_courier import Producer
from viber_courier.ops.commands.terminal import Failure, command, emit, json_option
from viber_courier.schemas.lanes import LANES

_TEXTS = {
    "id": ("--id", str, "Your own id: repeated with it, nothing is sent twice."),
    "address": ("--to", str, "Phone number, international. It shows in `ps`: or use stdin."),
    "subject": ("--subject", str, "The sender that the provider registered."),
    "priority": ("--priority", click.Choice(LANES), "The lane."),
    "text": ("--text", str, "The text."),
    "imageUrl": ("--image", str, "URL of an image, alone or over text and button."),
    "caption": ("--caption", str, "What stands on the button."),
    "action": ("--action", str, "URL that the button opens."),
    "smsText": ("--sms-text", str, "Sent as SMS where Viber doesn't reach. Costs money."),
    "smsSrcAddress": ("--sms-from", str, "The SMS's sender."),
    "sendAt": ("--at", str, "Not before: ISO 8601 with zone, 2026-11-23T10:00:00+03:00."),
    "ttlSec": ("--ttl", int, "Seconds that it is tried for."),
    "validityPeriodSec": ("--validity", int, "Seconds that the provider tries Viber for."),
    "smsValidityPeriodSec": ("--sms-validity", int, "Seconds that it tries the SMS for."),
    "comment": ("--comment", str, "For the provider's reports."),
    "onUnsure": ("--on-unsure", click.Choice(["park", "resend"]), "If nobody knows it was sent."),
}
"""A job's fields as options; the content's are gathered in ``content``."""
_CONTENT = ("text", "imageUrl", "caption", "action")


def _options(function: Callable[..., None]) -> Callable[..., None]:
    for name, (flag, kind, text) in reversed(_TEXTS.items()):
        function = click.option(flag, name, type=kind, help=text)(function)
    return function


@command(
    partly="the job is wrong, or its id was used for another one",
    away="Redis can't be used, or the queue is full",
)
@_options
@click.option("--metadata", multiple=True, metavar="NAME=VALUE", help="Comes back in its events.")
@json_option
def send(as_json: bool, metadata: tuple[str, ...], **options: Any) -> None:
    """Store one message and print its id.

    Without options the job is read from stdin, as JSON in the form of docs/guide.md.
    """
    given = {name: value for name, value in options.items() if value is not None}
    id = Producer.from_env().enqueue(_job(given, metadata) if given or metadata else _read())
    emit({"id": id}) if as_json else click.echo(id)


def _job(given: dict[str, Any], metadata: tuple[str, ...]) -> dict[str, Any]:
    content = {name: given.pop(name) for name in _CONTENT if name in given}
    kind = "button" if content.keys() & {"caption", "action"} else "text"
    kind = "image" if content.keys() == {"imageUrl"} else kind
    if metadata:
        given["metadata"] = dict(pair.partition("=")[::2] for pair in metadata)
    return {**given, "contentType": kind, "content": content}


def _read() -> Any:
    if sys.stdin is None or sys.stdin.isatty():
        raise click.UsageError("say what to send: by options, or as JSON on stdin")
    try:
        return json.loads(sys.stdin.buffer.read())
    except (ValueError, RecursionError):
        raise Failure("stdin holds no JSON: nothing was stored") from None
