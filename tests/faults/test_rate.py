"""The rate limit over four workers, measured by what the provider received and when."""

from __future__ import annotations

from statistics import median

from tests.conftest import Simulator, Start, common_job, wait_for
from viber_courier import Producer

RATE = 150
SECONDS = 10


def test_four_workers_together_keep_the_rate(
    system_env: dict[str, str], start_worker: Start, simulator: Simulator
) -> None:
    # Given more messages than fit into the time
    env = {**system_env, "COURIER_RATE_LIMIT": str(RATE), "COURIER_RATE_BURST": "50"}
    app = Producer.from_env(env)
    count = RATE * (SECONDS + 4)
    rows = ({"address": f"79{n:07}10"} for n in range(count))
    app.enqueue_many(rows, common=common_job(priority="low"))
    # When four workers send them
    for n in range(4):
        start_worker("-n", f"w{n}@%h", "-c", "1", beat=n == 0, **env)
    wait_for(lambda: len(simulator.accepted()) >= RATE, 30)
    # and one that is urgent comes in the middle
    urgent = app.enqueue({**common_job(priority="realtime"), "address": "79250000010"})
    wait_for(lambda: (record := app.get(urgent)) and record.status != "queued", 2)
    wait_for(lambda: len(simulator.accepted()) > count, 60)
    # Then ten seconds after the first have what the rate gives. Of several, the one in the middle:
    # a machine that stands still may move a burst over the edge of one of them.
    instants = sorted(each["at"] for each in simulator.accepted())
    starts = [instants[0] + 1.5 + n / 4 for n in range(9)]
    seen = median(sum(start <= at < start + SECONDS for at in instants) for start in starts)
    assert abs(seen - RATE * SECONDS) <= 0.02 * RATE * SECONDS
    app.close()
