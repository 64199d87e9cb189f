"""The command line, ``courier``. A command's module is imported only when that command is used."""

from __future__ import annotations

from importlib import import_module

import click

COMMANDS = {
    "demo": ("ops.demo", "See the whole system at work, against a simulated provider."),
    "exporter": ("ops.exporter", "Serve metrics for Prometheus."),
    "simulator": ("ops.simulator", "Serve the provider's API with simulated deliveries."),
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

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(cls=_Lazy)
@click.version_option(package_name="viber-courier")
def main() -> None:
    """Queue-driven sending of Viber messages, sure of each one."""
