"""``courier up``: runs the whole system on this machine under supervisord, until Ctrl-C.

Uses ``COURIER_REDIS_URL`` and ``COURIER_API_URL`` (or their ``..._FILE``) where they are set.
Otherwise it starts a Redis and a simulated provider of its own. The gateway gets a token, which is
in the settings that a shell reads.
"""

from __future__ import annotations

import os
import shlex
import socket
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from secrets import token_hex

import click

from viber_courier.ops.gateway.tokens import add_token
from viber_courier.ops.redis_server import NoServerError, RedisServer
from viber_courier.schemas.settings import PREFIX, Settings

OPS = Path(__file__).parent
BIN = Path(sys.executable).parent
SIMULATED = {  # with a real provider these waits take hours
    "COURIER_API_LOGIN": "tester",
    "COURIER_API_PASSWORD": "111111",
    "COURIER_POLL_DELAYS": "1,2,5,15,60",
    "COURIER_READ_WINDOW": "120",
    "COURIER_SMS_GRACE": "30",
}

SHELL = f"""export PATH="$PATH:$COURIER_BIN"
supervisorctl() {{ command supervisorctl -c {shlex.quote(str(OPS / "supervisord.conf"))} "$@"; }}
"""
"""What a shell needs besides the settings. An app's own environment stays first on its PATH."""


def is_set(env: Mapping[str, str], name: str) -> bool:
    """Whether this setting has a value, or a file that holds one."""
    return bool(env.get(name) or env.get(f"{name}_FILE"))


def free_port(preferred: int) -> int:
    """Returns the preferred port if it is free on loopback, else another."""
    for port in (preferred, 0):
        try:
            with socket.create_server(("127.0.0.1", port)) as probe:
                bound: int = probe.getsockname()[1]
                return bound
        except OSError:
            continue
    raise click.ClickException("no free port on 127.0.0.1")


def program(name: str, priority: int, command: list[str]) -> str:
    """Returns a program's section of supervisord's configuration."""
    escaped = shlex.join(command).replace("%", "%%")
    return (
        f"\n[program:{name}]\ncommand={escaped}\npriority={priority}\nautorestart=true\n"
        f"startretries=1000000\nredirect_stderr=true\nstdout_logfile=%(ENV_COURIER_RUN)s/{name}.log\n"
    )


def token(folder: Path) -> dict[str, str]:
    """Returns the gateway's file of tokens and a token in it. It stays while the folder does."""
    hashes, kept = folder / "gateway_tokens", folder / "gateway_token"
    if not (hashes.exists() and kept.exists()):
        hashes.unlink(missing_ok=True)
        kept.touch(0o600)
        kept.write_text(add_token("try", hashes))
    return {"COURIER_GATEWAY_TOKENS": str(hashes), "TOKEN": kept.read_text()}


def prepare(folder: Path, env: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """Returns variables to add to the environment, and supervisord's configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    ports = {"FLOWER_PORT": 5555, "COURIER_EXPORTER_PORT": 9540, "COURIER_CONSOLE_PORT": 8090}
    ports["COURIER_GATEWAY_PORT"] = 8080
    added = {
        "COURIER_RUN": str(folder),
        "COURIER_BIN": str(BIN),
        **{name: env.get(name) or str(free_port(port)) for name, port in ports.items()},
    }
    added["GATEWAY"] = f"http://127.0.0.1:{added['COURIER_GATEWAY_PORT']}"
    added |= {} if env.get("COURIER_GATEWAY_TOKENS") else token(folder)
    if not (is_set(env, "COURIER_CONSOLE_LOGIN") or env.get("COURIER_CONSOLE_USERS")):
        added |= {"COURIER_CONSOLE_LOGIN": "me", "COURIER_CONSOLE_PASSWORD": token_hex(6)}
    config = f"[include]\nfiles={OPS}/supervisord.conf\n"
    if not is_set(env, "COURIER_REDIS_URL"):
        (folder / "redis").mkdir(exist_ok=True)
        server = RedisServer(folder / "redis", free_port(6379))
        added["COURIER_REDIS_URL"] = server.url
        if not is_set(env, "COURIER_SUPPRESSION_KEY"):
            # Kept beside the Redis whose list it hashes; another Redis may have another key.
            added["COURIER_SUPPRESSION_KEY_FILE"] = str(key := folder / "suppression_key")
            if not key.exists():
                key.touch(0o600)
                key.write_text(token_hex(16))
        config += program("redis", 1, server.command)
    if not is_set(env, "COURIER_API_URL"):
        port = str(free_port(8044))
        added |= {"COURIER_API_URL": f"http://127.0.0.1:{port}", **SIMULATED}
        simulator = [str(BIN / "courier"), "simulator", "--port", port]
        config += program("simulator", 2, simulator)
    return added, config


def instructions(added: Mapping[str, str], folder: Path, env: Mapping[str, str]) -> str:
    """Returns where everything is and what to try."""
    # Given values may be secrets, so they are named here and written nowhere.
    settings = {f"{PREFIX}{each.name.upper()}" for each in fields(Settings)}
    given = ", ".join(sorted(name for name in env if name.removesuffix("_FILE") in settings))
    also_set = f" (also set {given} there)" if given else ""
    redis = added.get("COURIER_REDIS_URL", "yours")
    provider = added.get("COURIER_API_URL", "yours: it really sends messages")
    tokens = "$GATEWAY, its token is $TOKEN" if "TOKEN" in added else "with your tokens"
    login, password = (added.get(f"COURIER_CONSOLE_{name}") for name in ("LOGIN", "PASSWORD"))
    enter = f"login {login}, password {password}" if login else "with your login"
    return f"""
   Redis      {redis}
   provider   {provider}
   Flower     http://127.0.0.1:{added["FLOWER_PORT"]}/tasks
   gateway    {added["GATEWAY"]} ({tokens})
   exporter   http://127.0.0.1:{added["COURIER_EXPORTER_PORT"]}/metrics
   logs       {folder}/*.log

In another terminal{also_set}:
   . {folder}/courier.env
   courier send --to 79250000001 --subject Shop --priority high --text 'Your code is 1234'
   courier doctor
   supervisorctl status
   kill -9 $(supervisorctl pid send-bulk)    # it comes back
   courier top

Ctrl-C here ends everything. What ends by itself is told here, and comes back.

In some seconds, in a browser:
   console    http://127.0.0.1:{added["COURIER_CONSOLE_PORT"]}/ ({enter})
"""


@click.command()
@click.option("--folder", default="var/up", show_default=True, help="For logs and Redis's data.")
def up(folder: str) -> None:
    """Run the whole system on this machine until Ctrl-C, to try it.

    Starts Redis, a simulated provider (`courier simulator --help`), workers, the gateway, the
    console, Flower and the exporter under supervisord, each on a free port of loopback, and prints
    what to do next.
    Where COURIER_REDIS_URL or COURIER_API_URL is set, it uses that server instead. Needs the extra
    run.
    """
    if not (BIN / "supervisord").exists():
        raise click.ClickException("supervisord is missing: pip install 'viber-courier[run]'")
    place = Path(folder).absolute()
    try:
        added, config = prepare(place, os.environ)
    except NoServerError as error:
        raise click.ClickException(str(error)) from None
    file = place / "courier.env"
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in added.items()]
    file.touch(0o600)  # it holds the token
    file.write_text("".join(lines) + SHELL)
    (place / "supervisord.conf").write_text(config)
    click.echo(instructions(added, place, os.environ))
    env = {**os.environ, **added, "COURIER_ENV_FILE": str(file)}
    # It would tell of each start, and what was said above would be gone from the screen
    command = [str(BIN / "supervisord"), "-n", "-e", "warn", "-c", str(place / "supervisord.conf")]
    os.execve(command[0], command, env)  # noqa: S606
