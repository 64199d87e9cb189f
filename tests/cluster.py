"""A Redis Cluster of private servers: three masters, and replicas if asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import redis
from redis.crc import key_slot

from tests.conftest import free_port, wait_for
from viber_courier.ops.redis_server import RedisServer

SLOTS = 16384


class Node(RedisServer):
    """A server and its part in the cluster."""

    def __init__(self, folder: Path, options: Sequence[str], password: str) -> None:
        folder.mkdir()
        # The bus's port is the port plus 10000, and must be a port.
        port = next(port for port in iter(free_port, 0) if port < 55000)
        more = ["--cluster-enabled", "yes", "--cluster-config-file", str(folder / "nodes.conf")]
        if password:
            more += ["--masterauth", password]
        super().__init__(folder, port, [*more, *options])
        self.log_file = folder / "redis.log"

    def admin(self, *words: str | int) -> Any:
        with redis.Redis(port=self.port, decode_responses=True) as client:
            return client.execute_command(*words)

    @property
    def id(self) -> str:
        return str(self.admin("CLUSTER", "MYID"))


class Cluster:
    """``masters`` share the slots evenly; ``replicas`` follow them in turn."""

    def __init__(self, folder: Path, masters: int = 3, replicas: int = 0, *options: str) -> None:
        # Most of a test's second would go by in the wait that slots are not served after a start.
        fast = ["--cluster-node-timeout", "1000", "--repl-diskless-sync-delay", "0", *options]
        count = masters + replicas
        self.nodes = [Node(folder / f"node-{n}", fast, "") for n in range(count)]
        for node in self.nodes:
            node.start()
        first = self.nodes[0]
        for n, node in enumerate(self.nodes):
            node.admin("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
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
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in nodes or self.nodes)
        return f"cluster://{login}{hosts}{query}"

    def owner(self, namespace: str) -> Node:
        """The master of a namespace's slot, as a living node says."""
        slot = slot_of(namespace)
        living = next(node for node in self.nodes if node.process)
        for first, last, (_, port, *_), *_ in living.admin("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == port)
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
        """Moves the slot to another master, as redis-cli does: key by key. Returns that master.

        ``pause``: seconds before each key, and before the end.
        """
        slot, source, target = slot_of(namespace), self.owner(namespace), self.other(namespace)
        target.admin("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.admin("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        meanwhile()
        while keys := source.admin("CLUSTER", "GETKEYSINSLOT", slot, 1):
            time.sleep(pause)
            source.admin("MIGRATE", "127.0.0.1", target.port, keys[0], 0, 5000)
        meanwhile()
        for node in (target, source, *self.nodes):
            if node.process and node.admin("ROLE")[0] == "master":
                node.admin("CLUSTER", "SETSLOT", slot, "NODE", target.id)
        return target

    def stop(self) -> None:
        for node in self.nodes:
            node.stop(kill=True)


def slot_of(namespace: str) -> int:
    return int(key_slot(f"{{{namespace}}}".encode()))
