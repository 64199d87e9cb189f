"""The app's URL: requests signed after Standard Webhooks, and what their answers mean."""

import ipaddress
import logging
import re
import socket
import ssl
import time
import uuid
from base64 import b64decode
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from standardwebhooks import Webhook as Signer
from yarl import URL

from viber_courier.ops.push.line import Failure, Waiting
from viber_courier.schemas.errors import ConfigError
from viber_courier.worker.answers import retry_after

CONNECT_SECONDS = 5.0
"""How long a connection may take to be made, its TLS aside."""
READ_BYTES = 65536
"""How much of an answer is read, so that its connection can serve the next request."""
KEEPALIVE_SECONDS = 4.0
"""How long a connection is kept idle: below the 5 s after which Node.js closes it."""
REREAD_SECONDS = 1.0
"""Seconds between reads of the file of secrets."""
GENERAL = (429, 503)
"""Answers that are not about the events."""
_SECRET = re.compile(r"whsec_((?:[A-Za-z0-9+/]{4}){8,21}(?:[A-Za-z0-9+/]{2,3})?={0,2})")
_IDS = uuid.UUID("5f1b6f43-3d5c-5a0e-9c0e-2f1f4c1e6b7a")

IP = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
logger = logging.getLogger(__name__)


class Secrets:
    """The secrets in a file, one a line: each signs, so that a receiver may know any of them.

    The file is read again each second. One that has become unreadable or wrong changes nothing.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._read_at = path, time.monotonic()
        self._signers = self._read()

    def sign(self, id: str, now: datetime, body: str) -> str:
        """Returns the header's value: a signature by each secret."""
        if time.monotonic() >= self._read_at + REREAD_SECONDS:
            self._read_at = time.monotonic()
            try:
                self._signers = self._read()
            except ConfigError as error:
                logger.error("secrets not read again", extra={"error": str(error)})
        return " ".join(signer.sign(id, now, body) for signer in self._signers)

    def _read(self) -> list[Signer]:
        try:
            lines = self._path.read_text(encoding="utf-8-sig").split()
        except (OSError, UnicodeDecodeError) as error:
            fault = f"can't be read: {type(error).__name__}"
            raise ConfigError({"--secret-file": fault}) from None
        found = [match[1] for line in lines if (match := _SECRET.fullmatch(line))]
        keys = [b64decode(text + "=" * (-len(text) % 4)) for text in found]
        if not lines or len(keys) < len(lines) or not all(24 <= len(key) <= 64 for key in keys):
            fault = "must hold a line whsec_... for each secret: base64 of 24 to 64 bytes"
            raise ConfigError({"--secret-file": fault})
        return [Signer(key) for key in keys]


class RefusedError(OSError):
    """The address is inside, and nothing says that it may be reached."""


class Endpoint:
    """Posts events to ``url``; an ``async with`` block keeps its connections.

    The rules for addresses are applied where a connection is made, to what it is made to: a name
    that leads elsewhere a moment later, as in DNS rebinding, gains nothing. Only addresses in
    ``allowed`` are reached without TLS. Without ``ca_file`` the system's authorities are trusted.
    """

    def __init__(
        self,
        url: str,
        secrets: Secrets,
        allowed: Sequence[Network],
        ca_file: str | None,
        seconds: float,
        most: int,
    ) -> None:
        self._url, self._secrets, self._allowed = URL(url), secrets, allowed
        self._context, self._most = ssl.create_default_context(cafile=ca_file), most
        self._timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS)

    async def __aenter__(self) -> None:
        connector = aiohttp.TCPConnector(
            limit=self._most,
            ssl=self._context,
            socket_factory=self._socket,
            keepalive_timeout=KEEPALIVE_SECONDS,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # what it answers is not looked at
            headers={"User-Agent": "viber-courier"},
        )

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def post(self, events: Sequence[Waiting], is_batch: bool) -> Failure | None:
        """Sends events in one request; returns why they were not taken, None if they were."""
        id = str(uuid.uuid5(_IDS, ",".join(event.id for event in events)))
        body = ",".join(event.text for event in events)
        body, kind = (f"[{body}]", "cloudevents-batch") if is_batch else (body, "cloudevents")
        now = datetime.now(UTC)
        headers = {
            "Content-Type": f"application/{kind}+json",
            "webhook-id": id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._secrets.sign(id, now, body),
        }
        given: Any = {"data": body.encode(), "headers": headers, "allow_redirects": False}
        try:
            async with self._session.post(self._url, **given) as response:
                with suppress(aiohttp.ClientError, TimeoutError):  # its status says enough
                    await response.content.read(READ_BYTES)
                return judge(response.status, response.headers.get("Retry-After"))
        except (aiohttp.ClientError, TimeoutError) as error:
            return failure(error)

    def _socket(self, info: Any) -> socket.socket:
        family, kind, protocol, _, place = info
        if not may_reach(place[0], self._allowed, self._url.scheme == "https"):
            raise RefusedError("address refused")
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made


def judge(status: int, wait: str | None) -> Failure | None:
    """Returns what an answer's status and its Retry-After mean; None: the events were taken."""
    if 200 <= status < 300:
        return None
    return Failure(f"http-{status}", status in GENERAL, retry_after(wait))


def failure(error: Exception) -> Failure:
    """Returns what an exception of aiohttp means."""
    refused = getattr(error, "os_error", error)
    if isinstance(refused, RefusedError | aiohttp.InvalidURL):  # as of an address like 127.1
        return Failure("address-refused", True)
    if isinstance(error, aiohttp.ClientConnectorError):
        return Failure("tls" if isinstance(error, aiohttp.ClientSSLError) else "connection", True)
    if isinstance(error, aiohttp.ConnectionTimeoutError | aiohttp.ClientConnectionResetError):
        return Failure("connection", True)
    return Failure("timeout" if isinstance(error, TimeoutError) else "broken")


def may_reach(address: str, allowed: Sequence[Network], is_secure: bool) -> bool:
    """Returns whether a connection may be made to this address.

    One that is inside of another form of address (IPv4 in IPv6) counts as what it stands for.
    """
    found = _inner(ipaddress.ip_address(address.partition("%")[0]))
    if any(found in network for network in allowed):
        return True
    is_public = found.is_global and not (found.is_multicast or found.is_reserved)
    return is_secure and is_public and not getattr(found, "is_site_local", False)


def _inner(address: IP) -> IP:
    if isinstance(address, ipaddress.IPv4Address):
        return address
    found = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
    is_compatible = int(address) >> 32 == 0 and int(address) > 0xFFFF
    if found is None and (is_compatible or int(address) >> 32 == 0x64FF9B << 64):  # NAT64
        found = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return found or address
