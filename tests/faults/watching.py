"""Looks on while something goes wrong: at kubelet's lists, at descriptors, threads, memory and CPU."""

import operator
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.faults.fault import EVER
from tests.faults.stage import Stage

_EVERY = 0.02  # seconds between looks
_LATE = 0.05  # seconds after which one that comes late was held up
_SELDOM = 0.05  # the same at what /proc has to count
_TICKS = os.sysconf("SC_CLK_TCK")
_MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Figures:
    """What a process has: file descriptors, resident memory in MB, seconds of CPU used so far, and when.

    And tasks, and threads by what they are for, where somebody has asked it for them.
    """

    descriptors: int
    memory: float
    cpu: float
    at: float
    tasks: int = 0
    threads: Counter[str] = field(default_factory=Counter)


def figures(pid: int) -> Figures:
    """What a process has now.

    Raises:
        OSError: it is gone.
    """
    status = Path(f"/proc/{pid}/status").read_text()
    lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return Figures(
        len(os.listdir(f"/proc/{pid}/fd")),
        int(lines["VmRSS"].split()[0]) * 1024 / _MEGABYTE,
        (int(stat[11]) + int(stat[12])) / _TICKS,
        time.monotonic(),
    )


def least(stage: Stage, pids: Iterable[int], seconds: float) -> dict[int, Figures]:
    """The least of each that instances have in some seconds: what comes and goes is no leak.

    The CPU is a share of a core.
    """
    deadline = time.monotonic() + seconds
    found: dict[int, list[Figures]] = {pid: [] for pid in pids}
    while time.monotonic() < deadline:
        for pid, seen in found.items():
            tasks, threads = stage.tasks(pid)
            seen.append(replace(figures(pid), tasks=len(tasks), threads=threads))
        time.sleep(_SELDOM)
    return {
        pid: Figures(
            min(each.descriptors for each in seen),
            min(each.memory for each in seen),
            (seen[-1].cpu - seen[0].cpu) / max(seen[-1].at - seen[0].at, seconds),
            seen[-1].at,
            min(each.tasks for each in seen),
            reduce(operator.and_, (each.threads for each in seen)),
        )
        for pid, seen in found.items()
    }


@dataclass
class Watching:
    """Looks at kubelet's lists all the time, as a context manager.

    Attributes:
        lost: for each resource the intervals in which kubelet counted fewer healthy devices than there are,
            monotonic; the last one may still be open.
        stalls: when this very process was held up, monotonic, and how long: the machine is busy, and nobody's
            fault.
    """

    stage: Stage
    lost: dict[str, list[tuple[float, float | None]]] = field(default_factory=dict)
    stalls: list[tuple[float, float]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.lost = {resource: [] for resource in self.stage.wanted}
        self._thread = threading.Thread(target=self._look, name="watching", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join(5)

    def _look(self) -> None:
        last = time.monotonic()
        while not self._stop.wait(_EVERY):
            now = time.monotonic()
            if (late := now - last - _EVERY) > _LATE:
                self.stalls.append((now, late))
            last = now
            for resource, gaps in self.lost.items():
                full = self.stage.full(resource)
                if gaps and gaps[-1][1] is None:
                    if full:
                        gaps[-1] = (gaps[-1][0], now)
                elif not full:
                    gaps.append((now, None))

    def longest(self, resource: str, *, since: float = 0.0, until: float = EVER) -> float:
        """Seconds, without stalls, a resource was lost at most of the times begun between two moments."""
        now = time.monotonic()
        gaps = [(begin, end or now) for begin, end in list(self.lost[resource]) if since <= begin < until]
        return max((end - begin - self.stalled(begin, end) for begin, end in gaps), default=0.0)

    def stalled(self, since: float = 0.0, until: float = EVER) -> float:
        """Seconds this process was held up between two moments, all together."""
        return sum(late for end, late in list(self.stalls) if since <= end and end - late <= until)

    def back(self, since: float) -> float:
        """Seconds from a moment until the last resource was back for good, without stalls."""
        now = time.monotonic()
        ends = [end or now for gaps in self.lost.values() for _, end in list(gaps)]
        last = max([*ends, since])
        return last - since - self.stalled(since, last)
