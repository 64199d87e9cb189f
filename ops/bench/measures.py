"""What is measured: one function for each figure or family of figures of the table.

Systems that are held against each other are measured in turns, A B A B, so that what else the
machine does meets all of them.
"""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass

from viber_courier.ops.bench.figures import Found, Row, Scale, Values, quantile
from viber_courier.ops.bench.lab import Bench, Drain, Lab, finish, wait_for

APP = "viber_courier.worker"
PEERS = "viber_courier.ops.bench.peers"
Options = tuple[str, ...]
PROCESSES: Options = ("-B", "-c", "2")
MORE: Options = ("-B", "-c", "12")
"""The pool for a provider that takes its time. Measured with 50 ms on 2 cores: 24 threads drain as
fast, but a code waits twice as long behind a campaign; 20 processes drain faster, and codes wait.
"""
THREADS: Options = ("-B", "-P", "threads", "-c", "24")

MS = 50
"""Milliseconds that the slower provider takes for each request."""


@dataclass(frozen=True)
class System:
    """Who sends messages, and how it is run; messages for a run without and with MS."""

    name: str
    load: str
    app: str
    options: Options
    fast: int
    slow: int = 0


OURS = System("viber-courier", "campaign", APP, PROCESSES, 50_000, 50_000)
PERSONAL = System("viber-courier, texts differ", "personal", APP, PROCESSES, 30_000)
MANY = System("viber-courier, 12 processes", "campaign", APP, MORE, 0, 50_000)
THREADED = System("viber-courier, 24 threads", "campaign", APP, THREADS, 0, 50_000)
CELERY = System("Celery, a task per message", "single", PEERS, ("-c", "2"), 4_000, 250)
BATCHES = System(
    "celery-batches", "batched", PEERS, ("-c", "2", "--prefetch-multiplier", "500"), 8_000, 8_000
)
BY_HAND = System("Celery, 100 by hand", "by_hand", PEERS, ("-c", "2"), 150_000, 25_000)
EVERYBODY = (OURS, PERSONAL, CELERY, BATCHES, BY_HAND)
EVERYBODY_SLOW = (OURS, MANY, THREADED, CELERY, BATCHES, BY_HAND)


def drains(lab: Lab, scale: Scale, systems: tuple[System, ...] = EVERYBODY) -> Found:
    """Drain without waiting for the provider, and CPU time for it."""
    found = _drain(lab, scale, systems, 0)
    rates = {name: Values(name, [drain.rate for drain in runs]) for name, runs in found.items()}
    cpu = {name: Values(name, [drain.cpu for drain in runs]) for name, runs in found.items()}
    ours, batches = OURS.name, BATCHES.name
    figure, unit, what = "drain, 0 ms, two worker slots, batch 100", "messages/s", "CPU seconds"
    rows = [Row(figure, unit, rates[ours], 15, ">=", rates[batches])]
    if BY_HAND.name in rates:
        rows.append(Row(figure, unit, rates[ours], 0.6, ">=", rates[BY_HAND.name]))
    per = "per 1,000 messages, producer + worker + Redis"
    rows.append(Row("CPU " + per, what, cpu[ours], 1 / 12, "<=", cpu[batches]))
    server = {name: Values(name, [drain.server for drain in runs]) for name, runs in found.items()}
    others = [(figure, unit, values) for values in rates.values()]
    others += [("CPU " + per, what, values) for values in cpu.values()]
    return Found(rows, others + [("of which Redis", what, values) for values in server.values()])


def slow_drains(lab: Lab, scale: Scale, systems: tuple[System, ...] = EVERYBODY_SLOW) -> Found:
    """Drain where each request takes its time."""
    found = _drain(lab, scale, systems, MS)
    rates = {name: Values(name, [drain.rate for drain in runs]) for name, runs in found.items()}
    figure, unit = f"drain, {MS} ms, the pool recommended for it", "messages/s"
    row = Row(figure, unit, rates[MANY.name], 8, ">=", rates[BATCHES.name])
    return Found([row], [(f"drain, {MS} ms", unit, values) for values in rates.values()])


def _drain(
    lab: Lab, scale: Scale, systems: tuple[System, ...], delay: int
) -> dict[str, list[Drain]]:
    found = defaultdict(list)
    for _ in range(scale.runs):
        for system in systems:
            with lab.bench() as bench:
                count = scale.count(system.slow if delay else system.fast)
                drain = bench.drain(system.load, system.app, count, system.options, delay)
                found[system.name].append(drain)
    return found


def limits(lab: Lab, scale: Scale) -> Found:
    """What nobody can beat: the double itself, and two sessions that post prebuilt batches."""
    runs = defaultdict(list)
    for _ in range(scale.runs):
        with lab.bench() as bench:
            for name, what, delay, each, clients in (
                ("the double's own ceiling", "ceiling", 0, 1_000_000, 1),
                ("requests.Session, two processes, 0 ms", "session", 0, 150_000, 2),
                (f"requests.Session, two processes, {MS} ms", "session", MS, 10_000, 2),
            ):
                lab.provider.reset(delay=delay)
                count = scale.count(each)
                loads = [bench.loading(what, count) for _ in range(clients)]
                seconds = max(finish(load)["seconds"] for load in loads)
                runs[name].append(clients * count / seconds)
    return Found(others=[("limit", "messages/s", Values(*each)) for each in runs.items()])


def enqueues(lab: Lab, scale: Scale) -> Found:
    """How fast one process stores messages."""
    names = {
        "single": ("Celery's apply_async", 5_000),
        "ours": ("enqueue", 10_000),
        "campaign": ("enqueue_many with common", 100_000),
        "personal": ("enqueue_many, texts differ", 50_000),
    }
    runs = defaultdict(list)
    for _ in range(scale.runs):
        for what, (name, each) in names.items():
            with lab.bench() as bench:
                count = scale.count(each)
                runs[name].append(count / bench.load(what, count)["seconds"])
    celery, one, many, own = (Values(name, runs[name]) for name, _ in names.values())
    unit = "messages/s"
    rows = [
        Row("enqueue one by one, one process", unit, one, 2.5, ">=", celery),
        Row("enqueue_many with common, one process", unit, many, 25, ">=", celery),
    ]
    return Found(rows, [("enqueue, one process", unit, own)])


def latency(lab: Lab, scale: Scale) -> Found:
    """From the call of ``enqueue`` until the provider has the request, and under more load."""
    runs = defaultdict(list)
    seconds = scale.seconds(10)
    for _ in range(scale.runs):
        for system in (CELERY, OURS):
            for share, value in _latency(lab, system, 50, seconds).items():
                runs[system.name, share].append(value)
    rows, curves = list[Row](), defaultdict[str, list[tuple[float, float]]](list)
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        ours, peer = (Values(s.name, runs[s.name, share]) for s in (OURS, CELERY))
        figure = f"latency at 50 messages/s, enqueue to provider, {name}"
        rows.append(Row(figure, "ms", ours, 1.5, "<=", peer))
    for rate in (50, 100, 200, 400):
        for system in (CELERY, OURS):
            for share, value in _latency(lab, system, rate, scale.seconds(6)).items():
                curves[f"{system.name}, p{share * 100:.0f}"].append((rate, value))
    return Found(rows, curves={"latency": dict(curves)})


def _latency(lab: Lab, system: System, rate: int, seconds: float) -> dict[float, float]:
    lab.provider.reset(record=1)
    load = {"campaign": "ours"}.get(system.load, system.load)
    with lab.bench() as bench, bench.worker(system.app, *system.options):
        return _waits(lab, bench.load(load, int(rate * seconds), rate)["begun"])


def _waits(lab: Lab, begun: dict[str, float]) -> dict[float, float]:
    """Milliseconds from call to arrival that half of them, and 99 in 100, did not exceed."""

    def arrivals() -> dict[str, float] | None:
        got: dict[str, float] = lab.provider.get("arrivals")
        return got if begun.keys() <= got.keys() else None

    came = wait_for(arrivals, 0.5)
    waits = [(came[address] - instant) * 1000 for address, instant in begun.items()]
    return {share: quantile(waits, share) for share in (0.5, 0.99)}


def realtime(lab: Lab, scale: Scale) -> Found:
    """A code that goes out while a campaign does."""
    runs, notes = defaultdict(list), []
    urgent = ("-Q", "courier.send.realtime", "-c", "1")
    rest = ("courier.poll", "courier.enqueue", *(f"courier.send.{p}" for p in ("high", "normal")))
    bulk = (*MORE, "-Q", ",".join((*rest, "courier.send.low")))
    alone: list[Options] = [MORE]
    beside: list[Options] = [urgent, bulk]
    shared, own = "realtime p99 behind 100,000 low, shared workers", "the same, with its own worker"
    for _ in range(scale.runs):
        for name, workers in ((shared, alone), (own, beside)):
            with lab.bench() as bench:
                bench.load("campaign", scale.count(100_000))
                lab.provider.reset(delay=MS, record=1)
                runs[name].append(_codes(lab, bench, workers, scale.seconds(4)))
                if not sum(map(bench.redis.zcard, bench.keys.lanes)):
                    notes.append(f"{name}: the campaign was over before the last code")
    rows = [
        Row(figure, f"ms ({MS} ms a request)", Values(OURS.name, runs[figure]), most * MS, "<=")
        for figure, most in ((shared, 3), (own, 2))
    ]
    return Found(rows, notes=notes)


def _codes(lab: Lab, bench: Bench, workers: list[Options], seconds: float) -> float:
    with ExitStack() as stack:
        for options in workers:
            stack.enter_context(bench.worker(APP, *options))
        wait_for(lambda: lab.provider.get("counts")["messages"] >= 3_000)  # at full speed by now
        return _waits(lab, bench.load("code", int(60 * seconds), 60)["begun"])[0.99]


def backlog(lab: Lab, scale: Scale) -> Found:
    """Whether it matters how many wait: a million against ten thousand on average."""
    few, some, many = scale.count(20_000), scale.count(100_000), scale.count(1_000_000)
    rates = defaultdict[int, list[float]](list)
    with lab.bench() as full:
        empty = full.redis.info("memory")["used_memory"]
        full.load("campaign", many)
        used = full.redis.info("memory")["used_memory"]
        for _ in range(scale.runs):
            for size in (few, some):
                with lab.bench() as bench:
                    bench.load("campaign", size)
                    rates[size].append(_window(lab, bench, few))
            rates[many].append(_window(lab, full, few))
    few_, many_ = Values("10,000 waiting", rates[few]), Values("1,000,000 waiting", rates[many])
    points = [(float(size), Values("", runs).median) for size, runs in sorted(rates.items())]
    each = Values(OURS.name, [(used - empty) / many])
    return Found(
        [Row("drain rate with 1,000,000 waiting", "messages/s", many_, 0.9, ">=", few_)],
        [("memory, 1,000,000 waiting", "bytes/message", each)],
        {"backlog": {"drain, messages/s": points}},
    )


def _window(lab: Lab, bench: Bench, few: int) -> float:
    """Messages/s while so many are sent, without the first tenth, in which workers warm up."""
    lab.provider.reset()
    start = bench.count("submitted")

    def passed(share: float) -> tuple[float, int]:
        count = wait_for(lambda: (n := bench.count("submitted")) >= start + share * few and n, 0.01)
        return time.monotonic(), count

    with bench.worker(APP, *PROCESSES):
        began, first = passed(0.1)
        ended, last = passed(0.95)
        return (last - first) / (ended - began)


def memory(lab: Lab, scale: Scale) -> Found:
    """What a waiting message of a campaign takes in Redis, with a short and with a long text."""
    runs = defaultdict(list)
    count = scale.count(100_000)
    for what in ("campaign", "long") * scale.runs:
        with lab.bench() as bench:
            empty = bench.redis.info("memory")["used_memory"]
            bench.load(what, count)
            runs[what].append((bench.redis.info("memory")["used_memory"] - empty) / count)
    figure, unit = "Redis memory per waiting message of a campaign", "bytes"
    long = Values("text of 1,000 characters", runs["long"])
    short = Values("text of 90 characters", runs["campaign"])
    return Found([Row(figure, unit, long, 500, "<=")], [(figure, unit, short)])


def stages(lab: Lab, scale: Scale) -> Found:
    """What a message takes in Redis on its way and writes to the AOF, and its events."""
    count, found, written = scale.count(50_000), list[Values](), list[Values]()
    with lab.bench() as bench:
        bench.redis.config_set("auto-aof-rewrite-percentage", 0)

        def used() -> float:
            events = bench.redis.memory_usage(bench.keys.results, samples=0) or 0
            return float(bench.redis.info("memory")["used_memory"] - events)

        def appended() -> int:
            return int(bench.redis.info("persistence")["aof_current_size"])

        empty, before = used(), appended()
        for name, status, word in (
            ("waiting", "queued", ""),
            ("followed", "submitted", "enqueued"),
            ("ended", "read", "read"),
        ):
            if not word:
                bench.load("campaign", count)
            else:
                lab.provider.reset(status=word)
                bench.redis.zunionstore(bench.keys.watch, {bench.keys.watch: 0})  # all are due
                with bench.worker(APP, *PROCESSES):
                    wait_for(lambda status=status: bench.count(status) >= count)  # type: ignore[misc]
                bench.forget_repeats()
            found.append(Values(name, [(used() - empty) / count]))
            written.append(Values(f"until {status}", [(appended() - before) / count]))
        size = bench.redis.memory_usage(bench.keys.results, samples=0) or 0
        found.append(Values("an event", [size / bench.redis.xlen(bench.keys.results)]))
    rows = [("Redis memory by stage", "bytes", values) for values in found]
    return Found(others=rows + [("AOF written", "bytes a message", v) for v in written])


def statuses(lab: Lab, scale: Scale) -> Found:
    """Polling with 100,000 due, each with news; then the events that this made, read."""
    polled, read, count = list[float](), list[float](), scale.count(100_000)
    server = list[float]()
    with lab.bench() as bench:
        bench.drain("campaign", APP, count, PROCESSES)
        for word in ("sent", "delivered", "read")[: scale.runs]:
            lab.provider.reset(status=word)
            bench.redis.zunionstore(bench.keys.watch, {bench.keys.watch: 0})  # all are due now
            with bench.worker(APP, *PROCESSES):
                wait_for(lambda: lab.provider.get("counts")["statuses"])
                began, first, cpu = time.monotonic(), bench.count(word), bench.redis_cpu()
                wait_for(lambda word=word: bench.count(word) >= count)  # type: ignore[misc]
                polled.append((count - first) / (time.monotonic() - began))
                server.append((bench.redis_cpu() - cpu) / (count - first) * 1000)
        for _ in range(scale.runs):
            read.append(count / bench.load("results", count)["seconds"])
    return Found(
        [
            Row(
                "status polling, 100,000 due, settled, with events",
                "statuses/s",
                Values(OURS.name, polled),
                10_000,
                ">=",
            ),
            Row("results reader, one process", "events/s", Values(OURS.name, read), 20_000, ">="),
        ],
        [("CPU of Redis per 1,000 statuses", "CPU seconds", Values(OURS.name, server))],
    )


def curves(lab: Lab, scale: Scale) -> Found:
    """Throughput by batch size, worker processes and the provider's time; one run each."""
    by_size, by_delay, by_workers = defaultdict(list), defaultdict(list), defaultdict(list)
    for processes in (1, 2, 4, 8, 12, 20):
        for delay in (0, MS):
            with lab.bench() as bench:
                options = ("-B", "-c", str(processes))
                count = scale.count(min(30_000, 8_000 * processes))
                drain = bench.drain("campaign", APP, count, options, delay)
                by_workers[f"{OURS.name}, {delay} ms"].append((float(processes), drain.rate))
    for size in (10, 30, 100, 300):
        for system, delay in ((OURS, 0), (MANY, MS)):
            with lab.bench(COURIER_BATCH_SIZE=str(size)) as bench:
                count = scale.count(200 * min(size, 150))
                drain = bench.drain(system.load, APP, count, system.options, delay)
                by_size[f"{system.name}, {delay} ms"].append((float(size), drain.rate))
    for delay in (0, 20, 50, 100, 200):
        for system in (OURS, MANY, BATCHES, BY_HAND):
            with lab.bench() as bench:
                each = {OURS: 600_000, BY_HAND: 600_000}.get(system, system.slow * 50)
                count = scale.count(min(system.slow, each // max(delay, 1)))
                drain = bench.drain(system.load, system.app, count, system.options, delay)
                by_delay[system.name].append((float(delay), drain.rate))
    curves = {"batch size": by_size, "provider": by_delay, "workers": by_workers}
    return Found(curves={name: dict(lines) for name, lines in curves.items()})
