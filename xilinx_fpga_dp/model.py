"""The nouns: what a scan finds, what Kubernetes is offered, what a container gets.

All are frozen values, without files, sockets or clocks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Reason(StrEnum):
    """Why a device is Unhealthy. The values appear in metrics, JSON and logs."""

    NO_DRIVER = "no-driver"
    NO_NODE = "no-node"
    RESETTING = "resetting"
    SHUTDOWN = "shutdown"
    OFFLINE = "offline"
    NOT_READY = "not-ready"
    BAD_STATE = "bad-state"
    SHELL_UNKNOWN = "shell-unknown"
    FIREWALL = "firewall"
    UNRESPONSIVE = "unresponsive"
    HELD = "held"


@dataclass(frozen=True, slots=True)
class Shell:
    """The logic that is programmed on a device.

    Attributes:
        vbnv: vendor, board, name and version as the driver prints them, never empty.
        timestamp: decimal digits (two-stage shells print ``0``); None if the driver has none.
        logic_uuid: 32 lower-case hex digits; None if the driver or the shell has none.
    """

    vbnv: str
    timestamp: str | None
    logic_uuid: str | None


@dataclass(frozen=True, slots=True)
class Device:
    """One device as a driver shows it.

    Attributes:
        address: of its user function, ``0000:65:00.1``; its identity while the card stays in its slot.
        shell: the logic on it.
        board: the type of the card, ``u200``.
        driver: name of its kernel driver.
        experimental: this driver's back-end has never run on hardware.
        device_id: PCI device id, four hex digits.
        serial: serial number of the card, shared by the devices of a card; None if not read, yet or at all.
        numa_node: None if the kernel reports -1.
        pcie_path: the bridges above it, root bus first: ``("pci0000:60", "0000:60:05.0")``; empty if unknown.
        node: path under /dev of the node that a container needs, ``/dev/dri/renderD128``, ``/dev/ami0``.
        mgmt_node: path under /dev of its management function's node.
        qdma_node: path under /dev of its QDMA node; None if there is none.
        reason: why it is Unhealthy; None if it is Healthy.
    """

    address: str
    shell: Shell
    board: str
    driver: str
    experimental: bool = False
    device_id: str | None = None
    serial: str | None = None
    numa_node: int | None = None
    pcie_path: tuple[str, ...] = ()
    node: str | None = None
    mgmt_node: str | None = None
    qdma_node: str | None = None
    reason: Reason | None = None

    @property
    def healthy(self) -> bool:
        return self.reason is None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A function that is not offered, with a reason for people."""

    function: str
    reason: str


@dataclass(frozen=True, slots=True)
class History:
    """The history of a device's health.

    Attributes:
        since: time of the last change, seconds of the monotonic clock.
        changes: how often its health or its reason changed.
        last_reason: reason of its last fault, current or past.
    """

    since: float
    changes: int
    last_reason: Reason | None


@dataclass(frozen=True, slots=True)
class Inventory:
    """Everything that one scan found, ordered by address; ``numa_nodes`` are the nodes online."""

    devices: tuple[Device, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    numa_nodes: tuple[int, ...] = ()
    histories: Mapping[str, History] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unit:
    """The devices that are granted together under one device id.

    ``numa_nodes`` are for kubelet's topology manager; empty if it gets none.
    """

    id: str
    devices: tuple[Device, ...]
    numa_nodes: tuple[int, ...] = ()

    @property
    def reason(self) -> Reason | None:
        """Why it is Unhealthy, by its first unhealthy device; None if all are Healthy."""
        return next((device.reason for device in self.devices if device.reason), None)


@dataclass(frozen=True, slots=True)
class Offer:
    """The units of one resource name, ordered by id."""

    resource: str
    units: tuple[Unit, ...]

    @property
    def devices(self) -> tuple[Device, ...]:
        """Its devices without duplicates, ordered by address."""
        found = {device.address: device for unit in self.units for device in unit.devices}
        return tuple(found[address] for address in sorted(found))


@dataclass(frozen=True, slots=True)
class Offers:
    """The offers of the node by resource name, and what is left out.

    ``warnings`` are for operators; everything works in spite of them.
    """

    by_resource: Mapping[str, Offer]
    left_out: tuple[LeftOut, ...] = ()
    histories: Mapping[str, History] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def devices(self) -> tuple[Device, ...]:
        """Every device of every resource."""
        return tuple(device for offer in self.by_resource.values() for device in offer.devices)


@dataclass(frozen=True, slots=True)
class Holder:
    """A container that holds a device, with the resource and id that kubelet allocated."""

    namespace: str
    pod: str
    container: str
    resource: str
    id: str


Held = Mapping[str, tuple[Holder, ...]]
"""The holders of each held device, by its address."""


@dataclass(frozen=True, slots=True)
class Grant:
    """The devices, mounts and variables that a container gets.

    Attributes:
        envs: environment variables.
        nodes: paths of device nodes, the same on the host and in the container, read and write.
        mounts: host paths, mounted read-only at the same path in the container.
        cdi_devices: qualified CDI device names.
    """

    envs: Mapping[str, str]
    nodes: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    cdi_devices: tuple[str, ...] = ()
