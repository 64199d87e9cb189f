"""Lets rules that are written once serve a blocking client and an asyncio client.

Such rules are coroutines, and await each reply. A blocking client's reply is there already, so over
it they run to their end without ever waiting (docs/decisions/0034-one-set-of-rules-two-drivers.md).
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class Link(NamedTuple):
    """A client of Redis, and what goes with its kind.

    ``script`` is Script or AsyncScript; ``sleep`` is time.sleep or asyncio.sleep.
    """

    client: Any
    script: Callable[..., Any]
    sleep: Callable[[float], Any]


async def reply(given: Any) -> Any:
    """Returns a client's reply: an asyncio client's when it comes, a blocking client's as it is."""
    return await given if isinstance(given, Awaitable) else given


def run(rules: Coroutine[Any, Any, T]) -> T:
    """Runs rules over a blocking client to their end. Raises what they raise.

    Raises TypeError if they wait for something else, as the rows of an async iterable may.
    """
    try:
        rules.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    rules.close()
    raise TypeError("only AsyncProducer can wait for rows")


def iterate(rules: AsyncGenerator[T, None]) -> Iterator[T]:
    """Yields what rules yield over a blocking client."""
    while True:
        step: Any = anext(rules)
        try:
            item: T = run(step)
        except StopAsyncIteration:
            return
        yield item
