"""What a case plays on: a fresh sample node below the real kubelet, and the installed service between them.

Kubelet and its mount namespace are shared by all cases; cards, service and pods are each case's own.
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

from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode, XrtCard

from .namespace import NodeError, Process, fake_devices, wait_for
from .node import DeviceUpdate, Node, PodStatus
from .pods import STAY, open_each, open_number, pod
from .report import Report

# What the two shells of the default cards are called at kubelet: two U200, a U250.
U200 = "xilinx.com/fpga-xilinx_u200_xdma_201830_2-1561465320"
U250 = "xilinx.com/fpga-xilinx_u250_xdma_201830_2-1561656294"
ONCE = {U200: 1, U250: 1}  # of what happened to each resource

# Impatient, so that a case takes seconds: no kernel tells the service what happens to a sample card.
# And without a port: those of this machine belong to others.
SETTINGS = {"SCAN_INTERVAL": "0.5", "HEALTH_INTERVAL": "0.2", "RECOVERY_CHECKS": "2", "HTTP_ADDRESS": ""}

_SERVICE = (sys.executable, "-m", "xilinx_fpga_dp", "run")
_DAY = 86400.0


class LiveSample(SampleNode):
    """A sample node whose render nodes are devices of their own, in the /dev that kubelet and pods see."""

    def __init__(self, root: Path, node: Node, *, twin: bool = False) -> None:
        """Build it; a twin has a /sys of its own and leaves the device nodes to the other one."""
        self._node = node
        self._twin = twin
        self._fakes: dict[str, int] = {}  # which of `fake_devices` a render node is
        super().__init__(root)

    def environment(self) -> dict[str, str]:
        """The settings that let the service run against this node, from inside the namespace."""
        return {"XILINX_FPGA_DP_SYSFS_ROOT": self.sysfs_root}

    def add_node(self, node: str) -> None:
        """Make a device node; those that no case opens are left out."""
        if "/renderD" in node and not self._twin:
            number = next(n for n in itertools.count() if n not in self._fakes.values())
            self._node.make_device(node, number)
            self._fakes[node] = number

    def remove_node(self, node: str) -> None:
        """Take a device node away."""
        if node in self._fakes:
            self._node.path(node).unlink()
            del self._fakes[node]

    def clear(self) -> None:
        """Take all device nodes away."""
        for node in list(self._fakes):
            self.remove_node(node)

    def devices(self) -> dict[str, int]:
        """The device number behind each render node."""
        fakes = fake_devices()
        return {node: fakes[number] for node, number in self._fakes.items()}


@dataclass(frozen=True)
class Seen:
    """What a container saw the last time it started."""

    envs: Mapping[str, str]
    nodes: frozenset[str]  # all device nodes it has, by path
    opened: Mapping[str, str]  # how opening a path or a device number went: ok, or the error

    @property
    def cards(self) -> frozenset[str]:
        """Its render nodes."""
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
    """One case's cards, services and pods."""

    node: Node
    report: Report
    sample: LiveSample
    cards: list[XrtCard] = field(default_factory=list)
    services: list[Process] = field(default_factory=list)
    pods: list[str] = field(default_factory=list)

    def add_cards(self) -> None:
        """Two U200 of one shell and a U250 of another, beside what a server has besides."""
        self.sample.add_ordinary_devices()
        self.cards = [self.sample.add_card(board) for board in ("u200", "u200", "u250")]

    def twin(self) -> LiveSample:
        """The same node once more with a /sys of its own, its cards under other serial numbers."""
        twin = LiveSample(Path(f"{self.sample.root}-twin"), self.node, twin=True)
        twin.add_ordinary_devices()
        for card in self.cards:
            twin.add_card(card.board, serial=f"TWIN{card.slot}")
        return twin

    # the service

    @property
    def service(self) -> Process:
        """The service that was started last."""
        return self.services[-1]

    def start_service(self, sample: LiveSample | None = None, **settings: str) -> Process:
        """Start the installed service; `sample` is another node for it to see than everybody's."""
        chosen = {f"XILINX_FPGA_DP_{name}": value for name, value in (SETTINGS | settings).items()}
        chosen |= (sample or self.sample).environment() | {"XILINX_FPGA_DP_LOG_FORMAT": "text"}
        service = self.node.spawn(f"service-{next(_SERVICES)}", _SERVICE, chosen)
        self.services.append(service)
        return service

    def sockets(self) -> list[str]:
        """The names of the service's sockets beside kubelet's."""
        return sorted(path.name for path in self.node.plugin_dir.glob("*-fpga.sock"))

    def wait_swept(self, limit: float = 5.0) -> None:
        """Wait until there are the service's two sockets and none that a dead instance left."""
        wait_for(lambda: len(self.sockets()) == 2, "the sockets of dead instances swept up", limit)

    # what kubelet says

    def wait_all(self, limit: float = 10.0) -> None:
        """Wait until kubelet can hand out the two U200 and the U250."""
        self.node.wait_allocatable(U200, 2, limit)
        self.node.wait_allocatable(U250, 1, limit)

    def counts(self, resource: str = U200) -> tuple[int, int]:
        """Capacity and allocatable, as `kubectl describe node` shows them."""
        status = self.node.node_status(resource)
        return (status.capacity, status.allocatable) if status else (0, 0)

    def wait_counts(self, resource: str, capacity: int, allocatable: int, limit: float = 10.0) -> None:
        """Wait until the node's status says so."""
        what = f"capacity {capacity}, allocatable {allocatable} of {resource}"
        try:
            wait_for(lambda: self.counts(resource) == (capacity, allocatable), what, limit, 0.1)
        except NodeError as error:
            raise NodeError(f"{error}; they are {self.counts(resource)}") from None

    def came(self, resource: str, healthy: int, since: float, limit: float = 10.0) -> float:
        """Seconds from a time of day until kubelet had taken a list with so many healthy devices."""

        def ask() -> DeviceUpdate | None:
            updates = self.node.device_updates(resource)
            late = (each for each in updates if _later(each.at, since) and each.healthy == healthy)
            return next(late, None)

        found = wait_for(ask, f"a list with {healthy} healthy of {resource}", limit)
        return (found.at - _time_of_day(since)) % _DAY

    def registrations(self, resource: str = U200) -> int:
        """How many times this kubelet has taken the resource's plugin in."""
        return self._counted("kubelet_device_plugin_registration_total", resource)

    def times_registered(self) -> dict[str, int]:
        """How often this kubelet, since its start, was asked to take each plugin in: once, and no more.

        A call that names a socket which kubelet has removed at its start is worse than a waste: it fails
        after 10 s, and kubelets before 1.37 then forget the plugin that registered rightly meanwhile.
        """
        return {resource: self.registrations(resource) for resource in ONCE}

    def wait_registrations(self, count: int, resource: str = U200) -> None:
        """Wait until this kubelet has taken the resource's plugin in so many times."""
        wait_for(lambda: self.registrations(resource) >= count, f"registration {count} of {resource}", 10)

    def allocations(self, resource: str = U200) -> int:
        """How many times this kubelet has called the plugin's Allocate."""
        return self._counted("kubelet_device_plugin_alloc_duration_seconds_count", resource)

    def _counted(self, metric: str, resource: str) -> int:
        return int(self.node.metrics().get(f'{metric}{{resource_name="{resource}"}}', 0))

    def held(self, name: str) -> frozenset[str]:
        """The device ids a pod holds."""
        everybody = self.node.resources.held()
        return frozenset(each for held in everybody if held.pod.startswith(f"{name}-") for each in held.ids)

    # pods

    def put_pod(self, limits: Mapping[str, int] | None = None, **spec: Any) -> str:
        """Give kubelet a pod that looks around, says so and stays; returns its name."""
        name = f"pod-{next(_NUMBERS)}"
        devices = self.sample.devices()
        look = "; ".join([_LOOK, open_each(devices), *map(open_number, devices.values())])
        self.node.put(pod(name, f"{look}; echo {_READY}; {STAY}", limits=limits, **spec))
        self.pods.append(name)
        return name

    def run_pod(self, limits: Mapping[str, int] | None = None, **spec: Any) -> tuple[str, Seen]:
        """Run a pod until it has looked around."""
        name = self.put_pod(limits, **spec)
        return name, self.wait_seen(name)

    def wait_seen(self, name: str, starts: int = 1, limit: float = 20.0) -> Seen:
        """Wait until a container has looked around, so many times over its restarts."""

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
        """Give kubelet a pod that it must refuse; returns its status."""
        name = self.put_pod(limits)
        return self.node.wait_pod(name, "Failed", 20)

    @contextmanager
    def undisturbed(self, *names: str) -> Iterator[None]:
        """Make sure that what is done meanwhile neither stops pods nor changes what they hold."""
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
        """End pods, services and cards of this case, whatever it has left running."""
        try:
            if not self.node.kubelet.running:
                self.node.start_kubelet()
            self.node.remove(*self.pods)
        finally:  # the next case begins with an empty node, whatever became of this one
            for service in self.services:
                if service.running:
                    service.kill()
            self.sample.clear()


_SERVICES = itertools.count(1)
_NUMBERS = itertools.count(1)  # a pod's name is never used again: a rejected static pod stays so


def _time_of_day(at: float) -> float:
    """A timestamp as kubelet's log says it: seconds of the local day."""
    local = time.localtime(at)
    return local.tm_hour * 3600 + local.tm_min * 60 + local.tm_sec + at % 1


def _later(of_day: float, since: float) -> bool:
    """Whether a time of day comes after a timestamp, also across midnight."""
    return (of_day - _time_of_day(since)) % _DAY < _DAY / 2


def made_at(path: Path) -> float:
    """When a socket was bound."""
    return os.stat(path).st_mtime
