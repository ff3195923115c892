"""Rows of memory and of many resources."""

import statistics
import time
from collections.abc import Iterator

from tests.bench.figures import Figure
from tests.bench.stage import Stage, cards, cpu_seconds, memory

_SETTLE = 5.0  # seconds


def resident(quick: bool) -> Iterator[Figure]:
    """Measure the memory with 16 cards, and its growth by 10,000 calls and 1,000 reconnects."""
    calls, restarts = (1000, 50) if quick else (10_000, 500)
    with Stage(cards(16, shells=2)) as stage:
        stage.running(0).end()  # compiles: a process that does so keeps 4 MB more
        service = stage.running(_SETTLE)
        start = memory(service.pid)
        yield Figure("resident memory, 16 cards", "MB", [start["Rss"]], 29)
        yield Figure("- of it in no other process (USS)", "MB", [start["Uss"]], 21)
        yield Figure("- its share of it (PSS)", "MB", [start["Pss"]])
        ids = {resource: sorted(devices) for resource, devices in stage.kubelet.resources().items()}
        asked = [(resource, each) for resource, devices in ids.items() for each in devices]
        for number in range(calls):
            resource, device = asked[number % len(asked)]
            stage.kubelet.allocate_raw(resource, [device])
        time.sleep(_SETTLE)
        after_calls = memory(service.pid)
        for _ in range(restarts):
            stage.kubelet.kill()
            began = time.monotonic()
            stage.kubelet.start()
            stage.listed_since(began)
        time.sleep(_SETTLE)
        after_all = memory(service.pid)
        reconnects = restarts * len(ids)
    grown = after_all["Rss"] - start["Rss"]
    yield Figure(
        f"growth after {calls} calls and {reconnects} reconnects", "MB", [grown], 2, "median",
        start["Rss"], "the same service at start",
    )  # fmt: skip
    yield Figure("- after the calls", "MB", [after_calls["Rss"] - start["Rss"]])


def scale(quick: bool) -> Iterator[Figure]:
    """Measure 256 devices in 64 resources."""
    with Stage(cards(256, shells=64)) as stage:
        took = []
        for _ in range(2 if quick else 4):
            service = stage.start()
            took.append(stage.listed_since(service.began) - service.began)
            if len(took) < (2 if quick else 4):
                service.end()
        time.sleep(_SETTLE)
        yield Figure("256 devices in 64 resources: registered", "s", took, 3, "worst")
        yield Figure("- resident memory", "MB", [memory(service.pid)["Rss"]], 80)
        quiet, busy, lists = [], [], []
        for card in stage.node.cards[: 3 if quick else 10]:
            quiet.append(_cpu_of_two_seconds(service.pid))
            began = time.monotonic()
            card.offline()
            busy.append(_cpu_of_two_seconds(service.pid))
            lists.append(
                float(
                    sum(
                        each.time > began
                        for resource in stage.resources
                        for each in stage.kubelet.lists(resource)
                    )
                )
            )
    yield Figure("- lists sent for a change of one device", "", lists, 1, "worst")
    yield Figure(
        "- CPU of two seconds with such a change", "ms", busy, None, "median", statistics.median(quiet),
        "two quiet seconds",
    )  # fmt: skip


def _cpu_of_two_seconds(pid: int) -> float:
    before = cpu_seconds(pid)
    time.sleep(2)
    return (cpu_seconds(pid) - before) * 1000
