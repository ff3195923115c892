"""The configuration files of kubelet and containerd, and the feature gates of Kubernetes releases."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .build import Version
from .images import PAUSE
from .machine_lock import CGROUP

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Gate:
    """The life of a feature gate, in minors (pkg/features/kube_features.go)."""

    since: int
    default_on: int | None = None
    locked: int | None = None  # from here on it can't be switched, later it is unknown again


# kubelet refuses to start with an unknown gate, hence this table.
GATES = {
    "DevicePluginCDIDevices": Gate(since=28, default_on=29, locked=31),
    "KubeletPodResourcesGet": Gate(since=27, default_on=34, locked=36),
    "ResourceHealthStatus": Gate(since=31, default_on=36),
}

# The first minor that identifies plugins of one resource by their sockets. Up to 1.36, the end of the
# older plugin's stream removes the endpoint of the newer one (kubernetes#135437).
ENDPOINT_PER_SOCKET = 37


def why_not(gate: str, version: Version) -> str | None:
    """Return why a release lacks a feature; None if it has it."""
    since = GATES[gate].since
    if version.minor >= since:
        return None
    return f"{gate} came with Kubernetes 1.{since}"


def feature_gates(version: Version) -> dict[str, bool]:
    """Return the gates of the table that a release has and does not enable by default."""
    return {
        name: True
        for name, gate in GATES.items()
        if version.minor >= gate.since and (gate.default_on is None or version.minor < gate.default_on)
    }


@dataclass(frozen=True)
class Ports:
    """Where kubelet listens."""

    secure: int
    read_only: int
    health: int


def kubelet_configuration(version: Version, folder: Path, address: str, ports: Ports, extra: Config) -> str:
    """A KubeletConfiguration for a node without an API server; `extra` is laid over it, deep."""
    base: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": address,
        "port": ports.secure,
        "readOnlyPort": ports.read_only,
        "healthzBindAddress": address,
        "healthzPort": ports.health,
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "staticPodPath": str(folder / "manifests"),
        "volumePluginDir": str(folder / "volume-plugins"),
        "resolvConf": "",
        "fileCheckFrequency": "1s",
        "syncFrequency": "5s",
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{CGROUP}",
        "cgroupsPerQOS": True,
        "enforceNodeAllocatable": ["pods"],
        "failSwapOn": False,
        "makeIPTablesUtilChains": False,
        "oomScoreAdj": 0,
        # No eviction and no image garbage collection on a full disk or with little memory.
        "evictionHard": {
            "memory.available": "1Mi",
            "nodefs.available": "1Mi",
            "imagefs.available": "1Mi",
        },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "featureGates": feature_gates(version),
    }
    if version.minor >= 31:
        base["failCgroupV1"] = False
    return json.dumps(_laid_over(base, extra), indent=1)


def _laid_over(base: Config, extra: Config) -> dict[str, Any]:
    merged = dict(base)
    for key, value in extra.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            merged[key] = _laid_over(below, value)
        else:
            merged[key] = value
    return merged


def containerd_configuration(folder: Path, runc: Path) -> str:
    """A containerd 2 for kubelet alone: no network plugins, images that were imported by hand."""
    return f"""\
version = 3
root = "{folder}/containerd"
state = "/run/containerd"

[grpc]
address = "{CONTAINERD_SOCKET}"

# Created at start; the default is in /opt.
[plugins.'io.containerd.internal.v1.opt']
path = "{folder}/opt"

[plugins.'io.containerd.cri.v1.images']
snapshotter = "overlayfs"

[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "{PAUSE}"

[plugins.'io.containerd.cri.v1.images'.registry]
config_path = "{folder}/registries"

[plugins.'io.containerd.cri.v1.runtime']
# Without it containers start with a lower OOM score than kubelet, which may be forbidden.
restrict_oom_score_adj = true
enable_cdi = true
cdi_spec_dirs = ["{folder}/cdi", "/var/run/cdi"]

[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["{folder}/cni"]
conf_dir = "{folder}/cni"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = "{runc}"
SystemdCgroup = false
"""


def network_configuration() -> str:
    """A network of one pair of interfaces a pod: what kubelet's probes need to reach one."""
    return json.dumps(
        {
            "cniVersion": "1.0.0",
            "name": "e2e",
            "plugins": [
                {
                    "type": "ptp",
                    # RFC 2544, for benchmarks: not a real network.
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": "198.18.77.0/24"}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                }
            ],
        }
    )
