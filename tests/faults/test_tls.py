"""TLS to Redis and other forms of its URL, with real workers; and what a wrong URL ends in."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import settings as profile

from tests import test_redis_url
from tests.conftest import ROOT, Simulator, free_port, text_job, wait_for
from tests.faults.installation import SHORT, running
from tests.faults.parts import WORKER
from tests.test_redis_url import Place
from tests.tls import TlsFront
from viber_courier import AsyncProducer
from viber_courier.ops.redis_server import find_server
from viber_courier.schemas.settings import Settings
from viber_courier.store.connection import connect


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("place"))
    yield made
    made.close()


@pytest.mark.parametrize(
    "form",
    [
        "rediss://app:PW@TLS/2?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs=OWN_CA",
        "unix://app:PW@SOCKET?db=5",
    ],
    ids=["rediss", "unix"],
)
def test_a_whole_installation_works_through_this_url(
    place: Place, form: str, simulator: Simulator, namespace: str, tmp_path: Path
) -> None:
    plain = place.tls.plain
    # When app, worker, beat and a reader of results have this URL
    with running(tmp_path, simulator, namespace, place.fill(form)) as system:
        # Then messages are sent and end, and nothing went past the TLS
        system.back_at_work(20)
        assert system.exits == []
        assert system.load.refusals == []
    assert place.tls.plain == plain


def test_sentinels_and_their_master_are_reached_over_tls(
    place: Place, simulator: Simulator, namespace: str, tmp_path: Path
) -> None:
    # Given a sentinel with a password, itself behind TLS, which watches the master's TLS port
    port, config = free_port(), tmp_path / "sentinel.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\nrequirepass geheim\n"
        f"sentinel monitor main 127.0.0.1 {place.tls.port} 1\n"
    )
    process = subprocess.Popen(
        [find_server(), str(config), "--sentinel"], stdout=subprocess.DEVNULL
    )
    front = TlsFront(port, place.authority)
    url = f"sentinels://127.0.0.1:{front.port}/3?master=main&sentinel_password=geheim"
    url += f"&ssl_ca_certs={quote(place.authority.ca)}"
    try:
        with connect(url) as client:
            wait_for(lambda: _answers(client), 10, "no sentinel")
        asyncio.run(_store_and_look(url, namespace))
        before = place.tls.encrypted
        # When an installation has this URL, then it works, and speaks TLS to both
        with running(tmp_path, simulator, namespace, url) as system:
            system.back_at_work(20)
        assert place.tls.encrypted > before and front.encrypted and not front.plain
    finally:
        front.close()
        process.terminate()
        process.wait(10)


async def _store_and_look(url: str, namespace: str) -> None:
    async with AsyncProducer(Settings(redis_url=url, namespace=f"{namespace}a")) as app:
        assert await app.get(await app.enqueue(text_job()))


def _answers(client: object) -> bool:
    try:
        return bool(client.ping())  # type: ignore[attr-defined]
    except Exception:
        return False


WRONG = [
    ("rediss://TLS?ssl_ca_certs=OTHER_CA", "TLS failed: certificate verify failed"),
    ("rediss://TLS?ssl_cert_reqs=CERT_REQUIRED", "TLS failed: certificate verify failed"),
    ("rediss://TLS?ssl_ca_certs=/no/Zq7", "ssl_ca_certs that can't be used: FileNotFoundError"),
    ("rediss://localhost:PORT", "TLS failed: no answer, as from a port without TLS"),
    ("redis://127.0.0.1:PORT/999", "the server has no database of this number"),
    ("redis://app:Zq7@127.0.0.1:PORT/1", "wrong user name or password"),
    ("redis://app:p#Zq7@127.0.0.1:PORT/1", "%23"),
]


@pytest.mark.parametrize("name", ["COURIER_REDIS_URL", "COURIER_BROKER_URL"])
@pytest.mark.parametrize(("form", "said"), WRONG, ids=range(len(WRONG)))
def test_a_worker_with_a_wrong_url_ends_with_one_line(
    place: Place, name: str, form: str, said: str, namespace: str
) -> None:
    env = {**SHORT, "COURIER_NAMESPACE": namespace, "COURIER_REDIS_URL": place.server.url}
    began = time.monotonic()
    run = subprocess.run(
        WORKER,
        env={**os.environ, **env, name: place.fill(form)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    last = run.stderr.strip().splitlines()[-1]
    assert run.returncode == 1 and time.monotonic() - began < 30
    assert last.startswith(f"viber-courier can't start: {name}: ") and said in last
    assert "Traceback" not in run.stderr and "Zq7" not in run.stderr + run.stdout


@profile(max_examples=4_000, deadline=None)
@given(test_redis_url.ANY)
def test_parsing_gives_an_address_or_its_one_error(url: str) -> None:
    test_redis_url.examine(url)
