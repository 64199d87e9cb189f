"""The Redis layout, key by key. All keys of a namespace share one hash slot.

======================== ======= ==================================================================
key                      type    holds
======================== ======= ==================================================================
``{ns}:m:<id>``          hash    the record: small fields only, so that it stays a listpack
``{ns}:c:<id>``          string  the job's own wire fields as JSON, where too long for the record;
                                 of a finished message always, until they are erased
``{ns}:common:<digest>`` string  the wire fields that a campaign's rows share, as JSON
``{ns}:lane:<p>:<f>``    zset    waiting messages of priority p with resendSms f (0, 1)
``{ns}:watch``           zset    accepted messages that are polled
``{ns}:fence:<what>``    string  the latest lease given: leases never repeat
``{ns}:once:<token>``    string  the answer to a script's first call, for its repeats
``{ns}:bell:<lane|poll>`` string present while a doorbell task is on its way
``{ns}:gate:<what>``     hash    why and until when ``send`` or ``poll`` is closed to all workers
``{ns}:dead``            zset    ended messages that can be sent again or dropped, by their end
``{ns}:dead:pace``       string  the latest due time given to one of them that is sent again
``{ns}:bucket:<what>``    string  the token bucket of ``send`` (messages) or ``poll`` (requests)
``{ns}:paused:<lane|poll>`` string present while an operator has paused it: the reason
``{ns}:swept``           string  milliseconds since 1970 of the latest sweep
``{ns}:check:<nonce>``   string  the worker that answered a check (``courier live``)
``{ns}:counts``          hash    counters (store/counters.py)
``{ns}:requests``        hash    histograms of requests (store/counters.py)
``{ns}:results``         stream  result events, one field ``event``
======================== ======= ==================================================================

The score of a member of ``lane:*`` and ``watch`` is microseconds since 1970 by the Redis server's
clock, a multiple of four, plus its *kind*:

* 0: due at that instant (new, scheduled, or waiting for a retry or the next poll);
* 1: leased until then; the holder has not begun a request with it;
* 2: leased until then and inside a request: if the lease lapses, it may have been sent.

A score of ``dead`` is the end's instant by the same clock, made unique: reading can go on from any.

A lease's instant is unique, so the score is also the holder's fencing token
(docs/decisions/0001-the-score-is-the-lease.md).
"""

from __future__ import annotations

from dataclasses import dataclass

LANES = ("realtime", "high", "normal", "low")
"""The API's priorities (document, "priority"), most urgent first."""

POLL = "poll"
"""The bell of the watch set, beside one for each lane."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Names of the keys of one namespace (``COURIER_NAMESPACE``)."""

    namespace: str

    def _key(self, *parts: str) -> str:
        return ":".join((f"{{{self.namespace}}}", *parts))

    @property
    def record(self) -> str:
        """Prefix of the records; scripts append the message id."""
        return self._key("m", "")

    @property
    def content(self) -> str:
        """Prefix of the contents; scripts append the message id."""
        return self._key("c", "")

    @property
    def common(self) -> str:
        """Prefix of the campaigns' contents; scripts append the content's digest."""
        return self._key("common", "")

    @property
    def lanes(self) -> list[str]:
        """The eight lane sets, most urgent first, without and with resendSms."""
        return [self._key("lane", lane, flag) for lane in LANES for flag in "01"]

    def lanes_from(self, lane: str) -> list[str]:
        """The lane sets that a worker rung for ``lane`` may serve: its own and those above it."""
        return self.lanes[: 2 * LANES.index(lane) + 2]

    @property
    def watch(self) -> str:
        """Accepted messages, scored by their next poll."""
        return self._key("watch")

    def fence(self, what: str) -> str:
        """The latest lease given for ``send`` or ``poll``."""
        return self._key("fence", what)

    def once(self, token: str) -> str:
        """The first answer to the script call that carries this token."""
        return self._key("once", token)

    def bell(self, name: str) -> str:
        """Present while a task for this lane (or ``poll``) is on its way."""
        return self._key("bell", name)

    def gate(self, what: str) -> str:
        """What all workers know of the provider: for ``send`` or ``poll`` (lua/lib/gate.lua)."""
        return self._key("gate", what)

    def bucket(self, what: str) -> str:
        """Tokens that all workers share: for ``send`` or ``poll`` (store/lua/lib/bucket.lua)."""
        return self._key("bucket", what)

    @property
    def dead(self) -> str:
        """Dead letters, scored by when they ended."""
        return self._key("dead")

    @property
    def pace(self) -> str:
        """The latest due time given to a dead letter sent again by a rate."""
        return self._key("dead", "pace")

    def paused(self, name: str) -> str:
        """Present while an operator has paused a lane or ``poll``."""
        return self._key("paused", name)

    @property
    def swept(self) -> str:
        """When the latest sweep was: beat ticks."""
        return self._key("swept")

    def check(self, nonce: str) -> str:
        """Where a worker says that it has run the check with this nonce."""
        return self._key("check", nonce)

    @property
    def requests(self) -> str:
        """Histograms of requests."""
        return self._key("requests")

    @property
    def counts(self) -> str:
        """Counters of statuses, codes and more."""
        return self._key("counts")

    @property
    def results(self) -> str:
        """The outbound stream (contract: ``{NAMESPACE}:results``)."""
        return self._key("results")
