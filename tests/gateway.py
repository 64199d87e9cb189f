"""``courier gateway`` as a process, and those who call it."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import requests

from tests.conftest import text_job
from tests.served import Served
from viber_courier.ops.gateway.tokens import new_token

PHONE, TEXT = "79255550123", "Kod-40417"
"""What no log line and no answer may hold."""


def private_job(**more: Any) -> dict[str, Any]:
    """A job whose phone number and text are found wherever they leak to."""
    return text_job(PHONE, **{"content": {"text": TEXT}, **more})


class Gateway(Served):
    """The program, with a token for each name."""

    def __init__(
        self,
        folder: Path,
        env: dict[str, str],
        names: Sequence[str] = ("shop", "crm"),
        *options: str,
        prefix: Sequence[str] = (),
    ) -> None:
        made = {name: new_token(name) for name in names}
        self.tokens = {name: token for name, (token, _) in made.items()}
        self.file = folder / "tokens"
        self.file.write_text("\n".join(line for _, line in made.values()))
        given = ["--tokens", str(self.file)] if names else []
        super().__init__("gateway", folder, env, [*given, *options], prefix)

    def call(
        self, method: str, path: str, name: str | None = "shop", timeout: float = 30, **more: Any
    ) -> requests.Response:
        """An answer, to a caller with the token of this name."""
        headers = {"Authorization": f"Bearer {self.tokens[name]}"} if name in self.tokens else {}
        headers |= more.pop("headers", {})
        return requests.request(method, self.url + path, headers=headers, timeout=timeout, **more)

    def post(self, job: Any, name: str | None = "shop", **more: Any) -> requests.Response:
        headers = {"Content-Type": "application/json", **more.pop("headers", {})}
        return self.call(
            "POST", "/v1/messages", name, data=json.dumps(job), headers=headers, **more
        )

    def events(self, group: str, name: str = "shop", **query: Any) -> list[dict[str, Any]]:
        answer = self.call("GET", "/v1/events", name, params={"group": group, **query})
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["events"]
        return found

    def metric(self, name: str) -> float:
        """The sum of a metric's series."""
        lines = self.call("GET", "/metrics", None).text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def head(self, path: str = "/v1/messages", name: str = "shop", *lines: str) -> bytes:
        """A POST request's head, without its last empty line."""
        first = (
            f"POST {path} HTTP/1.1",
            "Host: localhost",
            f"Authorization: Bearer {self.tokens[name]}",
        )
        return "".join(f"{line}\r\n" for line in (*first, *lines)).encode()

    def raw(self, request: bytes) -> bytes:
        """All that the gateway says to these bytes, until it closes the connection."""
        said = b""
        with self.connect() as client:
            client.sendall(request)
            while got := client.recv(65536):
                said += got
        return said

    def stop(self, seconds: float = 20) -> float:
        """TERM; how many seconds it took to end."""
        started = time.monotonic()
        self.process.terminate()
        assert self.process.wait(seconds) == 0, self.log
        return time.monotonic() - started
