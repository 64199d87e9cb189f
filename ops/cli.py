"""The command line, ``courier``. A command's module is imported only when that command is used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

_MODULES = {
    "commands.bulk": {"bulk": "Store a message for each row of a CSV file."},
    "commands.flower": {"flower": "Serve pages that show workers and tasks."},
    "commands.health": {
        "doctor": "Look at everything, and say what to do.",
        "live": "Prove that one worker takes work.",
        "ready": "Prove that Redis and workers for all lanes work.",
    },
    "commands.looking": {
        "find": "Find messages by phone number, by looking at many.",
        "results": "Show result events, or read them as a group.",
        "show": "Show one message.",
    },
    "commands.operating": {
        "cancel": "Stop messages that have not left yet.",
        "dead": "Dead letters: list, show, send again, drop.",
        "pause": "Stop sending, of some lanes or all.",
        "resume": "Go on with what was paused.",
    },
    "commands.sending": {"send": "Store one message."},
    "commands.top": {"top": "Watch lanes, rates, funnel, gates and pauses."},
    "demo": {"demo": "See the whole system at work, against a simulated provider."},
    "exporter": {"exporter": "Serve metrics for Prometheus."},
    "simulator": {"simulator": "Serve the provider's API with simulated deliveries."},
}
COMMANDS = {
    name: (f"viber_courier.ops.{module}", line)
    for module, lines in _MODULES.items()
    for name, line in lines.items()
}
"""By name: the module, whose command has the same name, and the line for ``--help``."""


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
        except KeyboardInterrupt:  # click's own end of it is "Aborted!" and exit code 1
            raise SystemExit(130) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(cls=_Lazy)
@click.version_option(package_name="viber-courier")
def main() -> None:
    """Queue-driven sending of Viber messages, sure of each one."""
