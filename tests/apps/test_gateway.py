"""The gateway held to its own OpenAPI document by schemathesis; its page, run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apps.conftest import ROOT
from tests.gateway import Gateway
from viber_courier.ops.gateway.tokens import Tokens
from viber_courier.ops.redis_server import RedisServer

SCHEMATHESIS = ROOT / ".venvs" / "schemathesis" / "bin" / "schemathesis"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)


@pytest.fixture
def gateway(tmp_path: Path, redis_server: RedisServer, namespace: str) -> Iterator[Gateway]:
    env = {"COURIER_REDIS_URL": redis_server.url, "COURIER_NAMESPACE": f"{namespace}-apps"}
    made = Gateway(tmp_path, env, ("shop",))
    yield made
    made.close()


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_the_page_runs_from_its_first_block_to_its_last(gateway: Gateway, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "gateway.md").read_text()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {"GATEWAY": gateway.url, "TOKEN": gateway.tokens["shop"], "PATH": path}
    said, folder = [], tmp_path / "page"
    folder.mkdir()
    # When the shell's blocks run
    for block in re.findall(r"(?s)```sh\n(.+?)```", page):
        run = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert run.returncode == 0, (block, run.stderr)
        said.append(run.stdout)
    # Then they say what the page says
    new, sent, many, streamed, shown, polled = said
    assert Tokens(folder / "tokens").name_of(new.strip()) == "shop"
    assert json.loads(sent) == {"id": "login-81"}
    first, second = json.loads(many)["results"]
    assert first == {"id": "login-81"} and second["status"] == 422
    assert json.loads(streamed) == {"accepted": 1, "refused": []}
    assert '"status": "queued"' in shown and shown.endswith('{"cancelled": true}')
    assert '"subject": "login-81"' in polled and polled.endswith('{"acknowledged": 1}')


@pytest.mark.skipif(not SCHEMATHESIS.exists(), reason="needs schemathesis: make test-apps")
def test_every_answer_is_as_the_document_says(gateway: Gateway, tmp_path: Path) -> None:
    config = tmp_path / "schemathesis.toml"
    config.write_text("[parameters]\nwait = 0\n")  # else it would wait for events
    token = f"Authorization: Bearer {gateway.tokens['shop']}"
    options = ["-H", token, "-c", ",".join(CHECKS), "--phases", "coverage,fuzzing", "--no-color"]
    served = f"{gateway.url}/openapi.json"
    run = subprocess.run(
        [SCHEMATHESIS, "--config-file", config, "run", served, *options, "-n", "300"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
    )
    said = run.stdout[-6000:] + gateway.log
    assert run.returncode == 0, said
    found = re.search(r"(\d+) generated, (\d+) passed", run.stdout)
    assert found and found[1] == found[2] and int(found[1]) >= 2000, said
    assert "Tested: 8" in run.stdout, said
    # And it got past the checks of every call
    metrics = gateway.call("GET", "/metrics", None).text
    for route, code in (("/v1/messages", 202), ("/v1/events", 200), ("/v1/events/ack", 200)):
        assert re.search(rf'requests_total{{code="{code}".+route="{re.escape(route)}"', metrics)
    assert 'code="500"' not in metrics
