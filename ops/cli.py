"""The command line, ``courier``. Imports a command's module only when you run the command."""

from __future__ import annotations

from importlib import import_module
from typing import Any

try:
    import click
except ModuleNotFoundError:
    raise SystemExit("courier needs the extra ops: pip install 'viber-courier[ops]'") from None

_MODULES = {
    "commands.bulk": {"bulk": "Store a message for each row of a list."},
    "commands.campaigns": {"campaign": "Watch, pause, resume, cancel and report campaigns."},
    "commands.console": {"console": "Serve pages to watch, search and act."},
    "commands.consuming": {"consume": "Call a function with result events."},
    "commands.flower": {"flower": "Serve pages that show workers and tasks."},
    "commands.gateway": {"gateway": "Serve messages and their events by HTTP."},
    "commands.health": {
        "doctor": "Check everything and say what to do.",
        "ready": "Prove that Redis works and each lane has a worker.",
    },
    "commands.live": {"live": "Prove that one worker runs tasks."},
    "commands.looking": {
        "audit": "Print what people did, by console and command line.",
        "find": "Find messages by phone number.",
        "results": "Show result events, or read them as a consumer group.",
        "show": "Show one message.",
    },
    "commands.operating": {
        "cancel": "Cancel messages that have not been sent yet.",
        "dead": "List, show, resend or drop dead letters.",
        "pause": "Pause sending, in some lanes or all.",
        "resume": "Resume what was paused.",
    },
    "commands.pushing": {
        "forward": "Put result events on the queue of an app's own Celery.",
        "webhook": "Send result events to a URL, signed.",
    },
    "commands.sending": {"send": "Store one message."},
    "commands.suppressing": {"suppress": "Manage numbers that get no adverts."},
    "commands.top": {"top": "Watch lanes, gates, pauses and how far messages get."},
    "demo": {"demo": "See the whole system at work, against a simulated provider."},
    "exporter": {"exporter": "Serve metrics for Prometheus."},
    "simulator": {"simulator": "Serve the provider's API with simulated deliveries."},
    "up": {"up": "Run the whole system on this machine, to try it."},
}
COMMANDS = {
    name: (f"viber_courier.ops.{module}", line)
    for module, lines in _MODULES.items()
    for name, line in lines.items()
}
"""By name: the module that holds the command, and the line that ``courier --help`` shows."""


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        try:
            command: click.Command = getattr(import_module(COMMANDS[cmd_name][0]), cmd_name)
        except ModuleNotFoundError as missing:
            extras = "pip install 'viber-courier[worker,ops]'"
            raise click.ClickException(f"{missing.name} is not installed: {extras}") from None
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # click would print "Aborted!" and exit with 1
            raise SystemExit(130) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(cls=_Lazy)
@click.version_option(package_name="viber-courier")
def main() -> None:
    """Sends Viber messages from a queue and accounts for every one."""
