"""Loads and calls Lua scripts, whose heads name their keys and arguments.

The head is the comment at the beginning of each file in ``lua/``::

    -- Takes messages off the list of dead letters.
    -- @include clock
    -- KEYS
    --   dead        the list
    --   lanes[8]    eight keys, a table in Lua, a sequence in Python
    -- ARGV
    --   time        one value
    --   ids...      any number of values, the last argument: in Lua the index of the first

Each name is a local variable of the script, and a keyword of its call unless ``shared`` supplies
it. A missing or unknown name is a TypeError at the call. ``@include`` inserts
``lua/lib/<name>.lua`` once, after the files that it includes itself.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any, NamedTuple

import redis

from viber_courier.schemas.instants import micros, millis
from viber_courier.schemas.lanes import LANES, POLL
from viber_courier.schemas.settings import Settings
from viber_courier.schemas.suppression import number_hash
from viber_courier.store.clock import STEP, longest_gap
from viber_courier.store.format import FORMAT, NEEDED
from viber_courier.store.keys import Keys
from viber_courier.store.pools import WholePool
from viber_courier.store.replicas import Command, Kept, call_kept, read_replies
from viber_courier.store.replies import reply, run

_pack: Callable[[Any], bytes] | None
try:
    from hiredis import pack_command as _pack
except ImportError:  # optional
    _pack = None

_LUA: Any = files("viber_courier.store") / "lua"
DOOR_LUA: Any = _LUA / "door"
"""Folder of the scripts that the broker runs."""
_INCLUDE = re.compile(r"(?m)^-- @include (\w+)$")
_PARAMETER = re.compile(r"--   (\w+)(?:\[(\d+)\]|(\.\.\.))?(?:\s|$)")


class Parameter(NamedTuple):
    """A name in a head. ``size``: None for one value, 0 for any number, else so many values."""

    name: str
    size: int | None


class Source:
    """A script's text as the server gets it, and the names in its head."""

    def __init__(
        self, name: str, text: str, keys: tuple[Parameter, ...], args: tuple[Parameter, ...]
    ) -> None:
        self.name, self.text, self.keys, self.args = name, text, keys, args
        self.digest = sha1(text.encode(), usedforsecurity=False).hexdigest()
        self.sizes = dict((*keys, *args))

    def words(self, given: Mapping[str, Any]) -> dict[str, list[str]]:
        """Returns values as text, by name: True and False become "1" and "0", None becomes "".

        Raises TypeError for a name that the head doesn't have, and for a wrong number of values.
        """
        words = {}
        for name, value in given.items():
            size = self.sizes.get(name, -1)
            words[name] = [_text(value)] if size is None else [_text(each) for each in value]
            if size == -1 or (size and len(words[name]) != size):
                wrong = "is unknown" if size == -1 else f"has {len(words[name])} values"
                raise TypeError(f"script {self.name}: {name} {wrong}")
        return words


def _text(value: object) -> str:
    if type(value) is str:
        return value
    if value is None:
        return ""
    return str(int(value) if isinstance(value, bool) else value)


@cache
def source(name: str, folder: Any = _LUA) -> Source:
    """Returns the script ``<name>.lua`` of a folder, with its includes and local variables."""
    body = (folder / f"{name}.lua").read_text(encoding="utf-8")
    keys, args = _parameters(body, "KEYS"), _parameters(body, "ARGV")
    fragments = [_fragment(each) for each in dict.fromkeys(_includes(body))]
    declared = [*_locals("KEYS", keys), *_locals("ARGV", args)]
    return Source(name, "\n".join((*fragments, *declared, body)), keys, args)


def _includes(text: str) -> Iterator[str]:
    for name in _INCLUDE.findall(text):
        yield from _includes(_fragment(name))
        yield name


@cache
def _fragment(name: str) -> str:
    return str((_LUA / "lib" / f"{name}.lua").read_text(encoding="utf-8"))


def _parameters(text: str, section: str) -> tuple[Parameter, ...]:
    """Returns the names below ``-- KEYS`` or ``-- ARGV``; a deeper line continues another."""
    found = list[Parameter]()
    for line in text.partition(f"\n-- {section}\n")[2].splitlines():
        if not line.startswith("--   "):
            break
        if match := _PARAMETER.match(line):
            name, size, many = match.groups()
            found.append(Parameter(name, int(size) if size else 0 if many else None))
    return tuple(found)


def _locals(array: str, parameters: tuple[Parameter, ...]) -> Iterator[str]:
    place = 1
    for each in parameters:
        if each.size is None:
            yield f"local {each.name} = {array}[{place}]"
            place += 1
        elif each.size:
            yield f"local {each.name} = {{unpack({array}, {place}, {place + each.size - 1})}}"
            place += each.size
        else:
            yield f"local {each.name} = {place}"


# Now, not at the first call: an upgrade may put other files in their place under a process that
# runs, and this version's code doesn't fit them.
for _folder in (_LUA, DOOR_LUA):
    for _file in _folder.iterdir():
        if _file.name.endswith(".lua"):
            source(_file.name.removesuffix(".lua"), _folder)


def shared(settings: Settings) -> dict[str, Any]:
    """Returns the keys and arguments that every call of a namespace shares, by name."""
    keys, numbers = Keys(settings.namespace), number_hash(settings.suppression_key)
    return {
        **vars(keys),
        "formats": (FORMAT, NEEDED),
        "watch_bell": keys.bell(POLL),
        "time": None,
        "words": LANES,
        "watch_word": POLL,
        "bell_ms": millis(settings.bell_ttl),
        "keep": millis(settings.retention),
        "keep_content": millis(settings.content_retention),
        "keep_events": millis(settings.results_retention),
        "max_queued": settings.max_queued,
        "step_ms": millis(STEP),
        "gap_us": micros(longest_gap(settings)),
        "full_lease": micros(settings.lease),
        "fingerprint": numbers.fingerprint if numbers else "",
        "hashes": "",
    }


class Script:
    """Calls a script with keywords, by EVALSHA; loads it if the server doesn't have it.

    ``given`` holds keys and arguments for every call; names that the script lacks are ignored. A
    call may override them. ``kept``: what must have the writes before the reply is returned; else
    TooFewReplicas.
    """

    def __init__(
        self,
        client: Any,
        script: str | Source,
        given: Mapping[str, Any] | None = None,
        kept: Kept | None = None,
    ) -> None:
        self._client, self._kept = client, kept
        self._source = source(script, _LUA) if isinstance(script, str) else script
        known = {n: each for n, each in (given or {}).items() if n in self._source.sizes}
        self._given = self._source.words(known)

    def __call__(self, **given: Any) -> Any:
        """Returns the script's reply."""
        return self.begin(**given)()

    def words(self, **given: Any) -> tuple[list[str], int]:
        """Returns a call's keys and arguments in order, as text, and the number of keys.

        Raises TypeError where a name is missing, unknown or of a wrong size, or a key is empty.
        """
        source, words = self._source, {**self._given, **self._source.words(given)}
        if missing := source.sizes.keys() - words.keys():
            raise TypeError(f"script {source.name}: missing: {', '.join(sorted(missing))}")
        keys = [word for parameter in source.keys for word in words[parameter.name]]
        if not all(keys):
            raise TypeError(f"script {source.name}: a key is empty")
        return keys + [word for name, _ in source.args for word in words[name]], len(keys)

    def command(self, given: Mapping[str, Any]) -> Command:
        """Returns the words of a call's EVALSHA."""
        words, count = self.words(**given)
        return ("EVALSHA", self._source.digest, str(count), *words)

    def begin(self, **given: Any) -> Callable[[], Any]:
        """Sends the call; returns a function that fetches the reply, to be called exactly once.

        If the connection breaks, the call is repeated: every script allows that.
        """
        command = self.command(given)
        pool: Any = self._client.connection_pool
        if not isinstance(pool, WholePool):  # fakeredis, or the app's own client
            answer = run(self.repeat(command))
            return lambda: answer
        kept = self._kept
        more = run(kept.commands()) if kept else ()
        connection = pool.get_connection()
        try:
            # Bypasses redis-py's command path, which would double the cost.
            connection.send_packed_command(packed(connection, command, more))
        except BaseException as error:
            connection.disconnect()
            pool.release(connection)
            if isinstance(error, redis.ConnectionError):
                return lambda: run(self.repeat(command))
            raise  # a timeout, for example: it is not repeated

        def fetch_reply() -> Any:
            try:
                try:
                    if not kept:
                        return connection.read_response()
                    replies = run(read_replies(connection))
                finally:
                    pool.release(connection)  # before a repeat, which may need it
                return run(kept.judge(*replies))
            except (redis.ConnectionError, redis.exceptions.NoScriptError):
                return run(self.repeat(command))

        return fetch_reply

    async def repeat(self, command: Command) -> Any:
        """Calls with redis-py's retries; loads the script if the server doesn't have it."""
        for _ in range(3):
            with suppress(redis.exceptions.NoScriptError):
                return await self._execute(command)
            # In a cluster this may be on a node just left.
            await reply(self._client.script_load(self._source.text))
        return await self._execute(command)

    async def _execute(self, command: Command) -> Any:
        if self._kept:
            return await call_kept(self._client, command, self._kept)
        return await reply(self._client.execute_command(*command))


def packed(connection: Any, command: Command, more: tuple[Command, ...] = ()) -> Any:
    """Returns a command, and more of them behind it, as a connection sends them.

    All words are text already: hiredis 3.5.0 crashes if a signal's handler raises while it converts
    one.
    """
    if more:
        return connection.pack_commands((command, *more))
    return (_pack(command),) if _pack else connection.pack_command(*command)
