"""What is measured: one function for each figure or family of figures of the table.

Systems that are compared take turns, A B A B, so that whatever else the machine does slows all of
them.
"""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import replace
from typing import Literal

from viber_courier.ops.bench.figures import Found, Points, Row, Scale, Values, quantile
from viber_courier.ops.bench.lab import APP, BENCH, Bench, Drain, Lab, System, finish, wait_for

PEERS = f"{BENCH}.peers"
Options = tuple[str, ...]
PROCESSES: Options = ("-B", "-c", "2")
MORE: Options = ("-B", "-c", "12")
"""The pool for a slow provider. Measured with 50 ms on 2 cores: 24 threads drain as fast, but a
code waits twice as long behind a campaign; 20 processes drain faster, and codes wait longer.
"""
THREADS: Options = ("-B", "-P", "threads", "-c", "24")
PREFETCH: Options = ("-c", "2", "--prefetch-multiplier", "500")

MS = 50
"""Milliseconds that the slower provider takes for each request."""
RATE, CPU = "messages/s", "CPU seconds"

OURS = System("viber-courier", "enqueue_many", APP, PROCESSES, 50_000, 50_000)
ONE_BY_ONE = replace(OURS, load="enqueue")
SMS = replace(OURS, shape="sms", fast=30_000)
MANY = replace(OURS, name="viber-courier, 12 processes", options=MORE)
THREADED = replace(OURS, name="viber-courier, 24 threads", options=THREADS)
CELERY = System("Celery, a task per message", "single", PEERS, ("-c", "2"), 4_000, 250)
BATCHES = System("celery-batches", "batched", PEERS, PREFETCH, 8_000, 8_000)
BATCHES_SMS = replace(BATCHES, shape="sms")
BY_HAND = System("Celery, 100 by hand", "by_hand", PEERS, ("-c", "2"), 150_000, 25_000)

Systems = tuple[System, ...]
Goals = dict[System, float]
"""The ratios that ours is to reach, by peer."""
RECOMMENDED = (MANY, OURS, THREADED, CELERY, BATCHES, BY_HAND)


def drains(lab: Lab, scale: Scale, systems: Systems = (OURS, CELERY, BATCHES, BY_HAND)) -> Found:
    """A campaign of one text, sent without waiting for the provider."""
    rate, cpu = {BATCHES: 22, BY_HAND: 0.6}, {BATCHES: 1 / 16}
    return _drains(lab, scale, "one text", systems, rate, cpu)


def sms_drains(lab: Lab, scale: Scale) -> Found:
    """The same with a text of its own for each, and every second one may be resent as SMS."""
    jobs = "texts differ, half of them with SMS"
    return _drains(lab, scale, jobs, (SMS, BATCHES_SMS), {BATCHES_SMS: 20}, {})


def slow_drains(lab: Lab, scale: Scale, systems: Systems = RECOMMENDED) -> Found:
    """A campaign of one text where the provider takes MS for each request."""
    return _drains(lab, scale, "one text", systems, {BATCHES: 10}, {}, MS)


def _drains(
    lab: Lab, scale: Scale, jobs: str, systems: Systems, rate: Goals, cpu: Goals, delay: int = 0
) -> Found:
    """How fast each system sends what is queued, and without a delay the CPU time of that. The
    goals are for the first system."""
    runs, found = defaultdict(list), Found()
    for _ in range(scale.runs):
        for system in systems:
            count = system.slow if delay else system.fast
            runs[system].append(_drain(lab, scale, system, count, delay))
    pool = "the pool recommended for it" if delay else "two worker slots, batch 100"
    figures: list[tuple[str, str, str, Literal[">=", "<="], Goals]] = [
        ("rate", f"drain, {delay} ms, {jobs}: {pool}", RATE, ">=", rate),
        ("cpu", f"CPU per 1,000 messages, {jobs}: producer + worker + Redis", CPU, "<=", cpu),
        ("server", f"of which Redis, {jobs}", CPU, "<=", {}),
    ]
    for what, figure, unit, sign, goals in figures[: 1 if delay else None]:
        values = {s: Values(s.name, [getattr(drain, what) for drain in runs[s]]) for s in systems}
        for peer in filter(values.get, goals):
            ours, goal = values[systems[0]], goals[peer]
            found.rows.append(Row(figure, unit, ours, goal, sign, values[peer]))
        found.others += [(figure.partition(":")[0], unit, each) for each in values.values()]
    return found


def _drain(lab: Lab, scale: Scale, system: System, count: int, delay: int, **env: str) -> Drain:
    with lab.bench(**env) as bench:
        return bench.drain(system, scale.count(count), delay)


def limits(lab: Lab, scale: Scale) -> Found:
    """Upper limits: the provider's double alone, and two sessions that post prebuilt batches."""
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
    return Found(others=[("limit", RATE, Values(*each)) for each in runs.items()])


ENQUEUES = {
    "one-by-one": ("enqueue one by one, plain text", "enqueue", "plain", 10_000, 2.5),
    "one-by-one-mixed": ("enqueue one by one, mixed kinds", "enqueue", "mixed", 10_000, 2.5),
    "enqueue-many": ("enqueue_many with common", "enqueue_many", "plain", 100_000, 27),
    "enqueue-many-own": ("enqueue_many, own text and comment", "enqueue_many", "own", 50_000, 20),
}
"""By name for ``--only``: the figure, our load, the jobs' shape, how many, the goal."""


def enqueue(lab: Lab, scale: Scale, name: str) -> Found:
    """How fast one process stores jobs, beside ``apply_async`` with jobs of the same shape."""
    figure, load, shape, many, goal = ENQUEUES[name]
    runs = defaultdict(list)
    for _ in range(scale.runs):
        for what, each in (("single", 5_000), (load, many)):
            with lab.bench() as bench:
                count = scale.count(each)
                runs[what].append(count / bench.load(what, count, shape)["seconds"])
    ours, peer = Values(OURS.name, runs[load]), Values("Celery's apply_async", runs["single"])
    return Found([Row(f"{figure}, one process", RATE, ours, goal, ">=", peer)])


AT_REST = (
    ("the app's call, median", "ms", 1 / 2),
    ("the app's call, p99", "ms", None),
    ("the app's CPU per call", "us", 1 / 4),
    ("enqueue to provider, p50", "ms", 1.3),
    ("enqueue to provider, p99", "ms", 1.3),
)
"""What ``_paced`` returns, the units, and the most of what Celery takes."""


def at_rest(lab: Lab, scale: Scale) -> Found:
    """One message every 20 ms and an idle worker: what a call costs, and when it arrives."""
    runs, found = defaultdict(list), Found()
    for _ in range(scale.runs):
        for system in (CELERY, ONE_BY_ONE):
            runs[system].append(_paced(lab, system, 50, scale.seconds(10)))
    for place, (figure, unit, goal) in enumerate(AT_REST):
        figure = f"at rest, a message every 20 ms: {figure}"
        peer, ours = (Values(s.name, [run[place] for run in runs[s]]) for s in runs)
        found.rows.append(Row(figure, unit, ours, goal, "<=", peer))
    return found


def promises(lab: Lab, scale: Scale) -> Found:
    """What an enqueue takes that waits for replicas, or for the disk (COURIER_REPLICAS)."""
    runs, ways = defaultdict(list), {"none waited for": "0", "one of two": "1", "both": "2"}
    for _ in range(scale.runs):
        for name, wanted in {**ways, "the disk": "disk"}.items():
            with lab.bench(COURIER_REPLICAS=wanted) as bench:
                if wanted != "disk":
                    bench.replicate(2)
                elif not bench.has("waitaof"):
                    continue
                load = bench.load("enqueue", int(50 * scale.seconds(6)), "plain", 50)
                runs[name].append(1000 * quantile(load["calls"], 0.5))
    figure = "the app's call, median, by COURIER_REPLICAS"
    return Found(others=[(figure, "ms", Values(*each)) for each in runs.items()])


def latency(lab: Lab, scale: Scale) -> Found:
    """From the call of ``enqueue`` until the provider has the request, by rate."""
    curves = defaultdict[str, Points](list)
    for rate in (50, 100, 200, 400):
        for system in (CELERY, ONE_BY_ONE):
            *_, p50, p99 = _paced(lab, system, rate, scale.seconds(6))
            curves[f"{system.name}, p50"].append((rate, p50))
            curves[f"{system.name}, p99"].append((rate, p99))
    return Found(curves={"latency": curves})


def _paced(lab: Lab, system: System, rate: int, seconds: float) -> tuple[float, ...]:
    """The figures of AT_REST at so many messages per second."""
    lab.provider.reset()
    with lab.bench() as bench, bench.worker(system.app, *system.options):
        bench.load(system.load, 20, system.shape)  # a worker's first requests take longer
        wait_for(lambda: lab.provider.get("counts")["messages"] > 20)
        lab.provider.reset(record=1)
        load = bench.load(system.load, int(rate * seconds), system.shape, rate)
        waits = _waits(lab, load["begun"])
    calls = [1000 * each for each in load["calls"]]
    cpu = 1e6 * sum(load["call_cpu"]) / len(calls)
    return quantile(calls, 0.5), quantile(calls, 0.99), cpu, waits[0.5], waits[0.99]


def _waits(lab: Lab, begun: dict[str, float]) -> dict[float, float]:
    """Milliseconds from call to arrival: the median and the 99th percentile."""

    def arrivals() -> dict[str, float] | None:
        got: dict[str, float] = lab.provider.get("arrivals")
        return got if begun.keys() <= got.keys() else None

    came = wait_for(arrivals, 0.5)
    waits = [(came[address] - instant) * 1000 for address, instant in begun.items()]
    return {share: quantile(waits, share) for share in (0.5, 0.99)}


def realtime(lab: Lab, scale: Scale) -> Found:
    """How long a code waits while a campaign is being sent."""
    runs, notes = defaultdict(list), []
    urgent = ("-Q", "courier.send.realtime", "-c", "1")
    rest = ("courier.poll", "courier.enqueue", *(f"courier.send.{p}" for p in ("high", "normal")))
    bulk = (*MORE, "-Q", ",".join((*rest, "courier.send.low")))
    figure = "realtime behind 100,000 low, enqueue to provider, p99"
    shared, own = f"{figure}: shared workers", f"{figure}: a worker of its own"
    for _ in range(scale.runs):
        for name, workers in ((shared, [MORE]), (own, [urgent, bulk])):
            with lab.bench() as bench:
                bench.load("enqueue_many", scale.count(100_000))
                lab.provider.reset(delay=MS, record=1)
                runs[name].append(_codes(lab, bench, workers, scale.seconds(4)))
                if not sum(map(bench.redis.zcard, bench.keys.lanes)):
                    notes.append(f"{name}: the campaign was over before the last code")
    rows = [
        Row(name, f"ms ({MS} ms a request)", Values(OURS.name, runs[name]), most * MS, "<=")
        for name, most in ((shared, 3), (own, 2))
    ]
    return Found(rows, notes=notes)


def _send_codes(bench: Bench, count: int) -> dict[str, float]:
    """Sends so many codes, 60 a second; returns when each call began, by address."""
    begun: dict[str, float] = bench.load("enqueue", count, "code", 60)["begun"]
    return begun


def _codes(lab: Lab, bench: Bench, workers: list[Options], seconds: float) -> float:
    with ExitStack() as stack:
        for options in workers:
            stack.enter_context(bench.worker(APP, *options))
        wait_for(lambda: lab.provider.get("counts")["messages"] >= 3_000)  # at full speed by now
        return _waits(lab, _send_codes(bench, int(60 * seconds)))[0.99]


def backlog(lab: Lab, scale: Scale) -> Found:
    """Whether the number that waits matters: a million against ten thousand on average."""
    few, some, many = scale.count(20_000), scale.count(100_000), scale.count(1_000_000)
    rates = defaultdict[int, list[float]](list)
    with lab.bench() as full:
        empty = full.redis.info("memory")["used_memory"]
        full.load("enqueue_many", many)
        used = full.redis.info("memory")["used_memory"]
        for _ in range(scale.runs):
            for size in (few, some):
                with lab.bench() as bench:
                    bench.load("enqueue_many", size)
                    rates[size].append(_window(lab, bench, few))
            rates[many].append(_window(lab, full, few))
    few_, many_ = Values("10,000 waiting", rates[few]), Values("1,000,000 waiting", rates[many])
    points = [(float(size), Values("", runs).median) for size, runs in sorted(rates.items())]
    each = Values(OURS.name, [(used - empty) / many])
    row = Row("drain rate with 1,000,000 waiting", RATE, many_, 0.9, ">=", few_)
    memory = ("memory, 1,000,000 waiting", "bytes/message", each)
    return Found([row], [memory], {"backlog": {f"drain, {RATE}": points}})


def _window(lab: Lab, bench: Bench, few: int) -> float:
    """Messages/s while so many are sent; workers warm up in the first tenth, which is left out."""
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
    for shape in ("plain", "long") * scale.runs:
        with lab.bench() as bench:
            empty = bench.redis.info("memory")["used_memory"]
            bench.load("enqueue_many", count, shape)
            runs[shape].append((bench.redis.info("memory")["used_memory"] - empty) / count)
    figure, unit = "Redis memory per waiting message of a campaign", "bytes"
    long = Values("text of 1,000 characters", runs["long"])
    short = Values("text of 90 characters", runs["plain"])
    return Found([Row(figure, unit, long, 500, "<=")], [(figure, unit, short)])


def campaigns(lab: Lab, scale: Scale) -> Found:
    """What campaigns cost: storing, memory, and a drain of a hundred beside one."""
    runs, count = defaultdict[str, list[float]](list), scale.count(100_000)
    for _ in range(scale.runs):
        for load in ("enqueue_many", "campaign"):
            with lab.bench() as bench:
                empty = bench.redis.info("memory")["used_memory"]
                runs[load].append(count / bench.load(load, count)["seconds"])
                used = bench.redis.info("memory")["used_memory"]
                runs[f"{load}, memory"].append((used - empty) / count)
        for load in ("campaign", "campaigns"):
            system = replace(OURS, load=load)
            runs[f"{load}, drain"].append(_drain(lab, scale, system, system.fast, 0).rate)

    def values(name: str, what: str) -> Values:
        return Values(name, runs[what])

    without, drain = values("without", "enqueue_many"), values("one", "campaign, drain")
    many, memory = values("a hundred", "campaigns, drain"), values("one", "campaign, memory")
    return Found(
        [
            Row("store into a campaign", RATE, values("one", "campaign"), 0.9, ">=", without),
            Row("drain a hundred campaigns", RATE, many, 0.9, ">=", drain),
            Row("Redis memory per message of a named campaign", "bytes", memory, 480, "<="),
        ]
    )


def cancels(lab: Lab, scale: Scale) -> Found:
    """How fast a campaign is cancelled, and how long a code waits meanwhile."""
    runs, count, seconds = defaultdict[str, list[float]](list), scale.count(300_000), 3.0
    for _ in range(scale.runs):
        with lab.bench() as bench, bench.worker(APP, *MORE):
            lab.provider.reset(delay=MS, record=1)
            _send_codes(bench, 20)
            runs["alone"].append(_waits(lab, _send_codes(bench, int(60 * seconds)))[0.99])
            bench.load("paused_campaign", count)
            cancelling = bench.loading("cancel", 0)
            wait_for(lambda: bench.count("cancelled:by-request"))
            lab.provider.reset(delay=MS, record=1)
            runs["beside"].append(_waits(lab, _send_codes(bench, int(60 * seconds)))[0.99])
            if cancelling.poll() is not None:
                raise RuntimeError("the campaign was cancelled before the last code")
            runs["rate"].append(count / finish(cancelling)["seconds"])
    alone, beside = Values("without", runs["alone"]), Values("beside", runs["beside"])
    rate = Values("with codes beside", runs["rate"])
    return Found(
        [
            Row("cancel a campaign", RATE, rate, 1_000_000 / 60, ">="),
            Row("a code while a campaign is cancelled, p99", "ms", beside, 2, "<=", alone),
        ]
    )


def stages(lab: Lab, scale: Scale) -> Found:
    """What a message and its events take in Redis stage by stage, and what they add to the AOF."""
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
                bench.load("enqueue_many", count)
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
    """Polls 100,000 due messages whose status has changed, then reads the events of that."""
    polled, read, server, count = list[float](), list[float](), list[float](), scale.count(100_000)
    with lab.bench() as bench:
        bench.drain(OURS, count)
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
    figure = "status polling, 100,000 due, each recorded, with an event"
    rows = [
        Row(figure, "statuses/s", Values(OURS.name, polled), 10_000, ">="),
        Row("results reader, one process", "events/s", Values(OURS.name, read), 20_000, ">="),
    ]
    return Found(rows, [("CPU of Redis per 1,000 statuses", CPU, Values(OURS.name, server))])


def curves(lab: Lab, scale: Scale) -> Found:
    """Throughput by batch size, worker processes and the provider's time; one run each."""
    by_size, by_delay, by_workers = (defaultdict[str, Points](list) for _ in range(3))
    for processes in (1, 2, 4, 8, 12, 20):
        for delay in (0, MS):
            system = replace(OURS, options=("-B", "-c", str(processes)))
            drain = _drain(lab, scale, system, min(30_000, 8_000 * processes), delay)
            by_workers[f"{OURS.name}, {delay} ms"].append((processes, drain.rate))
    for size in (10, 30, 100, 300):
        for system, delay in ((OURS, 0), (MANY, MS)):
            count, env = 200 * min(size, 150), {"COURIER_BATCH_SIZE": str(size)}
            drain = _drain(lab, scale, system, count, delay, **env)
            by_size[f"{system.name}, {delay} ms"].append((size, drain.rate))
    for delay in (0, 20, 50, 100, 200):
        for system in (OURS, MANY, BATCHES, BY_HAND):
            each = {OURS: 600_000, BY_HAND: 600_000}.get(system, system.slow * 50)
            count = min(system.slow, each // max(delay, 1))
            by_delay[system.name].append((delay, _drain(lab, scale, system, count, delay).rate))
    return Found(curves={"batch size": by_size, "provider": by_delay, "workers": by_workers})
