"""A record of the allocatable devices of kubelet over time."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from .namespace import SilentError
from .podresources import PodResources

# kubelet refuses more than 100 requests a second (pkg/kubelet/apis/podresources/constants.go).
SHORTEST_PERIOD = 0.015


@dataclass(frozen=True)
class Sample:
    """The number of healthy devices at a time; None if kubelet did not respond."""

    at: float  # seconds since the watch began
    healthy: int | None


class Timeline:
    """Samples in a thread during the `with` block; `samples` are also available afterwards."""

    def __init__(self, resources: PodResources, resource: str, period: float = 0.02) -> None:
        self._resources = resources
        self._resource = resource
        self._period = max(period, SHORTEST_PERIOD)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="timeline", daemon=True)
        self._began = time.monotonic()
        self.samples: list[Sample] = []

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        self._thread.join(10)

    @property
    def now(self) -> float:
        """Return the seconds since the begin of the record."""
        return time.monotonic() - self._began

    def changes(self) -> list[Sample]:
        """Return the first sample and each that differs from its predecessor."""
        samples = list(self.samples)
        return [
            sample
            for before, sample in zip([None, *samples], samples, strict=False)
            if before is None or before.healthy != sample.healthy
        ]

    def longest(self, holds: Callable[[int | None], bool]) -> float:
        """Return the longest continuous time for which a condition held, in seconds."""
        longest, since = 0.0, None
        for sample in list(self.samples):
            if since is not None:
                longest = max(longest, sample.at - since)
            if not holds(sample.healthy):
                since = None
            elif since is None:
                since = sample.at
        return longest

    def _watch(self) -> None:
        while not self._end.wait(self._period):
            at = self.now
            try:
                healthy = len(self._resources.allocatable().get(self._resource, {}))
            except SilentError:
                self.samples.append(Sample(at, None))
            else:
                self.samples.append(Sample(at, healthy))
