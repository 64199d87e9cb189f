"""Redis URLs as people are given them: each works, for store and broker, or is one clear line."""

from __future__ import annotations

import asyncio
import re
import shutil
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st
from kombu.utils.url import url_to_parts

from tests.conftest import ROOT, free_port
from tests.tls import Authority, TlsFront
from viber_courier import AsyncProducer, ConfigError, Producer
from viber_courier.ops.commands.live import BrokerUnavailable, broker_errors
from viber_courier.ops.redis_server import RedisServer
from viber_courier.schemas.redis_url import (
    OPTIONS,
    REFUSED_OPTIONS,
    Address,
    AddressError,
    parse,
    tls_context,
)
from viber_courier.schemas.settings import Settings
from viber_courier.store.connection import SOCKET_OPTIONS, StoreUnavailable, broker
from viber_courier.worker.runtime.app import App

CHECKED = {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
UNCHECKED = {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
PASSWORD = "p:@ss/w#rd?%41+= и;,'\"[]"
QUOTED = quote(PASSWORD, safe="")


def tcp(host: str, port: int = 6379, **rest: Any) -> Address:
    return Address("rediss" if rest.get("tls") else "redis", ((host, port),), **rest)


GOOD: dict[str, Address] = {
    # as redis-py documents them
    "redis://h": tcp("h"),
    "redis://h:6380/": tcp("h", 6380),
    "redis://h:/0/": tcp("h"),
    "redis://h/5": tcp("h", database=5),
    "redis://h?db=5": tcp("h", database=5),
    "redis://h/5?db=5": tcp("h", database=5),
    "redis://:pw@h:1": tcp("h", 1, password="pw"),
    "redis://user:pw@h:1": tcp("h", 1, username="user", password="pw"),
    "redis://user@h": tcp("h", username="user"),
    "redis://h?username=user&password=a%20b": tcp("h", username="user", password="a b"),
    f"redis://u:{QUOTED}@h/1": tcp("h", username="u", password=PASSWORD, database=1),
    "redis://u:p@ss:w=+%zz@h": tcp("h", username="u", password="p@ss:w=+%zz"),
    "redis://[::1]:1/2": tcp("::1", 1, database=2),
    "redis://[FE80::1%25eth0]": tcp("fe80::1%eth0"),
    "REDIS://Cache.Example.COM./0": tcp("cache.example.com."),
    "rediss://h": tcp("h", tls=CHECKED),
    "rediss://h?ssl_cert_reqs=none": tcp("h", tls=UNCHECKED),
    "rediss://h?ssl_cert_reqs=optional": tcp("h", tls={**CHECKED, "ssl_cert_reqs": "optional"}),
    "rediss://h?ssl_check_hostname=False": tcp("h", tls={**CHECKED, "ssl_check_hostname": False}),
    "rediss://h?ssl_ca_certs=/a%20b.pem": tcp("h", tls={**CHECKED, "ssl_ca_certs": "/a b.pem"}),
    "rediss://h?ssl_certfile=c&ssl_keyfile=k&ssl_password=p": tcp(
        "h", tls={**CHECKED, "ssl_certfile": "c", "ssl_keyfile": "k", "ssl_password": "p"}
    ),
    "rediss://h?ssl_min_version=771": tcp("h", tls={**CHECKED, "ssl_min_version": 771}),
    "rediss://h?ssl_min_version=TLSv1.3": tcp("h", tls={**CHECKED, "ssl_min_version": 772}),
    "redis://h?ssl=true": tcp("h", tls=CHECKED),
    "unix:///run/r.sock": Address("unix", path="/run/r.sock"),
    "unix:///run/r%20s.sock?db=3": Address("unix", path="/run/r s.sock", database=3),
    "unix://u:p%40@/r?db=1": Address("unix", (), "/r", 1, "u", "p@"),
    "unix:///r?username=u&password=p": Address("unix", (), "/r", 0, "u", "p"),
    # as Celery and kombu spell the same
    "rediss://h?ssl_cert_reqs=CERT_REQUIRED": tcp("h", tls=CHECKED),
    "rediss://h?ssl_cert_reqs=CERT_NONE": tcp("h", tls=UNCHECKED),
    "redis+socket:///r.sock?virtual_host=5": Address("unix", path="/r.sock", database=5),
    "redis+socket://:p@/r.sock": Address("unix", path="/r.sock", password="p"),
    "sentinel://:p@a:1/2;sentinel://:p@b/2?master_name=m": Address(
        "sentinel", (("a", 1), ("b", 26379)), "", 2, None, "p", "m"
    ),
    # Sentinel and Cluster
    "sentinel://u:p%2C@a:1,[::1],b/3?master=m": Address(
        "sentinel", (("a", 1), ("::1", 26379), ("b", 26379)), "", 3, "u", "p,", "m"
    ),
    "redis+sentinel://:p@a,b:1/mine/4": Address(
        "sentinel", (("a", 26379), ("b", 1)), "", 4, None, "p", "mine"
    ),
    "redis-sentinel://a/mine": Address("sentinel", (("a", 26379),), master="mine"),
    "sentinels://a?master=m": Address("sentinel", (("a", 26379),), master="m", tls=CHECKED),
    "sentinel://a?master=m&sentinel_username=su&sentinel_password=sp": Address(
        "sentinel",
        (("a", 26379),),
        master="m",
        sentinel_login={"username": "su", "password": "sp"},
    ),
    "cluster://u:p@a:1,b,c:3": Address(
        "cluster", (("a", 1), ("b", 6379), ("c", 3)), "", 0, "u", "p"
    ),
    "clusters://a/0?ssl_cert_reqs=none": Address("cluster", (("a", 6379),), tls=UNCHECKED),
    "rediss+cluster://a": Address("cluster", (("a", 6379),), tls=CHECKED),
    # as hosts of Redis hand them out
    "redis://h:p0123456789abcdef@ec2-1-2-3-4.compute-1.amazonaws.com:6379": tcp(
        "ec2-1-2-3-4.compute-1.amazonaws.com", username="h", password="p0123456789abcdef"
    ),
    "rediss://:p0123@ec2-1-2-3-4.compute-1.amazonaws.com:6380?ssl_cert_reqs=none": tcp(
        "ec2-1-2-3-4.compute-1.amazonaws.com", 6380, password="p0123", tls=UNCHECKED
    ),
    "redis://red-abc123:6379": tcp("red-abc123"),
    "rediss://default:AX==@eu1-a-1.upstash.io:6379": tcp(
        "eu1-a-1.upstash.io", username="default", password="AX==", tls=CHECKED
    ),
    "rediss://:abc+D=@Name.redis.cache.windows.net:6380/0": tcp(
        "name.redis.cache.windows.net", 6380, password="abc+D=", tls=CHECKED
    ),
    "redis://my_redis:6379/0": tcp("my_redis"),
    "valkeys://h": tcp("h", tls=CHECKED),
    "valkey://h/1": tcp("h", database=1),
}
NUMBER, HOST, TLS, QUOTE = "number of a database", "host:port", "rediss://", "%23"
BAD: dict[str, str] = {
    "": "must be a URL that starts with redis://, rediss://, unix://, sentinel:// or cluster://",
    "Zq7": "starts with redis://",
    "http://Zq7": "starts with redis://",
    "redis:/Zq7": "starts with redis://",
    "amqp://Zq7:Zq7@h": "starts with redis://",
    "redis+cluster+x://Zq7": "starts with redis://",
    "unix+cluster://Zq7": "starts with redis://",
    "redis://": HOST,
    "redis:///0": HOST,
    "redis://:Zq7@/0": HOST,
    "redis://h:Zq7": HOST,
    "redis://h:0": HOST,
    "redis://h:65536": HOST,
    "redis://::1/Zq7": NUMBER,
    "redis://::1:6379": HOST,
    "redis://Zq7..b": HOST,
    f"redis://{'Zq7' * 30}": HOST,
    "redis://a,b": "must name one host",
    "redis://h/Zq7": NUMBER,
    "redis://h/0/1": NUMBER,
    "redis://h/-1": NUMBER,
    "redis://h/9999999999": "nine digits",
    "redis://h?db=Zq7": "nine digits",
    "redis://h/1?db=2": "db only once",
    "redis://h?db=1&db=2": "db only once",
    "redis://h?db=": "have in db: a value",
    "redis://u:Zq7@h?password=other": "password only once",
    "redis://:Zq7#Zq7@h/0": QUOTE,
    "redis://:Zq7/Zq7@h/0": QUOTE,
    "redis://:Zq7?Zq7@h/0": QUOTE,
    "redis://u:12/Zq7@h": QUOTE,
    "redis://u:12?Zq7=1@h": QUOTE,
    "redis://h/0#Zq7": QUOTE,
    "redis://:Zq7%ff@h": "UTF-8",
    "redis://:Zq7%0D@h": "control characters",
    "redis://:Zq7 x@h": "spaces",
    "'redis://Zq7@h'": "quotation marks",
    '"redis://Zq7@h': "quotation marks",
    "redis://h?socket_timeout=Zq7": "without socket_timeout",
    "redis://h?decode_responses=Zq7": "without decode_responses",
    "redis://h?Zq7=1": "only these options: db,",
    "redis://h?master=Zq7": "master=NAME with sentinel://",
    "redis://h?sentinel_password=Zq7": "with sentinel://",
    "redis://h?ssl_cert_reqs=none": TLS,
    "redis://h?ssl_ca_certs=/Zq7": TLS,
    "rediss://h?ssl=false": TLS,
    "unix:///Zq7?ssl=true": TLS,
    "rediss://h?ssl_cert_reqs=Zq7": "ssl_cert_reqs: required,",
    "rediss://h?ssl_cert_reqs=": "ssl_cert_reqs: required,",
    "rediss://h?ssl_check_hostname=Zq7": "ssl_check_hostname: true",
    "rediss://h?ssl_check_hostname=true&ssl_cert_reqs=none": "without ssl_check_hostname",
    "rediss://h?ssl_min_version=1.1": "ssl_min_version: 1.2",
    "rediss://h?ssl_keyfile=/Zq7": "ssl_certfile",
    "rediss://h?ssl_ca_certs=/Zq7+1": "%2B",
    "unix://": "unix:///path",
    "unix:///": "unix:///path",
    "unix://Zq7/r.sock": "three slashes",
    "unix:///:Zq7@/r.sock": "%2F",
    "sentinel://u:12/Zq7@h?master=m": "%2F",
    "sentinel://Zq7": "master=NAME",
    "sentinel://a?master=": "have in master: a value",
    "sentinel://a?master": "have in master: a value",
    "sentinel://?master=m": HOST,
    "sentinel://a,,b?master=m": HOST,
    "sentinel://a:0?master=m": HOST,
    "sentinel://a/x/y?master=m": NUMBER,
    "sentinel://a/x?master=m": "master only once",
    "sentinel://:Zq7@a:1;sentinel://:Zq8@b:2?master=m": "password only once",
    "sentinel://a;redis://b?master=m": "starts with redis://",
    "redis://a;redis://b": "must name one host",
    "cluster://a/1": "database 0",
    "cluster://a?master=Zq7": "with sentinel://",
}


@pytest.mark.parametrize("url", GOOD)
def test_a_url_is_read_whole(url: str) -> None:
    assert parse(url) == GOOD[url]
    assert "password" not in repr(parse(url)) and "username" not in repr(parse(url))


@pytest.mark.parametrize("url", BAD)
def test_a_wrong_url_is_one_line_that_holds_nothing_of_it(url: str) -> None:
    for name in ("COURIER_REDIS_URL", "COURIER_BROKER_URL") if url else ():
        with pytest.raises(ConfigError, match=f"^{name}: m") as caught:
            Settings.from_env({name: url})
        assert list(caught.value.faults) == [name]
    with pytest.raises(AddressError, match=r"^m") as wrong:
        parse(url)
    assert BAD[url] in str(wrong.value) and "\n" not in str(wrong.value)
    assert "Zq7" not in str(wrong.value)
    assert wrong.value.__cause__ is None and wrong.value.__context__ is None


@pytest.mark.parametrize("option", REFUSED_OPTIONS)
def test_each_option_that_cant_be_chosen_is_refused_by_its_name(option: str) -> None:
    with pytest.raises(AddressError, match=f"must be without {option}:"):
        parse(f"rediss://h?{option}=1")


# --- a grammar of addresses -----------------------------------------------------------------------

SECRET = "Zq7"
words = st.text("ab0@:/#?%&=+;,[]'\" \r\n\ufeffя\0", max_size=5)
secrets = st.builds(lambda a, b: a + SECRET + b, words, words)
hosts = st.sampled_from(["h", "A.b", "[::1]", "::1", "", "h:1", "h:0", "h:x", "a..b", "h:", "я"])
options = st.builds(
    lambda name, value: f"{name}={value}",
    st.sampled_from([*OPTIONS, *REFUSED_OPTIONS, "virtual_host", "x", ""]) | secrets,
    st.sampled_from(["", "0", "none", "CERT_NONE", "true", "1.2"]) | secrets,
)
schemes = st.sampled_from(
    [
        *("redis", "rediss", "unix", "redis+socket", "sentinel", "sentinels", "cluster"),
        *("redis+cluster", "http", "x", "REDIS"),
    ]
)
logins = st.just("") | st.builds("{}:{}@".format, words, secrets)
paths = st.sampled_from(["", "/", "/0", "/1", "/m/2", "/m", "//", "/run/r"]) | words
queries = st.just("") | st.lists(options, max_size=3).map(lambda found: "?" + "&".join(found))
urls = st.builds(
    "{}://{}{}{}{}".format,
    schemes,
    logins,
    st.lists(hosts, max_size=3).map(",".join),
    paths,
    queries,
)


def leaked(text: str) -> bool:
    return SECRET in text


ANY = st.lists(urls, min_size=1, max_size=2).map(";".join) | st.text(max_size=30)


@given(ANY)
@example("sentinel://a;")
@example("redis://h\ud800")
def test_parsing_gives_an_address_or_its_one_error(url: str) -> None:
    examine(url)


def examine(url: str) -> None:
    """What holds for any text; tests/faults tries many more."""
    try:
        address = parse(url)
    except AddressError as error:
        assert not leaked(str(error)) and error.__context__ is None and len(str(error)) < 400
        return
    assert (address.scheme == "unix") is (not address.hosts) is bool(address.path)
    assert leaked(address.master) or not leaked(repr(address))
    # What it was read as is a URL of its own, which Celery reads as the same place
    if address.scheme != "cluster":
        spelled = broker(url)["broker_url"].split(";")[0].removeprefix("redis+")
        theirs = url_to_parts(spelled)
        assert (theirs.username, theirs.password) == (address.username, address.password)
        if address.scheme == "unix":
            assert f"/{theirs.path}" == address.path
        else:
            assert (theirs.hostname, theirs.port) == address.hosts[0]
            assert theirs.path == str(address.database)


@given(
    st.text(min_size=1).filter(lambda t: t.isprintable() and "\ufffd" not in t and t.strip() == t),
    st.sampled_from(["redis://{}h/1", "unix://{}/r?db=1", "sentinel://{}h/1?master=m"]),
)
def test_a_quoted_password_arrives_as_it_is(password: str, form: str) -> None:
    for login in (f":{quote(password, safe='')}@", f"user:{quote(password, safe='')}@"):
        address = parse(form.format(login))
        assert (address.password, address.database) == (password, 1)


# --- calls through them ---------------------------------------------------------------------------


class Place:
    """A real server on a port, on a socket and behind TLS, with a user of its own."""

    def __init__(self, folder: Path) -> None:
        self.socket, self.folder = str(folder / "r s.sock"), folder
        for name in ("data", "own", "other"):
            (folder / name).mkdir()
        options = ("--unixsocket", self.socket)
        self.server = RedisServer(folder / "data", free_port(), options)
        self.server.start()
        self.authority, self.other = Authority(folder / "own"), Authority(folder / "other")
        self.tls = TlsFront(self.server.port, self.authority)
        with redis.Redis(port=self.server.port) as client:
            client.acl_setuser(
                "app",
                True,
                passwords=[f"+{PASSWORD}"],
                commands=["+@all"],
                keys=["*"],
                channels=["*"],
            )

    def fill(self, form: str) -> str:
        """The URL of a form that has words for what this place has."""
        filled = form.replace("SOCKET", quote(self.socket)).replace("PW", QUOTED)
        filled = re.sub(r"TLS\b", f"localhost:{self.tls.port}", filled)
        filled = filled.replace("PORT", str(self.server.port))
        filled = filled.replace("OWN_CA", quote(self.authority.ca))
        filled = filled.replace("OWN_CERT", quote(self.authority.certificate))
        filled = filled.replace("OWN_KEY", quote(self.authority.key))
        return filled.replace("OTHER_CA", quote(self.other.ca))

    def close(self) -> None:
        self.tls.close()
        self.server.stop()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command for certificates")
    made = Place(tmp_path_factory.mktemp("place"))
    yield made
    made.close()


def through_celery(url: str, *commands: tuple[str, ...]) -> list[Any]:
    """Answers over the connection that a Celery app of ours has with that broker."""
    app = App(set_as_current=False)
    app.conf.update(broker(url, max_retries=1, interval_start=0))
    with app.connection_for_write() as connection:
        client = connection.default_channel.client
        return [client.execute_command(*command) for command in commands]


WORKING = {  # user and database that the server sees
    "redis://localhost:PORT": ("default", 0),
    "redis://LOCALHOST:PORT/": ("default", 0),
    "redis://127.0.0.1:PORT/5": ("default", 5),
    "redis://127.0.0.1:PORT?db=5": ("default", 5),
    "redis://app:PW@127.0.0.1:PORT/1": ("app", 1),
    "redis://127.0.0.1:PORT?username=app&password=PW": ("app", 0),
    "valkey://127.0.0.1:PORT/2": ("default", 2),
    "unix://SOCKET": ("default", 0),
    "unix://SOCKET?db=5": ("default", 5),
    "unix://app:PW@SOCKET?db=3": ("app", 3),
    "unix://SOCKET?username=app&password=PW": ("app", 0),
    "redis+socket://SOCKET?virtual_host=5": ("default", 5),
    "redis+socket://app:PW@SOCKET": ("app", 0),
    "socket://SOCKET": ("default", 0),
    "rediss://TLS?ssl_ca_certs=OWN_CA": ("default", 0),
    "rediss://app:PW@TLS/4?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs=OWN_CA": ("app", 4),
    "rediss://TLS/1?ssl_cert_reqs=CERT_NONE": ("default", 1),
    "rediss://TLS?ssl_cert_reqs=optional&ssl_ca_certs=OWN_CA&ssl_certfile=OWN_CERT"
    "&ssl_keyfile=OWN_KEY&ssl_min_version=TLSv1.3&ssl_ciphers=ECDHE": ("default", 0),
    "redis://TLS?ssl=true&ssl_ca_certs=OWN_CA": ("default", 0),
    "valkeys://TLS?ssl_ca_certs=OWN_CA": ("default", 0),
}


@pytest.mark.parametrize("form", WORKING)
def test_a_call_goes_through_every_form_for_store_and_broker(place: Place, form: str) -> None:
    # Given settings with this URL only: the broker's is the same
    settings = Settings.from_env({"COURIER_REDIS_URL": place.fill(form)})
    assert settings.broker_url == settings.redis_url
    encrypted = place.tls.encrypted
    # When the store's clients and Celery's connection call
    with Producer(settings).redis as client:
        seen: list[Any] = [client.execute_command("CLIENT", "INFO"), client.acl_whoami()]
        assert client.set("key", "value")

    async def look() -> list[Any]:
        async with AsyncProducer(settings) as app:
            assert await app.get("unknown") is None
            return [await app.redis.execute_command("CLIENT", "INFO"), await app.redis.acl_whoami()]

    awaited = asyncio.run(look())
    told = through_celery(settings.broker_url, ("CLIENT", "INFO"), ("ACL", "WHOAMI"))
    # Then the server sees this user and database, and TLS where it was asked for
    user, database = WORKING[form]
    for info, name in (seen, awaited, told):
        assert f" db={database} " in str(info) and user in str(name)
    assert (place.tls.encrypted - encrypted >= 3) is ("TLS" in form)


UNUSABLE = {  # what is said of a URL that is well-formed
    "rediss://localhost:PORT": "no answer, as from a port without TLS",
    "rediss://TLS?ssl_ca_certs=OTHER_CA": "TLS failed: certificate verify failed: ",
    "redis://127.0.0.1:PORT/999": "the server has no database of this number",
    "unix://SOCKET?db=999": "the server has no database of this number",
    "redis://app:Zq7@127.0.0.1:PORT": "wrong user name or password",
}


@pytest.mark.parametrize("form", UNUSABLE)
@pytest.mark.slow
def test_a_url_that_the_server_refuses_is_one_line(
    place: Place, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SOCKET_OPTIONS, "socket_timeout", 0.3)  # of a handshake without an answer
    settings = Settings.from_env({"COURIER_REDIS_URL": place.fill(form)})
    app = Producer(settings)
    with pytest.raises(StoreUnavailable) as store:
        app.get("id")
    app.close()

    async def look() -> None:
        async with AsyncProducer(settings) as app:
            await app.get("id")

    with pytest.raises(StoreUnavailable) as awaited:
        asyncio.run(look())
    with pytest.raises(BrokerUnavailable) as celery, broker_errors():
        through_celery(settings.broker_url, ("PING",))
    # asyncio doesn't tell a handshake that nobody answers from a connection that nobody takes
    says = {awaited.value: "TimeoutError"} if form.startswith("rediss://localhost") else {}
    for error in (store.value, awaited.value, celery.value):
        assert says.get(error, UNUSABLE[form]) in str(error)
        assert not leaked(str(error)) and "\n" not in str(error)


# --- what TLS makes of the options ----------------------------------------------------------------

PEM = quote(str(ROOT / "tests" / "golden" / "encrypted.pem"))
"""A certificate of the authority "t", which is its own, and its key, whose password is Zq7."""
REQUIRED, NONE, V1_2 = ssl.CERT_REQUIRED, ssl.CERT_NONE, ssl.TLSVersion.TLSv1_2


def context_of(options: str) -> ssl.SSLContext:
    context = tls_context(parse(f"rediss://h?{options}").tls)
    assert context is not None
    return context


@pytest.mark.parametrize(
    ("options", "checks"),
    [
        ("", (True, REQUIRED, V1_2)),
        ("ssl_cert_reqs=none", (False, NONE, V1_2)),
        ("ssl_cert_reqs=optional", (True, ssl.CERT_OPTIONAL, V1_2)),
        ("ssl_check_hostname=0&ssl_min_version=1.3", (False, REQUIRED, ssl.TLSVersion.TLSv1_3)),
    ],
)
def test_the_options_say_how_a_server_is_checked(options: str, checks: tuple[Any, ...]) -> None:
    made = context_of(options)
    assert (made.check_hostname, made.verify_mode, made.minimum_version) == checks
    assert tls_context(parse("redis://h").tls) is None


def test_files_and_ciphers_are_used(tmp_path: Path) -> None:
    context_of(f"ssl_ca_path={tmp_path}&ssl_certfile={PEM}&ssl_password=Zq7")
    made = context_of(f"ssl_ca_certs={PEM}&ssl_ciphers=ECDHE-ECDSA-AES128-SHA256")
    assert ((("commonName", "t"),),) in [each["subject"] for each in made.get_ca_certs()]
    assert "ECDHE-ECDSA-AES128-SHA256" in [each["name"] for each in made.get_ciphers()]
    assert "ECDHE-RSA-AES128-SHA256" not in [each["name"] for each in made.get_ciphers()]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("ssl_ca_certs=/no/Zq7", "ssl_ca_certs that can't be used: FileNotFoundError"),
        (f"ssl_ca_certs={quote(__file__)}", "ssl_ca_certs that can't be used: SSLError"),
        ("ssl_ca_certs=/", "ssl_ca_certs that can't be used: IsADirectoryError"),
        ("ssl_ca_path=/no/Zq7", "ssl_ca_path that can't be used: FileNotFoundError"),
        (f"ssl_ca_path={PEM}", "ssl_ca_path that can't be used: NotADirectoryError"),
        ("ssl_certfile=/no/Zq7", "ssl_certfile that can't be used: FileNotFoundError"),
        (f"ssl_certfile={PEM}", "ssl_certfile that can't be used: SSLError"),
        (f"ssl_certfile={PEM}&ssl_keyfile=/Zq7", "can't be used: FileNotFoundError"),
        ("ssl_ciphers=Zq7", "ssl_ciphers that can't be used: SSLError"),
    ],
)
def test_a_file_that_tls_cant_use_is_found_at_the_start(options: str, named: str) -> None:
    for name in ("COURIER_REDIS_URL", "COURIER_BROKER_URL"):
        with pytest.raises(ConfigError) as caught:
            Settings.from_env({name: f"rediss://h?{options}"})
        assert list(caught.value.faults) == [name] and named in str(caught.value)
        assert not leaked(str(caught.value))


# --- the page -------------------------------------------------------------------------------------


def test_the_page_lists_the_options_and_its_forms_are_read() -> None:
    page = (ROOT / "docs" / "redis.md").read_text().split("## Addresses")[1].split("\n## ")[0]
    named = set(re.findall(r"\w+", page))
    assert {*OPTIONS, *REFUSED_OPTIONS} <= named
    forms = re.findall(r"^\| `([^`]+)`", page, re.M)
    assert len(forms) > 10
    for form in forms:
        parse(form)
