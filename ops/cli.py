"""The command line, ``courier``. A command's module is imported only when that command is used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

COMMANDS = {
    "bulk": ("ops.commands.bulk", "Store a message for each row of a CSV file."),
    "cancel": ("ops.commands.operating", "Stop messages that have not left yet."),
    "dead": ("ops.commands.operating", "Dead letters: list, show, send again, drop."),
    "demo": ("ops.demo", "See the whole system at work, against a simulated provider."),
    "doctor": ("ops.commands.health", "Look at everything, and say what to do."),
    "exporter": ("ops.exporter", "Serve metrics for Prometheus."),
    "find": ("ops.commands.looking", "Find messages by phone number, by looking at many."),
    "live": ("ops.commands.health", "Prove that one worker takes work."),
    "pause": ("ops.commands.operating", "Stop sending, of some lanes or all."),
    "ready": ("ops.commands.health", "Prove that Redis and workers for all lanes work."),
    "results": ("ops.commands.looking", "Show result events, or read them as a group."),
    "resume": ("ops.commands.operating", "Go on with what was paused."),
    "send": ("ops.commands.sending", "Store one message."),
    "show": ("ops.commands.looking", "Show one message."),
    "simulator": ("ops.simulator", "Serve the provider's API with simulated deliveries."),
    "top": ("ops.commands.top", "Watch lanes, rates, funnel, gates and pauses."),
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
