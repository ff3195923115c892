"""A whole cluster of one node: etcd, API server, controller manager, scheduler, containerd and kubelet.

with Cluster(binaries(), log_dir=folder) as cluster:
    cluster.sample.add_card("u200")                 # the node's /sys and /dev
    cluster.kubectl("create", "-f", "deploy/fpga-device-plugin.yml")
    cluster.wait_resource("xilinx.com/fpga-x", 1)   # in the status of the node
    cluster.kubectl("create", "-f", "-", stdin=json.dumps(pod("one", limits={"xilinx.com/fpga-x": 1})))
    cluster.wait_pod("one", "Running")
    cluster.api.get("/api/v1/nodes/e2e")            # the API server, as JSON; see api.py
    cluster.stop("kube-apiserver"), cluster.start("kube-apiserver")
    cluster.spawn("service", command, env)          # a process on the node; see namespace.py

A machine has one cluster or one node of `node.Node` at a time; see machine_lock.py.

Everything runs in one mount and network namespace. A pair of interfaces joins its network to that of the
machine, so that `kubeconfig` works there, and the addresses are those of a real node: the API server is at
`NODE_ADDRESS` and at the first service address, which `lo` of the namespace has. So pods, with the host's
network or one of their own, use their token and the injected KUBERNETES_SERVICE_HOST without kube-proxy.
Other services have no address that works, since there is no kube-proxy, and no name, since there is no DNS.

The node's /sys is `sample`, with the control groups and the processors of the machine: manifests that
mount /sys need no change.
"""

import base64
import json
import os
import secrets
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..build import Binaries, ControlPlane, call
from ..configuration import Config, Ports
from ..host import HOSTNAME, START_LIMIT, Host, ended, get
from ..live_sample import LiveSample
from ..machine_lock import end_pods
from ..namespace import NodeError, Process, wait_for
from .api import Api, ApiError
from .certificates import make_certificates

PACKAGES = {
    "openssl": "openssl",
    "iproute2": "ip",
    "containernetworking-plugins": "/usr/lib/cni/ptp",
}
CNI = Path("/usr/lib/cni")

# RFC 2544, for benchmarks: not a real network. The pods' network is its neighbour, see configuration.py.
HOST_ADDRESS, NODE_ADDRESS = "198.18.78.1", "198.18.78.2"
LINK = "xilinx-e2e"
SERVICES, FIRST_SERVICE = "10.96.0.0/24", "10.96.0.1"
ETCD = f"http://{NODE_ADDRESS}:2379"

XRT_RELEASE = "2023.2"  # that of the examples in the documentation

# In the order of start.
PARTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "containerd", "kubelet")

# The users of the token file: the name of each part in RBAC, and its group.
_USERS = {
    "admin": ("admin", "system:masters"),
    "kube-controller-manager": ("system:kube-controller-manager", ""),
    "kube-scheduler": ("system:kube-scheduler", ""),
    "kubelet": (f"system:node:{HOSTNAME}", "system:nodes"),
}

_KUBELET: Config = {
    "staticPodPath": "",
    "nodeStatusUpdateFrequency": "2s",
    "nodeLeaseDurationSeconds": 20,
}

# What of the machine's /sys the programs of a node need, besides the cards.
_MACHINE_SYS = "fs kernel devices/system/cpu"
_MOUNT_SYS = """
for each in $2; do
    mkdir -p "$1/$each"
    mount --rbind "/sys/$each" "$1/$each"
done
mount --rbind "$1" /sys
for each in $2; do umount --recursive --lazy "$1/$each"; done
"""

# What was mounted by containerd and kubelet, the inner mounts first, and the files of /run.
_EMPTY_RUN = """
awk '{print $2}' /proc/self/mounts | grep -E "^(/run|/var/lib/kubelet/pods|$1/containerd)/" | sort -r |
    xargs -r umount --lazy
find /run -mindepth 1 -delete
"""

_CONNECT = f"""
ip link set lo up
ip address add {FIRST_SERVICE}/32 dev lo
ip address add {NODE_ADDRESS}/30 dev eth0
ip link set eth0 up
ip route add default via {HOST_ADDRESS}
"""


@dataclass(frozen=True)
class Counts:
    """A resource in the status of the node."""

    capacity: int
    allocatable: int


class Cluster(Host):
    """A cluster; the end of the `with` block undoes all its changes.

    Attributes:
        api: the API server, for its administrator.
        sample: the cards of the node.
        processes: the last started process of each part.
        took: seconds of each step of the start.
    """

    def __init__(
        self,
        binaries: Binaries,
        plane: ControlPlane,
        *,
        emulated_version: str = "",
        gates: Mapping[str, bool] | None = None,
        log_dir: Path | None = None,
    ) -> None:
        """Prepare.

        Args:
            emulated_version: a minor, such as 1.34, whose API stages the newer control plane shows.
            gates: feature gates of all parts.
            log_dir: where logs stay; its earlier content is removed.
        """
        super().__init__(binaries, config={**_KUBELET, "featureGates": dict(gates or {})}, log_dir=log_dir)
        self._plane = plane
        self._stage_options = [f"--emulated-version={emulated_version}"] if emulated_version else []
        if gates:
            given = ",".join(f"{name}={str(on).lower()}" for name, on in gates.items())
            self._stage_options.append(f"--feature-gates={given}")
        self._tokens = {name: secrets.token_hex(16) for name in _USERS}
        self._address = NODE_ADDRESS
        self._ports = Ports(10250, 10255, 10248)
        self.processes: dict[str, Process] = {}
        self.took: dict[str, float] = {}

    # the cluster as a whole

    def _start(self) -> None:
        self._open(own_network=True)
        self._connect()
        self.sample = LiveSample(self.folder / "sample", self)
        self.namespace.run(["sh", "-ec", _MOUNT_SYS, "sh", self.sample.sysfs_root, _MACHINE_SYS])
        self._boot_id.write_text(f"{uuid.uuid4()}\n")
        self.namespace.run(["mount", "--bind", self._boot_id, "/proc/sys/kernel/random/boot_id"])
        make_certificates(self._pki, [FIRST_SERVICE, NODE_ADDRESS])
        self.api = Api(NODE_ADDRESS, self.authority, self._tokens["admin"])
        self._kubelet_options = [f"--kubeconfig={self.kubeconfig('kubelet')}", f"--node-ip={NODE_ADDRESS}"]
        self.add_network(CNI)
        for part in PARTS:
            began = time.monotonic()
            self.start(part)
            if part == "containerd":
                self._import_images()
            self.took[part] = time.monotonic() - began
        began = time.monotonic()
        wait_for(self.ready, "node Ready", START_LIMIT)
        self.took["node Ready"] = time.monotonic() - began
        # Without them the API server refuses a pod, or its token volume can't be mounted.
        for path in ("default/serviceaccounts/default", "kube-system/configmaps/kube-root-ca.crt"):
            wait_for(partial(self.api.get, f"/api/v1/namespaces/{path}"), path, START_LIMIT)
        self.took["default service account"] = time.monotonic() - began

    def _connect(self) -> None:
        """Join the network of the namespace to that of this machine; the pair ends with the namespace."""
        if Path(f"/sys/class/net/{LINK}").exists():  # the kernel removes that of a killed run some time later
            _ip("link", "delete", LINK)
        peer = ["type", "veth", "peer", "name", "eth0", "netns", str(self.namespace.pid)]
        _ip("link", "add", LINK, *peer)
        _ip("address", "add", f"{HOST_ADDRESS}/30", "dev", LINK)
        _ip("link", "set", LINK, "up")
        self.namespace.run(["sh", "-ec", _CONNECT])

    def add_cards(self) -> None:
        """Add two U200 of one shell, a U250 of another and the ordinary devices of a server."""
        self.sample.add_ordinary_devices()
        for board in ("u200", "u200", "u250"):
            self.sample.add_card(board, release=XRT_RELEASE)

    # parts

    def start(self, part: str) -> None:
        """Start a part of `PARTS` and wait until it serves; those without an API are not waited for."""
        match part:
            case "etcd":
                self.processes[part] = self._start_etcd()
            case "kube-apiserver":
                self.processes[part] = self._start_apiserver()
            case "kube-controller-manager":
                self.processes[part] = self._start_controllers()
            case "kube-scheduler":
                self.processes[part] = self._start_scheduler()
            case "containerd":
                self.processes[part] = self._start_containerd()
            case "kubelet":
                self.start_kubelet()
                self.processes[part] = self.kubelet
            case _:
                raise ValueError(part)

    def stop(self, part: str) -> None:
        """Send SIGTERM to a part and wait for its exit."""
        self.processes[part].terminate(30)

    def kill(self, part: str) -> None:
        """Send SIGKILL to a part."""
        self.processes[part].kill()

    def _start_etcd(self) -> Process:
        etcd = self.spawn(
            "etcd",
            [
                self._plane.etcd,
                f"--data-dir={self.folder}/etcd",
                f"--listen-client-urls={ETCD}",
                f"--advertise-client-urls={ETCD}",
                "--listen-peer-urls=http://127.0.0.1:2380",
                "--unsafe-no-fsync",
                "--log-level=warn",
            ],
        )
        self._wait(lambda: ended(etcd) or bool(get(f"{ETCD}/health", 2)), "etcd", etcd)
        return etcd

    def _start_apiserver(self) -> Process:
        pki = self._pki
        lines = [f'{self._tokens[name]},{user},{user},"{group}"' for name, (user, group) in _USERS.items()]
        (pki / "tokens.csv").write_text("\n".join(lines) + "\n")
        apiserver = self.spawn(
            "kube-apiserver",
            [
                self._plane.programs / "kube-apiserver",
                f"--etcd-servers={ETCD}",
                f"--advertise-address={NODE_ADDRESS}",
                "--secure-port=443",
                f"--tls-cert-file={pki}/api.crt",
                f"--tls-private-key-file={pki}/api.key",
                f"--token-auth-file={pki}/tokens.csv",
                f"--service-account-key-file={pki}/sa.key",
                f"--service-account-signing-key-file={pki}/sa.key",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-cluster-ip-range={SERVICES}",
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                "--allow-privileged=true",
                "--kubelet-preferred-address-types=InternalIP",  # by default the node's name, asked of DNS
                *self._stage_options,
            ],
        )
        self._wait(lambda: ended(apiserver) or self._api_ready(), "API server", apiserver, 180)
        return apiserver

    def _api_ready(self) -> bool:
        try:
            return bool(self.api.text("/readyz"))
        except ApiError:
            return False

    def _start_controllers(self) -> Process:
        name = "kube-controller-manager"
        return self.spawn(
            name,
            [
                self._plane.programs / name,
                f"--kubeconfig={self.kubeconfig(name)}",
                f"--root-ca-file={self.authority}",
                f"--service-account-private-key-file={self._pki}/sa.key",
                "--use-service-account-credentials=true",
                "--leader-elect=false",
                *self._stage_options,
            ],
        )

    def _start_scheduler(self) -> Process:
        name = "kube-scheduler"
        config = self.folder / "scheduler.json"
        config.write_text(
            json.dumps(
                {
                    "apiVersion": "kubescheduler.config.k8s.io/v1",
                    "kind": "KubeSchedulerConfiguration",
                    "clientConnection": {"kubeconfig": str(self.kubeconfig(name))},
                    "leaderElection": {"leaderElect": False},
                    # The default is 1 to 10 s, which a case would wait for.
                    "podInitialBackoffSeconds": 1,
                    "podMaxBackoffSeconds": 1,
                }
            )
        )
        return self.spawn(name, [self._plane.programs / name, f"--config={config}", *self._stage_options])

    @contextmanager
    def kubelet_with(self, config: Config) -> Iterator[None]:
        """Run kubelet with these values over those of its configuration; with its own again at the end."""
        before = self.config
        self._restart_kubelet({**before, **config})
        try:
            yield
        finally:
            self._restart_kubelet(before)

    def _restart_kubelet(self, config: Config) -> None:
        self.stop("kubelet")
        # It refuses the state of another policy (pkg/kubelet/cm/cpumanager/state/state_checkpoint.go).
        (self.kubelet_dir / "cpu_manager_state").unlink(missing_ok=True)
        self.config = config
        self.start("kubelet")
        wait_for(self.ready, "node Ready", START_LIMIT)

    def reboot(self) -> None:
        """Do to the node what a reboot does: its processes and the files of /run are gone, its disks stay."""
        for part in ("kubelet", "containerd"):
            self.kill(part)
        end_pods(self.binaries.containerd / "containerd-shim-runc-v2")
        self.namespace.run(["sh", "-ec", _EMPTY_RUN, "sh", str(self.folder)])
        self._boot_id.write_text(f"{uuid.uuid4()}\n")
        for part in ("containerd", "kubelet"):
            self.start(part)

    # access

    @property
    def programs(self) -> Path:
        """The folder of kubectl and the other programs of the control plane."""
        return self._plane.programs

    @property
    def _boot_id(self) -> Path:
        return self.folder / "boot_id"

    @property
    def _pki(self) -> Path:
        return self.folder / "pki"

    @property
    def authority(self) -> Path:
        """The certificate of the cluster's authority."""
        return self._pki / "ca.crt"

    @property
    def server(self) -> str:
        """The URL of the API server, for this machine and for the node."""
        return f"https://{NODE_ADDRESS}:443"

    def kubeconfig(self, user: str = "admin") -> Path:
        """Write the kubeconfig of a user, the administrator or a part; it works on this machine too."""
        path = self._pki / f"{user}.kubeconfig"
        authority = base64.b64encode(self.authority.read_bytes()).decode()
        cluster = {"server": self.server, "certificate-authority-data": authority}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "e2e",
            "clusters": [{"name": "e2e", "cluster": cluster}],
            "users": [{"name": "e2e", "user": {"token": self._tokens[user]}}],
            "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": "e2e"}}],
        }
        path.write_text(json.dumps(config))
        return path

    def kubectl(self, *args: str | Path, stdin: str = "", cwd: Path | None = None, limit: float = 120) -> str:
        """Run kubectl as the administrator and return its output; raises NodeError if it fails."""
        return self.sh('exec kubectl "$@"', *args, stdin=stdin, cwd=cwd, limit=limit)

    def create(self, manifest: Path) -> str:
        """Create the only object of a file; return its name."""
        return self.kubectl("create", "-f", manifest, "-o", "jsonpath={.metadata.name}")

    def run_pod(self, pod: Mapping[str, Any]) -> None:
        """Create a pod."""
        namespace = pod["metadata"].get("namespace", "default")
        self.api("POST", f"/api/v1/namespaces/{namespace}/pods", pod)

    def sh(
        self,
        script: str,
        *args: str | Path,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
        cwd: Path | None = None,
        limit: float = 120,
    ) -> str:
        """Run a shell script on this machine as a user of the cluster would, and return its output.

        PATH has kubectl of the cluster's release. Raises NodeError if it fails.
        """
        done = subprocess.run(
            ["sh", "-ec", script, "sh", *map(str, args)],
            env={
                **{name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
                "PATH": f"{self._plane.programs}:{os.environ['PATH']}",
                "KUBECONFIG": str(self.kubeconfig()),
                **(env or {}),
            },
            input=stdin,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
        if done.returncode:
            said = (done.stderr + done.stdout[-1500:]).strip()
            raise NodeError(f"{script} {' '.join(map(str, args))}: {said}")
        return done.stdout

    # state

    def ready(self) -> bool:
        """Return whether the node is Ready."""
        node = self.api.get(f"/api/v1/nodes/{HOSTNAME}")
        conditions = node["status"].get("conditions", ()) if node else ()
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    def counts(self, resource: str) -> Counts:
        """Return a resource in the status of the node, as `kubectl describe node` shows it."""
        return _counts(self.api.get(f"/api/v1/nodes/{HOSTNAME}"), resource)

    @contextmanager
    def every_count(self, resource: str) -> Iterator[list[Counts]]:
        """Yield a list to which each change of a resource in the status of the node is added."""
        found: list[Counts] = []

        def follow() -> None:
            for node in watch:
                counts = _counts(node, resource)
                found.append(counts)  # at once: `extend` may add them at the end

        with self.api.watch(f"/api/v1/nodes?fieldSelector=metadata.name={HOSTNAME}") as watch:
            thread = threading.Thread(target=follow, name="every count")
            thread.start()
            try:
                wait_for(lambda: found or None, "the first status of the node", 30)
                yield found
            finally:
                watch.end()
                thread.join(10)

    def wait_resource(self, resource: str, allocatable: int, limit: float = 60) -> None:
        """Wait until the status of the node has so many allocatable devices of a resource."""
        what = f"{allocatable} of {resource} in the status of the node"
        wait_for(lambda: self.counts(resource).allocatable == allocatable, what, limit, 0.05)

    def pod(self, name: str, namespace: str = "default") -> Any:
        """Return a pod; None if there is none."""
        return self.api.get(f"/api/v1/namespaces/{namespace}/pods/{name}")

    def pods(self, selector: str = "", namespace: str = "default") -> list[Any]:
        """Return the pods of a namespace that a label selector selects."""
        query = f"?labelSelector={selector}" if selector else ""
        items: list[Any] = self.api.get(f"/api/v1/namespaces/{namespace}/pods{query}")["items"]
        return items

    def wait_pod(self, name: str, phase: str, namespace: str = "default", limit: float = 60) -> Any:
        """Wait for a phase of a pod; return the pod."""

        def ask() -> Any:
            pod = self.pod(name, namespace)
            return pod if pod is not None and pod["status"].get("phase") == phase else None

        try:
            return wait_for(ask, f"pod {name} {phase}", limit, 0.05)
        except NodeError as error:
            raise NodeError(f"{error}\n{self.kubectl('describe', 'pod', '-n', namespace, name)}") from None

    def kill_container(self, name: str) -> None:
        """Kill the process of the only container of a pod; kubelet starts it again."""
        [status] = self.pod(name)["status"]["containerStatuses"]
        self.ctr("tasks", "kill", "--signal", "SIGKILL", status["containerID"].removeprefix("containerd://"))

    def unscheduled(self, name: str, namespace: str = "default") -> str | None:
        """Return the scheduler's message of a pod without a node; None before it has tried."""
        pod = self.pod(name, namespace) or {"status": {}}
        conditions = pod["status"].get("conditions", ())
        said = (each["message"] for each in conditions if each.get("reason") == "Unschedulable")
        return next(said, None)

    def described(self) -> str:
        """Return what shows why something failed: pods, the logs of those from charts, the node, events."""
        logs = "logs -l app.kubernetes.io/name --all-containers --tail=40 --prefix --namespace"
        said = []
        for command in (
            "get pods -A -o wide",
            f"{logs} kube-system",
            f"{logs} node-feature-discovery",
            "describe node",
            "get events -A --sort-by=.lastTimestamp",
        ):
            try:
                said.append(self.kubectl(*command.split()))
            except (NodeError, OSError) as error:  # the cluster may be at its end
                said.append(str(error))
        return "\n".join(said)

    def memory(self) -> dict[str, float]:
        """Return the resident memory of each part in MiB."""
        found = {}
        for part, process in self.processes.items():
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                if line.startswith("VmRSS"):
                    found[part] = round(int(line.split()[1]) / 1024, 1)
        return found


def _counts(node: Any, resource: str) -> Counts:
    status = node["status"]
    return Counts(int(status["capacity"].get(resource, 0)), int(status["allocatable"].get(resource, 0)))


def _ip(*args: str) -> None:
    call(["ip", *args])
