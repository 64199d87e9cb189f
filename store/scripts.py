"""Scripts: Lua files with the fragments they include, called by EVALSHA."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any

import redis
from hiredis import pack_command

_LUA = files("viber_courier.store") / "lua"


@cache
def source(name: str) -> str:
    """The script ``name``.lua with the fragments it includes."""
    text = (_LUA / f"{name}.lua").read_text(encoding="utf-8")
    return re.sub(r"(?m)^#include (\w+)$", lambda m: source(f"lib/{m[1]}"), text)


class Script:
    """EVALSHA by keys and args, loading the script where the server doesn't know it (yet)."""

    def __init__(self, client: redis.Redis, text: str) -> None:
        self._client, self._text = client, text
        self._digest = sha1(text.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, keys: Sequence[str], args: Sequence[Any]) -> Any:
        return self.begin(keys, args)()

    def begin(self, keys: Sequence[str], args: Sequence[Any]) -> Callable[[], Any]:
        """Send it now; the caller does something else and then must fetch the reply, once.

        All of ours can be repeated: where the connection breaks, that is what happens.
        """
        # hiredis 3.5.0 makes texts of numbers itself, and crashes if a signal's handler raises then
        # (Ctrl-C, Celery's soft time limits).
        command: Any = ("EVALSHA", self._digest, str(len(keys)), *keys, *map(str, args))
        pool: Any = self._client.connection_pool
        connection = pool.get_connection()
        try:
            # What redis-py's client does besides takes twice as long, as much as Redis's part.
            connection.send_packed_command((pack_command(command),))
        except BaseException as error:
            connection.disconnect()
            pool.release(connection)
            if isinstance(error, redis.ConnectionError):
                return lambda: self._again(command)
            raise  # as a timeout: a server that hangs is not asked again

        def fetch() -> Any:
            try:
                try:
                    return connection.read_response()
                finally:
                    pool.release(connection)  # before a repeat: the pool may have no other one
            except (redis.ConnectionError, redis.exceptions.NoScriptError):
                return self._again(command)

        return fetch

    def _again(self, command: tuple[str, ...]) -> Any:
        """With redis-py's patience, and the script loaded if need be."""
        client: Any = self._client
        try:
            return client.execute_command(*command)
        except redis.exceptions.NoScriptError:
            client.script_load(self._text)
            return client.execute_command(*command)


def script(client: redis.Redis, name: str) -> Script:
    """The script ``name``.lua."""
    return Script(client, source(name))
