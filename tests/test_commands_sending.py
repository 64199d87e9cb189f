"""``courier send`` and ``courier bulk``: what is stored, what is refused, what a repeat does."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from tests.conftest import Courier, common_job, free_port, iso_in, text_job, wait_for
from viber_courier import Producer
from viber_courier.ops.redis_server import RedisServer
from viber_courier.store.keys import Keys

CASES = Path(__file__).parent / "cases"
COMMON = common_job(priority="low", sendAt=iso_in(86400))


@pytest.fixture
def producer(courier: Courier) -> Iterator[Producer]:
    made = Producer.from_env(courier.env)
    yield made
    made.close()


@pytest.fixture
def common(tmp_path: Path) -> str:
    path = tmp_path / "common.json"
    path.write_text(json.dumps(COMMON))
    return str(path)


def waiting(producer: Producer) -> list[str]:
    """The ids in all lanes."""
    keys = Keys(producer.settings.namespace)
    return [id for lane in keys.lanes for id in producer.redis.zrange(lane, 0, -1)]


def jobs(courier: Courier, producer: Producer) -> list[Any]:
    """What waits, as asked for."""
    found = [courier.json("show", "--reveal", id) for id in waiting(producer)]
    return [each["job"] for each in found]


def test_send_stores_what_its_options_say(courier: Courier) -> None:
    # Given
    options = ["--to", "+79250000001", "--subject", "Shop", "--priority", "high", "--id", "a:1"]
    options += ["--text", "Заказ", "--caption", "Где?", "--action", "https://shop.example/1"]
    options += ["--ttl", "60", "--metadata", "order=7", "--metadata", "note=a=b"]
    # When
    sent = courier("send", *options)
    # Then its id is all of stdout, and the message is as asked
    assert sent.stdout == "a:1\n"
    seen = courier.json("show", "a:1", "--reveal")
    button = {"text": "Заказ", "caption": "Где?", "action": "https://shop.example/1"}
    assert seen["job"] == {
        **{"subject": "Shop", "priority": "high", "contentType": "button", "content": button},
        "address": "79250000001",
    }
    assert (seen["metadata"], seen["lane"]) == ({"order": "7", "note": "a=b"}, "high")


@pytest.mark.parametrize("content", [["--image", "https://shop.example/i"], ["--text", "t"]])
def test_send_finds_the_content_type(courier: Courier, content: list[str]) -> None:
    rest = ("--to", "79250000001", "--subject", "Shop", "--priority", "low", "--id", "a")
    courier("send", *rest, *content)
    job = courier.json("show", "a", "--reveal")["job"]
    assert job["contentType"] == content[0].removeprefix("--")


def test_send_reads_json_and_a_repeat_is_the_same_message(
    courier: Courier, producer: Producer
) -> None:
    job = json.dumps(text_job(id="order-1"))
    assert courier.json("send", input=job) == {"id": "order-1"}
    assert courier("send", input=job).stdout == "order-1\n"
    assert waiting(producer) == ["order-1"]
    # Another job under that id is refused
    refused = courier("send", input=json.dumps(text_job("79250000002", id="order-1")), code=1)
    assert "accepted before" in refused.stderr and refused.stdout == ""


def test_a_wrong_job_is_refused_by_field_without_its_values(courier: Courier) -> None:
    wrong = courier("send", "--to", "00792500", "--subject", "Too long a subject", code=1)
    assert "address must be" in wrong.stderr and "priority is required" in wrong.stderr
    assert "00792500" not in wrong.output and wrong.stdout == ""
    assert "is not JSON" in courier("send", input="{", code=1).stderr
    assert "must be an object" in courier("send", input="[]", code=1).stderr.replace("the job", "")


def test_redis_and_settings_that_fail_are_one_line(courier: Courier, tmp_path: Path) -> None:
    job = json.dumps(text_job())
    place = f"127.0.0.1:{free_port()}"
    away = courier("send", input=job, code=3, COURIER_REDIS_URL=f"redis://:hidden@{place}/0")
    said = f"Error: Redis can't be used now ({place}): ConnectionError: Connection r"
    assert away.stderr.startswith(said)
    assert away.stderr.count("\n") == 1 and "hidden" not in away.output
    wrong = courier("send", input=job, code=2, COURIER_REDIS_URL="http://hidden", COURIER_LEASE="x")
    assert "COURIER_REDIS_URL must be" in wrong.stderr and "COURIER_LEASE must be" in wrong.stderr
    assert "hidden" not in wrong.output
    full = courier("send", input=job, code=0, COURIER_MAX_QUEUED="1")
    full = courier("send", input=job, code=3, COURIER_MAX_QUEUED="1")
    assert "the queue is full" in full.stderr


def test_a_send_that_may_be_stored_can_be_repeated(courier: Courier, producer: Producer) -> None:
    options = (
        "send",
        "--to",
        "79250000001",
        "--subject",
        "Shop",
        "--text",
        "x",
        "--priority",
        "high",
    )
    said = courier(*options, code=3, COURIER_REPLICAS="1").stderr
    assert "not safe yet" in said
    (id,) = re.findall("repeat with the id (\\S+),", said)
    courier(*options, "--id", id)
    assert waiting(producer) == [id]


def test_send_stores_though_the_broker_is_away(courier: Courier, producer: Producer) -> None:
    broker = f"redis://127.0.0.1:{free_port()}/0"
    courier("send", input=json.dumps(text_job(id="a")), COURIER_BROKER_URL=broker)
    assert waiting(producer) == ["a"]


def test_bulk_stores_each_row_and_writes_the_refused_ones_with_the_reason(
    courier: Courier, producer: Producer, common: str, tmp_path: Path
) -> None:
    # Given a file as Excel writes it: BOM, semicolons, line breaks in quotes, rows of nothing
    file = tmp_path / "list.csv"
    lines = ["address;content.text;metadata.order;ttlSec", '79250000001;"Привет,\nмир";1;60', ""]
    lines += [";;;", "79250000002;;2;", "12;x;3;60", "79250000003;y", "79250000004;z;4;soon"]
    file.write_text("\r\n".join(lines), encoding="utf-8-sig", newline="")
    # When
    told = courier.json("bulk", str(file), "--common", common, code=1)
    # Then good rows are stored: an empty cell, or one that isn't there, is the common part's
    refused = Path(told["refusedFile"])
    counts = {"stored": 3, "storedBefore": 0, "repeated": 0, "refused": 2}
    assert {name: told[name] for name in counts} == counts
    assert refused == Path(f"{file}.refused.csv") and sum(told["reasons"].values()) == 2
    texts = {job["address"]: job["content"]["text"] for job in jobs(courier, producer)}
    common_text = COMMON["content"]["text"]
    assert texts == dict(
        zip((f"7925000000{n}" for n in (1, 2, 3)), ("Привет,\nмир", common_text, "y"), strict=True)
    )
    # And the others are in a file of the same form, for their owner only
    rows = refused.read_bytes().decode("utf-8-sig").split("\r\n")
    assert rows[0] == "address;content.text;metadata.order;ttlSec;reason"
    assert rows[1].startswith("12;x;3;60;address is not a number")
    assert rows[2].startswith("79250000004;z;4;soon;ttlSec must be a whole number")
    assert refused.stat().st_mode & 0o777 == 0o600
    # Given back as it is, it is refused as before; mended, it is stored
    again = courier.json("bulk", str(refused), "--common", common, code=1)
    assert again["refused"] == 2
    assert Path(again["refusedFile"]).read_bytes() == refused.read_bytes()
    refused.write_bytes(refused.read_bytes().replace(b"soon", b"60"))
    assert courier.json("bulk", str(refused), "--common", common, code=1)["stored"] == 1
    # And once more changes nothing
    again = courier.json("bulk", str(file), "--common", common, code=1)
    assert (again["stored"], again["storedBefore"], len(waiting(producer))) == (0, 3, 4)


def test_bulk_again_sends_nobody_twice_however_the_file_was_edited(
    courier: Courier, producer: Producer, common: str, tmp_path: Path
) -> None:
    # Given a file with one number twice, that is to be two messages
    file = tmp_path / "list.csv"
    file.write_text("address\n79250000001\n79250000002\n+79250000001\n")
    assert courier.json("bulk", str(file), "--common", common, "--repeat")["stored"] == 3
    # When rows were moved, added and dropped, and the file has another name
    file = file.rename(tmp_path / "other.csv")
    file.write_text("address\n79250000003\n79250000002\n79250000001\n")
    told = courier.json("bulk", str(file), "--common", common)
    # Then only what is new is stored
    assert (told["stored"], told["storedBefore"], told["refused"]) == (1, 2, 0)
    # When a row's text was edited
    file.write_text("address,content.text\n79250000003,Another\n79250000004,New\n")
    told = courier.json("bulk", str(file), "--common", common, code=1)
    # Then nobody gets both
    assert (told["stored"], told["refused"]) == (1, 1)
    assert "another message in this campaign" in Path(told["refusedFile"]).read_text("utf-8-sig")
    assert len(waiting(producer)) == 5
    # But another campaign is another message; and nothing is left of the earlier refused rows
    told = courier.json("bulk", str(file), "--common", common, "--campaign", "second")
    assert told["stored"] == 2 and not list(tmp_path.glob("*.refused.csv"))
    said = courier("bulk", str(file), "--common", common, "--campaign", "second").stdout
    assert "This campaign has nothing new" in said


def test_bulk_takes_ids_of_the_app_s_own(
    courier: Courier, producer: Producer, common: str, tmp_path: Path
) -> None:
    file = tmp_path / "list.csv"
    file.write_text("id,address\na,79250000001\n,79250000001\na,79250000001\na,79250000002\n")
    told = courier.json("bulk", str(file), "--common", common, code=1)
    assert (told["stored"], told["repeated"], told["refused"]) == (1, 2, 1)
    assert told["reasons"] == {"id belongs to another message": 1}
    told = courier.json("bulk", str(file), "--common", common, "--repeat", code=1)
    assert (told["stored"], told["storedBefore"], told["refused"]) == (1, 1, 1)
    assert "a" in waiting(producer) and len(waiting(producer)) == 2


def test_bulk_dry_run_counts_ids_that_come_twice_as_the_add_does(
    courier: Courier, producer: Producer, common: str, tmp_path: Path
) -> None:
    file = tmp_path / "list.csv"
    file.write_text(
        "id,address\na,79250000001\na,79250000002\na,79250000001\nb,79250000002\n,79250000003\n"
    )
    tried = courier.json("bulk", str(file), "--common", common, "--dry-run", code=1)
    told = courier.json("bulk", str(file), "--common", common, code=1)
    assert tried["messages"] == told["stored"] == len(waiting(producer)) == 3
    assert tried["repeated"] == told["repeated"] == 1
    assert tried["reasons"] == told["reasons"] == {"id belongs to another message": 1}


def test_bulk_takes_no_refused_rows_of_repeated_numbers_for_those_that_are_stored(
    courier: Courier, producer: Producer, common: str, tmp_path: Path
) -> None:
    # Given a number with two rows, the second of them refused
    file = tmp_path / "list.csv"
    file.write_text("address,ttlSec\n79250000001,60\n79250000001,soon\n")
    told = courier.json("bulk", str(file), "--common", common, "--repeat", code=1)
    refused = Path(told["refusedFile"])
    refused.write_text(refused.read_text().replace("soon", "60"))
    # When it is mended without the first, then the second isn't taken for the first
    words = ("--common", common, "--repeat")
    for more in (["--dry-run"], []):
        said = courier("bulk", str(refused), *words, *more, code=2).stderr
        assert "nothing was stored" in said and "give the whole list again" in said
    # And in the whole list it is sent
    file.write_text(file.read_text().replace("soon", "60"))
    told = courier.json("bulk", str(file), *words)
    assert (told["stored"], told["storedBefore"], len(waiting(producer))) == (1, 1, 2)


def test_bulk_again_with_mended_rows_of_repeated_numbers_sends_nothing_twice(
    courier: Courier, producer: Producer, common: str, tmp_path: Path
) -> None:
    # Given a number's first row with a spreadsheet's error, and its second one, which is stored
    file = tmp_path / "list.csv"
    file.write_text("address,content.text\n79250000001,#N/A\n79250000001,B\n")
    words = ("bulk", str(file), "--common", common, "--repeat")
    assert courier.json(*words, code=1)["stored"] == 1
    # When the first is mended
    file.write_text(file.read_text().replace("#N/A", "A"))
    told = courier.json(*words)
    # Then it is sent, and the second not again
    assert (told["stored"], told["storedBefore"]) == (1, 1)
    texts = sorted(job["content"]["text"] for job in jobs(courier, producer))
    assert texts == ["A", "B"]
    # When a row whose number was wrong is mended, and put below the others of that number
    file.write_text(f"{file.read_text()}7925,C\n79250000002,D\n")
    assert courier.json(*words, code=1)["stored"] == 1
    file.write_text(file.read_text().replace("7925,C\n", "") + "79250000001,C\n")
    told = courier.json(*words)
    assert (told["stored"], told["storedBefore"]) == (1, 3)


def test_bulk_writes_reasons_that_the_lists_encoding_lacks(
    courier: Courier, producer: Producer, tmp_path: Path
) -> None:
    # Given a Western list, and a text with a column whose name is Cyrillic
    file, shared = tmp_path / "list.csv", tmp_path / "common.json"
    file.write_text("address;Name\n79250000001;José\n79250000002;André\n", encoding="cp1252")
    shared.write_text(json.dumps({**COMMON, "content": {"text": "{Имя}{Name}"}}))
    words = ("bulk", str(file), "--common", str(shared), "--template")
    # When it is added, then the refused rows are there, and what the command says is true
    told = courier.json(*words, code=1)
    assert (told["stored"], told["refused"]) == (0, 2)
    lines = Path(told["refusedFile"]).read_text("cp1252").splitlines()
    assert lines[2].startswith("79250000002;André;content.text has no value for {\\u0418")


def test_bulk_replaces_no_list_by_refused_rows(
    courier: Courier, common: str, tmp_path: Path
) -> None:
    # Given rows of an earlier run, whose place was taken since
    file, later = tmp_path / "list.refused.csv.old", tmp_path / "list.refused.csv"
    file.write_text("address\n79250000001\n12\n")
    later.write_text("address\n13\n")
    for more in (["--dry-run"], []):
        words = ("bulk", str(file), "--common", common, "--refused", str(later), *more)
        assert "must be another file than FILE" in courier(*words, code=2).stderr
    assert file.read_text() == "address\n79250000001\n12\n" and later.exists()


def test_bulk_sends_to_a_number_once_however_it_is_spelled(
    courier: Courier, producer: Producer, common: str, tmp_path: Path
) -> None:
    # Given a list that has one number three times, and told so
    said = courier("bulk", str(CASES / "duplicates.csv"), "--common", common)
    assert "1 message stored" in said.stdout
    assert "2 rows repeat an earlier row's number: left out (--repeat" in said.stderr
    assert "lines 3, 4" in said.stderr and "79250000001" not in said.output
    # When it comes again in a workbook, spelled otherwise and edited
    book = openpyxl.Workbook()
    for row in (["address", "metadata.row"], ["8 (925) 000-00-02"], [89250000001, 1], [None, "x"]):
        book.active.append(row)
    book.save(tmp_path / "list.xlsx")
    words = ("bulk", str(tmp_path / "list.xlsx"), "--common", common, "--country", "RU")
    told = courier.json(*words, code=1)
    # Then who has the message doesn't get it again
    assert (told["stored"], told["storedBefore"], told["refused"]) == (1, 1, 1)
    # With --repeat, all rows are sent, the first of them before
    told = courier.json("bulk", str(CASES / "duplicates.csv"), "--common", common, "--repeat")
    assert (told["stored"], told["storedBefore"], told["repeated"]) == (2, 1, 0)
    # A number's second row is sent where its first is refused
    file = tmp_path / "list.csv"
    file.write_text("address,ttlSec\n79250000009,soon\n+7 925 000-00-09,60\n79250000009,60\n")
    told = courier.json("bulk", str(file), "--common", common, code=1)
    assert (told["stored"], told["repeated"], told["refused"]) == (1, 1, 1)


def test_bulk_dry_run_shows_what_would_be_sent_and_needs_no_redis(
    courier: Courier, common: str, tmp_path: Path
) -> None:
    # Given a list with a neighbour's number, a wrong one and one that comes twice
    file = tmp_path / "list.csv"
    lines = [f"7925000000{n};{n}" for n in range(9)] + ["+923001234567;9", "7,925E+10;x"]
    file.write_text("address;metadata.n\n" + "\n".join([*lines, "8 925 000-00-01;y", "1;z"]))
    courier.env["COURIER_REDIS_URL"] = f"redis://127.0.0.1:{free_port()}/0"
    words = ("bulk", str(file), "--common", common, "--country", "ru", "--dry-run")
    # When it is tried
    told = courier.json(*words, code=1)
    # Then it is counted, the first messages are whole, and nothing is written
    counts = {"rows": 13, "messages": 10, "repeated": 1, "refused": 2, "landlines": 0}
    assert {name: told[name] for name in counts} == counts
    assert told["countries"] == {"RU": 9, "PK": 1} and len(told["reasons"]) == 2
    assert told["first"][0] == {**COMMON, "address": "7925***00", "metadata": {"n": "0"}}
    assert len(told["first"]) == 3 and not list(tmp_path.glob("*.refused.csv"))
    # but the refused rows, if it is told where
    kept = tmp_path / "mend.csv"
    assert courier.json(*words, "--refused", str(kept), code=1)["refusedFile"] == str(kept)
    rows = [line.split(";")[:2] for line in kept.read_text().splitlines()]
    assert rows == [["address", "metadata.n"], ["7,925E+10", "x"], ["1", "z"]]
    assert str(kept) in "".join(courier(*words, "--refused", str(kept), code=1).stdout.split())
    said = courier(*words, code=1, COLUMNS="80").stdout
    assert "1 of 10 numbers is in Pakistan" in said and "9  Russia" in said
    assert "Excel has cut this number's digits" in said and "Message 3 of 10" in said
    assert max(map(len, said.splitlines())) <= 80


def test_bulk_renders_a_template_s_columns(
    courier: Courier, producer: Producer, tmp_path: Path
) -> None:
    # Given a list with columns of its own names, more of them than fields
    file, shared = tmp_path / "list.csv", tmp_path / "common.json"
    file.write_text(
        "Телефон;Имя;Город;Бонус\n79250000001;Анна;Омск;5\n79250000002;;Тверь;6\n"
        "79250000003;Иван;Тверь;7\n",
        encoding="cp1251",
    )
    texts = {
        "text": "{Имя}, скидка {{5 %}}",
        "caption": "{Бонус}",
        "action": "https://a.test/{Город}",
    }
    common = {**COMMON, "contentType": "button", "content": texts}
    shared.write_text(json.dumps(common), encoding="utf-8")
    words = ["bulk", str(file), "--common", str(shared), "--map", "Телефон=address"]
    # When it is tried without --template, then with it
    assert "'Имя' is not a field of a job" in courier(*words, "--dry-run", code=2).stderr
    words.append("--template")
    tried = courier.json(*words, "--dry-run", code=1)
    told = courier.json(*words, code=1)
    # Then a dry run shows what is sent, and a row without a name is refused
    sent = [
        {"text": f"{name}, скидка {{5 %}}", "caption": bonus, "action": f"https://a.test/{city}"}
        for name, bonus, city in (
            ("Анна", "5", "%D0%9E%D0%BC%D1%81%D0%BA"),
            ("Иван", "7", "%D0%A2%D0%B2%D0%B5%D1%80%D1%8C"),
        )
    ]
    assert [each["content"] for each in tried["first"]] == sent
    assert sorted((job["content"] for job in jobs(courier, producer)), key=str) == sorted(
        sent, key=str
    )
    reasons = {"content.text has no value for {Имя}": 1}
    assert tried["reasons"] == told["reasons"] == reasons and told["stored"] == 2
    assert courier.json(*words, code=1)["storedBefore"] == 2
    # And a common part that is no template is refused before anything is stored
    shared.write_text(json.dumps({**common, "subject": "{a.b}"}), encoding="utf-8")
    for more in (["--dry-run"], []):
        assert "common.subject has a brace" in courier(*words, *more, code=2).stderr


def test_bulk_takes_sending_hours_from_columns_and_from_a_template(
    courier: Courier, producer: Producer, tmp_path: Path
) -> None:
    file, shared = tmp_path / "list.csv", tmp_path / "common.json"
    hours = {"from": "00:00", "to": "24:00", "zone": "{zone}"}
    shared.write_text(json.dumps({**COMMON, "sendWindow": hours}), encoding="utf-8")
    file.write_text("address,zone\n79250000001,Asia/Omsk\n79250000002,Mars\n")
    told = courier.json("bulk", str(file), "--common", str(shared), "--template", code=1)
    assert [reason[:36] for reason in told["reasons"]] == ["sendWindow.zone is no time zone here"]
    names = ("from", "to", "zone")
    columns = ",".join(f"sendWindow.{name}" for name in names)
    file.write_text(f"address,{columns}\n79250000003,00:00,24:00,UTC\n79250000004,,,UTC\n")
    shared.write_text(json.dumps(COMMON), encoding="utf-8")
    told = courier.json("bulk", str(file), "--common", str(shared), code=1)
    (reason,) = told["reasons"]
    assert "sendWindow.from is required" in reason and told["stored"] == 1
    keys: Any = producer.redis.keys(f"{{{producer.settings.namespace}}}:m:*")
    found = {producer.redis.hget(key, "window") for key in keys}
    assert found == {"0 1440 127 Asia/Omsk", "0 1440 127 UTC"}


def test_bulk_wants_a_country_and_a_delimiter_that_exist(courier: Courier, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("address\n79250000001\n")
    for option, words in (
        (("--country", "Russia"), "two letters, such as RU"),
        (("--delimiter", ";;"), "must be one character"),
        (("--map", "Name"), "must be COLUMN=FIELD"),
    ):
        file = str(tmp_path / "list.csv")
        assert words in courier("bulk", file, "--campaign", "a", *option, code=2).stderr


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        ("address,content.text\n79250000001,Я\n".encode("cp1251"), [], "name it with --encoding"),
        ("address\n79250000001,Я\n".encode(), ["--encoding", "cp1251"], "is utf-8, not cp1251"),
        (b"%PDF-1.4\n79250000001", [], "a PDF"),
        (b"address,adress\n", [], "column 'adress' is not a field"),
        (b"79250000001,x\n", [], "no column is a field of a job"),
        (b"address,address\n", [], "there are two columns"),
        (b"subject\n", [], "no column 'address'"),
        (b"", [], "the file is empty"),
        (b'address,comment\n79250000001,"x\n79250000002,y\n', [], "begins on line 2 can't be read"),
        (b"address\n", ["--encoding", "klingon"], "no such encoding"),
        (b"address\n", ["--common", "/dev/null"], "is not JSON"),
        (b"address\n79250000001\n", ["--wait", "soon"], "must look like 90"),
        (b"address\n79250000001\n", ["--refused", "list.csv"], "must be another file"),
    ],
)
def test_bulk_stores_nothing_of_a_file_that_cannot_be_read_whole(
    courier: Courier,
    producer: Producer,
    common: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    options: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list.csv").write_bytes(content)
    wrong = courier("bulk", "list.csv", "--common", common, *options, code=2)
    assert words in wrong.stderr and "79250000001" not in wrong.output and wrong.stdout == ""
    assert waiting(producer) == []


def test_bulk_checks_the_common_part_first(
    courier: Courier, producer: Producer, tmp_path: Path
) -> None:
    (tmp_path / "list.csv").write_text("address\n79250000001\n")
    (tmp_path / "common.json").write_text('{"subject": "Too long a subject", "address": "1"}')
    file, common = str(tmp_path / "list.csv"), str(tmp_path / "common.json")
    assert (
        "common.address belongs to a row"
        in courier("bulk", file, "--common", common, code=2).stderr
    )
    assert "must name the --campaign" in courier("bulk", file, code=2).stderr
    assert waiting(producer) == []


@pytest.mark.parametrize("encoding", ["cp1251", "utf-16"])
def test_bulk_reads_other_encodings_and_names_of_columns(
    courier: Courier, producer: Producer, common: str, tmp_path: Path, encoding: str
) -> None:
    file = tmp_path / "list.csv"
    file.write_text("Phone\tТекст\tName\n79250000001\tПривет\tИван\n", encoding=encoding)
    columns = ["--map", "Phone=address", "--map", "Текст=content.text", "--map", "Name=-"]
    courier("bulk", str(file), "--common", common, "--encoding", encoding, *columns)
    assert [job["content"]["text"] for job in jobs(courier, producer)] == ["Привет"]
    # And a column that isn't there is named
    wrong = ("--encoding", encoding, *columns, "--map", "Fone=id")
    assert "'Fone'" in courier("bulk", str(file), "--common", common, *wrong, code=2).stderr


def test_bulk_waits_while_the_queue_is_full_and_goes_on(
    courier: Courier, producer: Producer, common: str, tmp_path: Path
) -> None:
    # Given room for two
    file = tmp_path / "list.csv"
    file.write_text("address\n" + "".join(f"7925000000{n}\n" for n in range(6)))
    courier.env["COURIER_MAX_QUEUED"] = "2"
    # When nothing leaves: it stops, and says what is stored
    stopped = courier("bulk", str(file), "--common", common, "--wait", "0.6s", code=3)
    assert "Start the same command again" in stopped.stderr and "queue is full" in stopped.stderr
    assert len(waiting(producer)) == 2
    # When what waits leaves, again and again
    gone, over = set[str](), threading.Event()

    def leave() -> None:
        while not over.wait(0.05):
            for id in waiting(producer):
                gone.add(id)
                producer.cancel(id)

    leaving = threading.Thread(target=leave)
    leaving.start()
    told = courier.json("bulk", str(file), "--common", common)
    over.set()
    leaving.join()
    # Then all are stored, each once
    assert told["stored"] + told["storedBefore"] == 6 == len(gone | set(waiting(producer)))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_bulk_interrupted_and_started_again_sends_nobody_twice(
    courier: Courier, producer: Producer, common: str, tmp_path: Path, number: signal.Signals
) -> None:
    # Given a campaign that is interrupted in its midst
    file = tmp_path / "list.csv"
    file.write_text("address\n" + "".join(f"7925{n:07}\n" for n in range(12_000)))
    run = courier.start("bulk", str(file), "--common", common)
    keys = Keys(producer.settings.namespace)
    wait_for(lambda: sum(map(producer.redis.zcard, keys.lanes)))  # type: ignore[arg-type]
    os.kill(run.pid, number)
    out, err = run.communicate(timeout=20)
    first = len(waiting(producer))
    assert 0 < first < 12_000 and out == ""
    if number == signal.SIGINT:
        assert run.returncode == 130
        assert "Start the same command again" in err and "Traceback" not in err
    # When it is started again
    told = courier.json("bulk", str(file), "--common", common)
    # Then it goes on where it was
    assert (told["stored"], told["storedBefore"]) == (12_000 - first, first)
    assert len(set(waiting(producer))) == len(waiting(producer)) == 12_000


def test_bulk_waits_for_a_redis_that_comes_back(
    courier: Courier, common: str, tmp_path: Path
) -> None:
    server = RedisServer(tmp_path, free_port())
    file = tmp_path / "list.csv"
    file.write_text("address\n79250000001\n")
    courier.env["COURIER_REDIS_URL"] = server.url
    run = courier.start("bulk", str(file), "--common", common, "--json")
    try:
        assert run.stderr is not None
        assert run.stderr.readline().startswith("Waiting up to 600 s: Redis can't be used now")
        server.start()
        out, _ = run.communicate(timeout=20)
        assert run.returncode == 0 and json.loads(out)["stored"] == 1
    finally:
        run.kill()
        server.stop()


def test_bulk_keeps_its_hands_off_other_files(
    courier: Courier, common: str, tmp_path: Path
) -> None:
    file, mended = tmp_path / "list.csv", tmp_path / "list.csv.refused.csv"
    file.write_text("address\n79250000001\n12\n")
    # Nothing is stored if no refused row could be written
    for place, words in [
        (str(file), "another file than FILE"),
        (common, "another file than FILE and --common"),
        ("/dev/null", "must be a regular file"),
        (str(tmp_path / "none" / "list.csv"), "nothing was stored: no file of refused rows"),
    ]:
        said = courier("bulk", str(file), "--common", common, "--refused", place, code=2)
        assert words in said.stderr
    said = courier("bulk", str(file), "--common", str(tmp_path / "none"), code=2)
    assert "can't be read: No such file" in said.stderr
    # Rows that were mended are still there when the list itself is given again
    mended.write_text("address\n79250000002\n")
    assert courier.json("bulk", str(file), "--common", common, code=1)["stored"] == 1
    assert Path(f"{mended}.old").read_text() == "address\n79250000002\n"
    assert "12" in mended.read_text()
    file.write_text("address\n79250000001\n")
    courier("bulk", str(file), "--common", common)
    assert not mended.exists()
