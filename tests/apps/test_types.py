"""What type checkers say of an app: nothing where it is right, something of each planted fault."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

RIGHT = """
from collections.abc import AsyncIterator, Iterable, Iterator
from viber_courier import AsyncProducer, Event, Job, Producer, Record, Row, Status, TextJob
from viber_courier.types import Common, EventData, ImageJob

producer = Producer.from_env()

id: str = producer.enqueue({
    "subject": "Shop", "priority": "high", "contentType": "text",
    "content": {"text": "Your code is 1234"}, "address": "79250000001",
    "ttlSec": 120, "metadata": {"order": 5, "paid": True, "note": None},
})

job: TextJob = {
    "subject": "Shop", "priority": "realtime", "contentType": "text",
    "content": {"text": "x"}, "address": "79250000001",
}
job["id"] = "order-1"
if id:
    job["sendAt"] = "2026-11-23T10:00:00+03:00"
    job["sendWindow"] = {"from": "09:00", "to": "21:00", "zone": "recipient", "days": ["mon"]}
producer.enqueue(job)

button: Job = {
    "subject": "Shop", "priority": "low", "contentType": "button", "address": "79250000001",
    "content": {"text": "x", "caption": "Buy", "action": "https://shop.example"},
    "resendSms": True, "smsText": "x", "onUnsure": "park",
}
image: ImageJob = {
    "subject": "Shop", "priority": "low", "contentType": "image", "address": "79250000001",
    "content": {"imageUrl": "https://shop.example/a.png"},
}
producer.enqueue_many([job, button, image])

def code(address: str, text: str) -> Job:
    return {
        "subject": "Shop", "priority": "high", "contentType": "text",
        "content": {"text": text}, "address": address,
    }

producer.enqueue_many(code(a, "x") for a in ("79250000001", "79250000002"))

common: Common = {"subject": "Shop", "priority": "low", "contentType": "text"}
common["content"] = {"text": "Sale"}
named = ({"address": phone, "name": "Anna"} for phone in ("79250000001",))
producer.enqueue_many(named, common, template=True)

def rows(people: Iterable[str]) -> Iterator[Row]:
    for number, person in enumerate(people):
        row: Row = {"address": person}
        if number % 2:
            row["content"] = {"text": "Sale, again"}
            row["metadata"] = None
        yield row

wrong: list[int] = []
producer.enqueue_many(rows(["79250000001"]), common=common)
producer.enqueue_many(
    [{"address": "79250000001", "id": "a"}],
    common={"subject": "Shop", "priority": "low", "contentType": "text", "content": {"text": "x"}},
    on_invalid=lambda number, row, error: wrong.append(number),
)
producer.enqueue_many(({"address": a} for a in ["79250000001"]), common=common)

def on_event(event: Event) -> tuple[str, int]:
    data: EventData = event.data
    if data["status"] == "read" and data["final"]:
        return data["messageId"], data["attempts"]
    for segment in data["sms"]:
        print(segment["state"], data["metadata"].get("order"), data.get("resendOf"))
    return event.subject, event.sequence

for event in producer.results("crm", "web-1"):
    on_event(event)
    event.ack()

record: Record | None = producer.get(id)
if record is not None and record.status is Status.DELIVERED:
    print(record.reason)

async def main() -> None:
    async def people() -> AsyncIterator[Row]:
        yield {"address": "79250000001"}

    async with AsyncProducer.from_env() as aio:
        made: str = await aio.enqueue(job)
        ids: list[str] = await aio.enqueue_many(people(), common=common)
        await aio.enqueue_many([job])
        gone: bool = await aio.cancel(made)
        found: Record | None = await aio.get(made)
        async for event in aio.results("crm", "web-1"):
            print(event.data["status"], event.status, ids, gone, found)
            await event.ack()
        async for letter in aio.dead.list(status="failed"):
            print(letter.ended)
"""
HEAD = """
from datetime import UTC, datetime
from viber_courier import AsyncProducer, Event, Producer
__all__ = ["UTC", "AsyncProducer", "Event", "Producer", "datetime"]
producer = Producer.from_env()
"""
JOB = (
    'producer.enqueue({{"subject": {subject}, "priority": {priority}, "contentType": "text", '
    '"content": {{"text": {text}}}, "address": "79250000001", {more}}})'
)
FINE = {"subject": '"Shop"', "priority": '"high"', "text": '"x"', "more": '"ttlSec": 60'}


def job(**changed: str) -> str:
    return JOB.format(**{**FINE, **changed})


STATUS = 'def handle(event: Event) -> bool:\n    return event.data["status"] == "{}"'
FAULTS = {
    "a misspelt field": job(more='"ttlsec": 60'),
    "a misspelt priority": job(priority='"urgent"'),
    "a misspelt status": STATUS.format("delivred"),
    "ttlSec as a string": job(more='"ttlSec": "60"'),
    "sendAt as a datetime": job(more='"sendAt": datetime.now(UTC)'),
    "sending hours without a zone": job(more='"sendWindow": {"from": "09:00", "to": "21:00"}'),
    "a column without template": (
        'producer.enqueue_many([{"address": "79250000001", "name": "x"}], {"subject": "Shop"})'
    ),
    "a missing required field": job().replace('"address": "79250000001", ', ""),
    "None into a str": job(subject="None"),
    "None into content": job(text="None"),
    "an unknown key of event.data": STATUS.replace('"status"', '"state"').format("read"),
    "a row without address": 'producer.enqueue_many([{"id": "a"}], common={"subject": "Shop"})',
    "a whole row without address": (
        'producer.enqueue_many([{"subject": "Shop", "priority": "low", "contentType": "text", '
        '"content": {"text": "x"}}])'
    ),
    "a misspelt common field": (
        'producer.enqueue_many([{"address": "79250000001"}], common={"subjekt": "Shop"})'
    ),
    "an image with an SMS": job(more='"smsText": "x"')
    .replace('"text", ', '"image", ')
    .replace('"text": "x"', '"imageUrl": "https://a.example"'),
    "asyncio: a misspelt field": (
        "async def main(producer: AsyncProducer) -> None:\n    await " + job(more='"ttlsec": 60')
    ),
    "asyncio: a call that is not awaited": (
        "async def main(producer: AsyncProducer) -> str:\n    return producer.enqueue("
        + job()[len("producer.enqueue(") :]
    ),
}


def mypy(python: Path, folder: Path) -> dict[str, list[str]]:
    """What mypy --strict says, by file."""
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--strict-equality"]
    run = subprocess.run(
        [*command, "--python-executable", python, "--no-error-summary", *folder.glob("*.py")],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode in (0, 1), run.stdout + run.stderr
    found: dict[str, list[str]] = {}
    for line in run.stdout.splitlines():
        if ": error: " in line:
            found.setdefault(Path(line.partition(":")[0]).stem, []).append(line)
    return found


def pyright(python: Path, folder: Path) -> dict[str, list[str]]:
    """What pyright says in its strict mode, by file; others don't look at comparisons."""
    (folder / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    try:
        version = subprocess.run(
            [sys.executable, "-m", "pyright", "--version"], capture_output=True, timeout=100
        )
    except subprocess.TimeoutExpired:
        pytest.skip("pyright could not be set up: its node package didn't come in time")
    if version.returncode:
        pytest.skip("pyright can't be had here: it needs Node.js and its package")
    run = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", python, "-p", folder],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode in (0, 1), run.stdout + run.stderr
    found: dict[str, list[str]] = {}
    for each in json.loads(run.stdout)["generalDiagnostics"]:
        if each["severity"] == "error":
            found.setdefault(Path(each["file"]).stem, []).append(each["message"])
    return found


@pytest.mark.parametrize("checker", [mypy, pyright], ids=lambda checker: checker.__name__)
def test_each_planted_fault_is_found_and_nothing_else(
    checker: object, installed: Path, tmp_path: Path
) -> None:
    # Given an app in natural style, and one for each fault
    files = {f"fault_{n}": name for n, name in enumerate(FAULTS)}
    (tmp_path / "right.py").write_text(RIGHT)
    for file, name in files.items():
        (tmp_path / f"{file}.py").write_text(f"{HEAD}{FAULTS[name]}\n")
    (tmp_path / "head.py").write_text(f"{HEAD}{job()}\n")
    # When a checker looks at them
    said = checker(installed, tmp_path)  # type: ignore[operator]
    # Then it says nothing of what is right, and something of each fault
    assert said.get("right", said.get("head")) is None
    assert {files[file] for file in said} == set(FAULTS)
