"""Many machines, as far as one machine can be many: workers behind network paths of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.conftest import (
    Simulator,
    Start,
    check_events,
    common_job,
    ends,
    text_job,
    wait_for,
)
from tests.faults.parts import Proxy
from viber_courier import Producer
from viber_courier.ops.redis_server import RedisServer

SHORT = {
    "COURIER_LEASE": "4",
    "COURIER_CONNECT_TIMEOUT": "1",
    "COURIER_READ_TIMEOUT": "2",
    "COURIER_BATCH_SIZE": "20",
}


class Paths:
    """One machine's way to Redis and to the provider."""

    def __init__(self, redis_port: int, provider_port: int) -> None:
        self.proxies = [Proxy(redis_port), Proxy(provider_port)]

    @property
    def env(self) -> dict[str, str]:
        redis_path, provider_path = self.proxies
        return {
            **SHORT,
            "COURIER_REDIS_URL": f"redis://127.0.0.1:{redis_path.port}/0",
            "COURIER_API_URL": f"http://127.0.0.1:{provider_path.port}",
        }

    def hold(self) -> None:
        for proxy in self.proxies:
            proxy.hold()

    def resume(self) -> None:
        for proxy in self.proxies:
            proxy.resume()


@pytest.fixture
def machines(redis_server: RedisServer, simulator: Simulator) -> Iterator[list[Paths]]:
    port = urlsplit(simulator.url).port
    assert port is not None
    made = [Paths(redis_server.port, port) for _ in range(3)]
    yield made
    for machine in made:
        for proxy in machine.proxies:
            proxy.close()


@pytest.mark.parametrize("policy", ["park", "resend"])
def test_a_machine_that_is_cut_off_and_comes_back_loses_and_silently_doubles_nothing(
    policy: str,
    machines: list[Paths],
    system_env: dict[str, str],
    start_worker: Start,
    simulator: Simulator,
) -> None:
    # Given three machines at work on one campaign, with requests that take a while
    simulator.fault(kind="slow", seconds=0.1)
    app = Producer.from_env(system_env)
    count = 2400
    addresses = [f"79{n:07}99" for n in range(count)]
    ids = app.enqueue_many(
        ({"address": address} for address in addresses), common=common_job(onUnsure=policy)
    )
    for n, machine in enumerate(machines):
        start_worker("-n", f"m{n}@%h", **machine.env)
    wait_for(lambda: len(simulator.accepted()) >= count / 6)
    # When one is cut off from everything, longer than its leases hold, and comes back
    machines[0].hold()
    wait_for(lambda: len(simulator.accepted()) >= count / 2)
    lapsed = app._keys.lanes[2]
    wait_for(lambda: app.redis.zcard(lapsed) == 0, 60)  # others took over what it had
    machines[0].resume()
    # Then every message ended once, and what was sent twice says so
    seen = ends(app, count)
    check_events(seen)
    assert set(seen) == set(ids)
    times = Counter(each["message"]["address"] for each in simulator.accepted())
    last = {address: seen[id][-1] for id, address in zip(ids, addresses, strict=True)}
    doubled = {address for address, n in times.items() if n > 1}
    assert all(policy == "resend" and last[address]["unsure"] >= 1 for address in doubled)
    for address, end in last.items():
        assert end["status"] == "read" or (policy == "park" and end["status"] == "unconfirmed")
        assert times[address] >= 1 or end["status"] == "unconfirmed"
    assert sum(end["unsure"] for end in last.values()) <= 2 * 20  # one request for each slot
    # And the machine is back at work
    before = len(simulator.accepted())
    for n in range(1, 3):
        machines[n].hold()
    app.enqueue(text_job(priority="realtime"))
    wait_for(lambda: len(simulator.accepted()) > before, 30)
    for n in range(1, 3):
        machines[n].resume()
    app.close()


def test_two_senders_share_a_redis_by_their_namespaces(
    system_env: dict[str, str], start_worker: Start, simulator: Simulator
) -> None:
    # Given a second account at the provider, with a namespace and a worker of its own
    other_account = Simulator("--step", "0.2", "--login", "second", "--password", "222222")
    try:
        second = {
            **system_env,
            "COURIER_NAMESPACE": system_env["COURIER_NAMESPACE"] + "-second",
            "COURIER_API_URL": other_account.url,
            "COURIER_API_LOGIN": "second",
            "COURIER_API_PASSWORD": "222222",
        }
        start_worker()
        start_worker("-n", "second@%h", **second)
        # When both enqueue, the same id among it
        for env, digits in ((system_env, "11"), (second, "12")):
            app = Producer.from_env(env)
            app.enqueue(text_job(f"79250000{digits}9", id="same"))
            app.enqueue_many(
                ({"address": f"79{digits}{n:05}99"} for n in range(200)), common=common_job()
            )
            app.close()
        # Then each got its own messages, and nobody else's
        for env, provider, digits in ((system_env, simulator, "11"), (second, other_account, "12")):
            app = Producer.from_env(env)
            check_events(ends(app, 201))
            got = [each["message"]["address"] for each in provider.accepted()]
            assert len(got) == 201
            assert all(digits in address for address in got)
            app.close()
    finally:
        other_account.stop()
