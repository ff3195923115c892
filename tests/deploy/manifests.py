"""Reads the manifests in deploy/ and checks the DaemonSet."""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from tests.support.paths import PROJECT

DEPLOY = PROJECT / "deploy"
CHART = DEPLOY / "helm" / "xilinx-fpga-dp"
STATIC = DEPLOY / "fpga-device-plugin.yml"

# By path in the container: path on the host, type, whether it is read-only.
ALWAYS = {
    "/var/lib/kubelet/device-plugins": ("/var/lib/kubelet/device-plugins", "Directory", False),
    "/var/lib/kubelet/plugins/fpga.xilinx.com": (
        "/var/lib/kubelet/plugins/fpga.xilinx.com",
        "DirectoryOrCreate",
        False,
    ),
    "/var/lib/kubelet/pod-resources": ("/var/lib/kubelet/pod-resources", "Directory", True),
    "/host/sys": ("/sys", "Directory", True),
    "/host/dev": ("/dev", "Directory", True),
}
CDI = {"/var/run/cdi": ("/var/run/cdi", "DirectoryOrCreate", False)}

# A runtime masks files below these in every container without privileges, also in mounts (defaultMaskedPaths
# in pkg/securitycontext/util.go of Kubernetes).
_HIDING = ("/proc", "/sys")


def documents(text: str) -> list[dict[str, Any]]:
    """Return the documents of a YAML text.

    Raises:
        yaml.constructor.ConstructorError: a mapping has a key twice.
    """
    return [each for each in yaml.load_all(text, _Strict) if each]


def only(kind: str, text: str) -> dict[str, Any]:
    """Return the only document of a kind."""
    [found] = [each for each in documents(text) if each["kind"] == kind]
    return found


def container(daemonset: Mapping[str, Any]) -> dict[str, Any]:
    """Return the only container of a DaemonSet."""
    [found] = daemonset["spec"]["template"]["spec"]["containers"]
    return dict(found)


def environment(daemonset: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment variables of its container."""
    return {each["name"]: each["value"] for each in container(daemonset)["env"] if "value" in each}


def mounts(daemonset: Mapping[str, Any]) -> dict[str, tuple[str, str, bool]]:
    """Return the mounts of host directories, in the form of `ALWAYS`."""
    volumes = {each["name"]: each for each in daemonset["spec"]["template"]["spec"]["volumes"]}
    found = {}
    for mount in container(daemonset)["volumeMounts"]:
        volume = volumes.pop(mount["name"])
        if "hostPath" in volume:
            source = volume["hostPath"]
            found[mount["mountPath"]] = (source["path"], source["type"], mount.get("readOnly", False))
    assert not volumes, f"volumes without a mount: {sorted(volumes)}"
    return found


def hidden(daemonset: Mapping[str, Any]) -> list[str]:
    """Return the mounts of which a runtime masks a part."""
    paths = [each["mountPath"] for each in container(daemonset)["volumeMounts"]]
    return [path for path in paths if any(f"{path}/".startswith(f"{hiding}/") for hiding in _HIDING)]


def faults(
    daemonset: Mapping[str, Any], more: Mapping[str, tuple[str, str, bool]] | None = None
) -> list[str]:
    """Return the names of the rules that a DaemonSet with ``more`` mounts breaks."""
    return [what for what, right in _rules(daemonset, more or {}) if not right]


def _rules(
    daemonset: Mapping[str, Any], more: Mapping[str, tuple[str, str, bool]]
) -> Iterator[tuple[str, bool]]:
    spec = daemonset["spec"]["template"]["spec"]
    ours = container(daemonset)
    security = {**spec["securityContext"], **ours["securityContext"]}
    yield "namespace", daemonset["metadata"]["namespace"] == "kube-system"
    yield "priority", spec["priorityClassName"] == "system-node-critical"
    yield "nodes", spec["nodeSelector"] == {"kubernetes.io/os": "linux"}
    [term] = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    yield (
        "virtual nodes",
        term
        == {
            "matchExpressions": [
                {"key": "eks.amazonaws.com/compute-type", "operator": "NotIn", "values": ["fargate"]},
                {"key": "type", "operator": "NotIn", "values": ["virtual-kubelet"]},
            ]
        },
    )
    yield "tolerations", spec["tolerations"] == [{"operator": "Exists"}]
    yield "API token", spec["automountServiceAccountToken"] is False
    yield "service links", spec["enableServiceLinks"] is False
    yield "host namespaces", not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    yield "host ports", not any("hostPort" in port for port in ours["ports"])
    yield "privileged", security["privileged"] is False
    yield "privilege escalation", security["allowPrivilegeEscalation"] is False
    yield "root filesystem", security["readOnlyRootFilesystem"] is True
    yield "capabilities", security["capabilities"] == {"drop": ["ALL"]}
    yield "seccomp", security["seccompProfile"] == {"type": "RuntimeDefault"}
    yield "SELinux", security.get("seLinuxOptions") == {"type": "container_device_plugin_t"}
    yield "user", (security["runAsUser"], security["runAsGroup"]) == (0, 0)
    yield (
        "update",
        daemonset["spec"]["updateStrategy"]
        == {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
        },
    )
    yield "mounts", mounts(daemonset) == {**ALWAYS, **more}
    yield "hidden mounts", not hidden(daemonset)
    yield "sysfs", environment(daemonset)["XILINX_FPGA_DP_SYSFS_ROOT"] == "/host/sys"
    yield "device nodes", environment(daemonset)["XILINX_FPGA_DP_DEV_ROOT"] == "/host/dev"
    yield "HTTP address", environment(daemonset)["XILINX_FPGA_DP_HTTP_ADDRESS"] == "0.0.0.0:8080"
    yield "port", ours["ports"] == [{"name": "http", "containerPort": 8080}]
    probes = {name: ours[f"{name}Probe"]["httpGet"] for name in ("liveness", "readiness")}
    yield (
        "probes",
        probes
        == {
            "liveness": {"path": "/livez", "port": "http"},
            "readiness": {"path": "/readyz", "port": "http"},
        },
    )
    yield (
        "resources",
        all(ours["resources"][kind].keys() == {"cpu", "memory"} for kind in ("requests", "limits")),
    )


class _Strict(yaml.SafeLoader):
    """A loader that refuses a second key of the same name."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if len(keys) != len(set(map(str, keys))):
            raise yaml.constructor.ConstructorError(None, None, f"duplicate key in {keys}", node.start_mark)
        return super().construct_mapping(node, deep)
