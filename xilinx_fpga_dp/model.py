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
    """The logic that is programmed on a device."""

    vbnv: str  # vendor, board, name and version as the driver prints them, never empty
    timestamp: str | None  # decimal digits (two-stage shells print ``0``); None if the driver has none
    logic_uuid: str | None  # 32 lower-case hex digits; None if the driver or the shell has none


@dataclass(frozen=True, slots=True)
class Device:
    """One device as a driver shows it."""

    address: str  # of its user function, ``0000:65:00.1``; its identity while the card stays in its slot
    shell: Shell
    board: str  # the type of the card, ``u200``
    driver: str  # name of its kernel driver; empty if a rule takes it without one
    experimental: bool = False  # this driver's back-end has never run on hardware
    device_id: str | None = None  # PCI device id, four hex digits
    serial: str | None = None  # of the card, shared by its devices; None if not read, yet or at all
    numa_node: int | None = None  # None if the kernel reports -1
    # The bridges above it, root bus first: ``("pci0000:60", "0000:60:05.0")``; empty if unknown
    pcie_path: tuple[str, ...] = ()
    # Paths under /dev that a container gets, first the one that it needs, ``/dev/dri/renderD128``; empty if
    # its driver shows none
    nodes: tuple[str, ...] = ()
    mgmt_node: str | None = None  # that of its management function; None if there is none
    mounts: tuple[str, ...] = ()  # host paths that a container gets besides, mounted read-only
    rule: str | None = None  # the name of the rule for other devices that took it; None: a built-in driver
    rule_number: int | None = None  # the place of that rule in its file, from 1
    note: str | None = None  # what an operator should know of it beside its health, for people
    reason: Reason | None = None  # why it is Unhealthy; None if it is Healthy
    warning: str | None = None  # what is wrong with the card without being a fault, with the remedy

    @property
    def healthy(self) -> bool:
        return self.reason is None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A function that is not offered, with a reason for people."""

    function: str
    reason: str
    lost: Reason | None = None  # the fault of a device that was offered and lost its place; None: no such one


@dataclass(frozen=True, slots=True)
class History:
    """The history of a device's health."""

    since: float  # time of the last change, seconds of the monotonic clock
    changes: int  # how often its health or its reason changed
    last_reason: Reason | None  # of its last fault, current or past


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
    claim: str = ""  # the name of its ResourceClaim; empty: a device plugin's


Held = Mapping[str, tuple[Holder, ...]]
"""The holders of held devices; `holders_of` in `resources.holders` returns those of one."""


@dataclass(frozen=True, slots=True)
class Grant:
    """The devices, mounts and variables that a container gets."""

    envs: Mapping[str, str]
    # Device nodes, the same path on the host and in the container, read and write
    nodes: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()  # host paths, mounted read-only at the same path in the container
    cdi_devices: tuple[str, ...] = ()  # qualified CDI device names
