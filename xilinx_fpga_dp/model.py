"""The nouns: what a scan finds, what kubelet is offered, what a container gets.

Everything here is a frozen value. Nothing here knows files, sockets or clocks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Reason(StrEnum):
    """Why a device is Unhealthy. The values are part of the outside: metrics, JSON, logs."""

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
    """What is programmed on a device.

    Attributes:
        vbnv: vendor, board, name and version as the driver prints them, never empty.
        timestamp: decimal digits (two-stage shells print ``0``); None where the driver knows none.
        logic_uuid: 32 lower-case hex digits; None where the driver or the shell has none.
    """

    vbnv: str
    timestamp: str | None
    logic_uuid: str | None


@dataclass(frozen=True, slots=True)
class Device:
    """One device as a driver shows it.

    Attributes:
        address: of its user function, ``0000:65:00.1``; its identity while the card stays in its slot.
        shell: what is programmed on it.
        board: the card's type, ``u200``.
        driver: name of the kernel driver that speaks for it.
        experimental: nobody has run this driver's back-end on hardware.
        device_id: PCI device id, four hex digits.
        serial: of the card, so two devices of a card share it; None until read, or for ever.
        numa_node: None where the kernel says -1.
        pcie_path: what stands above it, root bus first: ``("pci0000:60", "0000:60:05.0")``; empty: unknown.
        node: path under /dev of what a container needs, ``/dev/dri/renderD128``, ``/dev/ami0``.
        mgmt_node: path under /dev of its management function's node.
        qdma_node: path under /dev of its QDMA node, only if it exists.
        reason: why it is Unhealthy; None: Healthy.
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
    """A function that is ours to speak of and is not offered, with a reason a person understands."""

    function: str
    reason: str


@dataclass(frozen=True, slots=True)
class History:
    """What became of a device's health so far.

    Attributes:
        since: time of the last change, seconds of the monotonic clock.
        changes: how often its health or its reason changed.
        last_reason: of its last fault, over or not.
    """

    since: float
    changes: int
    last_reason: Reason | None


@dataclass(frozen=True, slots=True)
class Inventory:
    """Everything one scan found, ordered by address; ``numa_nodes`` are those online."""

    devices: tuple[Device, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    numa_nodes: tuple[int, ...] = ()
    histories: Mapping[str, History] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unit:
    """What one device id stands for at kubelet: the devices that are granted together under it.

    ``numa_nodes`` is what kubelet's topology manager is told; empty: nothing.
    """

    id: str
    devices: tuple[Device, ...]
    numa_nodes: tuple[int, ...] = ()

    @property
    def reason(self) -> Reason | None:
        """Why it is Unhealthy: one device at fault is enough."""
        return next((device.reason for device in self.devices if device.reason), None)


@dataclass(frozen=True, slots=True)
class Offer:
    """What one resource name advertises. Units are ordered by id."""

    resource: str
    units: tuple[Unit, ...]

    @property
    def devices(self) -> tuple[Device, ...]:
        """Its devices, each once, ordered by address."""
        found = {device.address: device for unit in self.units for device in unit.devices}
        return tuple(found[address] for address in sorted(found))


@dataclass(frozen=True, slots=True)
class Offers:
    """What the node advertises, by resource name, and what it leaves out and why.

    ``warnings`` say what an operator should know although it works.
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
    """A container that holds a device, and the resource and id under which kubelet gave it."""

    namespace: str
    pod: str
    container: str
    resource: str
    id: str


Held = Mapping[str, tuple[Holder, ...]]
"""Who holds what, by the address of the device."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a container gets.

    Attributes:
        envs: environment variables.
        nodes: paths of device nodes, the same inside and out, read and write.
        mounts: host paths mounted read-only at the same place inside.
        cdi_devices: qualified CDI device names.
    """

    envs: Mapping[str, str]
    nodes: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    cdi_devices: tuple[str, ...] = ()
