"""The alerts, by promtool: for each, series that fire it and series that don't."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

PROMETHEUS = Path(__file__).parents[2] / "ops" / "prometheus"
ALERTS = {
    rule["alert"]: rule
    for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
}

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool (Debian: apt install prometheus)"
)

Series = dict[str, str]
"""Values by series, one a minute, as promtool writes them; of one exporter."""


def lane(metric: str, values: str, name: str = "low") -> Series:
    return {f'courier_lane_{metric}{{lane="{name}"}}': values}


def hand(values: str, what: str = "low") -> Series:
    return {f'courier_paused{{by="hand",what="{what}"}}': values}


def gate(values: str, what: str = "send") -> Series:
    return {f'courier_paused{{by="gate",what="{what}"}}': values}


def tasks(waiting: str, seconds: str) -> Series:
    name = "courier_intake_waiting_"
    return {f"{name}tasks": waiting, f"{name}seconds": seconds}


def closed(values: str) -> Series:
    return {'courier_gate_closed_total{what="send"}': values}


def entered(**statuses: str) -> Series:
    return {f'courier_statuses_total{{status="{name}"}}': v for name, v in statuses.items()}


def suppressed(values: str) -> Series:
    return {"courier_suppressed_total": values}


def memory(used: int, most: int, machine: int) -> Series:
    sizes = {"used": used, "max": most, "system": machine}
    return {f"courier_redis_memory_{name}_bytes": f"{size}x40" for name, size in sizes.items()}


def waiting(due: str, sent: str, by_hand: str = "0x40", by_gate: str = "0x40") -> Series:
    requests = {'courier_request_seconds_count{what="send"}': sent}
    return lane("due_messages", due) | requests | hand(by_hand) | gate(by_gate)


def campaign(name: str, values: str, more: str = "") -> Series:
    return {f'courier_campaign_{name}{{campaign="sale"{more}}}': values}


def line(values: str) -> Series:
    return campaign("messages", values, ',status="queued"')


def standing(sent: str = "70x60", requests: str = "0+5x60") -> Series:
    """A campaign with a message due in low, of which so many were sent, beside requests."""
    return (
        campaign("oldest_due_seconds", "0+60x60", ',lane="low"')
        | campaign("statuses_total", "0+9x60", ',status="queued"')
        | campaign("statuses_total", sent, ',status="submitted"')
        | {'courier_request_seconds_count{what="send"}': requests}
    )


def took(within_10_s: str, all_: str) -> Series:
    name = 'courier_request_seconds_bucket{what="send",le="%s"}'
    return {name % "10": within_10_s, name % "30": all_, name % "+Inf": all_}


GATEWAY_UP = 'up{job="courier-gateway"}'
CONSOLE_UP = 'up{job="courier-console"}'
PUSH_UP = 'up{job="courier-push"}'


def answers(code: str, values: str) -> Series:
    """Beside a hundred good answers a minute."""
    name = 'courier_gateway_requests_total{code="%s"}'
    return {name % "202": "0+100x40", name % code: values}


def push(name: str, values: str) -> Series:
    return {f'courier_push_{name}{{group="crm"}}': values}


def odd(what: str, values: str) -> Series:
    return {f'courier_oddities_total{{what="{what}"}}': values}


def results(**values: str) -> Series:
    return {f'courier_results_{name}{{group="crm"}}': v for name, v in values.items()}


def kept(values: str) -> Series:
    return {"courier_results_retention_seconds": values}


def stream(events: str, groups: str) -> Series:
    return {"courier_results_events": events, "courier_results_groups": groups}


INF = "+Inf " * 20

CASES: dict[str, tuple[str, dict[str, Series], dict[str, Series]]] = {
    # When to look; series that fire; series that don't
    "CourierExporterDown": (
        "10m",
        {"it does not answer": {"up": "1x2 0x40"}, "nobody scrapes it": {}},
        {"one scrape is missed": {"up": "1x6 0 1x40"}},
    ),
    "CourierRedisDown": (
        "10m",
        {"Redis is away": {"courier_up": "1x2 0x40"}},
        {"it was, for a moment": {"courier_up": "1x6 0 1x40"}},
    ),
    "CourierRedisMemory": (
        "10m",
        {
            "near maxmemory": memory(85, 100, 1000),
            "no maxmemory, near the machine's": memory(700, 0, 1000),
        },
        {"half of it": memory(50, 100, 1000), "a machine with room": memory(300, 0, 1000)},
    ),
    "CourierReplicasMissing": (
        "10m",
        {"one has gone": {"courier_redis_replicas": "1x40", "courier_replicas_wanted": "2x40"}},
        {
            "all follow": {"courier_redis_replicas": "2x40", "courier_replicas_wanted": "2x40"},
            "none is waited for": {
                "courier_redis_replicas": "0x40",
                "courier_replicas_wanted": "0x40",
            },
        },
    ),
    "CourierSweepNotTicking": (
        "10m",
        {
            "beat has died": {"courier_sweep_age_seconds": "1x3 30+60x40"},
            "there never was one": {"courier_sweep_age_seconds": INF},
        },
        {"one was late": {"courier_sweep_age_seconds": "1x7 40 1x40"}},
    ),
    "CourierNobodySends": (
        "10m",
        {"due, and no request": waiting("500x40", "70x40")},
        {
            "it flows": waiting("500x40", "0+5x40"),
            "the lane is paused by hand": waiting("500x40", "70x40", by_hand="1x40"),
            "the gate is closed": waiting("500x40", "70x40", by_gate="1x40"),
            "nothing is due": waiting("0x40", "70x40"),
        },
    ),
    "CourierGatewayDown": (
        "10m",
        {"it does not answer": {GATEWAY_UP: "1x2 0x40"}},
        {"one scrape is missed": {GATEWAY_UP: "1x6 0 1x40"}, "there is none": {}},
    ),
    "CourierGatewayRefuses": (
        "20m",
        {"the queue is full": answers("429", "0+60x40"), "no Redis": answers("503", "0+60x40")},
        {"one in a hundred": answers("503", "0+1x40"), "bad requests": answers("422", "0+60x40")},
    ),
    "CourierGatewayTokensRefused": (
        "20m",
        {"someone tries": {"courier_gateway_tokens_refused_total": "0+10x40"}},
        {"an old token": {"courier_gateway_tokens_refused_total": "0+1x40"}},
    ),
    "CourierPushDown": (
        "10m",
        {"it does not answer": {PUSH_UP: "1x2 0x40"}},
        {"one scrape is missed": {PUSH_UP: "1x6 0 1x40"}, "there is none": {}},
    ),
    "CourierPushFailing": (
        "10m",
        {"the endpoint is away": push("failing_seconds", "0x2 500+60x40")},
        {"for some minutes": push("failing_seconds", "0+30x10 0x30")},
    ),
    "CourierPushWaiting": (
        "20m",
        {"an event fails": push("oldest_seconds", "3500+60x40")},
        {"events go": push("oldest_seconds", "20x40")},
    ),
    "CourierPushPutAside": (
        "10m",
        {"one was given up": push("put_aside", "0x2 1x40")},
        {"none was": push("put_aside", "0x40")},
    ),
    "CourierConsoleDown": (
        "20m",
        {"it does not answer": {CONSOLE_UP: "1x2 0x40"}},
        {"a restart": {CONSOLE_UP: "1x6 0x2 1x40"}, "there is none": {}},
    ),
    "CourierConsoleLoginsRefused": (
        "20m",
        {"someone tries": {"courier_console_logins_refused_total": "0+5x40"}},
        {"someone forgot": {"courier_console_logins_refused_total": "0 0 4x40"}},
    ),
    "CourierUrgentBacklog": (
        "10m",
        {
            "codes wait": lane("oldest_due_seconds", "0x3 12x40", "realtime"),
            "high waits": lane("oldest_due_seconds", "0x3 70x40", "high"),
        },
        {
            "a moment of load": lane("oldest_due_seconds", "0x7 12 0x40", "realtime"),
            "high may wait longer": lane("oldest_due_seconds", "50x40", "high"),
            "low is not urgent": lane("oldest_due_seconds", "600x40", "low"),
            "it is paused by hand": lane("oldest_due_seconds", "600x40", "realtime")
            | hand("1x40", "realtime"),
        },
    ),
    "CourierBulkBacklog": (
        "20m",
        {
            "a campaign stands": lane("oldest_due_seconds", "7000+60x40"),
            "normal stands": lane("oldest_due_seconds", "1900x40", "normal"),
        },
        {
            "a long campaign runs": lane("oldest_due_seconds", "3600x40"),
            "it is paused by hand": lane("oldest_due_seconds", "9000x40") | hand("1x40"),
        },
    ),
    "CourierPollLag": (
        "20m",
        {"nobody polls": {"courier_poll_lag_seconds": "0+60x40"} | gate("0x40", "poll")},
        {
            "a busy minute": {"courier_poll_lag_seconds": "0x18 310 0x40"},
            "paused by hand": {"courier_poll_lag_seconds": "0+60x40"} | hand("1x40", "poll"),
            "its gate is closed": {"courier_poll_lag_seconds": "0+60x40"} | gate("1x40", "poll"),
        },
    ),
    "CourierTasksWaiting": (
        "10m",
        {
            "the store is away": tasks("5+5x40", "0 15+15x40"),
            "no worker serves them": tasks("7x40", "0x40"),
        },
        {
            "a burst, and workers that take it": tasks("9000-1500x5 0x40", "0 10 20 30 40 50 0x40"),
            "there is always one": tasks("1x40", "0.1x40"),
        },
    ),
    "CourierPausedByHand": (
        "90m",
        {"it was forgotten": hand("1x100")},
        {"for half an hour": hand("0x60 1x40")},
    ),
    "CourierCampaignPaused": (
        "300m",
        {"forgotten": campaign("paused", "0x9 1x300") | line("40x310")},
        {
            "since lunch": campaign("paused", "0x100 1x210") | line("9x310"),
            "nothing waits": campaign("paused", "1x310") | line("0x310"),
            "it runs": campaign("paused", "0x310") | line("40x310"),
        },
    ),
    "CourierCampaignStalled": (
        "40m",
        {
            "nothing of it is sent": standing() | hand("0x60") | gate("0x60"),
            "another lane is paused": standing() | hand("1x60", "normal") | gate("0x60"),
        },
        {
            "it moves": standing(sent="0+1x60"),
            "its lane is paused by hand": standing() | hand("1x60"),
            "the gate is closed": standing() | gate("1x60"),
            "nobody sends, which is another alert": standing(requests="70x60"),
            "its rate is a message an hour": standing() | campaign("rate_limit", "0.0003x60"),
            "its hours begin later": {
                name: values for name, values in standing().items() if "due" not in name
            },
        },
    ),
    "CourierPausedByGate": (
        "10m",
        {"the provider is away": gate("0x3 1x40")},
        {"for a minute": gate("0x8 1 0x40")},
    ),
    "CourierBreakerFlapping": (
        "12m",
        {"on and off": closed("0 1 1 2 2 3 3 4x40")},
        {"closed once, for long": closed("0x3 1x40"), "long ago": closed("7x40")},
    ),
    "CourierProviderSlow": (
        "20m",
        {"every answer takes 20 s": took("0x40", "0+10x40")},
        {"one in twenty does": took("0+19x40", "0+20x40"), "no requests": took("5x40", "90x40")},
    ),
    "CourierUnknownCode": (
        "10m",
        {"a code that isn't in the provider's document": odd("unknown-code", "0x3 1x40")},
        {"long ago": odd("unknown-code", "7x40"), "a late answer": odd("late", "0x3 1x40")},
    ),
    "CourierAcceptedWithoutId": (
        "10m",
        {"one message": odd("no-provider-id", "0x5 1x40")},
        {"another oddity": odd("strangers", "0+1x40")},
    ),
    "CourierSilentPolls": (
        "40m",
        {
            "nothing for half an hour": {
                "courier_silent_polls": "0+1x60",
                "courier_silent_polls_seconds": "0+60x60",
            }
        },
        {
            "a burst that lags": {
                "courier_silent_polls": "400x60",
                "courier_silent_polls_seconds": "120x60",
            },
            "one message, seldom polled": {
                "courier_silent_polls": "2x60",
                "courier_silent_polls_seconds": "0+60x60",
            },
        },
    ),
    "CourierClockStepped": (
        "10m",
        {"once": odd("clock-step", "0x3 1x40")},
        {"long ago": odd("clock-step", "1x40"), "another oddity": odd("late", "0x3 1x40")},
    ),
    "CourierUnconfirmed": (
        "20m",
        {"one in twenty": entered(unconfirmed="0+5x40", submitted="0+100x40")},
        {
            "one in a thousand": entered(unconfirmed="0+1x40", submitted="0+1000x40"),
            "a handful": entered(unconfirmed="0x10 5x40", submitted="0x40"),
        },
    ),
    "CourierRejected": (
        "20m",
        {"one in six": entered(rejected="0+20x40", submitted="0+100x40") | suppressed("7x40")},
        {
            "one in a hundred": entered(rejected="0+10x40", submitted="0+1000x40")
            | suppressed("0x40"),
            "a handful": entered(rejected="0x10 5x40", submitted="0x40") | suppressed("0x40"),
            "they are suppressed": entered(rejected="0+20x40", submitted="0+100x40")
            | suppressed("0+19x40"),
        },
    ),
    "CourierExpired": (
        "10m",
        {"an outage outlived them": entered(expired="0x3 50x40")},
        {"two of them": entered(expired="0x3 2x40")},
    ),
    "CourierDeadLettersGrowing": (
        "80m",
        {"five a minute": {"courier_dead_letters": "0+5x90"} | suppressed("7x90")},
        {
            "many, but no more than before": {"courier_dead_letters": "5000x90"}
            | suppressed("0x90"),
            "they are dropped": {"courier_dead_letters": "5000-20x90"} | suppressed("0x90"),
            "they are suppressed": {"courier_dead_letters": "0+5x90"} | suppressed("0+5x90"),
        },
    ),
    "CourierResultsLag": (
        "20m",
        {"the reader is away": results(lag_seconds="0+60x40")},
        {"it was restarted": results(lag_seconds="0x16 60 120 0x40")},
    ),
    "CourierEventsExpiring": (
        "20m",
        {"over half of two days": results(lag_seconds="90000x40") | kept("172800x40")},
        {"five hours": results(lag_seconds="18000x40") | kept("172800x40")},
    ),
    "CourierEventsMissed": (
        "10m",
        {"a group has": odd("events-missed", "0x3 1x40")},
        {"long ago": odd("events-missed", "1x40")},
    ),
    "CourierResultsNotAcked": (
        "30m",
        {"one event is read again and again": results(unacked_seconds="0+60x40")},
        {"slow work": results(unacked_seconds="300x40")},
    ),
    "CourierResultsUnread": (
        "30m",
        {"no group": stream("900x40", "0x40")},
        {"one group": stream("900x40", "1x40"), "no events yet": stream("0x40", "0x40")},
    ),
}


def labelled(name: str) -> str:
    if name in (GATEWAY_UP, CONSOLE_UP, PUSH_UP):
        return name
    head, _, tail = name.partition("{")
    return head + '{job="courier",instance="e:9540"' + ("," + tail if tail else "}")


def inputs(series: Series) -> list[dict[str, str]]:
    return [{"series": labelled(name), "values": values} for name, values in series.items()]


def promtool(folder: Path, tests: list[dict[str, Any]]) -> None:
    """Run unit tests of the rules: JSON is YAML, too."""
    shutil.copy(PROMETHEUS / "alerts.yml", folder)
    for test in tests:
        test["interval"] = "1m"
    whole = {"rule_files": ["alerts.yml"], "evaluation_interval": "15s", "tests": tests}
    (folder / "tests.yml").write_text(json.dumps(whole))
    command = ["promtool", "test", "rules", "tests.yml"]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_configuration_and_rules_are_valid() -> None:
    command = ["promtool", "check", "config", str(PROMETHEUS / "prometheus.yml")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"{len(ALERTS)} rules found" in run.stdout


def test_every_alert_has_its_cases() -> None:
    assert CASES.keys() == ALERTS.keys()


@pytest.mark.parametrize("alert", CASES)
def test_it_fires_when_it_should_and_only_then(alert: str, tmp_path: Path) -> None:
    at, fires, quiet = CASES[alert]
    tests = [
        {
            "name": f"{alert}: {why}",
            "input_series": inputs(series),
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})',
                    "eval_time": at,
                    "exp_samples": [{"labels": "{}", "value": 1}] if firing else [],
                }
            ],
        }
        for firing, cases in ((True, fires), (False, quiet))
        for why, series in cases.items()
    ]
    promtool(tmp_path, tests)


def test_a_closed_gate_is_told_with_its_reason(tmp_path: Path) -> None:
    reasons = {
        'courier_gate_reason{what="send",reason="http-404"}': "_x3 1x40",
        'courier_gate_reason{what="poll",reason="http-500"}': "1x40",
    }
    told = {
        "exp_labels": {"what": "send", "by": "gate", "severity": "critical"}
        | {"job": "courier", "instance": "e:9540"},
        "exp_annotations": {
            "summary": "send is paused by what the provider answers: http-404",
            "runbook_url": ALERTS["CourierPausedByGate"]["annotations"]["runbook_url"],
        },
    }
    alert = {"alertname": "CourierPausedByGate", "eval_time": "10m", "exp_alerts": [told]}
    series = inputs(gate("0x3 1x40") | reasons)
    promtool(tmp_path, [{"input_series": series, "alert_rule_test": [alert]}])
