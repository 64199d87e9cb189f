"""What must have a write before it counts: replicas, or the disk (COURIER_REPLICAS).

A call that promises something is followed by a write and by WAIT, or WAITAOF, in the same packet.
The write is needed because WAIT goes by the connection's latest one: a script that finds its work
done writes nothing, and newer servers would then wait for nothing.

With Sentinel it is not enough that some replicas have it. During a planned failover the old master
still has replicas, and all that it takes is discarded. So whatever may become the master must have
it, or most sentinels must say that nothing else is about to (docs/decisions/0030).
"""

import asyncio
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError
from redis.retry import Retry

from viber_courier.schemas.instants import millis
from viber_courier.schemas.settings import ON_DISK, Settings
from viber_courier.store.keys import Keys
from viber_courier.store.pools import Whole
from viber_courier.store.replies import reply, run
from viber_courier.store.succession import Place, Succession, lacks

Command = tuple[str, ...]


class TooFewReplicas(redis.RedisError):
    """Redis has the write, but too few replicas, or not the disk. ``reply``: the script's reply."""

    def __init__(self, why: str, reply: Any = None) -> None:
        super().__init__(f"{why} (COURIER_REPLICAS)")
        self.reply = reply


class Kept:
    """Follows calls of a client by WAIT, or by WAITAOF; says whether enough have the write."""

    def __init__(self, client: Any, settings: Settings) -> None:
        self._least, self._disk = settings.replicas, settings.replicas == ON_DISK
        self._ms = str(millis(settings.replicas_timeout))
        self._mark = ("SET", Keys(settings.namespace).kept, "1")
        self._succession: Succession | None = getattr(client.connection_pool, "succession", None)

    async def commands(self) -> tuple[Command, Command]:
        """Returns what is sent behind a call."""
        if self._disk:
            return self._mark, ("WAITAOF", "1", "0", self._ms)
        wanted = self._least
        if self._succession:
            wanted = max(wanted, len((await self._succession.word()).usable))
        return self._mark, ("WAIT", str(wanted), self._ms)

    async def judge(self, reply: Any, mark: Any, got: Any, place: Place | None) -> Any:
        """Returns the reply to the call. Raises an error among the replies, or TooFewReplicas.

        ``mark`` and ``got`` are the replies to ``commands``, ``place`` the server that gave them.
        """
        if isinstance(reply, Exception):
            raise reply
        for each in (mark, got):
            if isinstance(each, OutOfMemoryError) or "NOREPLICAS " in str(each):
                raise TooFewReplicas("Redis takes no more writes", reply)  # but it took this one
            if isinstance(each, Exception):
                raise each
        if self._disk:
            why = "" if got[0] else "the disk doesn't have it yet"
        else:
            word = await self._succession.word() if self._succession else None
            why = lacks(got, self._least, place, word)
        if why:
            raise TooFewReplicas(why, reply)
        return reply


def kept(client: Any, settings: Settings) -> Kept | None:
    """Returns the Kept of a client; None if nothing is waited for."""
    return Kept(client, settings) if settings.replicas else None


async def read_replies(connection: Any) -> list[Any]:
    """Returns the replies to a call and to ``Kept.commands``; Redis's errors are among them.

    The last one is the server that gave them. Raises if the connection breaks.
    """
    replies = list[Any]()
    for _ in range(3):
        try:
            replies.append(await reply(connection.read_response()))
        except redis.ResponseError as error:
            replies.append(error)
    return [*replies, (getattr(connection, "host", ""), getattr(connection, "port", 0))]


async def call_kept(client: Any, command: Command, kept: Kept) -> Any:
    """Calls with the client's retries; returns the reply if enough have the write."""
    commands, pool = (command, *await kept.commands()), client.connection_pool
    retry: Any = getattr(pool, "connection_kwargs", {}).get("retry") or Retry(NoBackoff(), 0)

    async def exchange() -> list[Any]:
        connection = await reply(pool.get_connection())
        try:
            packed = connection.pack_commands(commands)
            await reply(connection.send_packed_command(packed))
            return await read_replies(connection)
        finally:
            await reply(pool.release(connection))

    if isinstance(pool, Whole):
        if isinstance(retry, Retry):
            replies = retry.call_with_retry(lambda: run(exchange()), lambda _: None)
        else:
            replies = await retry.call_with_retry(exchange, lambda _: asyncio.sleep(0))
        return await kept.judge(*replies)
    pipe = client.pipeline(transaction=False)  # fakeredis, or the app's own client
    for each in commands:
        pipe.execute_command(*each)
    answer, mark, got = await reply(pipe.execute(raise_on_error=False))
    return await kept.judge(answer, mark, got, None)
