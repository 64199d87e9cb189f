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
``{ns}:bell:<lane|poll>`` string present while a doorbell is on its way
``{ns}:wake``            list    lanes, or ``poll``, whose doorbell a worker's listener is to ring
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

from viber_courier.schemas.lanes import LANES


class Keys:
    """Names of the keys of one namespace (``COURIER_NAMESPACE``), as the table tells of them.

    ``record``, ``content`` and ``common`` are prefixes: scripts append an id or a digest. ``lanes``
    are the eight lane sets, most urgent first, without and with resendSms; ``bells`` are in the
    order of LANES. ``send`` and ``poll`` have a fence, a gate and a bucket each.
    """

    def __init__(self, namespace: str) -> None:
        self._prefix = f"{{{namespace}}}"
        self.record, self.content = self._key("m:"), self._key("c:")
        self.common, self.watch = self._key("common:"), self._key("watch")
        self.lanes = [self._key(f"lane:{lane}:{flag}") for lane in LANES for flag in "01"]
        self.bells = [self.bell(lane) for lane in LANES]
        self.wake, self.swept = self._key("wake"), self._key("swept")
        self.dead, self.pace = self._key("dead"), self._key("dead:pace")
        self.counts, self.requests = self._key("counts"), self._key("requests")
        self.results = self._key("results")

    def lanes_from(self, lane: str) -> list[str]:
        """Returns the lane sets that a worker rung for ``lane`` serves: its own, those above it."""
        return self.lanes[: 2 * LANES.index(lane) + 2]

    def once(self, token: str) -> str:
        """Returns where the first answer to the script call with this token is kept."""
        return self._key(f"once:{token}")

    def bell(self, name: str) -> str:
        """Returns the bell of a lane, or of ``poll``."""
        return self._key(f"bell:{name}")

    def paused(self, name: str) -> str:
        """Returns what is there while an operator has paused a lane, or ``poll``."""
        return self._key(f"paused:{name}")

    def fence(self, what: str) -> str:
        """Returns the latest lease given."""
        return self._key(f"fence:{what}")

    def gate(self, what: str) -> str:
        """Returns what all workers know of the provider (lua/lib/gate.lua)."""
        return self._key(f"gate:{what}")

    def bucket(self, what: str) -> str:
        """Returns the tokens that all workers share (lua/lib/bucket.lua)."""
        return self._key(f"bucket:{what}")

    def check(self, nonce: str) -> str:
        """Returns where a worker says that it has run the check with this nonce."""
        return self._key(f"check:{nonce}")

    def _key(self, name: str) -> str:
        return f"{self._prefix}:{name}"
