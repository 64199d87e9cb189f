"""``courier console`` as a process, and people who use it without a browser."""

from __future__ import annotations

import html
import re
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.program import Program
from viber_courier import Producer

PHONE, TEXT = "79255550123", "Kod-40417"
"""What no page and no log line may hold before somebody has asked for it."""
LOGIN, PASSWORD = "night-shift", "Zq7-console-p4ss"
USER = {"COURIER_CONSOLE_LOGIN": LOGIN, "COURIER_CONSOLE_PASSWORD": PASSWORD}


class Console(Program):
    """The program, with a login unless ``env`` says otherwise."""

    def __init__(self, folder: Path, env: dict[str, str], *options: str) -> None:
        super().__init__("console", folder, env, *options)

    def person(self) -> Person:
        """Somebody who has logged in."""
        made = Person(self.url)
        assert made.log_in().status_code == 200
        return made

    def close(self) -> None:
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        super().close()


@contextmanager
def discreet(folder: Path, env: dict[str, str], *secrets: str) -> Iterator[Console]:
    """A console with a login; afterwards its log has no error, no message and no secret."""
    made = Console(folder, {**env, **USER})
    yield made
    log = made.log
    made.close()
    for word in (PHONE, TEXT, "Traceback", "Warning", "request failed", *secrets):
        assert word not in log, (word, log[-3000:])


class Person:
    """A browser without JavaScript: it keeps cookies and sends the forms that it was shown."""

    def __init__(self, url: str, headers: dict[str, str] | None = None) -> None:
        self.url, self.session = url, requests.Session()
        self.session.headers.update(headers or {})

    def get(self, path: str, **more: Any) -> requests.Response:
        return self.session.get(self.url + path, timeout=30, **more)

    def post(self, path: str, data: dict[str, str], **more: Any) -> requests.Response:
        headers = {"Origin": self.url, **more.pop("headers", {})}
        given = {"headers": headers, "timeout": 60, **more}
        return self.session.post(self.url + path, data=data, **given)

    def fill(self, path: str, **given: str) -> requests.Response:
        """Open the page of a form, and send that form with these values in it."""
        page = self.get(path)
        assert page.status_code == 200, page.text
        return self.post(path, {**inputs(page.text), **given})

    def log_in(self, name: str = LOGIN, password: str = PASSWORD, **more: str) -> requests.Response:
        return self.fill("/login", name=name, password=password, **more)


def inputs(page: str) -> dict[str, str]:
    """The values of the last form of a page, by name; of boxes those that are ticked."""
    form = page.rsplit("<form", 1)[1]
    found = {}
    for tag in re.findall("<input[^>]*>", form):
        given = {name: html.unescape(text) for name, text in re.findall(r'([a-z]+)="([^"]*)"', tag)}
        if given.get("type") != "checkbox" or " checked" in tag:
            found[given["name"]] = given.get("value", "")
    return found


def words(page: requests.Response) -> str:
    """What a page says, without its tags."""
    text = re.sub(r"(?s)<head>.*?</head>|<[^>]*>", " ", page.text)
    return " ".join(html.unescape(text).split())


@pytest.fixture
def person(console: Console) -> Person:
    return console.person()


@pytest.fixture(scope="module")
def app(env: dict[str, str]) -> Iterator[Producer]:
    with closing(Producer.from_env(env)) as producer:
        yield producer
