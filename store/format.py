"""The format of what a namespace holds, and whether this version can read it.

A version that stores something in another way raises FORMAT. The first script that writes keeps two
numbers in ``{ns}:format`` (lua/lib/format.lua); each script that begins something compares them, so
a version that runs already stops, too. What is in flight is still written down: ``begin`` and
``settle`` don't ask (docs/decisions/0032-a-format-number.md).
"""

from typing import Any

from viber_courier.store.keys import Keys
from viber_courier.store.replies import reply

FORMAT = 3
"""The format that this version writes. It reads all before."""
NEEDED = 2
"""The oldest format whose versions read what this version writes: up to there a roll goes back."""
UNREADABLE = "UNREADABLE"
"""How a script's refusal begins: then what is written, what is needed, and the caller's format;
nothing more where these are no numbers."""
HOLDS = "the store holds format"
TEXT = (
    HOLDS + " {}, for versions of format {} or newer, and this version has format {}:"
    " run the newer version again"
)
JUNK = (
    HOLDS + " numbers that are none: delete {{namespace}}:format, which something else has written,"
    " unless a newer version has run here"
)


async def format_fault(client: Any, namespace: str) -> str:
    """Returns why this version can't read the store, in words; "" if it can."""
    held = await reply(client.hmget(Keys(namespace).format, "written", "needed"))
    try:
        written, needed = (0 if each is None else int(each) for each in held)
    except ValueError:
        return JUNK.format()
    return TEXT.format(written, needed, FORMAT) if needed > FORMAT else ""
