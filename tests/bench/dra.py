"""Rows of the DRA driver, beside a driver in Go that does as little as Go's helper package allows.

Both have the same caller in Go, the same API server with TLS in a process of its own, and their directories
on the same disk. The figures of the two are taken in turn.
"""

import random
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

from tests.bench import woken
from tests.bench.dra_stage import Caller, DraStage, Driver
from tests.bench.figures import Figure, quantile
from tests.bench.reports import Reporting
from tests.bench.stage import Stage, cards, children_cpu_seconds, cpu_seconds, memory
from tests.support.dra_kubelet import DRIVER

_GO = "Go's helper package"
_CYCLES = 200  # of prepare, prepare again, unprepare with one driver in a row
_WARM_UP = 50  # cycles
_AT_ONCE = 100  # claims
_BETWEEN_WRITES = 1.1  # seconds: the driver writes once a second at most
_SETTLE = 10.0  # seconds
_WINDOW = 15.0  # seconds


def claims(quick: bool) -> Iterator[Figure]:
    """Measure calls for one claim after the other, and for 100 claims at once."""
    with DraStage(cards(16, shells=4)) as stage, Caller() as caller:
        pids = [driver.running().pid for driver in stage.drivers]
        stored = [driver.claims() for driver in stage.drivers]
        calls: dict[str, list[list[float]]] = {}
        cpu = [0.0 for _ in pids]
        for driver, own in zip(stage.drivers, stored, strict=True):
            caller.call(driver, own, cycles=_WARM_UP)
        blocks = 2 if quick else 6
        for _ in range(blocks):
            for side, driver in enumerate(stage.drivers):
                before = cpu_seconds(pids[side])
                for name, times in caller.call(driver, stored[side], cycles=_CYCLES).items():
                    for share in (0.5, 0.99):
                        values = calls.setdefault(f"{name} {share}", [[], []])
                        values[side].append(quantile(times, share))  # type: ignore[arg-type]
                cpu[side] += cpu_seconds(pids[side]) - before
    ours, theirs = calls["prepare 0.5"]
    go = statistics.median(theirs)
    yield Figure("DRA: prepare p50, first time", "ms", ours, 1.4 * go, "median", go, _GO)
    for what, name, target in (
        ("DRA: prepare p99, first time", "prepare 0.99", 12.0),
        ("DRA: prepare p50, nothing differs", "again 0.5", 2.5),
        ("DRA: unprepare p50", "unprepare 0.5", 1.5),
        ("- unprepare p99", "unprepare 0.99", None),
    ):
        ours, theirs = calls[name]
        yield Figure(what, "ms", ours, target, "median", statistics.median(theirs), _GO)
    mine, its = (seconds / (blocks * _CYCLES) * 1000 for seconds in cpu)
    yield Figure("- CPU of the driver for the three calls", "ms", [mine], None, "median", its, _GO)
    yield from _at_once(quick)


def _at_once(quick: bool) -> Iterator[Figure]:
    with DraStage(cards(_AT_ONCE, shells=4)) as stage, Caller() as caller:
        for driver in stage.drivers:
            driver.running()
        stored = [driver.claims() for driver in stage.drivers]
        took: list[list[float]] = [[], []]
        for run in range(3 if quick else 7):
            for side, driver in enumerate(stage.drivers):
                values = caller.call(driver, stored[side], at_once=True)["prepare"]
                took[side] += values if run else []
    ours, theirs = took
    yield Figure(
        f"DRA: {_AT_ONCE} claims at once, all prepared", "ms", ours, 1000, "worst",
        statistics.median(theirs), _GO,
    )  # fmt: skip


def start(quick: bool) -> Iterator[Figure]:
    """Measure the start until kubelet has registered the driver, and the slice that others have removed.

    The reference in Go waits half a minute before it restores a slice, so it is not measured there.
    """
    wall: list[list[float]] = [[], []]
    cpu: list[list[float]] = [[], []]
    published: list[list[float]] = [[], []]
    restored: list[float] = []
    back: list[float] = []
    with DraStage(cards(4, shells=2)) as stage:
        for run in range(4 if quick else 9):
            for side, driver in enumerate(stage.drivers):
                process = driver.start()
                registered = driver.register()
                used = cpu_seconds(process.pid) + children_cpu_seconds(process.pid)
                slices = driver.published_since(process.began) if run == 0 else 0
                if run and driver is stage.service:
                    restored.append(_restored(driver))
                    back.append(_back(driver))
                driver.kubelet.stop()
                process.end()
                if run == 0:  # the first run compiles
                    published[side].append((slices - registered) * 1000)
                    continue
                wall[side].append((registered - process.began) * 1000)
                cpu[side].append(used * 1000)
    for what, (ours, theirs), target in (
        ("DRA: start to registered, wall", wall, 600),
        ("DRA: start to registered, CPU of all processes", cpu, 450),
        ("- registered to slice, first start", published, None),
    ):
        yield Figure(what, "ms", ours, target, "median", statistics.median(theirs), _GO)
    yield Figure("DRA: slice back after kubelet restart", "ms", back, 1000, "worst")
    yield Figure("DRA: slice back after deletion by hand", "ms", restored, 500, "worst")


def _restored(driver: Driver) -> float:
    """Delete the slice; return the milliseconds until it is back."""
    time.sleep(random.uniform(1, 1.2) * _BETWEEN_WRITES)  # noqa: S311
    began = driver.without_slice()
    return (driver.published_since(began) - began) * 1000


def _back(driver: Driver) -> float:
    """Restart kubelet, which removes the slice, then registers; return the milliseconds until it is back."""
    time.sleep(random.uniform(1, 1.2) * _BETWEEN_WRITES)  # noqa: S311
    driver.kubelet.stop()
    began = driver.without_slice()
    driver.register()
    return (driver.published_since(began) - began) * 1000


def fault(quick: bool) -> Iterator[Figure]:
    """Measure from a card going offline to its taint, and count the writes of faults and recoveries."""
    count = 3 if quick else 8
    with DraStage(cards(16, shells=4), HEALTH_INTERVAL="1") as stage:
        stage.service.running()
        values = list(_faults(stage, count, lambda: None))
        every = stage.node.cards
        one: list[float] = []
        all_cards: list[float] = []
        _mended(stage)
        for _ in range(1 if quick else 2):
            one.append(_writes_of(stage, 1))
            all_cards.append(_writes_of(stage, len(every)))
    yield Figure("DRA: card fault to taint, HEALTH_INTERVAL 1", "ms", values, 1500, "worst")
    with DraStage(cards(16, shells=4), HEALTH_INTERVAL="1") as stage:
        stage.start(woken.__name__)
        stage.service.register()
        stage.service.published_since(0)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as kernel:
            wake = partial(kernel.sendto, woken.EVENT, stage.variables["BENCH_EVENTS"])
            values = list(_faults(stage, count, wake))
    yield Figure("DRA: the same with a kernel event", "ms", values, 300, "worst")
    yield Figure("DRA: writes, a card breaks and recovers", "", one, 2, "worst")
    yield Figure(f"DRA: writes, {len(every)} cards do so at once", "", all_cards, 2, "worst")


def _faults(stage: DraStage, count: int, notify: Callable[[], object]) -> Iterator[float]:
    for number, card in enumerate(stage.node.cards[:count], 1):
        time.sleep(random.uniform(1, 2) * _BETWEEN_WRITES)  # noqa: S311 - at any moment between two checks
        began = time.monotonic()
        card.offline()
        notify()
        yield (stage.tainted(stage.node.cards[:number], began) - began) * 1000


def _mended(stage: DraStage) -> None:
    began = time.monotonic()
    for card in stage.node.cards:
        card.online()
    stage.tainted([], began)


def _writes_of(stage: DraStage, count: int) -> float:
    """Let cards break at once and recover; return the number of writes."""
    time.sleep(_BETWEEN_WRITES)
    began = time.monotonic()
    for card in stage.node.cards[:count]:
        card.offline()
    stage.tainted(stage.node.cards[:count], began)
    _mended(stage)
    time.sleep(_BETWEEN_WRITES)  # one more would come by now
    return len(stage.slice_writes(DRIVER, began))


def rest(quick: bool) -> Iterator[Figure]:
    """Measure memory and CPU of the driver at rest, and of the device plugin with and without reports."""
    with ExitStack() as stack:
        stage = stack.enter_context(DraStage(cards(16, shells=4), functions=200))
        plain = stack.enter_context(Stage(cards(16, shells=4), functions=200))
        reports = stack.enter_context(Reporting(stage.api, functions=200))
        for node in (plain, reports):
            node.running(0).end()  # compiles: a process that does so keeps 4 MB more
        stage.service.running().end()
        processes = [each.running() for each in stage.drivers] + [
            each.running(0) for each in (plain, reports)
        ]
        caller = stack.enter_context(Caller())
        for driver in stage.drivers:
            caller.call(driver, driver.claims(), at_once=True, keep=True)
        stage.service.kubelet.watch_health()
        time.sleep(_SETTLE)
        began = time.monotonic()
        shares: list[list[float]] = [[] for _ in processes]
        for _ in range(1 if quick else 2):
            before = [cpu_seconds(each.pid) for each in processes]
            time.sleep(_WINDOW)
            for share, each, start in zip(shares, processes, before, strict=True):
                share.append((cpu_seconds(each.pid) - start) / _WINDOW * 100)
        writes = len(stage.api.writes(began))
        sizes = [memory(each.pid) for each in processes]
    driver_share, go_share, plain_share, reports_share = shares
    ours, go, plugin, reporting = sizes
    what = "16 cards, 16 prepared claims"
    yield Figure(f"DRA: resident memory, {what}", "MB", [ours["Rss"]], 50, "median", go["Rss"], _GO)
    yield Figure("- of it in no other process (USS)", "MB", [ours["Uss"]], None, "median", go["Uss"], _GO)
    yield Figure("- the device plugin beside it, resident", "MB", [plugin["Rss"]], 29)
    yield Figure(
        f"DRA: idle CPU of a core, {what}, a health stream", "%", driver_share, 0.6, "median",
        statistics.median(go_share), _GO,
    )  # fmt: skip
    yield Figure("DRA and reports: writes at rest", "", [writes], 0)
    alone = "the device plugin without"
    for name, kind, target in (
        ("reports: their memory", "Rss", 6),
        ("- of it in no other process", "Uss", 5),
    ):
        added = reporting[kind] - plugin[kind]
        yield Figure(f"{name} ({kind.upper()})", "MB", [added], target, "median", plugin[kind], alone)
    yield Figure(
        "- idle CPU of a core", "%", reports_share, None, "median", statistics.median(plain_share), alone
    )
