"""Pods that ask for cards, one after the other, all along."""

import itertools
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from ..namespace import wait_for
from ..pods import pod
from .cluster import Cluster

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
        taken, status = timed_pod(self._cluster, name, self._limits)
        if status["phase"] == "Running":
            self.took.append(taken)
        else:
            self.rejected.append(status)
        self._cluster.kubectl("delete", "pod", name, "--now")


def timed_pod(cluster: Cluster, name: str, limits: Mapping[str, int]) -> tuple[float, Any]:
    """Create a pod; return the seconds until it runs or has failed, and its status."""

    def ask() -> Any:
        found = cluster.pod(name)
        return found["status"] if found and found["status"].get("phase") in ("Running", "Failed") else None

    began = time.monotonic()
    cluster.run_pod(pod(name, limits=limits))
    status = wait_for(ask, f"{name} runs", _RUNS_LIMIT)
    return time.monotonic() - began, status
