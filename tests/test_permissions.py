"""What Redis refuses for good: one line that names what to grant, for each part; nothing waits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
from kombu.exceptions import OperationalError
from redis import exceptions as errors

from tests.conftest import ROOT, Courier, common_job, iso_in, text_job
from viber_courier import AsyncProducer, Producer, Settings, StoreUnavailable, consume
from viber_courier.ops.commands import health
from viber_courier.ops.exporter import CourierCollector
from viber_courier.ops.push.outbox import Outbox
from viber_courier.ops.redis_server import RedisServer
from viber_courier.store.connection import is_transient, store_errors
from viber_courier.store.door import Door
from viber_courier.store.keys import Keys
from viber_courier.store.leases import Lease, Store
from viber_courier.store.refusals import refusal, store_fault
from viber_courier.worker.log import ForPeople, JsonLines

PASSWORD = "geheim7"
Line = tuple[str, tuple[str, ...]]


def documented(namespace: str, password: str = PASSWORD) -> Iterator[Line]:
    """The lines of docs/redis.md as (user, rules), for this namespace."""
    text = (ROOT / "docs" / "redis.md").read_text(encoding="utf-8")
    for user, rules in re.findall(r"^ACL SETUSER (\S+) (.*)$", text, re.M):
        ours = rules.replace("{courier}", f"{{{namespace}}}").replace("~courier.", f"~{namespace}.")
        yield user, tuple(f">{password}" if rule == ">PASSWORD" else rule for rule in ours.split())


class Users:
    """Users of a server, with the permissions of docs/redis.md."""

    def __init__(self, server: RedisServer, namespace: str) -> None:
        self.server, self._namespace = server, namespace
        self._names = list[str]()
        self.admin = redis.Redis.from_url(server.url, decode_responses=True)
        self.lines = list(documented(namespace))

    def rules(self, user: str) -> list[str]:
        """All rules of a user; the command line's come on top of a worker's."""
        whole = {user, "courier-worker"} if user == "courier-cli" else {user}
        return [rule for name, rules in self.lines if name in whole for rule in rules]

    def make(self, user: str, without: str = "", more: str = "") -> str:
        """Make a user, and return the URL to log in with."""
        name = f"{user}-{self._namespace}"
        rules = [rule for rule in self.rules(user) if rule != without]
        self.admin.execute_command("ACL", "SETUSER", name, "reset", *rules, *more.split())
        self.admin.script_flush()
        self.admin.delete(*Keys(self._namespace).bells)
        self._names.append(name)
        return self.url(name)

    def url(self, name: str, password: str = PASSWORD) -> str:
        return self.server.url.replace("//", f"//{name}:{password}@")

    def close(self) -> None:
        for name in self._names:
            self.admin.execute_command("ACL", "DELUSER", name)
        self.admin.close()


@pytest.fixture
def users(redis_server: RedisServer, namespace: str) -> Iterator[Users]:
    made = Users(redis_server, namespace)
    yield made
    made.close()


def granted(rules: list[str]) -> list[str]:
    return [rule for rule in rules if rule.startswith("+")]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        # Redis 6.2, 7.0, and Redis 8 or Valkey, as they say it; in a script, too.
        (
            errors.NoPermissionError(
                "this user has no permissions to run the 'set' command or its subcommand"
            ),
            "grant +set",
        ),
        (
            errors.NoPermissionError("this user has no permissions to run the 'script' command"),
            "grant +script|load",
        ),
        (
            errors.NoPermissionError(
                "User u has no permissions to run the 'xgroup|create' command"
            ),
            "grant +xgroup|create",
        ),
        (
            errors.NoPermissionError(
                "this user has no permissions to access one of the keys used as arguments"
            ),
            "for a key",
        ),
        (errors.NoPermissionError("No permissions to access a key"), "for a key"),
        (errors.NoPermissionError("No permissions to access a channel"), "for a channel"),
        (
            redis.ResponseError(
                "ACL failure in script: User u has no permissions to run the 'zadd' command"
                " script: on @user_script:1."
            ),
            "grant +zadd",
        ),
        (
            redis.ResponseError(
                "Error running script (call to f_0): @user_script: 1: The user executing the script"
                " can't run this command or subcommand"
            ),
            "script's command",
        ),
        (
            redis.ResponseError(
                "The user executing the script can't access at least one of the keys mentioned in"
                " the command arguments script: 0, on @user_script:1."
            ),
            "for a key",
        ),
        (errors.NoPermissionError("what a server of next year says"), "NOPERM"),
        (
            redis.ResponseError(
                "unknown command `EVALSHA`, with args beginning with: `79250001`, "
            ),
            "evalsha is unknown",
        ),
        (redis.ResponseError("unknown command 'INFO', with args"), "info is unknown"),
        (
            redis.ResponseError(
                "WAITAOF cannot be used when numlocal is set but appendonly is disabled."
            ),
            "COURIER_REPLICAS=disk needs appendonly yes",
        ),
        (redis.ResponseError("unsupported command 'blpop'"), "blpop is not supported"),
        (
            redis.ResponseError(
                "Error running script: Unknown Redis command called from Lua script"
            ),
            "renamed or disabled",
        ),
        (
            redis.ResponseError("Unknown command called from script script: on @user_script:1."),
            "renamed or disabled",
        ),
        (redis.ResponseError("DB index is out of range"), "database"),
        (redis.ResponseError("SELECT is not allowed in cluster mode"), "database"),
        (
            redis.AuthenticationError("invalid username-password pair or user is disabled."),
            "WRONGPASS",
        ),
        (redis.AuthenticationError("invalid password"), "WRONGPASS"),
        (redis.AuthenticationError("Authentication required."), "NOAUTH"),
        (
            redis.AuthenticationError("HELLO must be called with the client already authenticated"),
            "NOAUTH",
        ),
        (
            redis.AuthenticationError(
                "AUTH <password> called without any password configured for the default user."
            ),
            "has no password",
        ),
        (redis.AuthenticationError("no"), "login"),
        (redis.InvalidResponse("Protocol error, got 'H'"), "no Redis server"),
        (errors.MovedError("866 127.0.0.1:6379"), "Cluster"),
    ],
)
def test_an_answer_that_will_not_change_says_what_to_change(
    error: redis.RedisError, words: str
) -> None:
    assert words in refusal(error) and not is_transient(error)
    assert "7925" not in refusal(error)  # no argument is repeated
    outer = StoreUnavailable("of an app")
    outer.__cause__ = error
    assert refusal(outer) == refusal(error)


@pytest.mark.parametrize(
    "error",
    [
        redis.ConnectionError("Error 111 connecting to 127.0.0.1:1. Connection refused."),
        redis.TimeoutError("Timeout reading from socket"),
        errors.BusyLoadingError("Redis is loading the dataset in memory"),
        errors.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
        errors.ReadOnlyError("You can't write against a read only replica."),
        errors.MasterDownError("Link with MASTER is down"),
        redis.ResponseError("NOREPLICAS Not enough good replicas to write."),
        redis.ResponseError("Error running script: @user_script: 1: -OOM command not allowed"),
        redis.ResponseError("BUSY Redis is busy running a script."),
        redis.ResponseError("MISCONF Redis is configured to save RDB snapshots"),
    ],
)
def test_an_answer_that_may_pass_is_waited_for(error: redis.RedisError) -> None:
    assert refusal(error) == "" and is_transient(error)


def test_a_pipelines_error_is_read_without_its_arguments() -> None:
    said = "Command # 1 (SET k unknown command 'x') of pipeline caused error: WRONGTYPE Operation"
    assert refusal(redis.ResponseError(said)) == ""


def use_app(url: str, settings: Settings) -> None:
    """Do what an app does, and raise the first error; every call is a new message."""
    env = {"COURIER_REDIS_URL": url, "COURIER_NAMESPACE": settings.namespace}
    producer = Producer.from_env({**env, "COURIER_MAX_QUEUED": "100000"})
    keys = Keys(settings.namespace)
    try:
        ids = [producer.enqueue(text_job(sendAt=iso_in(60))), producer.enqueue(text_job())]
        rows = [{"address": "79250000001"}] * 2
        ids += producer.enqueue_many(rows, common_job())
        producer.enqueue_many(rows[:1], common_job(sendAt=iso_in(3600)))  # needs it for longer
        producer.redis.hset(keys.records + ids[0], "unsure", "1")  # as after a lost answer
        assert producer.get(ids[0]) is not None
        assert [producer.cancel(id) for id in ids] == [False, True, True, True]
        campaign = producer.campaign(f"c{ids[0][:8]}", common=common_job())
        ids = campaign.add(rows)
        campaign.pause()
        campaign.resume()
        assert campaign.cancel().ended == len([*campaign.report()]) == 2
        producer.ping()
    finally:
        producer.close()


def use_results(url: str, settings: Settings) -> None:
    env = {"COURIER_REDIS_URL": url, "COURIER_NAMESPACE": settings.namespace}
    producer = Producer.from_env(env)
    try:
        producer.cancel(producer.enqueue(text_job()))
        events = list(producer.results("crm", "one", block=0.0))
        assert events
        list(producer.results("late", "one", block=0.0, start=datetime.now(UTC)))
        with store_errors():
            producer.redis.xack(Keys(settings.namespace).results, "crm", "0-1")  # as ack() does
    finally:
        producer.close()


def use_suppressions(url: str, settings: Settings) -> None:
    env = {"COURIER_REDIS_URL": url, "COURIER_NAMESPACE": settings.namespace}
    producer = Producer.from_env({**env, "COURIER_SUPPRESSION_KEY": "k" * 16})
    try:
        producer.suppressions.add("79250000001", "x")
        assert "79250000001" in producer.suppressions
        list(producer.suppressions.list())
        producer.enqueue(text_job(priority="low", address="79250000001"))
        assert producer.suppressions.remove("79250000001")
    finally:
        producer.close()


def use_consume(url: str, settings: Settings) -> None:
    env = {"COURIER_REDIS_URL": url, "COURIER_NAMESPACE": settings.namespace}
    producer, stop = Producer.from_env(env), threading.Event()
    try:
        producer.cancel(producer.enqueue(text_job()))
        consume(producer, "crm", lambda events: stop.set(), stop=stop)
        # Without the permission it goes on, and leaves its name
        with redis.Redis.from_url("redis://" + url.rpartition("@")[2]) as admin:
            names: Any = admin.xinfo_consumers(Keys(settings.namespace).results, "crm")
        if {each["name"] for each in names} - {b"one"}:
            raise StoreUnavailable("a name is left: no permission for a script's command")
    finally:
        producer.close()


def use_push(url: str, settings: Settings) -> None:
    """What a webhook does, besides what reads events."""

    async def push() -> None:
        env = {"COURIER_REDIS_URL": url, "COURIER_NAMESPACE": settings.namespace}
        async with AsyncProducer.from_env(env) as producer:
            outbox = Outbox(producer.redis, settings.namespace, "crm")
            with store_errors():
                assert await outbox.lease.acquire()
                try:
                    await outbox.lease.renew()
                    await outbox.add([("a", "a:1", "{}"), ("b", "b:1", "{}")])
                    first, second = await outbox.read("0", 2)
                    await outbox.put_aside(first, "http-400")
                    await outbox.remove([second.entry])
                    assert (await outbox.sizes())["put_aside"] == 1
                    async for entry, _ in outbox.aside():
                        await outbox.drop(entry)
                finally:
                    await outbox.lease.release()

    with redis.Redis.from_url("redis://" + url.rpartition("@")[2]) as admin:
        admin.delete(*(Keys(settings.namespace).push(name, "crm") for name in ("lease", "aside")))
    asyncio.run(push())


def use_exporter(url: str, settings: Settings) -> None:
    fault = CourierCollector(Settings(redis_url=url, namespace=settings.namespace)).fault()
    if fault:
        raise StoreUnavailable(fault)
    found = list(CourierCollector(Settings(redis_url=url, namespace=settings.namespace)).collect())
    if not [m for m in found if m.name.startswith("courier_redis_memory") and m.samples]:
        raise StoreUnavailable("no metrics of memory: grant +info")


def use_door(url: str, settings: Settings) -> None:
    with store_errors(), closing(Door(url, settings.namespace)) as door:
        door.look()


@pytest.mark.parametrize(
    ("user", "use", "of"),
    [
        ("courier-app", use_app, 0),
        ("courier-app", use_results, 1),
        ("courier-app", use_consume, 2),
        ("courier-app", use_push, 3),
        ("courier-app", use_suppressions, 4),
        ("courier-exporter", use_exporter, 0),
        ("courier-exporter", use_door, 1),
    ],
)
def test_apps_and_exporter_need_what_is_documented_and_no_less(
    users: Users, settings: Settings, user: str, use: Callable[[str, Settings], None], of: int
) -> None:
    # Given messages and a group, so that there is something to read
    everything = users.url("default", "").replace("default:@", "")
    use_app(everything, settings)
    use_results(everything, settings)
    # When a part has exactly the documented permissions, then all its calls work
    use(users.make(user), settings)
    # When one of them is missing, then a call fails and its error says which, if Redis does
    rules = [rules for name, rules in users.lines if name == user][of]
    unneeded = list[str]()
    for rule in granted(list(rules)):
        try:
            use(users.make(user, without=rule), settings)
            unneeded.append(rule)
        except StoreUnavailable as error:
            assert rule in str(error) or "script's command" in str(error), rule
    assert unneeded == []
    # When its keys are another namespace's
    with pytest.raises(StoreUnavailable, match="for a key"):
        use(users.make(user, more="resetkeys ~{other}:*"), settings)


def test_each_line_is_accepted_by_a_server_of_its_own(users: Users, namespace: str) -> None:
    # as where the broker is another server than the store
    for number, (_, rules) in enumerate(users.lines):
        name = f"line-{number}-{namespace}"
        users.admin.execute_command("ACL", "SETUSER", name, *rules)
        users.admin.execute_command("ACL", "DELUSER", name)


def test_a_worker_s_check_covers_what_is_documented(users: Users, namespace: str) -> None:
    # Given the documented permissions of a worker: those on the store
    rules = next(rules for name, rules in users.lines if name == "courier-worker")
    for without in ("", *granted(list(rules))):
        # When one of them, or none, is missing, then the check finds it
        with redis.Redis.from_url(users.make("courier-worker", without=without)) as client:
            found = store_fault(client, namespace)
        if without in (
            "",
            "+info",
            "+ping",
        ):  # redis-py calls PING, and INFO has a check of its own
            assert found == ""
        else:
            assert without.lstrip("+") in found, without
    # When several are missing, then all are named at once
    more = "-zadd -hset -xtrim -time"
    with redis.Redis.from_url(users.make("courier-worker", more=more)) as client:
        assert store_fault(client, namespace).endswith("grant +time +hset +zadd +xtrim")


class Breaking(redis.Redis):
    """A connection that breaks after so many commands."""

    commands = 0

    def execute_command(self, *args: Any, **options: Any) -> Any:
        self.commands -= 1
        if self.commands < 0:
            raise redis.ConnectionError
        return super().execute_command(*args, **options)


@pytest.mark.slow
def test_a_check_of_permissions_that_breaks_off_leaves_no_key_for_ever(
    own_server: RedisServer, namespace: str
) -> None:
    with closing(Breaking.from_url(own_server.url, decode_responses=True)) as client:
        for commands in range(40):
            # When the connection breaks after so many commands
            client.commands = commands
            with contextlib.suppress(redis.ConnectionError):
                store_fault(client, namespace)
            # Then what has been written so far expires
            client.commands = sys.maxsize
            found = [*client.scan_iter(f"{{{namespace}}}:*")]
            assert [key for key in found if client.pttl(key) == -1] == []


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ("+get", "wrong user name or password (WRONGPASS)"),
        ("-zmscore", "grant +zmscore"),
        ("-evalsha", "grant +evalsha"),
        ("resetkeys ~other:*", "no permission for a key"),
        ("-@all", "grant +set"),
    ],
)
def test_commands_say_what_redis_refuses(
    users: Users, courier: Courier, rules: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "ANSWER_SECONDS", 0.1)  # there is no worker
    url = users.make("courier-cli", more=rules)
    if "WRONGPASS" in words:
        url = url.replace(PASSWORD, "wrong")
    # ready ends with one line, and doctor finds it
    said = courier("ready", code=3, COURIER_REDIS_URL=url).stderr
    assert words in said and "COURIER_REDIS_URL" in said and len(said.splitlines()) == 1
    found = courier.json("doctor", "--no-provider", code=2, COURIER_REDIS_URL=url)
    assert words in next(each["seen"] for each in found if each["about"] == "Redis")
    assert "wrong:" not in str(found) and PASSWORD not in str(found)


def test_unknown_durability_is_a_finding_of_its_own(
    users: Users, courier: Courier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "ANSWER_SECONDS", 0.1)  # there is no worker
    url = users.make("courier-cli", without="+info")
    for allow, severity in (("", "error"), ("volatile-redis", "warning")):
        env = {"COURIER_REDIS_URL": url, "COURIER_ALLOW": allow}
        found = courier.json("doctor", "--no-provider", code=2, **env)
        about = {each["about"]: each for each in found}
        assert about["durability"]["severity"] == severity
        assert "grant +info" in about["durability"]["do"]
        assert about["clock"]["severity"] == about["permissions"]["severity"] == "ok"


def test_the_exporter_ends_where_redis_refuses_it(users: Users, courier: Courier) -> None:
    url = users.make("courier-exporter", without="+eval")
    said = courier("exporter", "--port", "0", code=1, COURIER_REDIS_URL=url).stderr
    assert "COURIER_REDIS_URL: Redis refuses: no permission (NOPERM): grant +eval" in said


@pytest.mark.parametrize("rule", ["+zadd", "+hincrby", "+pttl", "+set", "+rpush", "+hset"])
def test_what_a_missing_permission_has_cut_off_is_stored_by_the_repeat(
    users: Users, settings: Settings, rule: str
) -> None:
    # Given an app without a permission that a script needs in its middle
    env = {"COURIER_NAMESPACE": settings.namespace}
    rows = [{"id": "a", "address": "79250000001"}, {"id": "b", "address": "79250000002"}]
    limited = Producer.from_env({**env, "COURIER_REDIS_URL": users.make("courier-app", rule)})
    with pytest.raises(StoreUnavailable):
        limited.enqueue_many(rows, common_job())
    limited.close()
    # When it is granted, and the call repeated
    app = Producer.from_env({**env, "COURIER_REDIS_URL": users.make("courier-app")})
    assert app.enqueue_many(rows, common_job()) == ["a", "b"]
    # Then a worker finds both, with their content
    with redis.Redis.from_url(users.server.url, decode_responses=True) as client:
        lease = Store(client, settings).claim("low", answered=True)
    assert isinstance(lease, Lease)
    gone = {each.id: each.content is None or each.common is None for each in lease.messages}
    assert gone == {"a": False, "b": False}
    app.close()


def test_a_log_line_about_a_refusal_has_no_traceback() -> None:
    said = "this user has no permissions to run the 'brpop' command or its subcommand"
    error = errors.NoPermissionError(said)
    record = logging.LogRecord("celery.worker", 50, "", 0, "Unrecoverable error", (), None)
    record.exc_info = (type(error), error, None)
    line = json.loads(JsonLines().format(record))
    assert line["error"] == "COURIER_BROKER_URL: no permission (NOPERM): grant +brpop"
    assert "exception" not in line
    text = ForPeople(logging.Formatter("%(message)s")).format(record)
    assert text == f"Unrecoverable error: {line['error']}"
    # nor does it quote the command: Celery prints kombu's error, whose cause is Redis's
    record.msg, record.args = "Unrecoverable error: %r", (OperationalError(f"{error} {PASSWORD}"),)
    assert PASSWORD not in JsonLines().format(record)
    assert PASSWORD not in ForPeople(logging.Formatter("%(message)s")).format(record)
    # A bug keeps its traceback
    record.exc_info = (ValueError, ValueError("a bug"), None)
    assert "a bug" in json.loads(JsonLines().format(record))["exception"]
