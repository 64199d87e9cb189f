"""The gateway held to its own OpenAPI document by schemathesis."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.apps.conftest import ROOT
from tests.gateway import Gateway
from viber_courier.ops.redis_server import RedisServer

SCHEMATHESIS = ROOT / ".venvs" / "schemathesis" / "bin" / "schemathesis"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)


@pytest.mark.skipif(not SCHEMATHESIS.exists(), reason="needs schemathesis: make test-apps")
def test_every_answer_is_as_the_document_says(
    tmp_path: Path, redis_server: RedisServer, namespace: str
) -> None:
    env = {"COURIER_REDIS_URL": redis_server.url, "COURIER_NAMESPACE": f"{namespace}-openapi"}
    gateway = Gateway(tmp_path, env, ("shop",))
    config = tmp_path / "schemathesis.toml"
    config.write_text("[parameters]\nwait = 0\n")  # else it would wait for events
    token = f"Authorization: Bearer {gateway.tokens['shop']}"
    options = ["-H", token, "-c", ",".join(CHECKS), "--phases", "coverage,fuzzing", "--no-color"]
    served = f"{gateway.url}/openapi.json"
    try:
        run = subprocess.run(
            [SCHEMATHESIS, "--config-file", config, "run", served, *options, "-n", "350"],
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
    finally:
        gateway.close()
