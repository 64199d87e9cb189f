"""What workers, beat and exporter write from their first line on while Redis is away."""

from __future__ import annotations

import json
import threading
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from tests.conftest import Simulator, free_port, wait_for
from tests.faults.parts import BEAT, WORKER, Supervised, supervised
from viber_courier.ops.redis_server import RedisServer

PASSWORD = "Zq7-p4ss"
QUIET = tuple((*each[:3], "-q", *each[3:]) for each in (WORKER, BEAT))


def lines(program: Supervised) -> list[dict[str, object]]:
    """Its log; each line of it is an object."""
    return [json.loads(line) for line in program.log.splitlines()]


def count(program: Supervised, text: str) -> int:
    return Counter(line["text"] for line in lines(program))[text]


def test_an_outage_is_written_once_and_as_objects_from_the_first_line(
    simulator: Simulator, system_env: dict[str, str], tmp_path: Path
) -> None:
    # Given a Redis that isn't up yet
    (folder := tmp_path / "redis").mkdir()
    (conf := folder / "own.conf").write_text(f"requirepass {PASSWORD}\n")
    server = RedisServer(folder, free_port(), ["--include", str(conf)])
    server.url = url = f"redis://:{PASSWORD}@127.0.0.1:{server.port}/0"
    env = {**system_env, "COURIER_REDIS_URL": url, "COURIER_SWEEP_INTERVAL": "0.2"}
    with ExitStack() as ends, supervised(env, tmp_path, *QUIET) as (worker, beat):
        ends.callback(server.stop)
        # When workers and beat have tried several times
        wait_for(lambda: all(count(each, "redis not checked yet") for each in (worker, beat)))
        threading.Event().wait(4)  # as long as four tries: none of them writes
        assert [count(each, "redis not checked yet") for each in (worker, beat)] == [1, 1]
        # And then Redis comes, goes and comes
        server.start()
        wait_for(lambda: any(" ready." in str(line["text"]) for line in lines(worker)), 40)
        server.stop()
        wait_for(lambda: count(worker, "wake list not readable"), 40)
        threading.Event().wait(4)
        texts = Counter((str(line["text"]), line.get("error")) for line in lines(worker))
        assert max(n for (_, error), n in texts.items() if error) <= 2  # worker and beat
        assert any("Cannot connect to redis" in text or "lost" in text for text, _ in texts)
        logs = worker.log + beat.log
    assert PASSWORD not in logs
