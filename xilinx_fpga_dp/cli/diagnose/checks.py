"""What is right and wrong with a node, and the remedy: the rules of ``diagnose``. Pure.

A rule is a function from what was seen (`examine.py` looks) to lines. What a line says of a warning or a
failure ends with what to do about it.
"""

import errno
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from xilinx_fpga_dp.model import Device, Offer, Offers, Reason
from xilinx_fpga_dp.observe.table import printable
from xilinx_fpga_dp.resources.naming import MAX_NAME, SHARED
from xilinx_fpga_dp.resources.offers import mixed_builds


class Level(StrEnum):
    """How bad a line is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Line:
    """One line: what was checked, and a sentence about it."""

    level: Level
    check: str
    said: str


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why something could not be looked at or is not as it should be; ``number``: its errno, if any."""

    why: str
    number: int | None = None

    @property
    def denied(self) -> bool:
        return self.number in (errno.EACCES, errno.EPERM)

    @property
    def missing(self) -> bool:
        return self.number in (errno.ENOENT, errno.ENOTDIR)


@dataclass(frozen=True, slots=True)
class Node:
    """A device node: what stat tells."""

    mode: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything that was looked at. Trouble stands where a look failed.

    Attributes:
        bus: how many PCI functions there are.
        scan: what is offered of them, or why nothing is known.
        modules: versions of the drivers that are loaded, empty where they tell none.
        xrt: the version of XRT on the host; None: not there.
        nodes: device nodes that containers would get, by path under /dev.
        socket_dir: kubelet's directory for plugins.
        directory: None: it can be written.
        instances: how many of this program live on the node.
        strangers: live sockets of another plugin for these cards.
        kubelet: None: it answers.
        elsewhere: other directories that have a kubelet's socket, with whose they usually are.
        podresources: where kubelet tells who holds what.
        holders: None: it tells.
        unready: why the service at our HTTP address says that it is not ready; None: it does not.
        written: directories that files are written to, by setting; None: it can be written.
        mounts: paths to mount into containers, None: it is there.
        enforcing: SELinux is on.
        domain: the SELinux type that this process runs as; None: not known.
        unknown: variables with our prefix that are no setting.
    """

    bus: int | Trouble
    scan: Offers | Trouble
    modules: Mapping[str, str] | Trouble
    xrt: str | None
    nodes: Mapping[str, Node | Trouble]
    socket_dir: str
    directory: Trouble | None
    instances: int
    strangers: tuple[str, ...]
    kubelet: Trouble | None
    elsewhere: tuple[tuple[str, str], ...]
    podresources: str
    holders: Trouble | None
    unready: str | None = None
    written: Mapping[str, tuple[str, Trouble | None]] = field(default_factory=dict)
    mounts: Mapping[str, Trouble | None] = field(default_factory=dict)
    enforcing: bool = False
    domain: str | None = None
    unknown: tuple[str, ...] = ()

    @property
    def offers(self) -> Offers:
        return self.scan if isinstance(self.scan, Offers) else Offers({})

    @property
    def devices(self) -> tuple[tuple[Offer, Device], ...]:
        """Every device with its offer."""
        return tuple((offer, each) for offer in self.offers.by_resource.values() for each in offer.devices)

    @property
    def denied(self) -> bool:
        """Whether anything was refused for want of permission."""
        seen = (self.bus, self.scan, self.directory, self.kubelet, self.holders, *self.nodes.values())
        return self.denied_files or any(isinstance(each, Trouble) and each.denied for each in seen)

    @property
    def denied_files(self) -> bool:
        """Whether a directory that files are written to was."""
        return any(trouble.denied for _, trouble in self.written.values() if trouble)


# Where kubelet takes plugins: the first, whatever its --root-dir is (kubernetes#120626, k0s#7585), but some
# distributions have that elsewhere on the host (k3s#1390, rancher#20155).
_PLUGIN_ROOTS = (
    ("/var/lib/kubelet", "kubeadm"),
    ("/var/lib/rancher/k3s/agent/kubelet", "an old k3s"),
    ("/var/lib/rancher/rke2/agent/kubelet", "RKE2"),
    ("/opt/rke/var/lib/kubelet", "RKE"),
    ("/var/snap/microk8s/common/var/lib/kubelet", "MicroK8s"),
)
ROOTS = (
    *_PLUGIN_ROOTS,
    ("/var/lib/k0s/kubelet", "k0s"),
    ("/var/data/kubelet", "IBM Cloud"),
    ("/var/vcap/data/kubelet", "Tanzu"),
)
"""Where a kubelet's socket is worth looking for, and whose it would be."""

# What helps a device that is Unhealthy: docs/operating.md has it at length.
_REMEDY: Mapping[Reason, str] = {
    Reason.NO_DRIVER: "load its driver (modprobe xocl xclmgmt)",
    Reason.NO_NODE: "is the host's whole /dev mounted at DEV_ROOT, did udev make the node (udevadm trigger)?",
    Reason.RESETTING: "wait: a reset takes up to a minute, of a U30 up to twelve; then cold-boot the card",
    Reason.SHELL_UNKNOWN: "is xclmgmt (on the host) or mpd (in a virtual machine) running?",
    Reason.UNRESPONSIVE: "its firmware hangs: reset it (xbutil reset) or cold-boot the card",
    Reason.FIREWALL: "reset it (xbutil reset), look at the application that ran",
    Reason.SHUTDOWN: "somebody is about to pull the card: finish that, or rescan the bus",
    Reason.OFFLINE: "its driver resets it by itself; if not, xbutil reset",
    Reason.NOT_READY: "is xclmgmt (on the host) or mpd (in a virtual machine, on AWS F1) running?",
    Reason.BAD_STATE: "a compute unit hangs: xbutil reset",
    Reason.HELD: "delete or drain the pod that has it under another name (held_by in `list --output json`)",
}
# The same where another driver than XRT's speaks for it.
_REMEDY_WITHOUT_XRT: Mapping[Reason, str] = {
    Reason.NO_DRIVER: "bind it to its driver again",
    Reason.SHELL_UNKNOWN: "its driver is still bringing it up; if that does not end, dmesg says why",
    Reason.NOT_READY: "its driver is still bringing it up; if that does not end, dmesg says why",
    Reason.UNRESPONSIVE: "its firmware hangs: cold-boot the card",
    Reason.BAD_STATE: "its firmware failed or does not fit the driver: dmesg, on a V80 `ami_tool overview`",
}
# XRT#6028 and video-sdk#8; docs/aws.md
_RESET_MENDS = frozenset({Reason.UNRESPONSIVE, Reason.FIREWALL, Reason.OFFLINE, Reason.BAD_STATE})
_NO_RESET_ON_AWS = (
    "xbutil reset does not work on AWS: on F1 clear the slot (fpga-clear-local-image) and restart mpd, else "
    "stop and start the instance"
)
# What helps where kubelet's socket is there.
_KUBELET: Mapping[int, str] = {
    errno.ECONNREFUSED: "nobody listens there: start kubelet (systemctl status kubelet)",
    errno.EACCES: "run as root",
    errno.ETIMEDOUT: "kubelet hangs: restart it (systemctl restart kubelet)",
}
# container-selinux, container.te: what device plugins run as, and what is not confined
_PLUGINS_TYPE = "container_device_plugin_t"
_UNCONFINED = "spc_t"
_HASHED = re.compile(r".*-[0-9a-f]{8}")
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.-]")
_NEARLY_FULL = 3  # characters that a shortened name may lose at its end besides
_FOR_ALL = 0o006
_FOR_GROUP = 0o020


def _ok(check: str, said: str) -> Line:
    return Line(Level.OK, check, said)


def _warn(check: str, said: str) -> Line:
    return Line(Level.WARN, check, said)


def _fail(check: str, said: str) -> Line:
    return Line(Level.FAIL, check, said)


Lines = Iterator[Line]


def sysfs(seen: Seen) -> Lines:
    """Can the bus be read?"""
    trouble = seen.bus if isinstance(seen.bus, Trouble) else seen.scan
    if isinstance(trouble, Trouble):
        yield _fail(
            "sysfs", f"{trouble.why}; is SYSFS_ROOT the host's /sys, is this no container without it?"
        )
    else:
        yield _ok("sysfs", f"{seen.bus} PCI functions")


def drivers(seen: Seen) -> Lines:
    """Which drivers speak for the cards, and do they fit each other and XRT?"""
    if isinstance(seen.modules, Trouble):
        yield _warn("drivers", f"their versions are not known: {seen.modules.why}; look at SYSFS_ROOT/module")
        return
    loaded = seen.modules
    if not loaded and not seen.devices:
        if seen.offers.left_out:
            yield _warn("drivers", "none is loaded; install XRT and load its drivers (modprobe xocl xclmgmt)")
        else:
            yield _ok("drivers", "none is loaded, and no card needs one")
    for name, version in sorted(loaded.items()):
        yield _ok("drivers", f"{name} {version or 'without a version'}")
    user, management = loaded.get("xocl"), loaded.get("xclmgmt")
    if user and management and user != management:
        yield _warn(
            "drivers",
            f"xocl {user} and xclmgmt {management} are of different releases; "
            "install one release of XRT and load both anew, or reboot",
        )
    if user and seen.xrt and seen.xrt != user.partition(",")[0]:
        yield _warn(
            "drivers",
            f"XRT on the host is {seen.xrt}, its driver xocl {user.partition(',')[0]}; "
            "install one release of both, and the same in the images",
        )


def cards(seen: Seen) -> Lines:
    """Which cards are offered, and why are others not?"""
    if isinstance(seen.scan, Trouble):
        return
    for _, device in seen.devices:
        told = f"{device.board} with {device.shell.vbnv}"
        if device.reason is None:
            yield _ok(device.address, f"{told}, Healthy")
        else:
            level = Level.FAIL if device.reason is Reason.NO_NODE else Level.WARN
            node = f" ({device.node or 'its driver shows none'})" * (level is Level.FAIL)
            remedy = _remedy(device, device.reason)
            yield Line(level, device.address, f"{told}, {device.reason}{node}; {remedy}")
    for entry in seen.offers.left_out:
        yield _warn(entry.function, f"not offered: {entry.reason}")
    for warning in seen.offers.warnings:
        yield _warn("cards", warning)
    if not seen.devices and not seen.offers.left_out:
        yield _warn(
            "cards", "no FPGA card on the PCI bus; if there is one, reseat it or rescan (lspci -d 10ee:)"
        )


def _remedy(device: Device, reason: Reason) -> str:
    # The U30 cards of VT1 show their user functions at function 0.
    aws = device.board.startswith("aws") or (device.board == "u30" and device.address.endswith(".0"))
    if aws and reason in _RESET_MENDS:
        return _NO_RESET_ON_AWS
    without = {} if device.driver == "xocl" else _REMEDY_WITHOUT_XRT
    return without.get(reason, _REMEDY[reason])


def device_nodes(seen: Seen) -> Lines:
    """Are the nodes there, and may pods that do not run as root use them?"""
    told = {device.node for _, device in seen.devices if device.reason is Reason.NO_NODE}
    for path, node in sorted(seen.nodes.items()):
        if isinstance(node, Trouble):
            if not node.missing or path not in told:
                yield _fail(path, f"{node.why}; {_REMEDY[Reason.NO_NODE]}")
        elif node.mode & _FOR_ALL == _FOR_ALL:
            yield _ok(path, "everybody may read and write it")
        else:
            groups = f", or give them supplementalGroups [{node.gid}]" if node.mode & _FOR_GROUP else ""
            yield _warn(
                path,
                f"mode {node.mode:04o}, owner {node.uid}, group {node.gid}: in a pod only root may use it; "
                f"for others let udev make it 0666, as XRT's rules do{groups}",
            )


def resources(seen: Seen) -> Lines:
    """What names are offered, and are they what an operator would expect?"""
    for name, offer in seen.offers.by_resource.items():
        if uuids := mixed_builds(offer):
            yield _warn(
                name,
                f"devices of different builds share it (logic uuids {', '.join(uuids)}); "
                "put {uuid} into RESOURCE_NAME_TEMPLATE to part them",
            )
        if _mended(name, offer.devices):
            yield _warn(
                name,
                "the shell's name is too long for kubelet or has characters it won't take: a hash ends it; "
                "for another name set RESOURCE_NAME_TEMPLATE",
            )
        yield _ok(
            name, f"{len(offer.units)} to allocate, {sum(u.reason is None for u in offer.units)} Healthy"
        )


def _mended(name: str, devices: Iterable[Device]) -> bool:
    """Whether a resource's name was shortened, or lost a character."""
    suffix = SHARED if name.endswith(SHARED) else ""
    stem = name.removesuffix(suffix).rpartition("/")[2]
    full = len(stem) >= MAX_NAME - len(suffix) - _NEARLY_FULL
    odd = any(_NOT_IN_A_NAME.search(device.shell.vbnv) for device in devices)
    return bool(_HASHED.fullmatch(stem)) and (full or odd)


def socket_directory(seen: Seen) -> Lines:
    """Can a socket be made where kubelet looks for it?"""
    if seen.directory is None:
        yield _ok("socket directory", f"{seen.socket_dir} can be written")
    elif seen.directory.missing:
        yield _fail("socket directory", f"{seen.directory.why}: {seen.socket_dir}; {_where_to(seen)}")
    else:
        yield _fail(
            "socket directory",
            f"{seen.directory.why}: {seen.socket_dir}; mount it writable, with room, and run as root",
        )


def kubelet(seen: Seen) -> Lines:
    """Does kubelet answer?"""
    if seen.kubelet is None:
        yield _ok("kubelet", "it answers")
    elif seen.kubelet.missing:
        yield _fail("kubelet", f"no kubelet.sock in {seen.socket_dir}; {_where_to(seen)}")
    else:
        remedy = _KUBELET.get(
            seen.kubelet.number or 0, "set SOCKET_DIR to kubelet's device-plugins directory"
        )
        if seen.elsewhere and seen.kubelet.number == errno.ECONNREFUSED:
            remedy = f"nobody listens there; {_where_to(seen)}"
        yield _fail("kubelet", f"{seen.socket_dir}/kubelet.sock: {seen.kubelet.why}; {remedy}")


def _where_to(seen: Seen) -> str:
    if not seen.elsewhere:  # of the host a pod sees only what is mounted: there may be one all the same
        places = ", ".join(f"{root} (as {whose} has it)" for root, whose in _PLUGIN_ROOTS)
        return (
            "start kubelet (systemctl status kubelet), or set SOCKET_DIR to its device-plugins directory, "
            f"which is in one of {places}"
        )
    places = ", ".join(f"{path} (as {whose} has it)" for path, whose in seen.elsewhere)
    return f"there is one in {places}: set SOCKET_DIR to that and mount it at the same path"


def podresources(seen: Seen) -> Lines:
    """Can it be told who holds what?"""
    if seen.holders is None:
        yield _ok("podresources", "kubelet tells which pod holds which device")
    else:
        yield _warn(
            "podresources",
            f"{seen.podresources}: {seen.holders.why}; mount its directory, which is in kubelet's --root-dir "
            "(on k0s /var/lib/k0s/kubelet), and set POD_RESOURCES_SOCKET, or drain the node before cards are "
            "reprogrammed or renamed",
        )


def instances(seen: Seen) -> Lines:
    """Does one service run here, and no other plugin for these cards?"""
    if seen.instances > 1:
        yield _warn(
            "service",
            f"{seen.instances} instances run on this node and the newest speaks; right during an update, "
            "else delete one DaemonSet (kubectl get daemonsets -A)",
        )
    elif seen.unready:
        yield _fail(
            "service",
            f"it runs and is not ready: {seen.unready}; if it stays so look at its log and at kubelet's "
            "(journalctl -u kubelet)",
        )
    else:
        yield _ok("service", "it runs on this node" if seen.instances else "it does not run on this node")
    for name in seen.strangers:
        yield _warn(
            "service",
            f"another plugin for these cards listens on {name}; "
            "delete its DaemonSet (kubectl get daemonsets -A)",
        )


def files(seen: Seen) -> Lines:
    """Can be written what is to be written, and is there what is to be mounted?"""
    for setting, (path, trouble) in seen.written.items():
        if trouble is None:
            yield _ok(setting, f"{path} can be written")
        else:
            yield _fail(setting, f"{trouble.why}: {path}; mount it writable")
    for path, trouble in seen.mounts.items():
        if trouble is not None:
            yield _warn(
                "EXTRA_MOUNTS", f"{trouble.why}: {path}; install it on the host, or take it off the list"
            )


def selinux(seen: Seen) -> Lines:
    """Is SELinux why something was refused?"""
    if not seen.enforcing:
        return
    if seen.denied:
        as_type = f" to {seen.domain}" if seen.domain else ""
        yield _warn(
            "SELinux",
            f"it enforces, and something above was refused{as_type}; look at `ausearch -m avc -ts recent`, "
            f"and {_allowing(seen)}",
        )
    else:
        yield _ok("SELinux", "it enforces, and nothing was refused")


def _allowing(seen: Seen) -> str:
    """What the policy may need; docs/operating.md has what it allows from which version on."""
    if seen.domain == _UNCONFINED:
        return "if that has nothing, at who owns it: this type may do everything"
    if not seen.denied_files and seen.domain != _PLUGINS_TYPE:
        return f"run the container as seLinuxOptions type {_PLUGINS_TYPE}"
    why = f"{_PLUGINS_TYPE} may write neither CDI specs nor feature files"
    if not seen.denied_files:
        why = f"not every policy lets {_PLUGINS_TYPE} do all of it"
    return (
        "allow it by a policy module (audit2allow -M), or run the container as seLinuxOptions type "
        f"{_UNCONFINED}: {why}"
    )


def settings(seen: Seen) -> Lines:
    """Is every variable understood?"""
    for name in seen.unknown:
        yield _warn("settings", f"{name} is no setting and is ignored; is it spelled right (see --help)?")


RULES: tuple[Callable[[Seen], Lines], ...] = (
    settings,
    sysfs,
    drivers,
    cards,
    device_nodes,
    resources,
    socket_directory,
    kubelet,
    podresources,
    instances,
    files,
    selinux,
)


def lines(seen: Seen) -> list[Line]:
    """All lines about what was seen."""
    return [line for rule in RULES for line in rule(seen)]


def worst(told: Iterable[Line]) -> Level:
    """The worst level of the lines."""
    order = list(Level)
    return max((line.level for line in told), key=order.index, default=Level.OK)


def as_text(told: Iterable[Line]) -> str:
    """The lines for people."""
    return "\n".join(printable(f"{line.level:<4}  {line.check}: {line.said}") for line in told)


def as_document(told: list[Line]) -> dict[str, Any]:
    """The lines for programs."""
    return {
        "result": worst(told),
        "lines": [{"level": line.level, "check": line.check, "message": line.said} for line in told],
    }
