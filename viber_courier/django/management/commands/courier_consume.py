"""``manage.py courier_consume``: applies result events to deliveries."""

from __future__ import annotations

from functools import partial
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import router

from viber_courier import CourierError, consume
from viber_courier.django.conf import producer
from viber_courier.django.deliveries import apply
from viber_courier.django.models import Delivery


class Command(BaseCommand):
    """Update deliveries and send message_changed, until SIGTERM or Ctrl-C."""

    help = __doc__

    def add_arguments(self, parser: CommandParser) -> None:
        """Adds the options, which are those of ``courier consume``."""
        add = parser.add_argument
        add("--group", required=True, help="The consumer group: each gets every event.")
        add("--source", help="Only events of this app's messages. [default: COURIER's SOURCE]")
        add("--batch", type=int, default=500, help="Most events in one transaction.")
        add("--start", choices=["oldest", "new"], default="oldest", help="Where a group begins.")
        add("--consumer", default="", help="A name that a restart keeps. [default: a new one]")
        add("--database", default=router.db_for_write(Delivery))
        add("--once", action="store_true", help="Apply what there is, and end.")

    def handle(self, *, group: str, database: str, once: bool, **options: Any) -> None:
        """Runs the command. Raises CommandError if Redis refuses it."""
        handler, consumer = partial(apply, db=database), options["consumer"]
        source = options["source"]
        source = producer().settings.source if source is None else source
        given: Any = {"start": options["start"], "source": source}
        try:
            if not once:
                given |= {"batch": options["batch"], "consumer": consumer}
                consume(producer(), group, handler, **given)
                return
            for event in producer().results(group, consumer or "once", 0, **given):
                handler([event])
                event.ack()
        except (CourierError, ValueError) as error:
            raise CommandError(str(error)) from error
