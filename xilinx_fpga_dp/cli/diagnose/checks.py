"""The findings of ``diagnose``, and its checks: each is a function from the findings to lines. Pure.

A line that is not ok ends with the remedy.
"""

import errno
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial

from xilinx_fpga_dp.cli.diagnose.containerd import DEFAULT_SPEC_DIRS, Containerd
from xilinx_fpga_dp.cli.diagnose.rights import Rights
from xilinx_fpga_dp.cli.diagnose.slices import Slices
from xilinx_fpga_dp.model import Device, Offers, Reason
from xilinx_fpga_dp.observe.table import printable
from xilinx_fpga_dp.resources.naming import MAX_NAME, NOT_IN_A_NAME, SHARED
from xilinx_fpga_dp.resources.offers import mixed_builds_warning


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """The state of a node. An OSError stands for a failed read; a ``..._problem`` is None if all is well."""

    functions: int | OSError  # the number of PCI functions
    scan: Offers | OSError
    drivers: Mapping[str, str] | OSError  # the version of each loaded driver, empty if it has none
    nodes: Mapping[str, os.stat_result | OSError]  # the nodes that containers would get, by path under /dev
    socket_dir: str
    socket_dir_problem: OSError | None
    kubelet_problem: OSError | None
    podresources: str  # kubelet's socket for it
    podresources_problem: OSError | None
    instances: int | OSError  # the number of live instances of this program on the node
    registry: str | None = None  # where kubelet finds the DRA driver; None with the device plugin
    fpga_functions: tuple[str, ...] = ()  # the addresses of those with an FPGA maker's or card's id
    xrt: str | None = None  # the version of XRT on the host; None if it is not installed
    foreign_sockets: tuple[str, ...] = ()  # the live sockets of another plugin for these cards
    other_kubelets: tuple[tuple[str, str], ...] = ()  # other directories with a kubelet.sock, and whose
    running: "Running | None" = None  # the service at HTTP_ADDRESS; None if there is none
    outputs: Mapping[str, tuple[str, OSError | None]] = field(default_factory=dict)  # directory by setting
    mounts: Mapping[str, OSError | None] = field(default_factory=dict)  # by path of EXTRA_MOUNTS
    selinux: bool = False  # it is enforcing
    selinux_type: str | None = None  # of this process; None if unknown
    selinux_switches: Mapping[str, bool] = field(default_factory=dict)  # those that can be read
    secure_boot: bool = False  # the kernel loads only signed modules
    containerd: Containerd | None = None  # its configuration, if it is known and CDI is used
    hugepages: int | None = None  # of 2 MB; None if unknown
    by_path: frozenset[str] | None = None  # the nodes that XRT's edge library finds; None if unknown
    unknown_variables: tuple[str, ...] = ()  # with our prefix, and no setting
    plugins: int = 0  # the number of live device plugins of this program beside a DRA driver
    left_claims: tuple[str, ...] = ()  # the ResourceClaims that are prepared while no DRA driver lives
    slices: Slices | None = None  # of this node; None without a DRA driver
    rights: Rights | None = None  # at the API server; None if no setting calls it

    @property
    def offers(self) -> Offers:
        return self.scan if isinstance(self.scan, Offers) else Offers({})

    @property
    def denied(self) -> bool:
        kubelet = (self.socket_dir_problem, self.kubelet_problem, self.podresources_problem)
        results = (self.functions, self.scan, self.instances, *kubelet, *self.nodes.values())
        return self.output_denied or any(isinstance(each, PermissionError) for each in results)

    @property
    def output_denied(self) -> bool:
        return any(isinstance(problem, PermissionError) for _, problem in self.outputs.values())


@dataclass(frozen=True, slots=True)
class Running:
    """The answers of a running service."""

    not_ready: str | None  # why it is not ready; None if it is
    units: Mapping[str, tuple[str, str | None]]  # resource and reason of each unit, by its id


class Level(StrEnum):
    """The severity of a line, from the least."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Line:
    """The result of a check."""

    level: Level
    check: str
    message: str


Lines = Iterator[Line]

_ok = partial(Line, Level.OK)
_warn = partial(Line, Level.WARN)
_fail = partial(Line, Level.FAIL)

# kubelet serves plugins in the first, whatever its --root-dir is (kubernetes#120626, k0s#7585), but some
# distributions have that elsewhere on the host (k3s#1390, rancher#20155).
_PLUGIN_ROOTS = (
    ("/var/lib/kubelet", "kubeadm"),
    ("/var/lib/rancher/k3s/agent/kubelet", "an old k3s"),
    ("/opt/rke/var/lib/kubelet", "RKE"),
    ("/var/snap/microk8s/common/var/lib/kubelet", "MicroK8s"),
)
KUBELET_ROOTS = (
    *_PLUGIN_ROOTS,
    ("/var/lib/k0s/kubelet", "k0s"),
    ("/var/data/kubelet", "IBM Cloud"),
    ("/var/vcap/data/kubelet", "Tanzu"),
)
"""The directories that may have a kubelet's socket, each with the distribution that uses it."""

# The remedy for an Unhealthy device; docs/operating/troubleshooting.md has the long form.
_REMEDIES: Mapping[Reason, str] = {
    Reason.NO_DRIVER: "load its driver (modprobe xocl xclmgmt)",
    Reason.NO_NODE: "is the host's whole /dev mounted at DEV_ROOT, did udev make the node (udevadm trigger)?",
    Reason.RESETTING: "wait: a reset takes up to a minute, of a U30 up to twelve; then cold-boot the card",
    Reason.SHELL_UNKNOWN: "is xclmgmt (on the host) or mpd (in a virtual machine) running?",
    Reason.UNRESPONSIVE: "its firmware hangs: reset it (xbutil reset) or cold-boot the card",
    Reason.FIREWALL: "reset it (xbutil reset), check the application that ran",
    Reason.SHUTDOWN: "a removal of the card has begun: finish that, or rescan the bus",
    Reason.OFFLINE: "its driver resets it by itself; if not, xbutil reset",
    Reason.NOT_READY: "is xclmgmt (on the host) or mpd (in a virtual machine, on AWS F1) running?",
    Reason.BAD_STATE: "a compute unit hangs: xbutil reset",
    Reason.HELD: "delete or drain the pod that has it under another name (held_by in `list --output json`)",
}
# The remedy for a device of another driver than XRT's, where it differs.
_REMEDIES_WITHOUT_XRT: Mapping[Reason, str] = {
    Reason.NO_DRIVER: "bind it to its driver again",
    Reason.SHELL_UNKNOWN: "its driver is still bringing it up; if that does not end, dmesg has the reason",
    Reason.NOT_READY: "its driver is still bringing it up; if that does not end, dmesg has the reason",
    Reason.UNRESPONSIVE: "its firmware hangs: cold-boot the card",
    Reason.BAD_STATE: "its firmware failed or does not fit the driver: dmesg, on a V80 `ami_tool overview`",
}
# The remedy for a device of a rule, where it differs.
_REMEDIES_BY_RULE: Mapping[Reason, str] = {
    Reason.NO_NODE: "is its driver loaded, did udev make the node, does the rule name it (see `rules`)?",
    Reason.BAD_STATE: "its driver's documentation says what the attribute means, dmesg why",
}
# XRT#6028 and video-sdk#8; docs/reference/aws.md
_NO_RESET_ON_AWS = (
    "xbutil reset does not work on AWS: on F1 clear the slot (fpga-clear-local-image) and restart mpd, else "
    "stop and start the instance"
)
# The remedy for a kubelet.sock that exists, by errno.
_KUBELET_REMEDIES: Mapping[int | None, str] = {
    errno.EACCES: "run as root",
    errno.ETIMEDOUT: "kubelet hangs: restart it (systemctl restart kubelet)",
}
_WRITABLE = "writable, with room, and run as root"
_MOUNT_WRITABLE = f"mount it {_WRITABLE}"
_SAME_PATH = "mount it at the same path as kubelet has it"  # it connects to the path that it is told
_SET_SOCKET_DIR = "set SOCKET_DIR to kubelet's device-plugins directory"
# container-selinux, container.te: the type of device plugins, and the unconfined type
_PLUGIN_TYPE = "container_device_plugin_t"
_UNCONFINED_TYPE = "spc_t"
# container-selinux, container.te: what container_t may open of the nodes it is given
_EVERY_DEVICE = "container_use_devices"
_DRI_DEVICES = "container_use_dri_devices"
SWITCHES = (_EVERY_DEVICE, _DRI_DEVICES)
"""The switches of container-selinux for device nodes in containers."""

_ZOCL = "zocl-drm"
_MA35D = "transcoder"
# README of the MA35D SDK
_HUGEPAGES_OF_A_DEVICE = 2048
_MORE_HUGEPAGES = 96
_HASHED = re.compile(r".*-[0-9a-f]{8}")
_MAX_LISTED = 8  # functions in a line
_NEARLY_FULL = 3  # characters that a shortened name may lose at its end besides
_OTHERS_READ_WRITE = stat.S_IROTH | stat.S_IWOTH
_MISSING = (FileNotFoundError, NotADirectoryError)


def check(findings: Findings) -> list[Line]:
    """Run all checks."""
    return [line for each in CHECKS for line in each(findings)]


def worst(lines: Iterable[Line]) -> Level:
    """Return the highest severity of the lines."""
    return max((line.level for line in lines), key=list(Level).index, default=Level.OK)


def as_text(lines: Iterable[Line]) -> str:
    """Render the lines as text."""
    return "\n".join(printable(f"{line.level:<4}  {line.check}: {line.message}") for line in lines)


def settings(findings: Findings) -> Lines:
    """Check for variables that are no setting."""
    for name in findings.unknown_variables:
        yield _warn("settings", f"{name} is no setting and is ignored; is it spelled right (see --help)?")


def sysfs(findings: Findings) -> Lines:
    """Check that the PCI bus can be read."""
    problem = findings.scan if isinstance(findings.scan, OSError) else findings.functions
    if isinstance(problem, OSError):
        remedy = "is SYSFS_ROOT the host's /sys, is this no container without it?"
        yield _fail("sysfs", f"{problem.strerror}; {remedy}")
    else:
        yield _ok("sysfs", f"{findings.functions} PCI functions")


def drivers(findings: Findings) -> Lines:
    """Check that the drivers are loaded and of the same release as each other and as XRT."""
    loaded = findings.drivers
    if isinstance(loaded, OSError):
        yield _warn("drivers", f"their versions are not known: {loaded.strerror}; check SYSFS_ROOT/module")
        return
    if not loaded and not findings.offers.devices:
        if findings.offers.left_out:
            yield _warn("drivers", "none is loaded; the lines below say which one a card needs")
        else:
            yield _ok("drivers", "none is loaded, and no card needs one")
    for name, version in sorted(loaded.items()):
        yield _ok("drivers", f"{name} {version or 'without a version'}")
    if findings.secure_boot and any("modprobe" in each.reason for each in findings.offers.left_out):
        remedy = "sign a module that modprobe refuses (mokutil --sb-state)"
        yield _warn(
            "drivers", f"Secure Boot is on, so the kernel loads no module without a signature; {remedy}"
        )
    user, management = loaded.get("xocl"), loaded.get("xclmgmt")
    if user and management and user != management:
        remedy = "install one release of XRT and reload both, or reboot"
        yield _warn("drivers", f"xocl {user} and xclmgmt {management} are of different releases; {remedy}")
    release = (user or "").partition(",")[0]
    if user and findings.xrt and findings.xrt != release:
        remedy = "install one release of both, and the same in the images"
        yield _warn("drivers", f"XRT on the host is {findings.xrt}, its driver xocl {release}; {remedy}")


def cards(findings: Findings) -> Lines:
    """Check the health of each device, and show why functions are not offered."""
    if isinstance(findings.scan, OSError):
        return
    for device in findings.offers.devices:
        shown = f"{device.board} with {device.shell.vbnv}"
        if device.reason is None:
            yield _ok(device.address, "; ".join(filter(None, (f"{shown}, Healthy", device.note))))
            continue
        missing = device.reason is Reason.NO_NODE
        level = Level.FAIL if missing else Level.WARN
        node = f" ({device.nodes[0] if device.nodes else 'its driver shows none'})" if missing else ""
        node = "" if device.rule else node
        remedy = "; ".join(filter(None, (_device_remedy(device, device.reason), device.note)))
        yield Line(level, device.address, f"{shown}, {device.reason}{node}; {remedy}")
    for device in findings.offers.devices:
        if device.warning:
            yield _warn(device.address, device.warning)
    for entry in findings.offers.left_out:
        yield _warn(entry.function, f"not offered: {entry.reason}")
    for warning in findings.offers.warnings:
        yield _warn("cards", warning)
    if not findings.offers.devices and not findings.offers.left_out:
        if findings.fpga_functions:
            found = ", ".join(findings.fpga_functions[:_MAX_LISTED])
            others = "which is another design's, a network card's or another driver's business"
            yield _warn("cards", f"no card to offer; the bus has {found}, {others} (lspci -k -d 10ee:)")
            return
        remedy = "if there is one, reseat it or rescan (lspci -d 10ee:)"
        yield _warn("cards", f"no FPGA card on the PCI bus; {remedy}")


def _device_remedy(device: Device, reason: Reason) -> str:
    # The U30 cards of VT1 have their user functions at function 0.
    aws = device.board.startswith("aws") or (device.board == "u30" and device.address.endswith(".0"))
    if device.rule:
        return {**_REMEDIES, **_REMEDIES_WITHOUT_XRT, **_REMEDIES_BY_RULE}[reason]
    remedies = _REMEDIES if device.driver == "xocl" else {**_REMEDIES, **_REMEDIES_WITHOUT_XRT}
    return _NO_RESET_ON_AWS if aws and "xbutil reset" in remedies[reason] else remedies[reason]


def device_nodes(findings: Findings) -> Lines:
    """Check that the device nodes exist and that pods that do not run as root may use them."""
    devices = findings.offers.devices
    reported = {node for each in devices if each.reason is Reason.NO_NODE for node in each.nodes}
    for path, node in sorted(findings.nodes.items()):
        if isinstance(node, OSError):
            if not isinstance(node, _MISSING) or path not in reported:
                yield _fail(path, f"{node.strerror}; {_REMEDIES[Reason.NO_NODE]}")
        elif node.st_mode & _OTHERS_READ_WRITE == _OTHERS_READ_WRITE:
            yield _ok(path, "any user may read and write it")
        else:
            mode, uid, gid = stat.S_IMODE(node.st_mode), node.st_uid, node.st_gid
            owner = f"mode {mode:04o}, owner {uid}, group {gid}"
            groups = f", or give them supplementalGroups [{gid}]" if mode & stat.S_IWGRP else ""
            remedy = f"for others let udev make it 0666, as XRT's rules do{groups}"
            yield _warn(path, f"{owner}: in a pod only root may use it; {remedy}")


def links(findings: Findings) -> Lines:
    """Check that XRT finds the device of an embedded board.

    From 2025.1 on it goes by these links alone: XRT core/edge/user/system_linux.cpp.
    """
    if findings.by_path is None:
        return
    for device in findings.offers.devices:
        if device.driver == _ZOCL and device.nodes and device.nodes[0] not in findings.by_path:
            problem = f"no link /dev/dri/by-path/platform*zyxclmm_drm-render leads to {device.nodes[0]}"
            remedy = "XRT 2025.1 and newer finds no device without it: let udev make it (udevadm trigger)"
            yield _warn(device.address, f"{problem}; {remedy}")


def hugepages(findings: Findings) -> Lines:
    """Check that the node has the hugepages that MA35D devices need."""
    devices = sum(device.driver == _MA35D for device in findings.offers.devices)
    if not devices or findings.hugepages is None:
        return
    needed = devices * _HUGEPAGES_OF_A_DEVICE + _MORE_HUGEPAGES
    found = f"{findings.hugepages} of 2 MB, {devices} MA35D devices need {needed}"
    if findings.hugepages >= needed:
        yield _ok("hugepages", found)
    else:
        remedy = f"allocate them at boot (vm.nr_hugepages={needed}) and restart kubelet"
        yield _warn("hugepages", f"{found}; {remedy}")


def resources(findings: Findings) -> Lines:
    """Check that each resource has the name and the devices that an operator expects."""
    for name, offer in findings.offers.by_resource.items():
        if warning := mixed_builds_warning(offer):
            yield _warn(name, warning)
        if _is_shortened(name, offer.devices):
            problem = "the shell's name is too long for kubelet or has invalid characters: a hash ends it"
            yield _warn(name, f"{problem}; for another name set RESOURCE_NAME_TEMPLATE")
        healthy = sum(unit.reason is None for unit in offer.units)
        yield _ok(name, f"{len(offer.units)} to allocate, {healthy} Healthy")


def _is_shortened(name: str, devices: Iterable[Device]) -> bool:
    """Return whether a resource's name was shortened or lost a character."""
    suffix = SHARED if name.endswith(SHARED) else ""
    stem = name.removesuffix(suffix).rpartition("/")[2]
    full = len(stem) >= MAX_NAME - len(suffix) - _NEARLY_FULL
    odd = any(NOT_IN_A_NAME.search(device.shell.vbnv) for device in devices)
    return bool(_HASHED.fullmatch(stem)) and (full or odd)


def socket_directory(findings: Findings) -> Lines:
    """Check that sockets can be created in kubelet's directory for plugins."""
    problem = findings.socket_dir_problem
    if findings.registry:
        remedy = f"{_SAME_PATH}, and set PLUGINS_REGISTRY_DIR to that"
        yield _directory("registration directory", findings.registry, problem, remedy)
        return
    remedy = _where_kubelet_is(findings) if isinstance(problem, _MISSING) else _MOUNT_WRITABLE
    yield _directory("socket directory", findings.socket_dir, problem, remedy)


def _directory(check: str, path: str, problem: OSError | None, remedy: str = _MOUNT_WRITABLE) -> Line:
    """Return the line of a directory that has to be writable."""
    if problem is None:
        return _ok(check, f"{path} can be written")
    return _fail(check, f"{problem.strerror}: {path}; {remedy}")


def kubelet(findings: Findings) -> Lines:
    """Check that kubelet answers; it finds a DRA driver by itself."""
    problem = findings.kubelet_problem
    if findings.registry:
        return
    if problem is None:
        yield _ok("kubelet", "it answers")
    elif isinstance(problem, _MISSING):
        yield _fail("kubelet", f"no kubelet.sock in {findings.socket_dir}; {_where_kubelet_is(findings)}")
    else:
        remedy = _KUBELET_REMEDIES.get(problem.errno, _SET_SOCKET_DIR)
        if problem.errno == errno.ECONNREFUSED:
            remedy = f"no process listens there; {_where_kubelet_is(findings)}"
        yield _fail("kubelet", f"{findings.socket_dir}/kubelet.sock: {problem.strerror}; {remedy}")


def _where_kubelet_is(findings: Findings) -> str:
    if findings.other_kubelets:
        places = _places(findings.other_kubelets)
        return f"there is one in {places}: set SOCKET_DIR to that and mount it at the same path"
    # One may exist all the same: a pod sees only the mounted part of the host.
    directory = f"its device-plugins directory, which is in one of {_places(_PLUGIN_ROOTS)}"
    return f"start kubelet (systemctl status kubelet), or set SOCKET_DIR to {directory}"


def _places(directories: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{path} (as {distribution} has it)" for path, distribution in directories)


def podresources(findings: Findings) -> Lines:
    """Check that kubelet reports which pod holds which device."""
    problem = findings.podresources_problem
    if problem is None:
        yield _ok("podresources", "kubelet reports which pod holds which device")
    else:
        remedy = (
            "mount its directory, which is in kubelet's --root-dir (on k0s /var/lib/k0s/kubelet), and set "
            "POD_RESOURCES_SOCKET, or drain the node before cards are reprogrammed or renamed"
        )
        yield _warn("podresources", f"{findings.podresources}: {problem.strerror}; {remedy}")


def instances(findings: Findings) -> Lines:
    """Check that one instance runs here, that it is ready, and that no other plugin serves the cards."""
    # No instance has run where their directory is missing.
    count = 0 if isinstance(findings.instances, FileNotFoundError) else findings.instances
    if isinstance(count, int) and count > 1:
        problem = f"{count} instances run on this node and the newest one serves"
        remedy = "right during an update, else delete one DaemonSet (kubectl get daemonsets -A)"
        yield _warn("service", f"{problem}; {remedy}")
    elif findings.running and findings.running.not_ready:
        remedy = "if it stays so check its log and that of kubelet (journalctl -u kubelet)"
        yield _fail("service", f"it runs and is not ready: {findings.running.not_ready}; {remedy}")
    elif isinstance(count, OSError) and not findings.running:
        remedy = "run as root, with the service's PLUGINS_DIR"
        yield _warn("service", f"it is not known whether it runs: {count.strerror} in PLUGINS_DIR; {remedy}")
    else:
        yield _ok("service", f"it {'runs' if findings.running or count else 'does not run'} on this node")
    if findings.plugins:
        remedy = "delete its DaemonSet, or choose the mode by a label (`mode: by-label` of the chart)"
        yield _warn("service", f"a device plugin of this program runs on this node too; {remedy}")
    if findings.left_claims:
        problem = "no DRA driver runs on this node, so pods cannot end that have the prepared ResourceClaims"
        remedy = "start the driver here again until they have ended (the label `fpga.xilinx.com/mode=dra`)"
        yield _warn("service", f"{problem} {', '.join(findings.left_claims)}; {remedy}")
    for name in findings.foreign_sockets:
        remedy = "delete its DaemonSet (kubectl get daemonsets -A)"
        yield _warn("service", f"another plugin for these cards listens on {name}; {remedy}")


def running(findings: Findings) -> Lines:
    """Check that the running service says of each device what this scan says."""
    if findings.running is None or isinstance(findings.scan, OSError):
        return
    here = {
        unit.id: (name, unit.reason)
        for name, offer in findings.offers.by_resource.items()
        for unit in offer.units
    }
    remedy = (
        "it waits for a serial number or for good checks in a row, or has other settings; if it stays so, "
        "attach its log and `list` to a bug report"
    )
    units = findings.running.units
    for device_id in sorted(here.keys() | units.keys()):
        theirs, ours = units.get(device_id), here.get(device_id)
        if theirs != ours:
            yield _warn(
                "service", f"it says that {device_id} is {_said(theirs)}, this scan {_said(ours)}; {remedy}"
            )


def _said(unit: tuple[str, str | None] | None) -> str:
    return f"{unit[1] or 'Healthy'} as {unit[0]}" if unit else "not offered"


def files(findings: Findings) -> Lines:
    """Check that output directories can be written and that extra mounts exist."""
    for setting, (path, problem) in findings.outputs.items():
        remedy = f"{_SAME_PATH}, {_WRITABLE}" if setting == "PLUGINS_DIR" else _MOUNT_WRITABLE
        yield _directory(setting, path, problem, remedy)
    for path, problem in findings.mounts.items():
        if problem is not None:
            remedy = "install it on the host, or take it off the list"
            yield _warn("EXTRA_MOUNTS", f"{problem.strerror}: {path}; {remedy}")


def containerd(findings: Findings) -> Lines:
    """Check that containerd resolves CDI names. One that does not ignores them silently."""
    found = findings.containerd
    if found is None:
        return
    directory, _ = findings.outputs.get("CDI_DIR", (None, None))
    spec_dirs = found.spec_dirs or DEFAULT_SPEC_DIRS
    remedy = "set it to true and restart containerd"
    if not findings.registry:  # a DRA driver has nothing else
        remedy += ", or keep DEVICE_STRATEGY=device-specs"
    if found.cdi is None:
        problem = f"{found.path} does not set enable_cdi, and containerd 1.7 then ignores CDI names"
        yield _warn("containerd", f"{problem} (2.0 does not); {remedy}")
    elif not found.cdi:
        yield _warn("containerd", f"enable_cdi is false in {found.path}: CDI names have no effect; {remedy}")
    elif directory and _real(directory) not in map(_real, spec_dirs):
        directories = ", ".join(spec_dirs)
        remedy = f"set CDI_DIR to one of them ({directories}), or add it and restart containerd"
        yield _warn("containerd", f"CDI_DIR {directory} is none of its cdi_spec_dirs; {remedy}")
    else:
        yield _ok("containerd", f"CDI is on ({found.path})")


def _real(directory: str) -> str:
    """Return a directory of the host without the link from /var/run to /run."""
    return re.sub("^/var/run(?=/)", "/run", directory.rstrip("/"))


def selinux(findings: Findings) -> Lines:
    """Check whether SELinux may be the cause of a denied access, here or in the pods that get a card."""
    if findings.selinux and findings.denied:
        as_type = f" to {findings.selinux_type}" if findings.selinux_type else ""
        remedy = f"check `ausearch -m avc -ts recent`, and {_policy_remedy(findings)}"
        yield _warn("SELinux", f"it enforces, and something above was refused{as_type}; {remedy}")
    elif findings.selinux:
        yield _ok("SELinux", "it enforces, and nothing was refused")
    every, dri = (findings.selinux_switches.get(name) for name in (_EVERY_DEVICE, _DRI_DEVICES))
    if not findings.selinux or every is not False:
        return
    denied = [path for path in sorted(findings.nodes) if not (dri and path.startswith("/dev/dri/"))]
    if denied:
        # A policy without the switch for /dev/dri treats these nodes as any other.
        only_dri = dri is not None and all(path.startswith("/dev/dri/") for path in denied)
        remedy = (
            f"setsebool -P {_DRI_DEVICES if only_dri else _EVERY_DEVICE} on, or another type for the pods"
        )
        yield _warn("SELinux", f"containers of the usual type may not open {', '.join(denied)}; {remedy}")


def _policy_remedy(findings: Findings) -> str:
    """Return the change of policy or type that may help; see docs/operating/troubleshooting.md."""
    if findings.selinux_type == _UNCONFINED_TYPE:
        return "if that shows nothing, the owner and mode of the file: this type is not confined"
    if not findings.output_denied and findings.selinux_type != _PLUGIN_TYPE:
        return f"run the container as seLinuxOptions type {_PLUGIN_TYPE}"
    why = f"not every policy lets {_PLUGIN_TYPE} do all of it"
    if findings.output_denied:
        why = f"{_PLUGIN_TYPE} may write neither CDI specs nor feature files"
    remedy = f"run the container as seLinuxOptions type {_UNCONFINED_TYPE}: {why}"
    return f"allow it by a policy module (audit2allow -M), or {remedy}"


def api_server(findings: Findings) -> Lines:
    """Check that the API server answers and gives the rights that the settings need."""
    if (found := findings.rights) is None:
        return
    names = ", ".join(found.settings)
    if found.problem:
        remedy = f"is it reachable from here, is a token mounted? ({names} need it)"
        yield _fail("API server", f"{found.problem}; {remedy}")
        return
    lacking = {right.setting for right in found.missing}
    for right in found.missing:
        where = f" in namespace {right.namespace}" if right.namespace else ""
        what = f"{right.setting} needs to {right.verb} {right.resource}{where}, which {found.user} may not"
        yield _fail("API server", f"{what}; the manifest below gives that right")
    if rest := [name for name in found.settings if name not in lacking]:
        yield _ok("API server", f"it answers {found.user} and gives the rights that {', '.join(rest)} need")


def resource_slices(findings: Findings) -> Lines:
    """Check that the devices are published as this scan finds them, and which fields the server drops."""
    found, access = findings.slices, findings.rights
    if found is None:
        return
    if found.problem:
        if access and not access.problem and not access.missing:  # else its lines say why
            remedy = "is NODE_NAME the name of this node?"
            yield _fail("ResourceSlices", f"they can't be compared: {found.problem}; {remedy}")
        return
    for sentence in found.differences:
        remedy = "right for a second after a change; if it stays so, the service's line or log says why"
        yield _warn("ResourceSlices", f"{sentence}; {remedy}")
    for name in found.dropped:
        remedy = "Kubernetes 1.36 stores it by default, older ones with their feature gate"
        yield _warn("ResourceSlices", f"the API server does not store {name} of a device; {remedy}")
    if not found.differences:
        yield _ok("ResourceSlices", f"{found.published} devices are published as this scan finds them")


CHECKS: tuple[Callable[[Findings], Lines], ...] = (
    settings,
    sysfs,
    drivers,
    cards,
    device_nodes,
    links,
    hugepages,
    resources,
    socket_directory,
    kubelet,
    podresources,
    instances,
    running,
    files,
    containerd,
    selinux,
    api_server,
    resource_slices,
)
"""All checks, in the order of their lines."""
