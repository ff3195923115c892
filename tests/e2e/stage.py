"""The stage of a case: a new sample node, a real kubelet, and the installed service between them.

All cases share kubelet and its mount namespace; each case has its own cards, service and pods.
"""

import itertools
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xilinx_fpga_dp.simulate.sysfs.sample_node import XrtCard

from .live_sample import LiveSample
from .namespace import NodeError, Process, wait_for
from .node import DeviceUpdate, Node, PodStatus
from .pods import STAY, open_each, open_number, pod
from .report import Report

# The resource names of the default cards: two U200, one U250.
U200 = "xilinx.com/fpga-xilinx_u200_xdma_201830_2-1561465320"
U250 = "xilinx.com/fpga-xilinx_u250_xdma_201830_2-1561656294"
ONCE = {U200: 1, U250: 1}  # a count by resource

# Short intervals, so that a case takes seconds: sample cards cause no kernel events. No HTTP port, since
# ports of this machine may be in use.
SETTINGS = {"SCAN_INTERVAL": "0.5", "HEALTH_INTERVAL": "0.2", "RECOVERY_CHECKS": "2", "HTTP_ADDRESS": ""}

_SERVICE = (sys.executable, "-m", "xilinx_fpga_dp", "run")
_DAY = 86400.0


@dataclass(frozen=True)
class Seen:
    """The output of the inspection script of a container at its last start."""

    envs: Mapping[str, str]
    nodes: frozenset[str]  # all device nodes it has, by path
    opened: Mapping[str, str]  # by path or device number: ok, or the error of open

    @property
    def cards(self) -> frozenset[str]:
        """The render nodes of the container."""
        return frozenset(node for node in self.nodes if node.startswith("/dev/dri/"))


_LOOK = "env; find /dev -type c -o -type b | sed 's/^/node /'"
_READY = "ready for work"


def _seen(log: str) -> Seen:
    last = log.split(_READY)[-2]
    envs = dict(re.findall(r"^([A-Za-z_]\w*)=(.*)$", last, re.MULTILINE))
    nodes = re.findall(r"^node (\S+)$", last, re.MULTILINE)
    opened = re.findall(r"^(?:open|number) (\S+) (.+)$", last, re.MULTILINE)
    return Seen(envs, frozenset(nodes), dict(opened))


@dataclass
class Stage:
    """The cards, services and pods of a case."""

    node: Node
    report: Report
    sample: LiveSample
    cards: list[XrtCard] = field(default_factory=list)
    services: list[Process] = field(default_factory=list)
    pods: list[str] = field(default_factory=list)

    def add_cards(self) -> None:
        """Add two U200 of one shell, a U250 of another and the ordinary devices of a server."""
        self.sample.add_ordinary_devices()
        self.cards = [self.sample.add_card(board) for board in ("u200", "u200", "u250")]

    def twin(self) -> LiveSample:
        """Return a copy of the node with a separate /sys and other serial numbers."""
        twin = LiveSample(Path(f"{self.sample.root}-twin"), self.node, twin=True)
        twin.add_ordinary_devices()
        for card in self.cards:
            twin.add_card(card.board, serial=f"TWIN{card.slot}")
        return twin

    # the service

    @property
    def service(self) -> Process:
        """The last started service."""
        return self.services[-1]

    def start_service(self, sample: LiveSample | None = None, **settings: str) -> Process:
        """Start the installed service; `sample` replaces the sample node of the stage."""
        chosen = {f"XILINX_FPGA_DP_{name}": value for name, value in (SETTINGS | settings).items()}
        chosen |= (sample or self.sample).environment() | {"XILINX_FPGA_DP_LOG_FORMAT": "text"}
        service = self.node.spawn(f"service-{next(_SERVICES)}", _SERVICE, chosen)
        self.services.append(service)
        return service

    def sockets(self) -> list[str]:
        """Return the names of the sockets of the service in the directory of kubelet."""
        return sorted(path.name for path in self.node.plugin_dir.glob("*-fpga.sock"))

    def wait_swept(self, limit: float = 5.0) -> None:
        """Wait until only the two sockets of the service exist, without those of dead instances."""
        wait_for(lambda: len(self.sockets()) == 2, "the sockets of dead instances swept up", limit)

    # state of kubelet

    def wait_all(self, limit: float = 10.0) -> None:
        """Wait until kubelet can allocate the two U200 and the U250."""
        self.node.wait_allocatable(U200, 2, limit)
        self.node.wait_allocatable(U250, 1, limit)

    def counts(self, resource: str = U200) -> tuple[int, int]:
        """Return capacity and allocatable, as `kubectl describe node` shows them."""
        status = self.node.node_status(resource)
        return (status.capacity, status.allocatable) if status else (0, 0)

    def wait_counts(self, resource: str, capacity: int, allocatable: int, limit: float = 10.0) -> None:
        """Wait for these counts in the status of the node."""
        what = f"capacity {capacity}, allocatable {allocatable} of {resource}"
        try:
            wait_for(lambda: self.counts(resource) == (capacity, allocatable), what, limit, 0.1)
        except NodeError as error:
            raise NodeError(f"{error}; they are {self.counts(resource)}") from None

    def came(self, resource: str, healthy: int, since: float, limit: float = 10.0) -> float:
        """Return the seconds from a time until kubelet had a list with ``healthy`` healthy devices."""

        def ask() -> DeviceUpdate | None:
            updates = self.node.device_updates(resource)
            late = (each for each in updates if _later(each.at, since) and each.healthy == healthy)
            return next(late, None)

        found = wait_for(ask, f"a list with {healthy} healthy of {resource}", limit)
        return (found.at - _time_of_day(since)) % _DAY

    def registrations(self, resource: str = U200) -> int:
        """Return the number of registrations of a resource at this kubelet."""
        return self._counted("kubelet_device_plugin_registration_total", resource)

    def times_registered(self) -> dict[str, int]:
        """Return the number of Register calls by resource since the start of this kubelet; 1 is expected.

        A call with a socket that kubelet removed at its start fails after 10 s, and kubelet before 1.37 then
        drops the plugin that has registered in between.
        """
        return {resource: self.registrations(resource) for resource in ONCE}

    def wait_registrations(self, count: int, resource: str = U200) -> None:
        """Wait for a number of registrations of a resource at this kubelet."""
        wait_for(lambda: self.registrations(resource) >= count, f"registration {count} of {resource}", 10)

    def allocations(self, resource: str = U200) -> int:
        """Return the number of Allocate calls of this kubelet for a resource."""
        return self._counted("kubelet_device_plugin_alloc_duration_seconds_count", resource)

    def _counted(self, metric: str, resource: str) -> int:
        return int(self.node.metrics().get(f'{metric}{{resource_name="{resource}"}}', 0))

    def held(self, name: str) -> frozenset[str]:
        """Return the device ids that a pod holds."""
        everybody = self.node.resources.held()
        return frozenset(each for held in everybody if held.pod.startswith(f"{name}-") for each in held.ids)

    # pods

    def put_pod(self, limits: Mapping[str, int] | None = None, **spec: Any) -> str:
        """Create a pod that runs the inspection script and stays; return its name."""
        name = f"pod-{next(_NUMBERS)}"
        devices = self.sample.devices()
        look = "; ".join([_LOOK, open_each(devices), *map(open_number, devices.values())])
        self.node.put(pod(name, f"{look}; echo {_READY}; {STAY}", limits=limits, **spec))
        self.pods.append(name)
        return name

    def run_pod(self, limits: Mapping[str, int] | None = None, **spec: Any) -> tuple[str, Seen]:
        """Create a pod; return its name and the output of its inspection script."""
        name = self.put_pod(limits, **spec)
        return name, self.wait_seen(name)

    def wait_seen(self, name: str, starts: int = 1, limit: float = 20.0) -> Seen:
        """Wait until a container has been inspected in ``starts`` starts; return the last output."""

        def ask() -> str | None:
            log = self.node.logs(name)
            return log if log.count(_READY) >= starts else None

        try:
            return _seen(wait_for(ask, f"start {starts} of {name}", limit))
        except NodeError as error:
            status = self.node.pod(name)
            said = f"{status.phase} {status.reason} {status.message}" if status else "no such pod"
            raise NodeError(f"{error}: {said}") from None

    def rejected(self, limits: Mapping[str, int]) -> PodStatus:
        """Create a pod that kubelet must reject; return its status."""
        name = self.put_pod(limits)
        return self.node.wait_pod(name, "Failed", 20)

    @contextmanager
    def undisturbed(self, *names: str) -> Iterator[None]:
        """Assert that the `with` block stops none of the pods and changes none of their devices."""
        before = {name: (self._life(name), self.held(name)) for name in names}
        yield
        for name, (life, held) in before.items():
            self.node.wait_pod(name, "Running", 10)
            assert (self._life(name), self.held(name)) == (life, held), f"{name} was disturbed"

    def _life(self, name: str) -> tuple[str, int]:
        status = self.node.wait_pod(name, "Running", 10).container()
        return status["containerID"], status["restartCount"]

    # the end

    def close(self) -> None:
        """Remove all pods, services and cards of this case."""
        try:
            if not self.node.kubelet.running:
                self.node.start_kubelet()
            self.node.remove(*self.pods)
        finally:  # the next case needs an empty node, also after a failure
            for service in self.services:
                if service.running:
                    service.kill()
            self.sample.clear()


_SERVICES = itertools.count(1)
_NUMBERS = itertools.count(1)  # the name of a pod is never reused: a rejected static pod stays rejected


def _time_of_day(at: float) -> float:
    """Return a timestamp as in the log of kubelet: seconds of the local day."""
    local = time.localtime(at)
    return local.tm_hour * 3600 + local.tm_min * 60 + local.tm_sec + at % 1


def _later(of_day: float, since: float) -> bool:
    """Return whether a time of day is after a timestamp, also across midnight."""
    return (of_day - _time_of_day(since)) % _DAY < _DAY / 2


def made_at(path: Path) -> float:
    """Return the time at which a socket was bound."""
    return os.stat(path).st_mtime
