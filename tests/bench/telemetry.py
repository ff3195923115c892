"""Rows of telemetry: an idle service beside one without it, at the same time, and a scrape of each."""

import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack

from tests.bench.figures import Figure
from tests.bench.stage import Stage, cards, cpu_seconds, memory

_SETTLE = 20.0  # seconds: by then each card has been sampled twice, so the next sample is 15 s later
_WINDOW = 15.0  # seconds: TELEMETRY_INTERVAL, so each card is sampled once in a window
_SCRAPES = 20  # in a row
_WITHOUT = "with TELEMETRY=none"


def idle(quick: bool) -> Iterator[Figure]:
    """Measure CPU and memory with 16 cards, no calls and default intervals, and the CPU of a scrape."""
    with ExitStack() as stack:
        stages = [
            stack.enter_context(Stage(cards(16, shells=4), functions=200, TELEMETRY=level))
            for level in ("safe", "none")
        ]
        stages[0].running(0).end()  # compiles: a process that does so keeps 4 MB more
        pids = [stage.running(0).pid for stage in stages]
        time.sleep(_SETTLE)
        shares: list[list[float]] = [[], []]
        for _ in range(2 if quick else 10):
            before = [cpu_seconds(pid) for pid in pids]
            time.sleep(_WINDOW)
            for share, pid, began in zip(shares, pids, before, strict=True):
                share.append((cpu_seconds(pid) - began) / _WINDOW * 100)
        scrapes: list[list[float]] = [[], []]
        for _ in range(2 if quick else 10):
            for scrape, stage, pid in zip(scrapes, stages, pids, strict=True):
                began = cpu_seconds(pid)
                size = [stage.scrape() for _ in range(_SCRAPES)][-1]
                scrape.append((cpu_seconds(pid) - began) / _SCRAPES * 1000)
                if stage is stages[0]:
                    length = size
        sizes = [memory(pid) for pid in pids]
    (safe, none), (with_cards, without) = shares, scrapes
    windows = f"windows of {_WINDOW:.0f} s"
    yield Figure(
        f"idle CPU of a core, 16 cards, 200 functions, {windows}", "%", safe, 0.5, "median",
        statistics.median(none), _WITHOUT,
    )  # fmt: skip
    added = [one - other for one, other in zip(safe, none, strict=True)]
    yield Figure("- of it telemetry", "%", added, 0.05)
    yield Figure(
        f"CPU of a scrape, 16 cards, {length // 1000} kB", "ms", with_cards, 5, "median",
        statistics.median(without), _WITHOUT,
    )  # fmt: skip
    for kind, target in (("Rss", 1), ("Uss", None)):
        yield Figure(
            f"memory of telemetry, 16 cards, after scrapes, {kind.upper()}", "MB",
            [sizes[0][kind] - sizes[1][kind]], target, "median", sizes[1][kind], _WITHOUT,
        )  # fmt: skip
