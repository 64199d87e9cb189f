"""A Redis Cluster of private servers: three masters, and replicas if asked for."""

from __future__ import annotations

import random
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis
from redis.crc import key_slot

from tests.conftest import wait_for
from tests.tls import Authority, TlsFront
from viber_courier.ops.redis_server import RedisServer

SLOTS = 16384


class Node(RedisServer):
    """A server and its part in the cluster; ``asked``: how often the harness said CLUSTER."""

    asked = 0

    def __init__(self, folder: Path, options: Sequence[str], authority: Authority | None) -> None:
        folder.mkdir()
        port = port_of_a_node()
        more = ["--cluster-enabled", "yes", "--cluster-config-file", str(folder / "nodes.conf")]
        self.front = TlsFront(port, authority) if authority else None
        self.known_as = self.front.port if self.front else port
        more += ["--cluster-announce-port", str(self.known_as)]
        more += ["--cluster-announce-bus-port", str(port + 10_000)]
        super().__init__(folder, port, [*more, *options])

    def stop(self, kill: bool = False) -> None:
        super().stop(kill)
        if self.front:
            self.front.close()

    def admin(self, *words: str | int) -> Any:
        self.asked += words[0] == "CLUSTER"
        with redis.Redis(port=self.port, decode_responses=True) as client:
            return client.execute_command(*words)

    def freeze(self) -> None:
        """SIGSTOP."""
        assert self.process
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self.process
        self.process.send_signal(signal.SIGCONT)

    @property
    def id(self) -> str:
        return str(self.admin("CLUSTER", "MYID"))


class Cluster:
    """``masters`` share the slots evenly; ``replicas`` follow them in turn.

    ``authority``: clients reach the nodes with TLS only, by the addresses that the nodes announce.
    """

    def __init__(
        self,
        folder: Path,
        masters: int = 3,
        replicas: int = 0,
        *options: str,
        authority: Authority | None = None,
    ) -> None:
        # Shorter, and a busy machine makes the nodes take each other for dead.
        fast = ["--cluster-node-timeout", "2000", "--repl-diskless-sync-delay", "0", *options]
        count = masters + replicas
        self.nodes = [Node(folder / f"node-{n}", fast, authority) for n in range(count)]
        try:
            self._form(masters)
        except BaseException:
            self.stop()  # a fixture that fails leaves no server behind
            raise

    def _form(self, masters: int) -> None:
        for node in self.nodes:
            node.start()
        first = self.nodes[0]
        for n, node in enumerate(self.nodes):  # before they meet, or they choose epochs themselves
            node.admin("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
        for node in self.nodes:
            if node is not first:
                first.admin("CLUSTER", "MEET", "127.0.0.1", node.port)
        step = -(-SLOTS // masters)
        for n, node in enumerate(self.nodes[:masters]):
            own = range(n * step, min(SLOTS, (n + 1) * step))
            node.admin("CLUSTER", "ADDSLOTS", *own)
        wait_for(lambda: all(self._knows_all(node) for node in self.nodes), 20, "no cluster")
        for n, node in enumerate(self.nodes[masters:]):
            node.admin("CLUSTER", "REPLICATE", self.nodes[n].id)
        wait_for(lambda: all(self._is_up(node) for node in self.nodes), 20, "not in step")

    def _knows_all(self, node: Node) -> bool:
        return f"cluster_known_nodes:{len(self.nodes)}" in node.admin("CLUSTER", "INFO").split()

    def _is_up(self, node: Node) -> bool:
        said = node.admin("INFO", "replication")
        linked = said["role"] == "master" or said["master_link_status"] == "up"
        return linked and "cluster_state:ok" in node.admin("CLUSTER", "INFO").split()

    def url(self, *nodes: Node, login: str = "", query: str = "") -> str:
        """The URL that names these nodes, or all."""
        hosts = ",".join(f"127.0.0.1:{node.known_as}" for node in nodes or self.nodes)
        return f"cluster://{login}{hosts}{query}"

    def owner(self, namespace: str, asked: Node | None = None) -> Node:
        """The master of a namespace's slot, as this node says, or the first that runs."""
        slot = slot_of(namespace)
        asked = asked or next(node for node in self.nodes if node.process)
        for first, last, (_, port, *_), *_ in asked.admin("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.known_as == port)
        raise AssertionError("nobody has the slot")

    def other(self, namespace: str) -> Node:
        """A master without the slot."""
        owner = self.owner(namespace)
        return next(n for n in self.nodes if n is not owner and n.admin("ROLE")[0] == "master")

    def replica(self, of: Node) -> Node:
        """A replica of this master."""
        return next(
            n
            for n in self.nodes
            if n.process and n.admin("ROLE")[0] == "slave" and n.admin("ROLE")[2] == of.port
        )

    def move(self, namespace: str, pause: float = 0.0, meanwhile: Callable[[], Any] = int) -> Node:
        """Moves the slot to another master, as redis-cli does, and returns that master.

        ``pause``: seconds before each key; 0: a hundred keys at once.
        """
        slot, source, target = slot_of(namespace), self.owner(namespace), self.other(namespace)
        target.admin("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.admin("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        meanwhile()
        while keys := source.admin("CLUSTER", "GETKEYSINSLOT", slot, 1 if pause else 100):
            time.sleep(pause)
            source.admin("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        meanwhile()
        for node in (target, source, *self.nodes):
            if node.process and node.admin("ROLE")[0] == "master":
                node.admin("CLUSTER", "SETSLOT", slot, "NODE", target.id)
        return target

    def stop(self) -> None:
        for node in self.nodes:
            node.stop(kill=True)


def port_of_a_node() -> int:
    """Returns a port that is free, as is the bus's, 10000 above.

    Neither is among those that the system gives to outgoing connections (Linux: from 32768 on): a
    node that is killed must find both free when it starts again.
    """
    while True:
        port = random.randrange(10_000, 22_000)
        with suppress(OSError), socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", port))
            two.bind(("127.0.0.1", port + 10_000))
            return port


def slot_of(namespace: str) -> int:
    return int(key_slot(f"{{{namespace}}}".encode()))
