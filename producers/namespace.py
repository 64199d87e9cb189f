"""What all calls of one namespace have: its client, keys, settings and scripts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from viber_courier.schemas.settings import Settings
from viber_courier.store.connection import store_errors
from viber_courier.store.keys import Keys
from viber_courier.store.replicas import kept
from viber_courier.store.replies import Link, reply
from viber_courier.store.scripts import Source, shared


class Namespace:
    """A namespace, as calls over one client see it; ``clock`` is the wall clock."""

    def __init__(self, link: Link, settings: Settings, clock: Callable[[], float]) -> None:
        self.link, self.settings, self.clock = link, settings, clock
        self.client, self.keys = link.client, Keys(settings.namespace)
        self.kept = kept(link.client, settings)

    def script(self, name: str | Source, *, waits: bool = True, **given: Any) -> Any:
        """Returns a script; unless it ``waits``, COURIER_REPLICAS doesn't hold for it."""
        given, must = shared(self.settings) | given, self.kept if waits else None
        return self.link.script(self.client, name, given, must)

    async def ask(self, call: Callable[..., Any], *words: Any, **given: Any) -> Any:
        """Returns the reply to a script's or a client's call. Raises StoreUnavailable."""
        with store_errors(self.client):
            return await reply(call(*words, **given))
