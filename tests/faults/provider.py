"""What tests of a failing provider and of leases look at: the gate, a message's place in line."""

from __future__ import annotations

import sys
from typing import Any

import requests

from tests.conftest import Simulator, common_job, wait_for
from tests.faults.parts import WORKER, Supervised
from viber_courier import Producer
from viber_courier.producers.client import Record


def rows(count: int, digits: str = "99", start: int = 0) -> list[dict[str, Any]]:
    """Rows for that many addresses, all of which end so."""
    return [{"address": f"79{start + n:07}{digits}"} for n in range(count)]


def fill(app: Producer, count: int, **more: Any) -> list[str]:
    return app.enqueue_many(rows(count), common=common_job(**more))


def record(app: Producer, id: str) -> Record:
    found = app.get(id)
    assert found is not None
    return found


def gate(app: Producer, what: str = "send") -> dict[str, str]:
    """The gate that all workers share (store/lua/lib/gate.lua); empty while it is open."""
    found: dict[str, str] = app.redis.hgetall(app._keys.gate(what))  # type: ignore[assignment]
    return found if "until" in found else {}


def closed(app: Producer, what: str = "send") -> dict[str, str]:
    """The gate once it is closed."""
    found: dict[str, str] = wait_for(lambda: gate(app, what))
    return found


def pause(found: dict[str, str]) -> float:
    """Seconds that it closed for."""
    return (int(found["until"]) - int(found["opened"])) / 1e6


def end_pause(app: Producer) -> None:
    """As if the pause had passed: for those of a minute."""
    for what in ("send", "poll"):
        if gate(app, what):
            app.redis.hset(app._keys.gate(what), mapping={"until": "1", "probe": "0"})


def kind(app: Producer, id: str) -> int | None:
    """The kind of its score (store/keys.py): 0 due, 1 leased, 2 inside a request; None: gone."""
    for lane in app._keys.lanes:
        if (score := app.redis.zscore(lane, id)) is not None:
            return int(score) % 4  # type: ignore[arg-type]
    return None


def count(app: Producer, name: str) -> int:
    return int(app.redis.hget(app._keys.counts, name) or 0)  # type: ignore[arg-type]


def fired(simulator: Simulator) -> int:
    """How often the first fault rule has."""
    number: int = simulator.get("faults")[0]["fired"]
    return number


def mend(simulator: Simulator) -> None:
    """The provider is well again."""
    requests.delete(f"{simulator.url}/admin/faults", timeout=10).raise_for_status()


def named(name: str, *options: str, command: tuple[str, ...] = WORKER) -> tuple[str, ...]:
    """A worker's command under a name of its own: several run on one machine."""
    return (*command, "-n", f"{name}@%h", *options)


def altered(program: str) -> tuple[str, ...]:
    """A worker's command that runs this program first: it may alter what the worker is made of."""
    last = "import sys; from celery.__main__ import main; sys.argv[0] = 'celery'; main()"
    return (sys.executable, "-c", f"{program}\n{last}", *WORKER[3:])


def ready(program: Supervised) -> Supervised:
    wait_for(lambda: " ready." in program.log, 30)
    return program
