"""Observation during a trial: the lists of kubelet, descriptors, threads, memory and CPU."""

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

_EVERY = 0.02  # seconds between samples
_LATE = 0.05  # seconds of delay that count as a stall
_EVERY_PROC = 0.05  # seconds between samples of /proc, which are slower
_TICKS = os.sysconf("SC_CLK_TCK")
_MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Figures:
    """A sample of a process: file descriptors, resident memory in MB, CPU seconds and the time of the sample.

    ``tasks`` and ``threads``, by purpose, are set by `least` only.
    """

    descriptors: int
    memory: float
    cpu: float
    at: float
    tasks: int = 0
    threads: Counter[str] = field(default_factory=Counter)


def figures(pid: int) -> Figures:
    """Return a sample of a process.

    Raises:
        OSError: the process has ended.
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
    """Return the minimum of each figure over some seconds: temporary resources are not a leak.

    The CPU is a share of a core.
    """
    deadline = time.monotonic() + seconds
    found: dict[int, list[Figures]] = {pid: [] for pid in pids}
    while time.monotonic() < deadline:
        for pid, seen in found.items():
            tasks, threads = stage.tasks(pid)
            seen.append(replace(figures(pid), tasks=len(tasks), threads=threads))
        time.sleep(_EVERY_PROC)
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
    """A context manager that samples the lists of kubelet in a thread.

    Attributes:
        lost: for each resource the intervals with fewer healthy devices than wanted, in time.monotonic(); the
            last one may still be open.
        stalls: the end and duration of each interval in which this process did not run, as on a busy machine.
    """

    stage: Stage
    lost: dict[str, list[tuple[float, float | None]]] = field(default_factory=dict)
    stalls: list[tuple[float, float]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.lost = {resource: [] for resource in self.stage.wanted}
        self._thread = threading.Thread(target=self._sample, name="watching", daemon=True)
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

    def _sample(self) -> None:
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
        """Return the longest loss of a resource that began between two times, in seconds without stalls."""
        now = time.monotonic()
        gaps = [(begin, end or now) for begin, end in list(self.lost[resource]) if since <= begin < until]
        return max((end - begin - self.stalled(begin, end) for begin, end in gaps), default=0.0)

    def stalled(self, since: float = 0.0, until: float = EVER) -> float:
        """Return the total seconds of stalls between two times."""
        return sum(late for end, late in list(self.stalls) if since <= end and end - late <= until)

    def back(self, since: float) -> float:
        """Return the seconds from a time to the end of the last loss, without stalls."""
        now = time.monotonic()
        ends = [end or now for gaps in self.lost.values() for _, end in list(gaps)]
        last = max([*ends, since])
        return last - since - self.stalled(since, last)
