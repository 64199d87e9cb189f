"""Alerts, dashboard and runbook agree with the exporter, with each other and with the commands."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from viber_courier.ops.cli import COMMANDS, main
from viber_courier.ops.counters import read_counters
from viber_courier.ops.look import Backlog, Gate, Group, Look
from viber_courier.ops.metrics import families
from viber_courier.ops.redis_server import RedisServer
from viber_courier.schemas.lanes import LANES, POLL, queue
from viber_courier.store.connection import connect
from viber_courier.store.keys import Keys

ROOT = Path(__file__).parents[1]
GRAFANA = ROOT / "ops" / "grafana"
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
PROMETHEUS = yaml.safe_load((ROOT / "ops/prometheus/prometheus.yml").read_text())
GROUPS = yaml.safe_load((ROOT / "ops/prometheus/alerts.yml").read_text())["groups"]
ALERTS: dict[str, dict[str, Any]] = {rule["alert"]: rule for g in GROUPS for rule in g["rules"]}
DASHBOARD = json.loads((GRAFANA / "dashboards/courier.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [
    (panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]
]  # fmt: skip
EXPRESSIONS = [*QUERIES, *((name, alert["expr"]) for name, alert in ALERTS.items())]
FOR_COUNTERS = re.compile(r"(?:rate|increase)\($")
FOR_GAUGES = re.compile(r"(?:delta|changes)\($")


def exported() -> dict[str, str]:
    """Names in Prometheus, and what each is: gauge, counter or histogram."""
    look = Look(
        now=1.0,
        lanes=dict.fromkeys(LANES, Backlog(0, 0, 0.0, 0, 0)),
        watched=Backlog(0, 0, 0.0, 0, 0),
        paused={},
        gates={"send": Gate(None, "", 0, 0), POLL: Gate(2.0, "http-404", 5, 1)},
        swept=1.0,
        dead=0,
        events=0,
        groups=[Group("crm", 0, 0, 0.0, 0.0)],
        counters=read_counters({"rejected:other": "1"}, {}),
        info={},
    )
    ends = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
    return {
        family.name + end: family.type
        for family in families(look)
        for end in ends.get(family.type, [""])
    }


OF_GATEWAY = {"courier_gateway_requests_total", "courier_gateway_tokens_refused_total"}
OF_PUSH = {"courier_push_failing_seconds", "courier_push_oldest_seconds", "courier_push_put_aside"}
OF_CONSOLE = {"courier_console_logins_refused_total"}
EXPORTED = exported() | dict.fromkeys(OF_PUSH, "gauge")
EXPORTED |= dict.fromkeys(OF_GATEWAY | OF_CONSOLE, "counter")


def test_every_query_asks_for_what_is_exported() -> None:
    for title, expr in EXPRESSIONS:
        names = set(re.findall(r"\bcourier_\w+", expr))
        assert names <= EXPORTED.keys(), title
        assert names or re.search(r"ALERTS|\bup\b", expr), title


def test_counters_are_looked_at_by_their_rate_and_gauges_never() -> None:
    for title, expr in EXPRESSIONS:
        for use in re.finditer(r"\b(courier_\w+)(?:\{[^}]*\})?(\[[^]]+\])?", expr):
            before, window = expr[: use.start()], use[2]
            if EXPORTED[use[1]] == "gauge":
                assert not FOR_COUNTERS.search(before), title
                assert bool(window) == bool(FOR_GAUGES.search(before)), title
            else:
                assert FOR_COUNTERS.search(before), title
                assert window, title


def test_quantiles_are_of_rates_of_buckets_by_their_bound() -> None:
    proper = r"histogram_quantile\([\d.]+,sumby\((?:\w+,)*le\)\(rate\(courier_\w+_bucket"
    for title, expr in EXPRESSIONS:
        found = re.findall(proper, re.sub(r"\s", "", expr))
        assert len(found) == expr.count("_bucket") == expr.count("histogram_quantile"), title


def test_queries_use_labels_and_values_that_exist() -> None:
    rows = re.findall(r"(?m)^\| `(courier_\w+)` \|(.*?)\|", (ROOT / "docs/metrics.md").read_text())
    labels = {name: set(re.findall(r"`(\w+)`", cell)) | {"instance", "le"} for name, cell in rows}
    for _, expr in EXPRESSIONS:
        for name, matchers in re.findall(r"\b(courier_\w+)\{([^}]*)\}", expr):
            base = re.sub("_(bucket|sum|count)$", "", name) if name not in labels else name
            assert set(re.findall(r"(\w+)\s*!?=", matchers)) <= labels[base], expr


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_leads_to_its_section(alert: str) -> None:
    rule = ALERTS[alert]
    path, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert path == "docs/runbook.md"
    sections = dict(re.findall(r"(?ms)^## (\w+)\n(.*?)(?=^#|\Z)", RUNBOOK))
    assert anchor == alert.lower()
    assert alert in sections
    for part in ("**You see**", "**It means**", "**Type**"):
        assert part in sections[alert]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"]


def test_the_runbook_has_no_section_without_an_alert() -> None:
    assert set(re.findall(r"(?m)^## (.*)$", RUNBOOK)) == ALERTS.keys()
    anchors = set(re.findall(r"\]\(#([\w-]+)\)", RUNBOOK))
    assert anchors <= {name.lower() for name in ALERTS}
    for path in re.findall(r"\]\(([\w-]+\.md)", RUNBOOK):
        assert (ROOT / "docs" / path).exists()


def courier_lines() -> list[str]:
    """Every ``courier ...`` in the runbook: lines of its blocks, and what stands in the text."""
    blocks = "\n".join(re.findall(r"(?s)```\n(.*?)```", RUNBOOK)).splitlines()
    prose = re.findall(r"`([^`\n]+)`", re.sub(r"(?s)```.*?```", "", RUNBOOK).replace("\n", " "))
    return sorted({line for line in [*blocks, *prose] if line.startswith("courier ")})


@pytest.mark.parametrize("line", courier_lines())
def test_each_command_of_the_runbook_exists_with_its_options(line: str) -> None:
    _, name, *args = shlex.split(line)
    if name not in COMMANDS:
        pytest.skip(f"courier {name} isn't there yet")
    command = main.get_command(click.Context(main), name)
    while isinstance(command, click.Group) and args:
        command = command.get_command(click.Context(command), args.pop(0))
    assert command is not None
    assert not isinstance(command, click.Group)
    command.make_context(name, args)


def test_live_of_the_runbook_asks_a_worker_that_supervisord_starts() -> None:
    """Its default is the name of a worker that was started by hand."""
    programs = (ROOT / "ops" / "supervisord.conf").read_text()
    lives = [line for line in courier_lines() if line.startswith("courier live")]
    assert lives
    for line in lives:
        found = re.search(r"--worker ([a-z-]+)@\$\(hostname\)$", line)
        assert found and f"[program:{found[1]}]" in programs, line


def test_prometheus_scrapes_the_job_that_alerts_and_dashboard_know() -> None:
    [job] = PROMETHEUS["scrape_configs"]
    [port] = {t.rpartition(":")[2] for s in job["static_configs"] for t in s["targets"]}
    assert job["job_name"] == "courier"
    assert port == "9540"
    assert PROMETHEUS["rule_files"] == ["alerts.yml"]
    step = PROMETHEUS["global"]["scrape_interval"]
    [source] = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    assert source["jsonData"]["timeInterval"] == step
    used = {panel["datasource"]["uid"] for panel in PANELS}
    used |= {target["datasource"]["uid"] for panel in PANELS for target in panel["targets"]}
    assert used == {source["uid"]}


def test_panels_stand_from_left_to_right_and_none_on_another() -> None:
    columns = ["Flow", "Waiting", "Speed", "Failures", "Delivery"]
    lefts = {}
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"])
                 for y in range(at["y"], at["y"] + at["h"])}  # fmt: skip
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
        lefts.setdefault(panel["title"].split()[0].rstrip(":"), at["x"])
    found = [lefts[name] for name in columns]
    assert found == sorted(found)
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


def test_no_key_is_named_by_hand() -> None:
    """The runbook's own keys are those of the layout."""
    assert set(re.findall(r"\{courier\}:\w+", RUNBOOK)) == {
        Keys("courier").results,
        Keys("courier").missed,
    }


def blocks() -> list[list[str]]:
    return [shlex.split(line) for text in re.findall(r"(?s)```\n(.*?)```", RUNBOOK)
            for line in text.splitlines()]  # fmt: skip


def test_each_redis_command_of_the_runbook_is_one(
    redis_server: RedisServer, namespace: str
) -> None:
    # Given a stream with a group that has read
    client = connect(redis_server.url)
    results = Keys(namespace).results
    client.xadd(results, {"event": "{}"}, id="1795628798000-0")
    client.xgroup_create(results, "crm", id="0")
    client.xreadgroup("crm", "web-1", {results: ">"})
    # When everything is typed, the one that takes the group away last, then Redis understands it
    lines = [line[1:] for line in blocks() if line[0] == "redis-cli"]
    for line in sorted(lines, key=lambda line: "destroy" in line):
        assert "-u" not in line, "an address in the list of processes may hold a password"
        detail = {"parse_detail": True} if line[0] == "xpending" else {}
        typed = (part.replace("{courier}:results", results) for part in line)
        client.execute_command(*typed, **detail)
    client.config_set("maxmemory", 0)
    client.close()


def test_the_runbook_names_queues_and_log_lines_that_exist() -> None:
    known = {queue("courier", name) for name in (POLL, "enqueue", *LANES)}
    assert set(re.findall(r"\bcourier\.\w+(?:\.\w+)*", RUNBOOK)) <= known
    source = "".join(
        path.read_text()
        for path in [*(ROOT / "worker").glob("*.py"), *(ROOT / "store").glob("*.py")]
    )
    for text in (
        "code not in the provider's document",
        "odd status entries",
        "redis did not answer",
    ):
        assert f"`{text}`" in RUNBOOK
        assert f'"{text}"' in source


def test_the_runbook_names_programs_that_run() -> None:
    conf = ROOT / "ops/supervisord.conf"
    if not conf.exists():
        pytest.skip("ops/supervisord.conf isn't there yet")
    programs = set(re.findall(r"(?m)^\[program:([\w-]+)\]", conf.read_text()))
    named = {name for line in blocks() if line[0] == "supervisorctl" for name in line[2:]}
    assert named <= programs
