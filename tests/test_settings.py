"""Every setting of the README: its default, what it allows, what it refuses unshown."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest

from viber_courier.schemas.errors import ConfigError
from viber_courier.schemas.redis_url import NO_BROKER
from viber_courier.schemas.settings import DANGERS, Settings, read_value

FILED = ("REDIS_URL", "BROKER_URL", "API_LOGIN", "API_PASSWORD", "SUPPRESSION_KEY")
HTTP = (
    "ftp://Zq7/",
    "Zq7",
    "https://",
    "http://h:Zq7",
    "http://Zq7:Zq7@h",
    "https://h Zq7",
    "//Zq7",
    "http://localhost?Zq7",
    "http://localhost:0/Zq7",
    "https://h/#Zq7",
)
REDIS = ("http://Zq7", "Zq7", "redis://", "redis://h:Zq7", "redis://h:0/", "redis://h /Zq7")
ABOVE_0 = ("0", "-1", "Zq7", "nan", "inf", "1e11", "1 0")
FROM_0 = ("-1", "-0.1", "Zq7", "nan", "inf", "10000000001", "0x10")
COUNT = ("-1", "1.5", "Zq7", "1e3", "+1", "٣", "1000000000001", "99999999999999")

TABLE: dict[str, tuple[Any, list[tuple[str, Any]], tuple[str, ...]]] = {
    # name: default, values as written and as read, values that are refused
    "REDIS_URL": (
        "redis://localhost:6379/0",
        [("rediss://u:p@h:1/2",) * 2, ("redis://[::1]:6379",) * 2],
        REDIS,
    ),
    "BROKER_URL": ("redis://localhost:6379/0", [("rediss://u:p@h:1/2",) * 2], REDIS),
    "NAMESPACE": (
        "courier",
        [("a",) * 2, ("A-1_2.3",) * 2, ("x" * 32,) * 2],
        ("a b", "{Zq7}", "x" * 33, "я"),
    ),
    "API_URL": (
        "https://viber.devinotele.com:444",
        [("http://127.0.0.1:1/", "http://127.0.0.1:1"), ("https://h/X", "https://h/X")],
        HTTP,
    ),
    "API_LOGIN": ("", [("tester",) * 2, ("тест@example",) * 2], ("Zq7:b", ":", "Zq7 b", "Zq7\nb")),
    "API_PASSWORD": ("", [(" a:b 🙂 ",) * 2], ("Zq7\nb",)),
    "CA_FILE": ("", [(__file__,) * 2], ("/no/Zq7",)),
    "PROXY": (
        "",
        [("http://u:p@proxy:3128",) * 2],
        ("socks5://Zq7", "Zq7", "http://", "http://h Zq7"),
    ),
    "ALLOW": (
        frozenset(),
        [
            ("plain-http", {"plain-http"}),
            (" plain-http , plain-http", {"plain-http"}),
            (",".join(DANGERS), {*DANGERS}),
        ],
        ("Zq7", "plain-http,Zq7", "plain-http,", "PLAIN-HTTP", "plain-http;Zq7"),
    ),
    "BATCH_SIZE": (100, [("1", 1), ("1000", 1000)], ("0", "1001", *COUNT)),
    "STATUS_BATCH_SIZE": (100, [("1", 1), ("1000", 1000)], ("0", "1001", *COUNT)),
    "RATE_LIMIT": (0, [("0", 0), ("0.5", 0.5), ("1e10", 1e10)], FROM_0),
    "RATE_BURST": (1, [("0.5", 0.5), ("30", 30)], ABOVE_0),
    "POLL_RATE_LIMIT": (20, [("0", 0), ("1.5", 1.5)], FROM_0),
    "CONNECT_TIMEOUT": (5, [("0.25", 0.25), ("30", 30)], ABOVE_0),
    "READ_TIMEOUT": (30, [("0.25", 0.25), ("60", 60)], ABOVE_0),
    "LEASE": (120, [("35.01", 35.01), ("600", 600)], ABOVE_0),
    "RETRY_BASE": (5, [("0.1", 0.1)], ABOVE_0),
    "RETRY_CAP": (300, [("1", 1), ("1.5", 1.5)], ("0", "0.9", "Zq7", "nan")),
    "MAX_ATTEMPTS": (0, [("0", 0), ("7", 7)], COUNT),
    "ON_UNSURE": ("auto", [(w, w) for w in ("auto", "park", "resend")], ("Auto", "Zq7", "parks")),
    "REPLICAS": (0, [("0", 0), ("2", 2), ("disk", -1)], ("Zq7", "Disk", "101", *COUNT)),
    "REPLICAS_TIMEOUT": (1, [("0.05", 0.05), ("4", 4)], ("4.1", "0.001", *ABOVE_0)),
    "UNSURE_RESENDS": (2, [("0", 0), ("7", 7)], COUNT),
    "POLL_DELAYS": (
        (10, 30, 60, 300, 900, 3600, 14400),
        [("5", (5,)), ("0.5, 1,2", (0.5, 1, 2))],
        ("Zq7", "1,", "1,,2", "0", "1,0", "1;2", "-1", "1,Zq7"),
    ),
    "READ_WINDOW": (86400, [("0", 0), ("0.5", 0.5)], FROM_0),
    "SMS_GRACE": (600, [("0", 0), ("0.5", 0.5)], FROM_0),
    "TRACKING_MARGIN": (3600, [("0", 0), ("0.5", 0.5)], FROM_0),
    "SWEEP_INTERVAL": (1, [("0.25", 0.25), ("60", 60)], ("0", "-1", "Zq7", "nan", "86401")),
    "RETENTION": (604800, [("3600.5", 3600.5)], ("0", "-1", "Zq7", "nan")),
    "CONTENT_RETENTION": (86400, [("3600.5", 3600.5)], ("0", "-1", "Zq7", "nan")),
    "RESULTS_RETENTION": (172800, [("3600.5", 3600.5)], ("0", "-1", "Zq7", "nan")),
    "SOURCE": ("", [("shop", "shop"), ("A.b_-9", "A.b_-9")], ["a b", "a:b", "x" * 33]),
    "MAX_QUEUED": (0, [("0", 0), ("1000000000000", 10**12)], COUNT),
    "SUPPRESSION_KEY": ("", [("k" * 16,) * 2, ("ключ " * 20 + "x",) * 2], ("Zq7",)),
    "SUPPRESSION_EXPIRY": (0, [("0", 0), ("0.5", 0.5)], FROM_0),
    "SUPPRESS_BLOCKED": ("on", [("on",) * 2, ("off",) * 2], ("On", "Zq7", "0", "true")),
}
GOOD = [(name, *pair) for name, (_, good, _) in TABLE.items() for pair in good]
BAD = [(name, text) for name, (_, _, bad) in TABLE.items() for text in bad]


def read(**env: str) -> Settings:
    """A worker's settings: a producer's leave the provider's out."""
    needed = {"API_LOGIN": "tester", "API_PASSWORD": "secret"}
    given = {name: text for name, text in needed.items() if f"{name}_FILE" not in env} | env
    return Settings.from_env({f"COURIER_{k}": v for k, v in given.items()}, provider=True)


def refused(**env: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read(**env)
    return caught.value


def test_the_table_has_every_setting() -> None:
    assert {each.name.upper() for each in fields(Settings)} == TABLE.keys()


@pytest.mark.parametrize("name", sorted(TABLE.keys() - {"API_LOGIN", "API_PASSWORD"}))
def test_unset_and_empty_mean_the_default(name: str) -> None:
    default = TABLE[name][0]
    assert getattr(read(), name.lower()) == default
    assert getattr(read(**{name: ""}), name.lower()) == default


@pytest.mark.parametrize(
    ("name", "text", "value"),
    GOOD,
    ids=lambda each: str(each)[:24] if isinstance(each, str) else "",
)
def test_a_good_value_is_read(name: str, text: str, value: Any) -> None:
    assert getattr(read(**{name: text}), name.lower()) == value


@pytest.mark.parametrize(("name", "text"), BAD, ids=lambda each: repr(each)[:24])
def test_a_wrong_value_names_the_variable_and_is_never_shown(name: str, text: str) -> None:
    error = refused(**{name: text})
    assert list(error.faults) == [f"COURIER_{name}"]
    assert f"COURIER_{name}" in str(error)
    assert "Zq7" not in f"{error} {error!r} {error.faults}"
    assert error.__cause__ is None


SAYS = [
    ("BATCH_SIZE", "0", "must be a whole number from 1 to 1000"),
    ("MAX_QUEUED", "x", "must be a whole number from 0 to 1000000000000"),
    ("REPLICAS", "x", "must be a whole number from 0 to 100, or disk"),
    ("RATE_LIMIT", "-1", "must be a number from 0 to 1e10"),
    ("RATE_BURST", "x", "must be a number above 0 to 1e10"),
    ("POLL_DELAYS", "x", "must be seconds above 0 with commas between"),
    ("NAMESPACE", "a b", "must be 1 to 32 of A-Za-z0-9_.-"),
    ("NAMESPACE", "a\tb", "must be one line, without control characters"),
    ("NAMESPACE", "'a'", "must be without quotation marks around it"),
    ("ALLOW", "x", "may only have, with commas between: plain-http, volatile-redis"),
    ("CA_FILE", "/no", "must name a file"),
    ("PROXY", "x", "must be a URL that starts with http or https://"),
    ("API_URL", "https://u@h", "must be without user name and password"),
    ("API_URL", "https://h?x", "must be without ? and #"),
    (
        "API_URL",
        "http://h",
        "must start with https:// outside of loopback: texts and password would travel in "
        "the clear (COURIER_ALLOW=plain-http accepts that)",
    ),
    (
        "LEASE",
        "35",
        "must be longer than COURIER_CONNECT_TIMEOUT and COURIER_READ_TIMEOUT together",
    ),
    ("REDIS_URL", "cluster://a/1", "must have database 0, a cluster's only one"),
    ("BROKER_URL", "cluster://a", NO_BROKER),
]


@pytest.mark.parametrize(("name", "text", "fault"), SAYS)
def test_a_fault_says_what_is_allowed(name: str, text: str, fault: str) -> None:
    assert refused(**{name: text}).faults == {f"COURIER_{name}": fault}


def test_a_fault_of_a_file_says_which(tmp_path: Path) -> None:
    file, empty = "COURIER_API_LOGIN_FILE", tmp_path / "empty"
    empty.touch()
    for env, fault in (
        ({"API_LOGIN": "a", "API_LOGIN_FILE": "b"}, f"is set twice: here and by {file}"),
        ({"API_LOGIN_FILE": "/no"}, f"must be in {file}: FileNotFoundError"),
        ({"API_LOGIN_FILE": str(empty)}, f"must be in {file}, which is empty"),
        ({"API_LOGIN": ""}, f"must be set (or {file})"),
    ):
        assert refused(**env).faults == {"COURIER_API_LOGIN": fault}
    assert refused(REDIS_URL="cluster://a").faults == {"COURIER_BROKER_URL": NO_BROKER}


def test_a_file_is_read_as_it_was_told() -> None:
    env = {"COURIER_REDIS_URL_FILE": "name"}
    assert Settings.from_env(env, read=lambda name: f"redis://{name}").redis_url == "redis://name"
    assert read_value({"A_FILE": "name"}, "A", read=str.upper) == "NAME"
    assert read_value({"A_FILE": "name"}, "A", False) == ""
    assert read_value({"A": " a "}, "A") == "a"


@pytest.mark.parametrize("name", ["CONNECT_TIMEOUT", "READ_TIMEOUT"])
def test_a_lease_is_not_blamed_for_a_wrong_timeout(name: str) -> None:
    assert list(refused(**{name: "x", "LEASE": "35"}).faults) == [f"COURIER_{name}"]


@pytest.mark.parametrize(
    ("given", "policies"),
    [
        ("auto", ["park", "park", "resend", "resend"]),
        ("park", ["park"] * 4),
        ("resend", ["resend"] * 4),
    ],
)
def test_by_default_the_urgent_lanes_are_sent_again(given: str, policies: list[str]) -> None:
    made = read(ON_UNSURE=given)
    assert [made.unsure_policy(x) for x in ("low", "normal", "high", "realtime")] == policies


def test_all_faults_are_reported_together() -> None:
    wrong = {name: bad[0] for name, (_, _, bad) in TABLE.items() if bad}
    assert refused(**wrong).faults.keys() == {f"COURIER_{name}" for name in wrong}


def test_a_short_lease_is_reported_beside_the_others() -> None:
    error = refused(LEASE="35", BATCH_SIZE="0")
    assert error.faults.keys() == {"COURIER_LEASE", "COURIER_BATCH_SIZE"}


@pytest.mark.parametrize(
    ("env", "good"),
    [
        ({"LEASE": "35"}, False),
        ({"LEASE": "35.5"}, True),
        ({"READ_TIMEOUT": "115"}, False),
        ({"READ_TIMEOUT": "114"}, True),
        ({"CONNECT_TIMEOUT": "1", "READ_TIMEOUT": "2", "LEASE": "3"}, False),
        ({"CONNECT_TIMEOUT": "1", "READ_TIMEOUT": "2", "LEASE": "3.5"}, True),
    ],
)
def test_a_lease_is_longer_than_a_request(env: dict[str, str], good: bool) -> None:
    if good:
        assert read(**env).lease > read(**env).deadline
    else:
        assert list(refused(**env).faults) == ["COURIER_LEASE"]


def test_the_deadline_of_a_request_is_both_timeouts() -> None:
    assert read(CONNECT_TIMEOUT="1.5", READ_TIMEOUT="2").deadline == 3.5


def test_a_disk_is_waited_for_longer_than_fsync_takes() -> None:
    assert read(REPLICAS="disk").replicas_timeout == 3
    assert read(REPLICAS="disk", REPLICAS_TIMEOUT="1").replicas_timeout == 1


def test_the_broker_is_the_same_redis_and_the_burst_a_second_of_the_rate() -> None:
    made = read(REDIS_URL="redis://elsewhere:1/2", RATE_LIMIT="50")
    assert made.broker_url == "redis://elsewhere:1/2"
    assert made.rate_burst == 50
    assert read(RATE_LIMIT="50", RATE_BURST="7").rate_burst == 7


@pytest.mark.parametrize(("interval", "ttl"), [("1", 2), ("0.25", 1), ("30", 60)])
def test_a_bell_lives_two_sweeps_and_a_second_at_least(interval: str, ttl: float) -> None:
    assert read(SWEEP_INTERVAL=interval).bell_ttl == ttl


def test_only_workers_need_the_providers_credentials() -> None:
    assert Settings.from_env({}).api_login == ""
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({"COURIER_BATCH_SIZE": "0"}, provider=True)
    assert caught.value.faults.keys() == {
        *("COURIER_API_LOGIN", "COURIER_API_PASSWORD", "COURIER_BATCH_SIZE")
    }
    env = {"COURIER_API_LOGIN": "a", "COURIER_API_PASSWORD": "b"}
    assert Settings.from_env(env, provider=True).api_login == "a"


@pytest.mark.parametrize("name", FILED)
def test_a_file_may_hold_the_value(name: str, tmp_path: Path) -> None:
    value = "redis://u:Zq7@h/0" if name.endswith("_URL") else "Zq7-ядлинныйключ-шифра"
    path = tmp_path / "secret"
    path.write_text(f"{value}\n", encoding="utf-8")
    made = read(**{f"{name}_FILE": str(path)})
    assert getattr(made, name.lower()) == value


def test_a_password_from_a_file_keeps_its_spaces(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b" a b \r\n")
    assert read(API_PASSWORD_FILE=str(path)).api_password == " a b "


@pytest.mark.parametrize("name", FILED)
@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"Zq7:b\nZq7"])
def test_a_file_that_gives_no_good_value_is_a_fault_of_its_variable(
    name: str, content: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "secret-Zq7"
    if content is not None:
        path.write_bytes(content)
    error = refused(**{f"{name}_FILE": str(path)})
    assert list(error.faults) == [f"COURIER_{name}"]
    assert "Zq7" not in str(error)


@pytest.mark.parametrize("name", FILED)
def test_a_value_and_a_file_for_it_are_too_much(name: str, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("redis://h")
    error = refused(**{name: "redis://h", f"{name}_FILE": str(path)})
    assert list(error.faults) == [f"COURIER_{name}"]


def test_secrets_do_not_show_in_the_value_itself() -> None:
    made = read(
        REDIS_URL="redis://u:Zq7@h/0",
        BROKER_URL="redis://u:Zq7@h/1",
        API_LOGIN="Zq7",
        API_PASSWORD="Zq7",
        PROXY="http://u:Zq7@h",
    )
    assert "Zq7" not in f"{made} {made!r}"
    assert "namespace='courier'" in repr(made)


def test_settings_are_frozen_and_read_nothing_but_their_own_names() -> None:
    made = Settings.from_env(
        {"REDIS_URL": "redis://other", "COURIERX_LEASE": "1", "XCOURIER_LEASE": "1"}
    )
    assert made == Settings.from_env({})
    with pytest.raises(FrozenInstanceError):
        made.lease = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    "url", ["unix:///run/r.sock?db=1", "rediss://h", "sentinel://a,b?master=m", "redis://:p%23@h"]
)
def test_the_brokers_url_is_the_stores_in_each_form_but_a_clusters(url: str) -> None:
    assert read(REDIS_URL=url).broker_url == url
    assert list(refused(BROKER_URL="cluster://a").faults) == ["COURIER_BROKER_URL"]
    assert list(refused(REDIS_URL="cluster://a").faults) == ["COURIER_BROKER_URL"]
    assert read(REDIS_URL="cluster://a", BROKER_URL=url).redis_url == "cluster://a"
    # An app uses no broker
    assert Settings.from_env({"COURIER_REDIS_URL": "cluster://a"}).redis_url == "cluster://a"


AROUND = {  # what editors, shells and secret stores leave around a value
    "nothing": "{}",
    "LF": "{}\n",
    "CRLF": "{}\r\n",
    "CR": "{}\r",
    "BOM": "\ufeff{}",
    "BOM and CRLF": "\ufeff{}\r\n",
    "blank lines": "{}\r\n\r\n",
    "a line of spaces": "{}\n \t\n",
    "blank lines before": "\n \r\n{}\n",
    "BOM behind": "{}\n\ufeff",
}
VALUES = {
    "REDIS_URL": "redis://u:Zq7@h/0",
    "BROKER_URL": "redis://u:Zq7@h/0",
    "NAMESPACE": "shop",
    "API_URL": "https://h",
    "API_LOGIN": "tester",
    "API_PASSWORD": " a b ",
    "PROXY": "http://proxy:3128",
    "CA_FILE": __file__,
    "ALLOW": "plain-http",
    "LEASE": "600",
    "POLL_DELAYS": "5,10",
    "ON_UNSURE": "park",
    "BATCH_SIZE": "7",
}


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("name", VALUES)
def test_line_ends_and_a_bom_around_a_value_are_no_part_of_it(
    name: str, around: str, tmp_path: Path
) -> None:
    given = AROUND[around].format(VALUES[name])
    wanted = getattr(read(**{name: VALUES[name]}), name.lower())
    assert getattr(read(**{name: given}), name.lower()) == wanted
    if name in FILED:
        path = tmp_path / "secret"
        path.write_bytes(given.encode())
        for to in (str(path), f"{path}\r"):  # the file's name has a line end of its own
            assert getattr(read(**{f"{name}_FILE": to}), name.lower()) == wanted
        assert wanted != "" and read(API_PASSWORD=" a b \r").api_password == " a b "


@pytest.mark.parametrize("inside", ["\r", "\n", "\r\n", "\ufeff", "\0", "\t", "\udcff"])
@pytest.mark.parametrize("name", VALUES)
def test_a_line_end_or_a_bom_inside_a_value_is_refused(
    name: str, inside: str, tmp_path: Path
) -> None:
    error = refused(**{name: f"Zq7{inside}Zq7"})
    assert list(error.faults) == [f"COURIER_{name}"]
    assert "must be one line, without control characters" in str(error) and "Zq7" not in str(error)
    if name in FILED and inside != "\udcff":
        path = tmp_path / "secret"
        path.write_bytes(f"Zq7{inside}Zq7\n".encode())
        error = refused(**{f"{name}_FILE": str(path)})
        assert list(error.faults) == [f"COURIER_{name}"] and "Zq7" not in str(error)


@pytest.mark.parametrize("name", FILED)
@pytest.mark.parametrize("content", ["", "\n", "\ufeff\r\n \r\n"])
def test_an_empty_file_is_a_fault_and_no_default(name: str, content: str, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content.encode())
    error = refused(**{f"{name}_FILE": str(path)})
    assert error.faults == {f"COURIER_{name}": f"must be in COURIER_{name}_FILE, which is empty"}
    # An empty variable, as a template leaves it, is one that isn't set
    assert read(REDIS_URL="\r\n").redis_url == TABLE["REDIS_URL"][0]


@pytest.mark.parametrize("mark", "'\"")
@pytest.mark.parametrize("name", VALUES)
def test_quotation_marks_around_a_variables_value_are_refused(
    name: str, mark: str, tmp_path: Path
) -> None:
    # `docker run --env-file` keeps them
    error = refused(**{name: f"{mark}{VALUES[name]}{mark}\r"})
    assert error.faults == {f"COURIER_{name}": "must be without quotation marks around it"}
    # A password that has them is in a file
    path = tmp_path / "secret"
    path.write_text(f"{mark}a{mark}")
    given = {"API_PASSWORD_FILE": str(path)}
    assert read(**given).api_password == f"{mark}a{mark}"
    assert read(API_PASSWORD=f"{mark}a").api_password == f"{mark}a"


def test_a_bom_before_the_first_name_of_a_file_is_no_part_of_it() -> None:
    assert Settings.from_env({"\ufeffCOURIER_NAMESPACE": "shop"}).namespace == "shop"


def test_an_env_file_with_crlf_gives_the_password_without_it() -> None:
    lines = ["COURIER_API_LOGIN=tester\r", "COURIER_API_PASSWORD=111111\r", ""]
    env = dict(line.split("=", 1) for line in lines if line)  # as `docker --env-file` reads them
    made = Settings.from_env(env, provider=True)
    assert (made.api_login, made.api_password) == ("tester", "111111")


def test_a_producer_reads_none_of_the_providers_settings() -> None:
    env = {
        "COURIER_API_PASSWORD_FILE": "/run/secrets/for-workers-only",
        "COURIER_API_LOGIN": "a:b",
        "COURIER_CA_FILE": "/nope",
        "COURIER_API_URL": "ftp://x",
        "COURIER_PROXY": "x",
    }
    assert Settings.from_env(env).api_login == ""
    with pytest.raises(ConfigError) as caught:
        Settings.from_env(env, provider=True)
    assert len(caught.value.faults) == 5


@pytest.mark.parametrize(
    "url",
    [
        *("http://simulator:8044", "HTTP://example.com", "http://10.0.0.1", "http://[fe80::1]"),
        *("http://127.0.0.1.example.com", "http://localhost.example.com", "http://0.0.0.0"),
        "http://128.0.0.1",
    ],
)
def test_a_plain_address_outside_of_loopback_is_refused_unless_allowed(url: str) -> None:
    error = refused(API_URL=url)
    assert list(error.faults) == ["COURIER_API_URL"]
    assert "https://" in str(error) and "COURIER_ALLOW=plain-http" in str(error)
    assert read(API_URL=url, ALLOW="plain-http").api_url == url


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.9.8.7", "[::1]:80"])
def test_a_plain_address_on_loopback_is_good(host: str) -> None:
    assert read(API_URL=f"http://{host}").api_url == f"http://{host}"


def test_through_a_proxy_elsewhere_a_plain_address_leaves_loopback() -> None:
    far = {"API_URL": "http://127.0.0.1:8044", "PROXY": "http://proxy.example:3128"}
    assert list(refused(**far).faults) == ["COURIER_API_URL"]
    assert read(**far, ALLOW="plain-http").proxy == far["PROXY"]
    assert read(**far | {"PROXY": "http://localhost:3128"})
    assert read(**far | {"API_URL": "https://example.com"})


def test_a_word_that_allows_nothing_is_the_only_fault_named() -> None:
    assert list(refused(API_URL="http://h", ALLOW="plain").faults) == ["COURIER_ALLOW"]


@pytest.mark.parametrize("name", ["CONNECT", "READ"])
def test_a_timeout_that_no_socket_takes_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}_TIMEOUT: must be a number above 0 to 86400"):
        Settings.from_env({f"COURIER_{name}_TIMEOUT": "1e10", "COURIER_LEASE": "1e10"})
