"""``courier show``, ``find``, ``results`` and ``top``: what is seen, and what isn't."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.conftest import Courier, common_job, iso_in, text_job, wait_for
from viber_courier import Producer
from viber_courier.ops.commands.top import rates
from viber_courier.ops.counters import read_counters
from viber_courier.ops.look import take_look
from viber_courier.producers.preview import mask
from viber_courier.store.keys import Keys


@pytest.fixture
def producer(courier: Courier) -> Iterator[Producer]:
    made = Producer.from_env(courier.env)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("address", "shown"),
    [("79250000001", "7925***01"), ("7925001", "***01"), ("123456789012345", "1234***45")],
)
def test_five_digits_of_a_number_are_missing(address: str, shown: str) -> None:
    assert mask(address) == shown


def test_show_masks_number_and_texts_unless_they_are_asked_for(
    courier: Courier, producer: Producer
) -> None:
    (id,) = producer.enqueue_many([{"address": "79250000001"}], common=common_job())
    for said in (courier("show", id).stdout, courier("show", id, "--json").stdout):
        assert "7925***01" in said and "79250000001" not in said and "Код" not in said
    seen = courier.json("show", id, "--reveal")
    assert seen["address"] == "79250000001" and seen["job"]["content"]["text"] == "Код 1234 🙂"
    assert "has this id" in courier("show", "nobody", code=1).stderr


def test_every_64_bit_id_is_shown_as_a_string(courier: Courier, producer: Producer) -> None:
    id, sms = producer.enqueue(text_job()), f'[[{2**63 + 1}, "sent"], [null, "sent"]]'
    key = Keys(producer.settings.namespace).records + id
    producer.redis.hset(key, mapping={"provider": str(2**63 + 3), "sms": sms})
    seen = courier.json("show", id)
    assert seen["providerId"] == str(2**63 + 3)
    assert seen["sms"] == [{"id": str(2**63 + 1), "state": "sent"}, {"id": None, "state": "sent"}]
    record = producer.get(id)
    assert record is not None and record.provider_id == str(2**63 + 3)
    assert [segment.id for segment in record.sms] == [str(2**63 + 1), None]


def test_show_says_what_keeps_a_message(courier: Courier, producer: Producer) -> None:
    producer.enqueue(text_job(id="a", sendAt="2026-12-24T10:00:00+00:00", priority="low"))
    courier("pause", "low", "--reason", "closed")
    gate = {"until": 1_800_000_000_000_000, "reason": "refused"}
    producer.redis.hset(Keys(producer.settings.namespace).gate("send"), mapping=gate)
    seen = courier.json("show", "a")
    assert (seen["lane"], seen["due"], seen["leased"]) == ("low", "2026-12-24T10:00:00.000Z", False)
    assert seen["heldBy"] == [
        "lane low is paused: closed",
        "sending is closed until 2027-01-15T08:00:00.000Z: refused",
    ]


def test_nothing_that_an_app_wrote_steers_the_terminal(
    courier: Courier, producer: Producer
) -> None:
    producer.enqueue(text_job(id="a", metadata={"x": "\x1b[31m[bold]"}))
    courier("pause", "low", "--reason", "\x1b]0;gone\x07[red]")
    for said in (courier("show", "a").stdout, courier("top", "--once").stdout):
        assert "\x1b" not in said and "\x07" not in said
    assert "[bold]" in courier("show", "a").stdout and "[red]" in courier("top", "--once").stdout


def test_find_looks_at_a_bounded_number_of_messages(courier: Courier, producer: Producer) -> None:
    # Given messages whose content is in the record and in a key of its own, among others
    rows = [{"address": f"7925{n:07}"} for n in range(3000)]
    producer.enqueue_many(rows, common=common_job())
    short = producer.enqueue_many([{"address": "79260000001"}], common=common_job())
    long = producer.enqueue(text_job("79260000001", content={"text": "x" * 900}))
    # When all are looked at
    found = courier.json("find", "+7 (926) 000-00-01")
    # Then both are found, masked
    assert {each["id"] for each in found["messages"]} == {*short, long}
    assert (found["lookedAt"], found["all"]) == (3002, True)
    assert "79260000001" not in json.dumps(found)
    # And with a bound, or of a number that nobody has, it says how far it looked
    none = courier.json("find", "79270000001", "--most", "1000", code=1)
    assert none == {"lookedAt": 1000, "all": False, "messages": []}
    said = courier("find", "-", input="79260000001\n", code=0)
    assert "2 found, 3,002 messages examined: there are no others" in said.stderr
    assert "7926***01" in said.stdout
    assert "must be a phone number" in courier("find", "Ivan", code=2).stderr


def test_results_are_shown_without_taking_them_from_anybody(
    courier: Courier, producer: Producer
) -> None:
    assert courier("results").stdout == ""
    for n in range(30):
        producer.cancel(producer.enqueue(text_job(id=f"m{n}")))
    said = courier("results").stdout.splitlines()
    assert len(said) == 20 and said[-1].endswith("m29  cancelled  final  by-request")
    event = json.loads(courier("results", "--last", "1", "--json").stdout)
    assert (event["id"], event["specversion"]) == ("m29:1", "1.0")
    # As a group each is shown once, in the same form
    lines = courier("results", "--group", "shell", "--json").stdout.splitlines()
    assert [json.loads(line)["subject"] for line in lines] == [f"m{n}" for n in range(30)]
    assert json.loads(lines[-1]) == event
    assert courier("results", "--group", "shell").stdout == ""


@pytest.mark.parametrize("group", [[], ["--group", "shell"]])
def test_results_are_followed_until_ctrl_c(
    courier: Courier, producer: Producer, group: list[str]
) -> None:
    producer.cancel(producer.enqueue(text_job(id="first")))
    run = courier.start("results", "--follow", *group)
    assert run.stdout is not None
    assert "first  cancelled" in run.stdout.readline()
    producer.cancel(producer.enqueue(text_job(id="second")))
    assert "second  cancelled" in run.stdout.readline()
    os.kill(run.pid, signal.SIGINT)
    assert run.communicate(timeout=10) == ("", "") and run.returncode == 130


def test_top_shows_lanes_gates_and_pauses(courier: Courier, producer: Producer) -> None:
    producer.enqueue_many([{"address": "79250000001"}] * 3, common=common_job(priority="low"))
    producer.enqueue(text_job(priority="low", smsText="sms", sendAt=iso_in(60)))
    courier("pause", "poll", "--reason", "by night")
    gate = {"until": 1_800_000_000_000_000, "reason": "refused"}
    producer.redis.hset(Keys(producer.settings.namespace).gate("send"), mapping=gate)
    seen = courier.json("top", "--once")
    assert (seen["lanes"]["low"]["due"], seen["lanes"]["low"]["later"]) == (3, 1)
    assert seen["lanes"]["high"] == {"due": 0, "later": 0, "late": 0.0}
    assert (seen["paused"], seen["counts"]["queued"]) == ({"poll": "by night"}, 4)
    assert seen["gates"]["poll"] == {"open": True} and seen["gates"]["send"]["reason"] == "refused"
    for columns in ("80", "120"):
        said = courier("top", "--once", COLUMNS=columns).stdout
        assert max(map(len, said.splitlines())) <= int(columns)
        assert "paused: by night" in said and "/send is closed until 2027" in said


def test_rates_are_changes_of_counters(producer: Producer) -> None:
    look = take_look(producer.redis, producer.settings.namespace)
    before = replace(look, counters=read_counters({"queued": "10"}, {}))
    counters = read_counters({"queued": "30", "read": "1"}, {})
    now = replace(look, now=look.now + 2.0, counters=counters)
    assert rates(before, now) == {"queued": 10.0, "read": 0.5}
    assert rates(None, now) is None


def test_top_goes_on_until_ctrl_c(courier: Courier, producer: Producer) -> None:
    run = courier.start("top", "--json", "--every", "0.2")
    assert run.stdout is not None
    assert json.loads(run.stdout.readline())["perSecond"] is None
    producer.enqueue(text_job())
    wait_for(lambda: (json.loads(run.stdout.readline())["perSecond"] or {}).get("queued", 0) > 0)  # type: ignore[union-attr]
    os.kill(run.pid, signal.SIGINT)
    assert run.communicate(timeout=10)[1] == "" and run.returncode == 130


@pytest.mark.parametrize(
    ("command", "words", "code"),
    [
        ("show ''", "an argument is empty", 2),
        ("cancel ''", "an argument is empty", 2),
        ("dead drop ''", "an argument is empty", 2),
        ("show $'\\xff'", "not UTF-8", 2),
        ("cancel $'\\xff'", "not UTF-8", 2),
        ("show one --reveal", "ascii can't encode the output", 2),
        ("show one >/dev/full", "No space left", 1),
        ("show one >&-", "", 0),
        ("send <&-", "say what to send", 2),
        ("exporter --port 65536", "65536 is not in the range", 2),
    ],
)
def test_whatever_it_is_called_with_errors_are_lines(
    courier: Courier, producer: Producer, command: str, words: str, code: int
) -> None:
    producer.enqueue({**common_job(), "id": "one", "address": "79250000001"})
    done = subprocess.run(
        [
            "bash",
            "-c",
            f"{shlex.quote(sys.executable)} -c "
            f"'from viber_courier.ops.cli import main; main()' {command}",
        ],
        env={**os.environ, **courier.env, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    assert words in done.stderr


def test_an_empty_group_is_named(courier: Courier) -> None:
    assert "--group must not be empty" in courier("results", "--group", "", code=2).stderr
