"""``courier webhook`` and ``courier forward``: push result events to where an app is."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from kombu.exceptions import SerializerNotInstalled
from kombu.serialization import dumps
from yarl import URL

from viber_courier import AsyncProducer
from viber_courier.ops.commands.consuming import require_source
from viber_courier.ops.commands.terminal import (
    GONE,
    PARTLY,
    WRONG,
    Duration,
    Failure,
    Group,
    command,
    confirm,
    emit,
    json_option,
    yes_option,
)
from viber_courier.ops.push.endpoint import Endpoint, Network, Secrets
from viber_courier.ops.push.forward import SERIALIZERS, Forward, broker_of
from viber_courier.ops.push.outbox import Outbox
from viber_courier.ops.push.serving import Metrics, serving
from viber_courier.ops.push.webhook import Options, Webhook
from viber_courier.store.connection import store_errors
from viber_courier.worker.log import set_up

Function = Callable[..., Any]


def read_networks(ctx: Any, param: Any, texts: tuple[str, ...]) -> list[Network]:
    """Returns the networks that the options name, each with commas between."""
    try:
        return [ipaddress.ip_network(each) for each in ",".join(texts).replace(",", " ").split()]
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def require_url(ctx: Any, param: Any, text: str | None) -> str | None:
    """Returns a URL of http or https without a login."""
    with suppress(ValueError):
        url = URL(text or "https://none")
        # A UnicodeError is a ValueError.
        if url.scheme in ("http", "https") and (url.host or "").encode("idna") and not url.user:
            return text
    raise click.BadParameter("must be http(s)://host/..., without a login")


def pushing(port: int) -> Callable[[Function], Function]:
    """Returns a decorator that adds the options of both commands."""
    start = click.Choice(["oldest", "new"])
    options = (
        click.option("--source", default="", callback=require_source, help="Only its events."),
        click.option("--start", type=start, default="oldest", help="Where a new group starts."),
        click.option("--host", default="127.0.0.1", help="Where /metrics and /healthz are served."),
        click.option("--port", type=click.IntRange(1, 65535), default=port),
    )

    def decorate(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def program(name: str, **more: Any) -> Callable[[Function], Any]:
    """Returns the decorator of a program, whose options may also be given as variables."""
    return command(
        done="ended by SIGTERM or Ctrl-C",
        away="Redis refuses the first read",
        stopped="interrupted before it began",
        context_settings={"auto_envvar_prefix": f"COURIER_{name}"},
        **more,
    )


@program(
    "WEBHOOK",
    cls=Group,
    invoke_without_command=True,
    gone="the endpoint said 410 Gone; nothing is lost",
)
@click.option("--group", help="The consumer group: each gets every event.")
@click.option("--url", callback=require_url, help="The endpoint.")
@click.option(
    "--secret-file", type=click.Path(path_type=Path), help="A line whsec_... for each secret."
)
@click.option("--batch", type=click.IntRange(0, 1000), default=0, help="Most in a list; 0: none.")
@click.option("--concurrency", type=click.IntRange(1, 1000), default=32, help="Requests at once.")
@click.option("--timeout", type=Duration(), default="15s", help="Longest time for an answer.")
@click.option("--give-up", type=Duration(), default="3d", help="When a failing event is put aside.")
@click.option("--allow", callback=read_networks, multiple=True, help="Networks inside to reach.")
@click.option(
    "--ca-file",
    type=click.Path(exists=True, dir_okay=False),
    help="Authorities to trust, instead of the system's.",
)
@pushing(9541)
@click.pass_context
def webhook(
    ctx: click.Context,
    /,
    group: str | None,
    url: str | None,
    secret_file: Path | None,
    allow: list[Network],
    ca_file: str | None,
    timeout: float,
    **more: Any,
) -> None:
    """Send result events to a URL as CloudEvents, signed after Standard Webhooks (docs/push.md).

    Each option is also a variable: COURIER_WEBHOOK_URL and so on. Of several processes of a group
    one sends, and another takes over within seconds. `courier webhook failed` shows what was put
    aside.
    """
    if ctx.invoked_subcommand:
        return
    if not (group and url and secret_file):
        raise click.UsageError("--group, --url and --secret-file are needed")
    host, port = more.pop("host"), more.pop("port")
    options, metrics, secrets = Options(group=group, **more), Metrics(group), Secrets(secret_file)
    try:
        endpoint = Endpoint(url, secrets, allow, ca_file, timeout, options.concurrency)
    except OSError as error:  # ssl.SSLError is one
        raise Failure(f"--ca-file can't be used: {type(error).__name__}", WRONG) from None

    async def send() -> bool:
        async with AsyncProducer.from_env() as producer, serving(metrics, host, port) as stop:
            program = Webhook(producer, endpoint, options, metrics, stop)
            await program.run()
            return program.is_gone

    if run(send()):
        raise Failure("the endpoint said 410 Gone: what it has not taken waits in Redis", GONE)


@program("FORWARD")
@click.option("--group", required=True, help="The consumer group: each gets every event.")
@click.option("--broker", required=True, help="Of the app's Celery: redis://, amqp:// and so on.")
@click.option("--task", required=True, help="The task's name, such as shop.on_result.")
@click.option("--queue", default="celery", help="The queue that the app's workers take.")
@click.option("--serializer", type=click.Choice(SERIALIZERS), default="json")
@click.option("--consumer", default="", help="A name that a restart keeps. [default: a new one]")
@click.option("--batch", type=click.IntRange(1, 10_000), default=100, help="Most events at once.")
@pushing(9542)
def forward(
    group: str,
    broker: str,
    task: str,
    queue: str,
    serializer: str,
    host: str,
    port: int,
    **more: Any,
) -> None:
    """Put result events as tasks on the queue of an app's own Celery (docs/push.md).

    The task gets one argument: the event, as docs/events.md shows it. Its id is made of the
    event's. An event is acknowledged when the broker has it. Each option is also a variable:
    COURIER_FORWARD_BROKER and so on.
    """
    if not group:  # an unset shell variable
        raise click.UsageError("--group must not be empty")
    try:
        dumps({}, serializer=serializer)  # type: ignore[no-untyped-call]
        settings, metrics = broker_of(broker), Metrics(group)
    except SerializerNotInstalled:
        raise Failure(f"--serializer {serializer}: its library is not installed", WRONG) from None
    except ValueError as error:
        raise Failure(f"--broker {error}", WRONG) from None

    async def publish() -> None:
        async with AsyncProducer.from_env() as producer, serving(metrics, host, port) as stop:
            await Forward(producer, settings, task, queue, serializer).run(
                group, stop, metrics, **more
            )

    run(publish())


def run(program: Coroutine[Any, Any, Any]) -> Any:
    """Runs a program with our log, and returns what it returns."""
    logging.basicConfig(level=logging.INFO)
    set_up(logging.getLogger())
    return asyncio.run(program)


@webhook.group()  # type: ignore[untyped-decorator]
def failed() -> None:
    """List, resend or drop events that were put aside."""


def chosen(function: Function) -> Function:
    """Adds the options of a command over what was put aside."""
    function = click.option("--group", required=True, envvar="COURIER_WEBHOOK_GROUP")(function)
    return json_option(function)


def over(group: str, work: Callable[[Outbox], Coroutine[Any, Any, Any]]) -> Any:
    """Returns what ``work`` returns for the group's outbox."""

    async def program() -> Any:
        async with AsyncProducer.from_env() as producer:
            with store_errors(producer.redis):
                return await work(Outbox(producer.redis, producer.settings.namespace, group))

    return asyncio.run(program())


@command("list")
@chosen
@click.option("--most", type=click.IntRange(1), default=100, help="List at most this many.")
def list_(group: str, most: int, as_json: bool) -> None:
    """List events that were put aside, the earliest first. With --json: one on each line."""

    async def show(outbox: Outbox) -> None:
        number = 0
        async for entry, row in outbox.aside():
            if (number := number + 1) > most:
                return click.echo("There are more (--most).", err=True)
            shown = {"entry": entry, "id": row["id"], "reason": row["reason"]}
            emit(shown) if as_json else click.echo("  ".join(shown.values()))

    over(group, show)


def sweeping(name: str, text: str, done: str) -> click.Command:
    """Returns a command that does something with events that were put aside."""

    @command(name, partly="some are not there (each is named)", help=text)
    @click.argument("ids", nargs=-1)
    @click.option("--all", "everything", is_flag=True, help="All that were put aside.")
    @chosen
    def made(
        ids: tuple[str, ...], everything: bool, group: str, as_json: bool, agreed: bool = True
    ) -> None:
        if bool(ids) == everything:
            raise click.UsageError("name IDS of events, or use --all")

        def question() -> str:
            count = over(group, Outbox.sizes)["put_aside"]
            return f"Drop {count:,.0f} events that were put aside?"

        confirm(agreed or not everything, question)

        async def sweep(outbox: Outbox) -> dict[str, list[str]]:
            known = []
            async for entry, row in outbox.aside():
                if everything or row["id"] in ids:
                    await (outbox.resend(entry, row) if name == "resend" else outbox.drop(entry))
                    known.append(row["id"])
            return {done: known, "unknown": [id for id in ids if id not in known]}

        result = over(group, sweep)
        if as_json:
            emit(result)
        else:
            lines = [f"{id}  was not put aside" for id in result["unknown"]]
            click.echo("\n".join([*lines, f"{len(result[done])} {done}"]))
        sys.exit(PARTLY if result["unknown"] else 0)

    return made


failed.add_command(list_)
failed.add_command(sweeping("resend", "Let events that were put aside be sent again.", "resent"))
failed.add_command(
    yes_option(sweeping("drop", "Forget events; --all asks on a terminal.", "dropped"))
)
