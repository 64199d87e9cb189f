"""``courier campaign``, and ``courier bulk`` into a campaign."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from tests.conftest import Clock, Courier, common_job, iso_in
from tests.workshop import Workshop
from viber_courier import Producer
from viber_courier.worker.outcome import Refused


@pytest.fixture
def shop(courier: Courier, clock: Clock) -> Iterator[Workshop]:
    producer = Producer.from_env(courier.env)
    yield Workshop(producer.redis, producer.settings, clock)
    producer.close()


@pytest.fixture
def stored(courier: Courier, tmp_path: Path) -> Any:
    """A campaign of three of four rows."""
    file, common = tmp_path / "list.csv", tmp_path / "common.json"
    file.write_text("address\n79250000001\nnobody\n79250000002\n79250000003\n")
    common.write_text(json.dumps(common_job(priority="low")))
    given = ("bulk", str(file), "--common", str(common), "--campaign", "nov-sale")
    return courier.json(*given, code=1)


def test_a_list_becomes_a_campaign_whose_report_names_its_lines(
    courier: Courier, shop: Workshop, stored: Any, tmp_path: Path
) -> None:
    assert stored["stored"] == 3
    assert "nov-sale  running" in courier("campaign", "list").stdout
    shop.answer(Refused("error-address-unknown"))
    found = courier.json("campaign", "show", "nov-sale")
    assert (found["state"], found["added"], found["ended"]) == ("ended", 3, 3)
    assert courier.json("campaign", "list") == [found]
    report = tmp_path / "report.csv"
    said = courier("campaign", "report", "nov-sale", "--csv", str(report)).stdout
    assert "rejected:error-address-unknown" in said
    with report.open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [row["row"] for row in rows] == ["2", "4", "5"]
    assert {(row["status"], row["reason"]) for row in rows} == {
        ("rejected", "error-address-unknown")
    }
    assert all(row["ended"] and row["id"] for row in rows)
    assert "7925" not in report.read_text() + said
    assert courier("campaign", "report", "nov-sale", "--csv", "-").stdout.count("\n") == 4


def test_no_time_is_promised_of_what_waits_for_later(
    courier: Courier, shop: Workshop, tmp_path: Path
) -> None:
    rows = [{"address": f"7925{n:07}"} for n in range(4)]
    shop.producer.campaign("nov-sale", common=common_job(priority="low")).add(rows[:1])
    later = common_job(priority="low", sendAt=iso_in(86_400))
    shop.producer.campaign("nov-sale", common=later).add(rows[1:])
    found = courier.json("campaign", "show", "nov-sale")
    assert (found["waiting"], found["later"], found["secondsLeft"]) == (4, 3, None)
    assert courier("campaign", "list").stdout.split()[-1] == "later"


def test_a_report_of_lists_says_what_became_of_each_person(
    courier: Courier, shop: Workshop, tmp_path: Path
) -> None:
    """Lines of two lists have the same numbers, so the report's row alone would name two people."""
    first, mended = tmp_path / "list.csv", tmp_path / "mended.csv"
    common, report = tmp_path / "common.json", tmp_path / "report.csv"
    common.write_text(json.dumps(common_job(priority="low", content={"text": "{Имя}"})))
    head = "Имя;Телефон;Город\n"
    rows = ("Анна;8 925 000-00-01;Омск", "Борис;8 925 000;Уфа", ";89250000003;", "А;79250000001;")
    first.write_text(head + "\n".join(rows), "cp1251")
    mended.write_text(head + "Борис;8 925 000-00-02;Уфа\nВера;8 925 000-00-03;\n", "cp1251")
    how = ("--map", "Телефон=address", "--country", "ru")
    given = (*how, "--template", "--common", str(common), "--campaign", "nov-sale")
    courier("bulk", str(first), *given, code=1)
    shop.answer(Refused("error-address-unknown"))
    courier("bulk", str(mended), *given)

    def ends(file: Path) -> list[dict[str, str]]:
        courier("campaign", "report", "nov-sale", "--list", str(file), "--csv", str(report), *how)
        with report.open(newline="", encoding="cp1251") as written:
            return [*csv.DictReader(written, delimiter=";")]

    found = ends(first)
    assert [row["Имя"] for row in found] == ["Анна", "Борис", "", "А"]
    assert [row["status"] for row in found] == ["rejected", "refused", "queued", "repeated"]
    assert found[0]["reason"] == "error-address-unknown" and found[0]["ended"]
    assert found[0]["Город"] == "Омск"
    assert [row["status"] for row in ends(mended)] == ["queued", "queued"]
    assert report.stat().st_mode & 0o077 == 0
    old = ("campaign", "report", "nov-sale", "--list", str(first))
    assert "--list needs --csv" in courier(*old, code=2).stderr
    assert "another file" in courier(*old, "--csv", str(first), *how, code=2).stderr
    # Nor is a list replaced by an earlier report
    kept = first.rename(tmp_path / "report.csv.old")
    old = ("campaign", "report", "nov-sale", "--list", str(kept))
    assert "another file" in courier(*old, "--csv", str(report), *how, code=2).stderr
    assert kept.read_text("cp1251").startswith(head)


def test_a_report_of_a_list_gives_nobody_the_end_of_another_persons_message(
    courier: Courier, shop: Workshop, tmp_path: Path
) -> None:
    file, common, report = (tmp_path / name for name in ("list.csv", "common.json", "report.csv"))
    common.write_text(json.dumps(common_job(priority="low")))
    file.write_text("id,address\na,79250000001\na,79250000002\nb,79250000001\n")
    words = ("--common", str(common), "--campaign", "nov-sale")
    courier("bulk", str(file), *words, code=1)
    shop.answer(Refused("error-address-unknown"))
    courier("campaign", "report", "nov-sale", "--list", str(file), "--csv", str(report))
    with report.open(newline="") as written:
        found = [(row["status"], row["reason"]) for row in csv.DictReader(written)]
    assert found == [
        ("rejected", "error-address-unknown"),
        ("refused", "id belongs to another message"),
        ("repeated", "an earlier row has this number"),
    ]


def test_a_report_of_a_list_follows_a_letter_that_was_sent_again(
    courier: Courier, shop: Workshop, stored: Any, tmp_path: Path
) -> None:
    shop.answer(Refused("error-address-unknown"))
    assert len(courier.json("dead", "resend", "--all")["resent"]) == 3
    report = tmp_path / "report.csv"
    words = ("--list", str(tmp_path / "list.csv"), "--csv", str(report))
    courier("campaign", "report", "nov-sale", *words)
    with report.open(newline="") as file:
        statuses = [row["status"] for row in csv.DictReader(file)]
    assert statuses == ["queued", "refused", "queued", "queued"]


def test_paused_resumed_and_cancelled(courier: Courier, shop: Workshop, stored: Any) -> None:
    said = courier("campaign", "pause", "nov-sale", "wrong price").stdout
    assert "paused" in said and "wrong price" in said
    assert shop.store.claim("low", answered=True) is None
    id = next(row.id for row in shop.producer.campaign("nov-sale").report())
    held = courier.json("show", id)
    assert (held["lane"], held["campaign"]) == ("low", "nov-sale")
    assert held["heldBy"] == ["campaign nov-sale is paused: wrong price"]
    assert courier.json("campaign", "resume", "nov-sale")["state"] == "running"
    found = courier.json("campaign", "cancel", "nov-sale")
    assert (found["state"], found["statuses"]) == ("cancelled", {"cancelled": 3})
    assert "was cancelled" in courier("campaign", "resume", "nov-sale", code=1).stderr


def test_a_cancelled_campaign_takes_no_list(courier: Courier, stored: Any, tmp_path: Path) -> None:
    courier("campaign", "cancel", "nov-sale")
    file = str(tmp_path / "list.csv")
    given = ("bulk", file, "--common", str(tmp_path / "common.json"), "--campaign", "nov-sale")
    assert "campaign 'nov-sale' was cancelled" in courier(*given, code=2).stderr


@pytest.mark.slow
def test_a_person_is_asked_before_a_campaign_is_cancelled(courier: Courier, stored: Any) -> None:
    words = ("campaign", "cancel", "nov-sale")
    for answer in ("", "n", "later"):
        code, said, asked = courier.type(answer, *words)
        assert (code, said) == (1, "")
        assert asked.startswith("End 3 waiting messages of campaign nov-sale for good? [y/N] ")
        assert "not confirmed: nothing was changed" in asked
    assert courier.json("campaign", "show", "nov-sale")["state"] == "running"
    code, said, _ = courier.type("y", *words, "--json")
    assert (code, json.loads(said)["state"]) == (0, "cancelled")
    assert courier.type("", *words, "--yes")[::2] == (0, "")


def test_a_name_with_a_typo_and_one_that_another_has_are_told(
    courier: Courier, stored: Any, tmp_path: Path
) -> None:
    assert "did you mean 'nov-sale'?" in courier("campaign", "show", "nov-sael", code=1).stderr
    file, common = str(tmp_path / "list.csv"), str(tmp_path / "common.json")
    bulk = ("bulk", file, "--common", common)
    for more in (["--dry-run"], []):
        notes = courier.json(*bulk, "--campaign", "nov-sale", *more, code=1)["notes"]
        assert any("'nov-sale' has 3 messages since" in each for each in notes)
        assert any("(running): this list is added to it" in each for each in notes)
        notes = courier.json(*bulk, *more, code=1)["notes"]
        assert any(each.startswith("no --campaign: nobody can watch") for each in notes)
    notes = courier.json(*bulk, "--campaign", "nov-sael", "--dry-run", code=1)["notes"]
    assert "campaign 'nov-sael' is new, and there is 'nov-sale': is the name right?" in notes
    notes = courier.json(*bulk, "--campaign", "spring", "--dry-run", code=1)["notes"]
    assert not any("campaign" in each for each in notes)
    courier("campaign", "cancel", "nov-sale")
    said = courier(*bulk, "--campaign", "nov-sale", "--dry-run", code=1).stdout
    assert "takes no more: use another --campaign NAME" in " ".join(said.split())
    assert "must be a phone number" in said and "(line 3)" in said


def test_a_sheet_s_percents_and_dates_are_told(courier: Courier, tmp_path: Path) -> None:
    """Excel shows 15 % and 30.11.2026; the text gets what the cell holds."""
    book, common = openpyxl.Workbook(), tmp_path / "common.json"
    assert book.active is not None
    book.active.append(["address", "Скидка", "Срок", "Родился", "Бонус"])
    day = datetime(2026, 11, 30)
    book.active.append(["79250000001", 0.15, day, day, 5])
    book.active["B2"].number_format = "0%"
    book.save(tmp_path / "list.xlsx")
    text = {"text": "{Скидка} до {Срок}, {Бонус}"}
    common.write_text(json.dumps(common_job(priority="low", content=text, smsText="{Скидка}")))
    words = ("bulk", str(tmp_path / "list.xlsx"), "--common", str(common), "--template")
    tried = courier.json(*words, "--campaign", "a", "--dry-run", "--sms-price", "4.5")
    assert tried["first"][0]["content"]["text"] == "0.15 до 2026-11-30, 5"
    assert any(
        each.startswith("column 'Скидка' and 'Срок': texts get 0.15") for each in tried["notes"]
    )
    said = courier(*words, "--campaign", "a", "--dry-run", "--sms-price", "4.5").stdout
    assert "They cost 4.50 at 4.5 a segment" in said


def test_a_campaign_nobody_knows(courier: Courier) -> None:
    for act in ("show", "pause", "resume", "cancel", "report"):
        said = courier("campaign", act, "typo", code=1).stderr
        assert "no campaign has this name" in said and "`courier campaign list`" in said
        assert "1 to 64 of A-Za-z0-9_.-" in courier("campaign", act, "a b", code=2).stderr
    assert courier.json("campaign", "list") == []


def test_the_campaign_of_common_and_of_the_command_line_can_t_differ(
    courier: Courier, tmp_path: Path
) -> None:
    file, common = tmp_path / "list.csv", tmp_path / "common.json"
    file.write_text("address\n79250000001\n")
    common.write_text(json.dumps(common_job(priority="low", campaign="autumn")))
    given = ("bulk", str(file), "--common", str(common))
    said = courier(*given, "--campaign", "winter", code=2).stderr
    assert "--campaign is 'winter', but the common part's campaign is 'autumn'" in said
    assert courier.json(*given)["stored"] == 1
    assert courier.json(*given, "--campaign", "autumn")["storedBefore"] == 1
    assert courier.json("campaign", "show", "autumn")["waiting"] == 1
    assert "1 to 64" in courier("bulk", str(file), "--campaign", "a b", code=2).stderr


def test_each_action_is_on_record(courier: Courier, stored: Any) -> None:
    for words in (
        ("pause", "nov-sale", "wrong price"),
        ("resume", "nov-sale"),
        ("cancel", "nov-sale"),
    ):
        courier("campaign", *words)
    said = courier("audit", "--json").stdout.splitlines()
    done = [(entry["what"], entry["on"], entry["how"]) for entry in map(json.loads, said)]
    assert sorted(done) == [
        ("cancel campaign", "nov-sale", ""),
        ("pause campaign", "nov-sale", "wrong price"),
        ("resume campaign", "nov-sale", ""),
    ]
