"""The API server of `simulate` in a process of its own, with TLS, and what is written to it."""

import multiprocessing
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import Any, NamedTuple, cast

from tests.support.api_server import RunningApiServer
from tests.support.dra_kubelet import SLICES
from tests.support.plugin_pods import PluginPods, device, state
from xilinx_fpga_dp.simulate.api_server import Json, Request


class Write(NamedTuple):
    """A request that has changed something."""

    time: float  # of the monotonic clock, which all processes share
    method: str
    path: str
    body: Any


class _Writes(deque[Request]):
    """The log of requests: keeps the writes alone, with their times."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[Write] = []

    def append(self, request: Request) -> None:
        if request.writes:
            self.written.append(Write(time.monotonic(), request.method, request.path, request.body))


class Api(RunningApiServer):
    """The server as the benchmark uses it, from another process."""

    def __init__(self, folder: str) -> None:
        super().__init__(Path(folder))
        self._writes = self.api.requests = _Writes()

    def pod(self) -> dict[str, str]:
        """Return the variables of a pod, see `tests.bench.in_pod`."""
        return {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(self.port),
            "BENCH_SERVICE_ACCOUNT": str(self.folder),
        }

    def writes(self, since: float) -> list[Write]:
        """Return the writes after a moment."""
        return [each for each in list(self._writes.written) if each.time >= since]

    def store(self, objects: dict[str, Json]) -> None:
        """Put objects by their paths."""
        for path, item in objects.items():
            self.put(path, item)

    def add_plugins(self, nodes: int, devices: int) -> None:
        """Add a pod of the plugin on each of many nodes, with so many devices."""
        pods = PluginPods(self)
        for number in range(nodes):
            found = (device(f"0000:{each:02x}:00.1") for each in range(devices))
            pods.add(f"node-{number:03}", state(*found))

    def slices(self, driver: str) -> list[str]:
        """Return the paths of a driver's slices."""
        found = self.do(lambda: self.api.all(SLICES))
        return [f"{SLICES}/{each['metadata']['name']}" for each in found if each["spec"]["driver"] == driver]


class _Manager(BaseManager):
    pass


_Manager.register("Api", Api)


@contextmanager
def api_server(folder: str) -> Iterator[Api]:
    """Run a server; its kubeconfig is in the folder."""
    Path(folder).mkdir()
    with _Manager(ctx=multiprocessing.get_context("spawn")) as manager:
        yield cast("Api", manager.Api(folder))  # type: ignore[attr-defined]
