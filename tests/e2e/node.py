"""A node: containerd and a real kubelet without an API server, running static pods.

with Node(binaries("1.37")) as node:
    node.make_device("/dev/dri/renderD128", 0)
    plugin = node.spawn("plugin", [sys.executable, "-m", "xilinx_fpga_dp", "run"], env)
    node.wait_allocatable("xilinx.com/fpga-x", 1)
    node.put(pod("one", limits={"xilinx.com/fpga-x": 1}))
    node.wait_pod("one", "Running")
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .host import HOSTNAME, Host, get


@dataclass(frozen=True)
class PodStatus:
    """The status of a pod at kubelet; `raw` is the pod of its API."""

    phase: str
    reason: str
    message: str
    raw: Mapping[str, Any]

    def container(self, name: str = "main") -> Mapping[str, Any]:
        """Return the containerStatus of a container; empty if there is none yet."""
        statuses = self.raw["status"].get("containerStatuses", ())
        return next((status for status in statuses if status["name"] == name), {})


@dataclass(frozen=True)
class DeviceUpdate:
    """The counts of kubelet after a list or after the end of the last stream."""

    at: float  # seconds of the day, on kubelet's clock, to the microsecond
    total: int  # capacity
    healthy: int  # allocatable


@dataclass(frozen=True)
class NodeStatus:
    """A resource in the status of the node."""

    capacity: int
    allocatable: int


class Node(Host):
    """A node; a machine has one at a time. The end of the `with` block undoes all its changes."""

    # state of kubelet

    def device_updates(self, resource: str) -> list[DeviceUpdate]:
        """Return the updates of a resource from the logs of kubelet, oldest first.

        Without an API server, only the log has the capacity with unhealthy devices
        (pkg/kubelet/cm/devicemanager/manager.go, genericDeviceUpdateCallback and markResourceUnhealthy).
        """
        return _device_updates(self.kubelet.output(), resource)

    def node_status(self, resource: str) -> NodeStatus | None:
        """Return a resource as `kubectl describe node` would show it; None if kubelet does not know it.

        Without an API server kubelet builds the status of the node for each request of statistics and
        writes its content to the log (pkg/kubelet/nodestatus/setters.go).
        """
        before = self.kubelet.log.stat().st_size
        get(f"http://{self._address}:{self._ports.read_only}/stats/summary", 10)
        with self.kubelet.log.open(errors="replace") as log:
            log.seek(before)
            return _node_status(log.read(), resource)

    def working_set(self, name: str, container: str = "main") -> int:
        """Return the working set of a container in bytes, which counts for its limit."""
        summary = json.loads(get(f"http://{self._address}:{self._ports.read_only}/stats/summary", 10))
        [found] = [
            each
            for pod in summary["pods"]
            for each in pod.get("containers", ())
            if pod["podRef"]["name"] == f"{name}-{HOSTNAME}" and each["name"] == container
        ]
        return int(found["memory"]["workingSetBytes"])

    # pods

    def put(self, pod: Mapping[str, Any]) -> None:
        """Create or replace a static pod."""
        self.put_text(pod["metadata"]["name"], json.dumps(pod))

    def put_text(self, name: str, manifest: str) -> None:
        """Create or replace a static pod from a manifest in JSON or YAML."""
        # kubelet watches the directory: the file must be complete when it appears.
        partial = self.folder / f"{name}.json"
        partial.write_text(manifest)
        partial.rename(self.folder / "manifests" / f"{name}.json")

    def remove(self, *names: str, limit: float = 30.0) -> None:
        """Remove static pods; wait until kubelet does not list them and their processes have ended."""
        for name in names:
            (self.folder / "manifests" / f"{name}.json").unlink(missing_ok=True)

        def gone() -> bool:
            return not any(self.pod(name) is not None or self.tasks(name) for name in names)

        self._wait(gone, f"pods {', '.join(names)} gone", self.kubelet, limit)

    def tasks(self, name: str) -> set[str]:
        """Return the containers of a pod with a process, including its sandbox."""
        labelled = f'labels."io.kubernetes.pod.name"=={name}-{HOSTNAME}'
        containers = set(self.ctr("containers", "list", "--quiet", labelled).split())
        running = {
            line.split()[0] for line in self.ctr("tasks", "list").splitlines() if line.endswith("RUNNING")
        }
        return containers & running

    def pod(self, name: str) -> PodStatus | None:
        """Return the status of a pod; None if kubelet does not list it."""
        text = get(f"http://{self._address}:{self._ports.read_only}/pods", 10)
        for raw in json.loads(text).get("items") or ():
            if raw["metadata"]["name"] == f"{name}-{HOSTNAME}":
                status = raw.get("status", {})
                return PodStatus(
                    status.get("phase", ""),
                    status.get("reason", ""),
                    status.get("message", ""),
                    {**raw, "status": status},
                )
        return None

    def wait_pod(self, name: str, phase: str, limit: float = 30.0) -> PodStatus:
        """Wait for a pod's phase: Running, Succeeded or Failed."""

        def ask() -> PodStatus | None:
            pod = self.pod(name)
            return pod if pod is not None and pod.phase == phase else None

        return self._wait(ask, f"pod {name} {phase}", self.kubelet, limit)

    def logs(self, name: str, container: str = "main", namespace: str = "default") -> str:
        """Return the output of a container over all its restarts."""
        text = ""
        pattern = f"pods/{namespace}_{name}-{HOSTNAME}_*/{container}/*.log"
        for file in sorted((self.folder / "log").glob(pattern)):
            for line in file.read_text().splitlines():
                _, _, tag, content = line.split(" ", 3)
                text += content + ("" if tag == "P" else "\n")
        return text

    def wait_logs(self, name: str, text: str, container: str = "main", limit: float = 30.0) -> str:
        """Wait until a container has printed a text; return all its output."""

        def ask() -> str | None:
            printed = self.logs(name, container)
            return printed if text in printed else None

        return self._wait(ask, f"{text!r} in the log of {name}", self.kubelet, limit)

    def kill_container(self, name: str, container: str = "main") -> None:
        """Kill the process of a container; kubelet restarts it at once the first time."""
        # kubelet reports a container as running some time after it has printed its first output.
        status = self.wait_pod(name, "Running").container(container)
        identity = str(status["containerID"]).removeprefix("containerd://")
        self.ctr("tasks", "kill", "--signal", "SIGKILL", identity)


_UPDATE = re.compile(
    r"^\w\d{4} (\d\d):(\d\d):(\d\d\.\d+) .*"
    r'"(?:Processed device updates for|Mark all resources Unhealthy for) resource"'
    r' resourceName="([^"]+)"(?: totalCount=(\d+) healthyCount=(\d+))?',
    re.MULTILINE,
)


def _device_updates(log: str, resource: str) -> list[DeviceUpdate]:
    found: list[DeviceUpdate] = []
    for hour, minute, second, name, total, healthy in _UPDATE.findall(log):
        if name == resource:
            at = int(hour) * 3600 + int(minute) * 60 + float(second)
            before = found[-1].total if found else 0
            found.append(DeviceUpdate(at, int(total or before), int(healthy or 0)))
    return found


# Allocatable has a line only if it differs from capacity; the line of capacity comes first.
_STATUS = re.compile(
    r'"(?:Updated (capacity|allocatable)|(Set capacity for removed resource))[^"]*"'
    r' (?:plugin|device)="([^"]+)"(?: \w+=(\d+))?'
)


def _node_status(log: str, resource: str) -> NodeStatus | None:
    found: NodeStatus | None = None
    for kind, removed, name, count in _STATUS.findall(log):
        if name != resource:
            continue
        if removed:
            found = NodeStatus(0, 0)
        elif kind == "capacity":
            found = NodeStatus(int(count), int(count))
        elif found is not None:
            found = NodeStatus(found.capacity, int(count))
    return found
