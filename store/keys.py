"""The Redis layout, key by key. All keys of a namespace share one hash slot.

======================== ======= ==================================================================
key                      type    holds
======================== ======= ==================================================================
``{ns}:m:<id>``          hash    the record: small fields only, so that it stays a listpack
``{ns}:c:<id>``          string  the job's own wire fields as JSON, if too long for the record;
                                 for a finished message always, until they are erased
``{ns}:common:<digest>`` string  the wire fields that the rows of one call share, as JSON
``{ns}:lane:<p>:<f>``    zset    waiting messages of priority p with resendSms f (0, 1)
``{ns}:lane:<p>:<f>:<c>`` zset   the same of campaign c: one of its *lines*
``{ns}:turns:<p>``       zset    the lane's lines as ``<f>:<c>``, by when each is looked at next
``{ns}:held:<p>``        zset    the same for paused campaigns, to find what must end
``{ns}:campaign:<c>``    hash    a campaign's state and counters (lua/campaign.lua)
``{ns}:campaign:<c>:rows`` list  its index: rows and ids of its messages (lua/rows.lua)
``{ns}:campaign:<c>:bucket`` string the token bucket of a campaign with a rate of its own
``{ns}:campaigns``       zset    the campaigns, by when each expires (us; +inf: not yet)
``{ns}:watch``           zset    accepted messages that are polled
``{ns}:fence:<what>``    string  the latest lease given; the next one is later
``{ns}:once:<token>``    string  a script's answer to the first call, returned to repeats
``{ns}:bell:<lane|poll>`` string present while a doorbell is on its way
``{ns}:wake``            list    lanes, or ``poll``, for workers' listeners to ring
``{ns}:gate:<what>``     hash    why and until when ``send`` or ``poll`` is closed to all workers
``{ns}:dead``            zset    dead letters, in the order of their ends
``{ns}:dead:pace``       string  the latest due time given to a dead letter sent again
``{ns}:bucket:<what>``    string  the token bucket of ``send`` (messages) or ``poll`` (requests)
``{ns}:paused:<lane|poll>`` string the operator's reason, while the lane or polling is paused
``{ns}:swept``           string  milliseconds since 1970 of the latest sweep
``{ns}:format``          hash    what a version must be able to read (store/format.py)
``{ns}:guard``             nothing never exists: each script names it (store/cluster.py)
``{ns}:kept``            string  nothing: written before each WAIT (store/replicas.py)
``{ns}:clock``           hash    the latest step of the server's clock (store/clock.py)
``{ns}:missed``          hash    events trimmed before a group read them (lua/lib/trim.lua)
``{ns}:check:<nonce>``   string  the worker that answered this check (``courier live``)
``{ns}:counts``          hash    counters (store/counters.py)
``{ns}:requests``        hash    histograms of requests (store/counters.py)
``{ns}:suppressed``      hash    suppressed numbers, hashed (lua/lib/suppressed.lua)
``{ns}:results``         stream  result events, one field ``event``
``{ns}:push:waiting:<g>`` stream events that a group's webhook has to send (ops/push/outbox.py)
``{ns}:push:aside:<g>``  stream  those that its endpoint would not take, each with the ``reason``
``{ns}:push:lease:<g>``  string  held by the one process that sends a group's events
``{ns}:audit``           stream  what people did (ops/console/audit.py)
======================== ======= ==================================================================

The score of a member of ``lane:*`` and ``watch`` is microseconds since 1970 by the Redis server's
clock, a multiple of four, plus its *kind*:

* 0: due at that instant (new, scheduled, or waiting for a retry or the next poll);
* 1: leased until then; the holder has not begun a request with it;
* 2: leased until then and inside a request: if the lease lapses, it may have been sent.

A score of ``dead`` is the instant of the end by the same clock, made unique, so that a reader can
continue from any score.

The instant of a lease is unique, so the score is also the holder's fencing token
(docs/decisions/0001-the-score-is-the-lease.md).
"""

from viber_courier.schemas.lanes import LANES, POLL


class Keys:
    """Names of the keys of one namespace (``COURIER_NAMESPACE``), as the table above lists them.

    ``records``, ``contents``, ``commons`` and ``campaigns`` are prefixes: scripts append an id, a
    digest or a name.
    ``lanes`` are the eight lane sets, most urgent first, without and with resendSms; ``bells``,
    ``turns`` and ``held_lines`` are in the order of LANES. ``send`` and ``poll`` have a fence, a
    gate and a bucket each.
    """

    def __init__(self, namespace: str) -> None:
        self._prefix = f"{{{namespace}}}"
        self.records, self.contents = self._key("m:"), self._key("c:")
        self.commons, self.watch = self._key("common:"), self._key("watch")
        self.lanes = [self._key(f"lane:{lane}:{flag}") for lane in LANES for flag in "01"]
        self.campaigns, self.registry = self._key("campaign:"), self._key("campaigns")
        self.turns = [self.queues(lane)[0] for lane in LANES]
        self.held_lines = [self.queues(lane)[1] for lane in LANES]
        self.bells = [self.bell(lane) for lane in LANES]
        self.wakes, self.swept, self.audit = map(self._key, ("wake", "swept", "audit"))
        self.guard, self.format = self._key("guard"), self._key("format")
        self.dead, self.pace = self._key("dead"), self._key("dead:pace")
        self.counts, self.requests = self._key("counts"), self._key("requests")
        self.results, self.missed = self._key("results"), self._key("missed")
        self.suppressed = self._key("suppressed")
        self.clock, self.kept = self._key("clock"), self._key("kept")
        self.gates, self.buckets, self.fences = (
            [what(name) for name in ("send", POLL)] for what in (self.gate, self.bucket, self.fence)
        )
        self.pauses = [self.paused(name) for name in (*LANES, POLL)]

    def lanes_from(self, lane: str) -> list[str]:
        """Returns the lane sets that a bell of ``lane`` serves: its own and those above it."""
        return self.lanes[: 2 * LANES.index(lane) + 2]

    def groups_from(self, lane: str) -> list[str]:
        """Returns claim.lua's groups for a bell of ``lane``: its own and those above it."""
        names = LANES[: LANES.index(lane) + 1]
        rows = ((self.lanes[2 * n : 2 * n + 2], name) for n, name in enumerate(names))
        return [
            key for sets, name in rows for key in (*sets, *self.queues(name), self.paused(name))
        ]

    def queues(self, name: str) -> tuple[str, str]:
        """Returns the keys of a lane's lines, and of those of paused campaigns; poll has none."""
        return self._key(f"turns:{name}"), self._key(f"held:{name}")

    def once(self, token: str) -> str:
        """Returns the key of the answer to the script call with this token."""
        return self._key(f"once:{token}")

    def bell(self, name: str) -> str:
        """Returns the key of the bell of a lane, or of ``poll``."""
        return self._key(f"bell:{name}")

    def paused(self, name: str) -> str:
        """Returns the key that exists while an operator has paused a lane, or ``poll``."""
        return self._key(f"paused:{name}")

    def fence(self, what: str) -> str:
        """Returns the key of the latest lease given."""
        return self._key(f"fence:{what}")

    def gate(self, what: str) -> str:
        """Returns the key of a gate (lua/lib/gate.lua)."""
        return self._key(f"gate:{what}")

    def bucket(self, what: str) -> str:
        """Returns the key of a token bucket (lua/lib/bucket.lua)."""
        return self._key(f"bucket:{what}")

    def check(self, nonce: str) -> str:
        """Returns the key that a worker sets when it runs the check with this nonce."""
        return self._key(f"check:{nonce}")

    def push(self, what: str, group: str) -> str:
        """Returns the key of a webhook's ``waiting``, ``aside`` or ``lease``."""
        return self._key(f"push:{what}:{group}")

    def _key(self, name: str) -> str:
        return f"{self._prefix}:{name}"
