"""The Redis servers of a chaos run: one behind a proxy, or a master, replicas and sentinels."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from tests.conftest import free_port, wait_for
from tests.faults.faked import Faked
from tests.faults.parts import Proxy, start_sentinel
from viber_courier.ops.redis_server import RedisServer, find_server

NAME, PASSWORD = "courier", "s"
DOWN_AFTER = 1000
"""Milliseconds of silence after which a sentinel takes a server for dead."""
LOADING = 120.0
"""Seconds that a server may need to load its data, on a busy machine."""
SETTLED = 120.0
"""Seconds within which sentinels agree on a master, and all replicas follow it."""


def connect(port: int, password: str | None = None) -> redis.Redis:
    """Our own looks go past all proxies."""
    options: dict[str, Any] = {"decode_responses": True, "protocol": 2, "socket_timeout": 5}
    return redis.Redis(port=port, password=password, retry=None, **options)


class Single:
    """One server. Workers and apps reach it through a proxy."""

    def __init__(self, folder: Path, fsync: str, faked: Faked | None) -> None:
        folder.mkdir()
        self.server = RedisServer(folder, free_port(), ("--appendfsync", fsync))
        if faked:
            self.server.command = faked.command(*self.server.command)
        self.server.start()
        self.proxy = Proxy(self.server.port)
        self.url = f"redis://127.0.0.1:{self.proxy.port}/0"
        self.own_url = self.server.url

    def master(self) -> int:
        """The port of the server that has the data now."""
        return self.server.port

    def start(self) -> None:
        start(self.server)

    def admin(self, port: int | None = None) -> redis.Redis:
        """A connection to that server, past the proxy."""
        return connect(port or self.master())

    def heal(self) -> None:
        if self.server.process is None:
            self.start()

    def stop(self) -> None:
        self.proxy.close()
        self.server.stop()


class Sentinels:
    """Three servers, of which one is the master, watched by three sentinels.

    Sentinels and replicas log in as users of their own, so that a master can be cut off from them
    alone: its apps and workers still reach it, as another user.
    """

    USERS = ("sentinel", "replica")

    def __init__(self, folder: Path, fsync: str, faked: Faked | None) -> None:
        folder.mkdir()
        self._folder = folder
        self.servers: list[RedisServer] = []
        for n in range(3):
            self.servers.append(self._server(n, fsync, faked))
            self.servers[-1].start()
        self.ports = [free_port() for _ in range(3)]
        self._sentinels = [self._sentinel(port) for port in self.ports]
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        self.url = self.own_url = f"sentinel://:{PASSWORD}@{hosts}/0?master={NAME}"
        self.heal()

    def _server(self, n: int, fsync: str, faked: Faked | None) -> RedisServer:
        home = self._folder / f"redis-{n}"
        home.mkdir()
        made = RedisServer(home, free_port())
        made.url = made.url.replace("//", f"//:{PASSWORD}@")
        lines = {
            **{"port": made.port, "bind": "127.0.0.1", "dir": home, "save": '""'},
            **{"appendonly": "yes", "appendfsync": fsync, "loglevel": "notice"},
            **{"masteruser": "replica", "masterauth": PASSWORD},
            **{"repl-diskless-sync-delay": 0, "repl-ping-replica-period": 1},
            **({"replicaof": f"127.0.0.1 {self.servers[0].port}"} if n else {}),
        }
        text = [f"{name} {value}" for name, value in lines.items()]
        text += [f"user {name} on >{PASSWORD} ~* &* +@all" for name in ("default", *self.USERS)]
        config = home / "redis.conf"  # a file, for sentinels write down whom it follows
        config.write_text("\n".join([*text, ""]))
        made.command = [find_server(), str(config)]
        if faked:
            made.command = faked.command(*made.command)
        return made

    def _sentinel(self, port: int) -> subprocess.Popen[bytes]:
        given = port, self.servers[0].port, NAME, "sentinel", PASSWORD, DOWN_AFTER
        return start_sentinel(self._folder, *given)

    def master(self) -> int:
        """The port that most sentinels name."""
        votes = Counter[int]()
        for port in self.ports:
            with contextlib.suppress(redis.RedisError), connect(port) as client:
                votes[int(client.sentinel_get_master_addr_by_name(NAME)[1])] += 1
        if not votes or votes.most_common(1)[0][1] < 2:
            raise redis.ConnectionError("the sentinels disagree")
        return votes.most_common(1)[0][0]

    def admin(self, port: int | None = None) -> redis.Redis:
        """A connection to that server, or to this one."""
        return connect(port or self.master(), PASSWORD)

    def server(self, port: int) -> RedisServer:
        return next(server for server in self.servers if server.port == port)

    def replaced(self, old: int, seconds: float = 30.0) -> bool:
        """Waits until the sentinels name another one; whether they do."""
        try:
            wait_for(lambda: self._master_or(old) != old, seconds)
        except AssertionError:
            return False
        return True

    def _master_or(self, old: int) -> int:
        try:
            return self.master()
        except redis.RedisError:
            return old

    @contextlib.contextmanager
    def cut_off(self, port: int) -> Iterator[None]:
        """Neither sentinels nor replicas reach this server for a while; apps and workers do."""
        with self.admin(port) as client:
            for user in self.USERS:
                client.execute_command("ACL", "SETUSER", user, "off")
                client.execute_command("CLIENT", "KILL", "USER", user)
        try:
            yield
        finally:
            with self.admin(port) as client:
                for user in self.USERS:
                    client.execute_command("ACL", "SETUSER", user, "on")

    @contextlib.contextmanager
    def stalled(self, port: int) -> Iterator[None]:
        process = self.server(port).process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def killed(self, port: int) -> Iterator[None]:
        self.server(port).stop(kill=True)
        try:
            yield
        finally:
            start(self.server(port))

    @contextlib.contextmanager
    def asked(self, _: int) -> Iterator[None]:
        """The sentinels are asked for another master, without need."""
        wait_for(self._fail_over, SETTLED, "the last failover is never over")
        yield

    def _fail_over(self) -> bool:
        with contextlib.suppress(redis.RedisError), connect(self.ports[0]) as client:
            client.execute_command("SENTINEL", "FAILOVER", NAME)
            return True
        return False

    def heal(self) -> None:
        """All servers run, and wait until both replicas follow the master."""
        for server in self.servers:
            if server.process is None:
                start(server)
        wait_for(self._is_whole, SETTLED, "the replicas do not follow")

    def _is_whole(self) -> bool:
        with contextlib.suppress(redis.RedisError, KeyError):
            with self.admin() as client:
                info = client.info("replication")
            links = [info.get(f"slave{n}", {}).get("state") for n in range(2)]
            if info["role"] != "master" or links != ["online", "online"]:
                return False
            for port in self.ports:
                with connect(port) as client:
                    state = client.sentinel_master(NAME)
                seen = state["num-slaves"], state["num-other-sentinels"], state["flags"]
                if seen != (2, 2, "master"):
                    return False
            return True
        return False

    def stop(self) -> None:
        for sentinel in self._sentinels:
            sentinel.terminate()
            sentinel.wait(10)
        for server in self.servers:
            server.stop(kill=True)


Store = Single | Sentinels


def start(server: RedisServer) -> None:
    """Start it; a few times, because its port may be taken for a moment."""
    for attempt in range(5):
        try:
            return server.start(LOADING)
        except RuntimeError:
            if attempt == 4:
                raise
            time.sleep(1)
