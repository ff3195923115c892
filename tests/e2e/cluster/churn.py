"""Pods that ask for cards, one after the other, all along."""

import itertools
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from ..namespace import wait_for
from ..pods import pod
from ..report import Report
from .cluster import Cluster
from .deployed import U200, plugins, wait_available, wait_offered

_RUNS_LIMIT = 120.0
_NUMBERS = itertools.count(1)


class Churn:
    """Creates a pod in a thread, waits until it runs, deletes it, and so on until the `with` block ends.

    Attributes:
        took: seconds from the creation of each pod to Running.
        rejected: the status of each pod that kubelet rejected.
    """

    def __init__(self, cluster: Cluster, limits: Mapping[str, int]) -> None:
        self._cluster = cluster
        self._limits = limits
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="churn")
        self.took: list[float] = []
        self.rejected: list[Any] = []
        self.failure: Exception | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        self._thread.join(_RUNS_LIMIT + 30)
        if self.failure is not None and error is None:
            raise self.failure

    def wait_more(self, count: int) -> None:
        """Wait until so many more pods have run, been rejected, or failed otherwise."""
        before = len(self.took) + len(self.rejected)

        def more() -> bool:
            return self.failure is not None or len(self.took) + len(self.rejected) >= before + count

        wait_for(more, f"{count} more pods", _RUNS_LIMIT)

    def _run(self) -> None:
        try:
            while not self._end.is_set():
                self._one()
        except Exception as error:  # raised in the thread of the case
            self.failure = error

    def _one(self) -> None:
        name = f"churn-{next(_NUMBERS)}"
        taken, status = timed(self._cluster, pod(name, limits=self._limits))
        if status["phase"] == "Running":
            self.took.append(taken)
        else:
            self.rejected.append(status)
        self._cluster.kubectl("delete", "pod", name, "--now")


def timed(cluster: Cluster, made: Mapping[str, Any]) -> tuple[float, Any]:
    """Create a pod; return the seconds until it runs or has failed, and its status."""
    name = made["metadata"]["name"]

    def ask() -> Any:
        found = cluster.pod(name)
        return found["status"] if found and found["status"].get("phase") in ("Running", "Failed") else None

    began = time.monotonic()
    cluster.run_pod(made)
    status = wait_for(ask, f"{name} runs", _RUNS_LIMIT)
    return time.monotonic() - began, status


@contextmanager
def without_a_gap(cluster: Cluster, report: Report, what: str) -> Iterator[None]:
    """Create pods during an update; assert that none is rejected and no card is missing at any time."""
    wait_offered(cluster)
    wait_available(cluster)
    before = {each["metadata"]["uid"] for each in plugins(cluster)}
    began = time.monotonic()
    with (
        cluster.every_count(U200) as counts,
        cluster.timeline(U200) as timeline,
        Churn(cluster, {U200: 1}) as churn,
    ):
        churn.wait_more(2)
        yield
        wait_available(cluster)
        wait_for(lambda: len(plugins(cluster)) == 1, "the older pod gone", 60)
        churn.wait_more(2)
    assert {each["metadata"]["uid"] for each in plugins(cluster)}.isdisjoint(before), "nothing was updated"
    assert churn.rejected == []
    assert {(each.capacity, each.allocatable) for each in counts} == {(2, 2)}
    gap = timeline.longest(lambda healthy: healthy != 2)
    report.time(f"{what}: fewer cards at kubelet than there are", gap)
    report.note(
        f"{what}: {len(churn.took)} pods with a card ran in {time.monotonic() - began:.0f} s, none rejected"
    )
