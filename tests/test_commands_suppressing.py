"""``courier suppress``, and what ``courier doctor`` and the metrics say of the list."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Courier, common_job, text_job
from viber_courier import Producer
from viber_courier.ops.look import take_look
from viber_courier.ops.metrics import families
from viber_courier.schemas.suppression import NumberHash

KEY = "a key of sixteen or more characters"


@pytest.fixture
def courier(courier: Courier) -> Courier:
    courier.env["COURIER_SUPPRESSION_KEY"] = KEY
    return courier


@pytest.fixture
def producer(courier: Courier) -> Iterator[Producer]:
    made = Producer.from_env(courier.env)
    yield made
    made.close()


def test_numbers_are_added_checked_listed_and_removed(courier: Courier, producer: Producer) -> None:
    said = courier("suppress", "add", "+7 (925) 000-00-01", "79250000002", "--reason", "complained")
    assert said.stdout == "2 suppressed, 0 already were\n"
    added = courier.json("suppress", "add", "79250000001", "79250000003", "--for", "30d")
    assert added == {"added": 1, "there": 1, "refused": 0}
    # by their places: no number is printed
    found = courier("suppress", "check", "79250000009", "79250000002", code=1).stdout
    assert found.startswith("number 2  since ") and found.endswith(", for good: complained\n")
    assert "7925" not in found
    (one,) = courier.json("suppress", "check", "79250000003", code=1)
    assert (one["number"], one["reason"], one["until"] > one["since"]) == (1, "by hand", True)
    assert courier("suppress", "check", "79250000009").stdout.startswith("None")
    lines = courier("suppress", "list").stdout.splitlines()
    assert len(lines) == 3 and "7925" not in str(lines)
    assert all(json.loads(e) for e in courier("suppress", "list", "--json").stdout.splitlines())
    assert "more" in courier("suppress", "list", "--most", "2").stderr
    removed = courier("suppress", "remove", "79250000002", "79250000009").stdout
    assert removed == "1 no longer suppressed, 1 were not\n"
    assert not producer.suppressions.get("79250000002")


def test_stdin_has_a_number_on_each_line_and_wrong_ones_are_named(
    courier: Courier, producer: Producer
) -> None:
    lines = "79250000001\n\nnobody 7925\n8 925 000-00-02\n"
    said = courier("suppress", "add", "-", code=1, input=lines)
    assert said.stdout == "1 suppressed, 0 already were\n"
    assert [line[:9] for line in said.stderr.splitlines()] == ["number 3 ", "number 4 "]
    assert "925" not in said.stderr
    said = courier("suppress", "add", "-", "--country", "RU", input="8 925 000-00-02\n")
    assert said.stdout == "1 suppressed, 0 already were\n"
    assert list(producer.suppressions.among(["79250000001", "79250000002"])) != []
    assert "country" in courier("suppress", "add", "1", "--country", "russia", code=2).stderr
    assert "reason" in courier("suppress", "add", "79250000001", "--reason", "", code=2).stderr


def test_a_list_of_people_who_blocked_us_is_a_file_like_any_other_list(
    courier: Courier, producer: Producer, tmp_path: Path
) -> None:
    path = tmp_path / "blocked.csv"
    rows = "".join("nobody;\n" for _ in range(12))
    path.write_text(f"Телефон;Причина\n8 (925) 000-00-01;жалоба\n{rows}", "cp1251")
    how = ("--list", str(path), "--map", "Телефон=address", "--country", "RU")
    said = courier("suppress", "add", *how, code=1)
    assert said.stdout == "1 suppressed, 0 already were\n"
    lines = said.stderr.splitlines()
    assert lines[0].startswith("line 3 ") and lines[10:] == ["... and 2 more"]
    assert "79250000001" in producer.suppressions
    assert courier("suppress", "check", *how, code=1).stdout.startswith("line 2  since")
    assert "1 no longer" in courier("suppress", "remove", *how, code=1).stdout
    assert "give PHONES" in courier("suppress", "add", code=2).stderr
    assert "give PHONES" in courier("suppress", "add", "79250000001", *how, code=2).stderr
    assert (
        "`courier suppress add`"
        in courier("suppress", "import", str(path), code=2, input="").stderr
    )


def test_a_list_is_exported_and_imported_under_the_same_key(
    courier: Courier, producer: Producer, tmp_path: Path
) -> None:
    producer.suppressions.add_many(["79250000001", "79250000002"], "moved")
    path = tmp_path / "list.jsonl"
    assert courier("suppress", "export", str(path)).stdout == "2 exported\n"
    assert "7925" not in path.read_text() and len(path.read_text().splitlines()) == 2
    other = {"COURIER_NAMESPACE": courier.env["COURIER_NAMESPACE"] + "b"}
    for _ in range(2):
        courier("suppress", "import", str(path), **other)
    assert len(courier("suppress", "list", **other).stdout.splitlines()) == 2
    text = path.read_text()
    other["COURIER_SUPPRESSION_KEY"] = "b" + KEY
    assert (
        "hashed with the key"
        in courier("suppress", "import", "-", code=2, input=text, **other).stderr
    )
    for wrong in ("no JSON", '{"hash": 1}', "[]", '"text"', text.replace('"moved"', '""')):
        assert "imported" in courier("suppress", "import", "-", code=2, input=wrong).stderr


def test_bulk_says_how_many_get_nothing(
    courier: Courier, producer: Producer, tmp_path: Path
) -> None:
    producer.suppressions.add("79250000002", "x")
    file, common = tmp_path / "list.csv", tmp_path / "common.json"
    file.write_text("address\n79250000001\n79250000002\n")
    common.write_text(json.dumps(common_job(priority="low")))
    args = ("bulk", str(file), "--common", str(common))
    said = courier(*args).stdout
    assert "2 messages stored" in said and "1 message to suppressed numbers: not sent" in said
    assert courier.json(*args)["suppressed"] == 1  # again


@pytest.mark.parametrize("args", ["add 79250000001", "check 79250000001", "list", "export gone"])
def test_without_a_key_each_command_names_the_setting(courier: Courier, args: str) -> None:
    del courier.env["COURIER_SUPPRESSION_KEY"]
    said = courier("suppress", *args.split(), code=2).stderr
    assert "COURIER_SUPPRESSION_KEY must be set" in said


@pytest.mark.slow
def test_doctor_finds_a_key_that_is_missing_or_another(
    courier: Courier, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("viber_courier.ops.commands.health.ANSWER_SECONDS", 0.1)

    def found(**env: str) -> list[str]:
        rows = courier.json("doctor", "--no-provider", code=2, **env)
        return [row["severity"] for row in rows if row["about"] == "suppressions"]

    assert found() == []
    producer.suppressions.add("79250000001", "x")
    assert found() == ["ok"]
    assert found(COURIER_SUPPRESSION_KEY="b" + KEY) == ["error"]
    assert found(COURIER_SUPPRESSION_KEY="") == ["warning"]


def test_metrics_count_changes_and_what_was_not_sent(producer: Producer) -> None:
    producer.suppressions.add_many(["79250000001", "79250000002"], "x")
    producer.suppressions.remove("79250000002")
    producer.enqueue(text_job(priority="low"))
    look = take_look(producer.redis, producer.settings.namespace)
    samples = {(s.name, *s.labels.values()): s.value for f in families(look) for s in f.samples}
    assert samples["courier_suppressions_total", "added"] == 2
    assert samples["courier_suppressions_total", "removed"] == 1
    assert samples["courier_suppressions_total", "blocked"] == 0
    assert samples["courier_messages_total", "rejected", "suppressed"] == 1
    assert samples["courier_suppressed_total",] == 1
    labels = str([f.samples for f in families(look)])
    assert "7925" not in labels and NumberHash(KEY).of("79250000001") not in labels
