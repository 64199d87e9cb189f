"""A real Prometheus scrapes a real exporter beside a worker; the dashboard's queries find data."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml

from tests.conftest import Start, common_job, ends, free_port, wait_for
from tests.test_exporter import Exporter
from viber_courier import Producer

OPS = Path(__file__).parents[2] / "ops"
DASHBOARD = json.loads((OPS / "grafana/dashboards/courier.json").read_text())
QUERIES = {
    (panel["title"], target["legendFormat"]): target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", [])
}
QUIET = {"Failures: reasons in the time shown", "Failures: ends", "Failures: breaker and oddities"}
"""Panels that show only what happened a moment ago, or happens in trouble only."""

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="needs prometheus (Debian: apt install prometheus)"
)


class Prometheus:
    """The server, with the repository's configuration but for the exporter's address."""

    def __init__(self, folder: Path, target: str) -> None:
        config = yaml.safe_load((OPS / "prometheus/prometheus.yml").read_text())
        config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
        config["global"] |= dict.fromkeys(
            ("scrape_interval", "scrape_timeout", "evaluation_interval"), "1s"
        )
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        shutil.copy(OPS / "prometheus/alerts.yml", folder)
        self.address = f"127.0.0.1:{free_port()}"
        self._log = (folder / "prometheus.log").open("wb")
        self.process = subprocess.Popen(
            [
                *("prometheus", f"--web.listen-address={self.address}", "--log.level=warn"),
                *("--config.file=prometheus.yml", "--storage.tsdb.path=data"),
            ],
            cwd=folder,
            stderr=self._log,
        )

    def get(self, path: str, **query: str) -> Any:
        url = f"http://{self.address}/api/v1/{path}?{urlencode(query)}"
        with urlopen(url, timeout=10) as reply:
            return json.load(reply)["data"]

    def ask(self, expr: str) -> list[Any]:
        """Samples of a query as the dashboard's variables stand at first."""
        expr = expr.replace("$__rate_interval", "20s").replace("$__range", "5m")
        expr = expr.replace("$instance", ".*").replace("$campaign", ".*")
        found: list[Any] = self.get("query", query=expr)["result"]
        return found

    def scraped(self) -> bool:
        try:
            return len(self.ask('courier_up{job="courier"} == 1')) == 1
        except OSError:
            return False

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        self._log.close()


@pytest.fixture
def exporter(system_env: dict[str, str]) -> Iterator[str]:
    made = Exporter(system_env, "--port", "0")
    yield re.sub("https?://|/metrics", "", made.url())
    made.process.terminate()
    made.end()


@pytest.fixture
def prometheus(tmp_path: Path, exporter: str) -> Iterator[Prometheus]:
    made = Prometheus(tmp_path, exporter)
    yield made
    made.stop()


def test_the_dashboard_finds_what_flows(
    prometheus: Prometheus, start_worker: Start, app: Producer
) -> None:
    # Given a system that is watched
    wait_for(prometheus.scraped, 30)
    start_worker()
    # When messages go out and are followed, some refused, some tried again and again
    app.enqueue_many([{"address": f"7925{n:05}60"} for n in range(10)], common=common_job())
    for n in range(4):
        endings = ("01", "02", "03", "50")
        rows = [{"address": f"79250{n}{k:03}{ending}"} for k in range(10) for ending in endings]
        app.enqueue_many(rows, common=common_job())
        ends(app, len(rows), 90)
    # Then Prometheus counts what was asked for
    queued = 'courier_statuses_total{status="queued"} == 170'
    wait_for(lambda: prometheus.ask(queued), 30)
    rejected = 'courier_statuses_total{status="rejected"} == 40'
    wait_for(lambda: prometheus.ask(rejected), 30)
    # And of a campaign that is slow it knows how long it has been due
    rows = [{"address": f"7926{n:05}01"} for n in range(30)]
    app.campaign("sale", common_job(), rate=0.5).add(rows)
    wait_for(lambda: prometheus.ask("courier_campaign_oldest_due_seconds > 3"), 30)
    # And every panel has its data
    for (title, legend), expr in QUERIES.items():
        found = prometheus.ask(expr)
        if title not in QUIET and "> 0" not in expr:
            assert found, f"{title}: {legend}"
            assert all(sample["value"][1] != "NaN" for sample in found), f"{title}: {legend}"
    # And the rules were evaluated without an error
    rules = [rule for g in prometheus.get("rules")["groups"] for rule in g["rules"]]
    assert len(rules) >= 20
    assert {rule["health"] for rule in rules} == {"ok"}, rules


def test_what_stands_still_is_about_to_ring(
    prometheus: Prometheus, system_env: dict[str, str], app: Producer
) -> None:
    # Given a message, and nobody who sends or sweeps
    wait_for(prometheus.scraped, 30)
    app.enqueue_many([{"address": "79250000001"}], common=common_job(priority="low"))
    # When Prometheus has seen it
    due = 'courier_lane_due_messages{lane="low"} == 1'
    wait_for(lambda: prometheus.ask(due), 30)
    # Then the alert is on its way
    wait_for(
        lambda: (
            "CourierSweepNotTicking"
            in {alert["labels"]["alertname"] for alert in prometheus.get("alerts")["alerts"]}
        ),
        30,
    )
